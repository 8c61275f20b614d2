#include "event/timer_wheel.h"

#include <algorithm>

namespace fairlead {

void Timer::cancel() noexcept {
  if (wheel_ != nullptr) wheel_->unlink(*this);
}

uint64_t TimerWheel::tick_of(TimePoint time) const noexcept {
  if (time <= origin_) return 0;
  return static_cast<uint64_t>((time - origin_) / kTick);
}

void TimerWheel::arm(Timer& timer, TimePoint deadline) noexcept {
  timer.cancel();
  // A deadline inside the running tick goes to the next one: its slot has already been looked at.
  const uint64_t tick = std::max(tick_of(deadline) + 1, expired_tick_ + 1);
  timer.slot_ = static_cast<uint32_t>(tick % kSlots);
  timer.deadline_ = deadline;
  timer.wheel_ = this;
  timer.previous_ = nullptr;
  timer.next_ = slots_[timer.slot_];
  if (timer.next_ != nullptr) timer.next_->previous_ = &timer;
  slots_[timer.slot_] = &timer;
  ++count_;
}

void TimerWheel::unlink(Timer& timer) noexcept {
  if (timer.previous_ != nullptr) {
    timer.previous_->next_ = timer.next_;
  } else {
    slots_[timer.slot_] = timer.next_;
  }
  if (timer.next_ != nullptr) timer.next_->previous_ = timer.previous_;
  timer.wheel_ = nullptr;
  timer.next_ = timer.previous_ = nullptr;
  --count_;
}

void TimerWheel::expire(TimePoint now) noexcept {
  const uint64_t current = tick_of(now);
  if (current <= expired_tick_) return;
  const uint64_t first = current - expired_tick_ > kSlots ? current - kSlots + 1 : expired_tick_ + 1;
  expired_tick_ = current;
  for (uint64_t tick = first; tick <= current; ++tick) {
    // Restart from the head after every call: a callback may unlink any timer of this slot.
    for (Timer* timer = slots_[tick % kSlots]; timer != nullptr;) {
      if (timer->deadline_ > now) {
        timer = timer->next_;
        continue;
      }
      unlink(*timer);
      timer->on_timer();
      timer = slots_[tick % kSlots];
    }
  }
}

int TimerWheel::next_within(TimePoint now, int limit_ms) const noexcept {
  if (count_ == 0) return limit_ms;
  for (uint64_t ahead = 1; ahead <= kSlots; ++ahead) {
    if (slots_[(expired_tick_ + ahead) % kSlots] == nullptr) continue;
    const TimePoint due = origin_ + kTick * static_cast<int64_t>(expired_tick_ + ahead);
    const auto wait = std::chrono::duration_cast<Milliseconds>(due - now).count() + 1;
    const auto bounded = std::clamp<int64_t>(wait, 0, limit_ms < 0 ? INT32_MAX : limit_ms);
    return static_cast<int>(bounded);
  }
  return limit_ms;
}

}  // namespace fairlead
