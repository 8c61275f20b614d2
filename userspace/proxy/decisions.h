// The last decisions of one worker: what `fairlead why` shows. A ring; recording costs no system call.
// Thread: the worker's.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "base/net_types.h"
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
};

class Decisions {
 public:
  void record(DecisionRecord record) {
    record.time = std::chrono::system_clock::now();
    if (ring_.size() < kMaxDecisions) {
      ring_.push_back(std::move(record));
    } else {
      ring_[next_] = std::move(record);
    }
    next_ = (next_ + 1) % kMaxDecisions;
  }
  [[nodiscard]] const std::vector<DecisionRecord>& all() const noexcept { return ring_; }

 private:
  std::vector<DecisionRecord> ring_;
  size_t next_ = 0;
};

}  // namespace fairlead::proxy
