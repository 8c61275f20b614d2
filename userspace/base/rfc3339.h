// Moments as text: RFC 3339, UTC, ending in Z. Pure. Thread: any.
#pragma once

#include <chrono>
#include <string>

namespace fairlead {

// Digits behind the second.
enum class Precision { kSeconds, kMilliseconds, kMicroseconds };

// Cut off, not rounded.
std::string rfc3339(std::chrono::system_clock::time_point time, Precision precision);

}  // namespace fairlead
