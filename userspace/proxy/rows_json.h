// What the answers of proxy.sock have in common.
#pragma once

#include <chrono>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "proxy/judge.h"

namespace fairlead::proxy {

// Strings from outside may hold anything: what is not UTF-8 is replaced, never thrown over.
std::string dump(const nlohmann::json& document);
std::string rfc3339(std::chrono::system_clock::time_point time);  // UTC, milliseconds; 1970 is none
void add_remarks(const Remarks& remarks, nlohmann::json& row);

}  // namespace fairlead::proxy
