#include "base/log.h"

#include <time.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <string>

namespace fairlead::log {
namespace {

std::atomic<Level> g_level{Level::kInfo};
constexpr std::array<std::string_view, 4> kNames = {"error", "warn", "info", "debug"};

}  // namespace

void set_level(Level level) noexcept {
  g_level.store(level, std::memory_order_relaxed);
}

bool parse_level(std::string_view text, Level& level) noexcept {
  for (size_t i = 0; i < kNames.size(); ++i) {
    if (kNames[i] != text) continue;
    level = static_cast<Level>(i);
    return true;
  }
  return false;
}

bool enabled(Level level) noexcept {
  return level <= g_level.load(std::memory_order_relaxed);
}

void write(Level level, std::string_view component, std::string_view message) {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  tm utc{};
  gmtime_r(&now.tv_sec, &utc);
  const std::string text =
      fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z {:5} {}: {}\n", utc.tm_year + 1900,
                  utc.tm_mon + 1, utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec, now.tv_nsec / 1000000,
                  kNames[static_cast<size_t>(level)], component, message);
  (void)!::write(STDERR_FILENO, text.data(), text.size());  // ignoring: there is nowhere else to complain
}

}  // namespace fairlead::log
