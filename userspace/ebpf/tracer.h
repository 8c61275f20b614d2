// Takes what the programs tell (bpf/abi/trace.h says why it is built so): switches the telling on, reads the
// ring, and keeps the lease alive. Needs root; no agent need run. At most one at a time and pin directory;
// the kernel forgets a killed one's lock at once and its lease within kTraceLease.
//
// Thread: one. Errors: kBpf, kSyscall; kExhausted when somebody else traces; kNotFound without pins.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/net_types.h"
#include "base/result.h"
#include "base/unique_fd.h"

namespace fairlead::ebpf {

constexpr std::chrono::milliseconds kTraceLease{3000};
constexpr std::chrono::milliseconds kTraceRenewal{1000};
constexpr std::chrono::milliseconds kTracePoll{50};  // events wake nobody until the ring is half full
constexpr size_t kMaxTraceBatch = 1024;  // events read before the caller may look at something else

struct TraceEvent {
  uint64_t time_ns = 0;  // CLOCK_MONOTONIC
  uint64_t netns_cookie = 0;
  uint64_t cgroup_id = 0;
  uint64_t socket_cookie = 0;
  uint32_t pid = 0;     // 0: no process known, and then no name
  std::string process;  // its name, as the kernel has it; any octets
  std::string_view hook, verdict, reason;
  uint16_t protocol = 0;
  // Port 0: not known (source), or nothing stands between (loopback).
  SocketAddress source, destination, loopback;
};

struct TraceWish {
  uint64_t netns_cookie = 0;  // of one pod; 0: all
  uint32_t verdicts = ~0u;    // verdict_bit()
};

// 0: no such verdict.
uint32_t verdict_bit(std::string_view name);
std::string verdict_names();  // "captured, passed, …"

class Tracer {
 public:
  static Result<std::unique_ptr<Tracer>> open(const std::string& pin_directory);
  ~Tracer();  // switched off
  Tracer(const Tracer&) = delete;
  Tracer& operator=(const Tracer&) = delete;

  // From here on events come. Again: another wish.
  void wish(const TraceWish& wish) noexcept;
  // Every kTraceRenewal. False: the lease had run out, and what happened meanwhile nobody tells.
  [[nodiscard]] bool renew() noexcept;
  // Wakes a poll() when the ring is half full; for less, read() every kTracePoll.
  [[nodiscard]] BorrowedFd events() const noexcept;
  // Calls `take` for at most kMaxTraceBatch events, until it returns false. True: there may be more.
  using Take = std::function<bool(const TraceEvent&)>;
  Result<bool> read(const Take& take);
  // Since the first wish: events for which the ring had no room.
  [[nodiscard]] uint64_t lost() const noexcept;
  // Whether programs that are loaded now would still tell us: false when an agent made its maps anew, or
  // went.
  [[nodiscard]] bool is_current() const;

 private:
  struct Impl;
  explicit Tracer(std::unique_ptr<Impl> impl) noexcept;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fairlead::ebpf
