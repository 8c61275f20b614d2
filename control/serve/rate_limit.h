// A token bucket per caller. Thread: any. Time comes from the caller.
#pragma once

#include <chrono>
#include <map>
#include <mutex>
#include <string>

namespace fairlead::serve {

class RateLimit {
 public:
  using Clock = std::chrono::steady_clock;

  // `burst` calls at once, then `per_second`. Callers beyond `maximum` that are busy at the same time are
  // refused.
  RateLimit(double burst, double per_second, size_t maximum)
      : burst_(burst), per_second_(per_second), maximum_(maximum) {}
  [[nodiscard]] bool allow(const std::string& caller, Clock::time_point now);

 private:
  struct Bucket {
    double tokens = 0;
    Clock::time_point at;
  };
  [[nodiscard]] double tokens_at(const Bucket& bucket, Clock::time_point now) const;

  const double burst_;
  const double per_second_;
  const size_t maximum_;
  std::mutex mutex_;
  std::map<std::string, Bucket> buckets_;
};

}  // namespace fairlead::serve
