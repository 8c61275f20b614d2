#include "base/log.h"

#include <unistd.h>

#include <array>
#include <atomic>
#include <string>

#include "base/rfc3339.h"

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
  const std::string text =
      fmt::format("{} {:5} {}: {}\n", rfc3339(std::chrono::system_clock::now(), Precision::kMilliseconds),
                  kNames[static_cast<size_t>(level)], component, message);
  (void)!::write(STDERR_FILENO, text.data(), text.size());  // ignoring: there is nowhere else to complain
}

}  // namespace fairlead::log
