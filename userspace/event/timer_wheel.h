// Timeouts in O(1): a hashed wheel of 512 slots of 16 ms; far deadlines go round. A timer fires at its
// deadline or up to one tick later. Intrusive: a Timer is a member of its owner and unlinks itself when
// destroyed. Thread: the reactor's.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>

namespace fairlead {

using Clock = std::chrono::steady_clock;
using TimePoint = Clock::time_point;
using Milliseconds = std::chrono::milliseconds;

class Timer {
 public:
  Timer() = default;
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;
  virtual void on_timer() noexcept = 0;
  [[nodiscard]] bool armed() const noexcept { return wheel_ != nullptr; }
  [[nodiscard]] TimePoint deadline() const noexcept { return deadline_; }  // where armed()
  void cancel() noexcept;

 protected:
  virtual ~Timer() { cancel(); }

 private:
  friend class TimerWheel;
  class TimerWheel* wheel_ = nullptr;
  Timer* next_ = nullptr;
  Timer* previous_ = nullptr;
  TimePoint deadline_{};
  uint32_t slot_ = 0;
};

class TimerWheel {
 public:
  static constexpr Milliseconds kTick{16};
  static constexpr size_t kSlots = 512;

  explicit TimerWheel(TimePoint now) noexcept : origin_(now) {}

  void arm(Timer& timer, TimePoint deadline) noexcept;  // re-arms when armed
  void expire(TimePoint now) noexcept;                  // fires what is due; timers may arm and cancel others
  [[nodiscard]] bool empty() const noexcept { return count_ == 0; }
  // Milliseconds until something could be due, at most `limit`.
  [[nodiscard]] int next_within(TimePoint now, int limit_ms) const noexcept;

 private:
  friend class Timer;
  [[nodiscard]] uint64_t tick_of(TimePoint time) const noexcept;
  void unlink(Timer& timer) noexcept;

  TimePoint origin_;
  uint64_t expired_tick_ = 0;  // everything due at or before this tick has fired
  size_t count_ = 0;
  std::array<Timer*, kSlots> slots_{};
};

// A timer that calls a member function: Alarm<Tunnel, &Tunnel::on_idle>.
template <class Owner, void (Owner::*Method)() noexcept>
class Alarm final : public Timer {
 public:
  explicit Alarm(Owner& owner) noexcept : owner_(owner) {}
  void on_timer() noexcept override { (owner_.*Method)(); }

 private:
  Owner& owner_;
};

}  // namespace fairlead
