// Typed reading of YAML nodes with errors that say where, what was got and what is wanted. Private to the
// *_yaml.cc files. Errors collect: a reader goes on with an empty value, and the set as a whole is refused at
// the end. Thread: one.
#pragma once

#include <yaml-cpp/yaml.h>

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "control/model/objects.h"

namespace fairlead::source {

class NodeReader {
 public:
  NodeReader(const std::string& file, std::string& errors) : file_(file), errors_(errors) {}

  void error(const YAML::Node& at, const std::string& text) const { error(line(at), text); }
  void error(int line, const std::string& text) const;
  [[nodiscard]] model::Position position(const YAML::Node& node) const { return {file_, line(node)}; }

  // Absent and null are an empty value for these.
  std::string text(const YAML::Node& node, const std::string& what) const;
  bool boolean(const YAML::Node& node, const std::string& what) const;
  model::Labels labels(const YAML::Node& node, const std::string& what) const;
  std::vector<YAML::Node> sequence(const YAML::Node& node, const std::string& what) const;
  // A mapping of anything; an empty node otherwise.
  YAML::Node mapping(const YAML::Node& node, const std::string& what) const;
  uint16_t port(const YAML::Node& node, const std::string& what) const;

  // For policies, where a field that is not read could change who is let in: exactly these keys, each once,
  // none null.
  bool only(const YAML::Node& node, const std::string& what,
            std::initializer_list<std::string_view> known) const;
  // For policies: absent is empty; present must have at least one item, since "none" and "any" must not be
  // confused.
  std::vector<YAML::Node> items(const YAML::Node& node, const std::string& what) const;
  std::vector<std::string> strings(const YAML::Node& node, const std::string& what) const;

 private:
  static int line(const YAML::Node& node) { return node.IsDefined() ? node.Mark().line + 1 : 0; }

  const std::string& file_;
  std::string& errors_;
};

// policies_yaml.cc
void read_peer_authentication(const NodeReader& reader, const YAML::Node& node, model::Meta meta,
                              model::ObjectSet& objects);
void read_authorization_policy(const NodeReader& reader, const YAML::Node& node, model::Meta meta,
                               model::ObjectSet& objects);

}  // namespace fairlead::source
