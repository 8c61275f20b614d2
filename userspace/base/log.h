// The only logging API. One line per event on stderr: time level component message key=value…
// Levels: error (an operator must act), warn (we coped), info (state of the program, not of a connection),
// debug. Only agent, controller, cli and proxy log; lower layers return errors. Never log keys, tokens or
// payload. Thread: any. A line is one write().
#pragma once

#include <fmt/core.h>

#include <string_view>

namespace fairlead::log {

enum class Level { kError, kWarn, kInfo, kDebug };

void set_level(Level level) noexcept;
[[nodiscard]] bool parse_level(std::string_view text, Level& level) noexcept;
[[nodiscard]] bool enabled(Level level) noexcept;
void write(Level level, std::string_view component, std::string_view message);

template <class... Args>
void line(Level level, std::string_view component, fmt::format_string<Args...> format, Args&&... args) {
  if (enabled(level)) write(level, component, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void error(std::string_view component, fmt::format_string<Args...> format, Args&&... args) {
  line(Level::kError, component, format, std::forward<Args>(args)...);
}
template <class... Args>
void warn(std::string_view component, fmt::format_string<Args...> format, Args&&... args) {
  line(Level::kWarn, component, format, std::forward<Args>(args)...);
}
template <class... Args>
void info(std::string_view component, fmt::format_string<Args...> format, Args&&... args) {
  line(Level::kInfo, component, format, std::forward<Args>(args)...);
}
template <class... Args>
void debug(std::string_view component, fmt::format_string<Args...> format, Args&&... args) {
  line(Level::kDebug, component, format, std::forward<Args>(args)...);
}

}  // namespace fairlead::log
