#include "proxy/rows_json.h"

#include <time.h>

#include <nlohmann/json.hpp>

namespace fairlead::proxy {

using nlohmann::json;

std::string dump(const json& document) {
  return document.dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string rfc3339(std::chrono::system_clock::time_point time) {
  const auto since = std::chrono::duration_cast<std::chrono::milliseconds>(time.time_since_epoch()).count();
  if (since <= 0) return "";
  const time_t seconds = since / 1000;
  tm utc{};
  gmtime_r(&seconds, &utc);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z", utc.tm_year + 1900, utc.tm_mon + 1,
                     utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec, since % 1000);
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
