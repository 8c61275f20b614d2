// How much one source address may hold of what costs most: handshakes under way and tunnels that it opened. A
// peer that does not finish, or opens tunnels without end, uses up its own share and nobody else's. Thread:
// the worker's. Ownership: the table outlives its tickets.
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <utility>

#include "base/net_types.h"

namespace fairlead::proxy {

class SourceLimits {
 public:
  // One place in the table; given back on destruction.
  class Ticket {
   public:
    Ticket() noexcept = default;
    Ticket(Ticket&& other) noexcept : table_(std::exchange(other.table_, nullptr)), source_(other.source_) {}
    Ticket& operator=(Ticket&& other) noexcept {
      std::swap(table_, other.table_);
      std::swap(source_, other.source_);
      return *this;
    }
    ~Ticket() {
      if (table_ != nullptr) table_->give_back(source_);
    }
    [[nodiscard]] explicit operator bool() const noexcept { return table_ != nullptr; }

   private:
    friend class SourceLimits;
    Ticket(SourceLimits& table, const IpAddress& source) noexcept : table_(&table), source_(source) {}
    SourceLimits* table_ = nullptr;
    IpAddress source_;
  };

  // `per_source`: tickets of one address at a time; `total`: of all.
  SourceLimits(size_t per_source, size_t total) noexcept : per_source_(per_source), total_(total) {}
  // Empty when the share is used up.
  [[nodiscard]] Ticket take(const IpAddress& source) {
    if (out_ >= total_) return {};
    uint32_t& held = held_[source];
    if (held >= per_source_) return {};
    ++held;
    ++out_;
    return {*this, source};
  }
  [[nodiscard]] size_t out() const noexcept { return out_; }

 private:
  void give_back(const IpAddress& source) noexcept {
    const auto found = held_.find(source);
    if (found == held_.end()) return;
    --out_;
    if (--found->second == 0) held_.erase(found);
  }

  size_t per_source_;
  size_t total_;
  size_t out_ = 0;
  std::unordered_map<IpAddress, uint32_t> held_;
};

}  // namespace fairlead::proxy
