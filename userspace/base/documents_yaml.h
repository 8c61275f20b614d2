// The documents of a YAML stream, for content that nobody vouches for. Thread: any.
#pragma once

#include <yaml-cpp/yaml.h>

#include <string>
#include <vector>

namespace fairlead {

constexpr size_t kMaxDocuments = 20000;  // in one file

// YAML::LoadAll(), which for some input (a ',' at the top) makes empty documents for ever, after a pass that
// finds out. Throws YAML::Exception like it.
std::vector<YAML::Node> load_documents(const std::string& content);

}  // namespace fairlead
