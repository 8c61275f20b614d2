#include "proxy/rows_json.h"

#include <nlohmann/json.hpp>

#include "base/rfc3339.h"

namespace fairlead::proxy {

using nlohmann::json;

std::string dump(const json& document) {
  return document.dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string rfc3339(std::chrono::system_clock::time_point time) {
  return time.time_since_epoch() < std::chrono::milliseconds(1)
             ? ""
             : fairlead::rfc3339(time, Precision::kMilliseconds);
}

void add_remarks(const Remarks& remarks, json& row) {
  json& audits = row["audits"] = json::array();
  for (const RuleName& audit : remarks.audits)
    audits.push_back({{"policy", audit.policy}, {"rule", audit.rule}});
  json& dry_run = row["dryRun"] = nullptr;
  if (const auto& dry = remarks.dry_run) {
    dry_run = {{"allowed", dry->allowed},
               {"policy", dry->by.policy},
               {"rule", dry->by.rule},
               {"reason", dry->reason}};
  }
}

}  // namespace fairlead::proxy
