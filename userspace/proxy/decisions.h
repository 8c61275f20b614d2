// The last decisions of one worker: what `fairlead why` shows. A ring; recording costs no system call. A
// decision's number is its place in all that the worker decided, so that a reader knows what he missed.
// Thread: the worker's.
#pragma once

#include <algorithm>
#include <chrono>
#include <string>
#include <vector>

#include "base/net_types.h"
#include "event/timer_wheel.h"
#include "policy/authz.h"
#include "proxy/judge.h"
#include "proxy/limits.h"

namespace fairlead::proxy {

struct DecisionRecord {
  std::chrono::system_clock::time_point time;
  bool inbound = false;
  std::string pod;  // "ns/name", the side that decided
  SocketAddress source;
  std::string principal;  // empty: plaintext
  SocketAddress destination;
  bool allowed = false;
  std::string policy;  // "ns/name", empty: none decided
  int rule = -1;
  std::string_view reason;  // a literal
  Remarks remarks;
  SocketAddress endpoint;  // the application, as far as one was chosen
  std::string service;
  std::string detail;  // of a connection that could not be made: what met it
  uint64_t number = 0;
};

class Decisions {
 public:
  void record(DecisionRecord record) {
    record.time = std::chrono::system_clock::now();
    record.number = end_;
    if (ring_.size() < kMaxDecisions) {
      ring_.push_back(std::move(record));
    } else {
      ring_[end_ % kMaxDecisions] = std::move(record);
    }
    ++end_;
  }
  // A connection that could not be made. An application that tries again and again must not push everybody
  // else's decisions out: false, and nothing is recorded, beyond kMaxRefusalsPerSecond.
  bool record_refusal(DecisionRecord record, TimePoint now) {
    if (now - second_ >= std::chrono::seconds(1)) {
      second_ = now;
      refusals_ = 0;
    }
    if (refusals_ == kMaxRefusalsPerSecond) return false;
    ++refusals_;
    this->record(std::move(record));
    return true;
  }
  // Those with this number and greater ones that are still here, the oldest first.
  [[nodiscard]] std::vector<DecisionRecord> from(uint64_t number) const {
    std::vector<DecisionRecord> records;
    for (uint64_t at = std::max(number, oldest()); at < end_; ++at)
      records.push_back(ring_[at % kMaxDecisions]);
    return records;
  }
  [[nodiscard]] uint64_t oldest() const noexcept { return end_ - ring_.size(); }
  [[nodiscard]] uint64_t end() const noexcept { return end_; }  // the next one's number

 private:
  std::vector<DecisionRecord> ring_;
  uint64_t end_ = 0;
  TimePoint second_{};
  size_t refusals_ = 0;  // in this second
};

}  // namespace fairlead::proxy
