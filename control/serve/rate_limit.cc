#include "control/serve/rate_limit.h"

#include <algorithm>

namespace fairlead::serve {

double RateLimit::tokens_at(const Bucket& bucket, Clock::time_point now) const {
  const double seconds = std::chrono::duration<double>(now - bucket.at).count();
  return std::min(burst_, bucket.tokens + std::max(0.0, seconds) * per_second_);
}

bool RateLimit::allow(const std::string& caller, Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  if (buckets_.size() >= maximum_ && !buckets_.contains(caller)) {
    // A full bucket says the same as none.
    std::erase_if(buckets_, [&](const auto& entry) { return tokens_at(entry.second, now) >= burst_; });
    if (buckets_.size() >= maximum_) return false;
  }
  Bucket& bucket = buckets_.try_emplace(caller, Bucket{burst_, now}).first->second;
  bucket = {tokens_at(bucket, now), now};
  if (bucket.tokens < 1) return false;
  bucket.tokens -= 1;
  return true;
}

}  // namespace fairlead::serve
