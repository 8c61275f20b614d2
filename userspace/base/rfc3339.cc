#include "base/rfc3339.h"

#include <fmt/format.h>
#include <time.h>

namespace fairlead {

std::string rfc3339(std::chrono::system_clock::time_point time, Precision precision) {
  using std::chrono::floor;
  const auto second = floor<std::chrono::seconds>(time);
  const time_t seconds = second.time_since_epoch().count();
  const auto micros = floor<std::chrono::microseconds>(time - second).count();
  tm utc{};
  ::gmtime_r(&seconds, &utc);
  std::string text = fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}", utc.tm_year + 1900, utc.tm_mon + 1,
                                 utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec);
  if (precision == Precision::kMilliseconds) text += fmt::format(".{:03}", micros / 1000);
  if (precision == Precision::kMicroseconds) text += fmt::format(".{:06}", micros);
  return text + "Z";
}

}  // namespace fairlead
