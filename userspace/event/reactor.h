// One epoll loop for one thread: readiness in, callbacks out.
//
// The order inside one turn is fixed: posted functions and the mailbox, expired timers, I/O events, turn-end
// hooks (what was gathered during the turn is flushed once), deferred destruction. Objects whose handler may
// still be in this turn's batch of events are destroyed only in that last step: hand them to defer_destroy().
//
// Registration is edge-triggered, once per fd, for both directions: a handler remembers that it is readable
// or writable until a call said would-block, so that no event costs an epoll_ctl.
//
// Thread: everything from the owning thread, except send() and stop(), which any thread may call.
#pragma once

#include <sys/epoll.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "event/timer_wheel.h"

namespace fairlead {

class IoHandler {
 public:
  // `events` is the EPOLL* mask. Called until unwatch(); may still be called in the same turn after it.
  virtual void on_io(uint32_t events) noexcept = 0;

 protected:
  ~IoHandler() = default;
};

// Something that wants to run once at the end of the turn in which it was scheduled. Unlinks itself when
// destroyed.
class TurnEndHook {
 public:
  TurnEndHook() = default;
  TurnEndHook(const TurnEndHook&) = delete;
  TurnEndHook& operator=(const TurnEndHook&) = delete;
  virtual void on_turn_end() noexcept = 0;

 protected:
  virtual ~TurnEndHook();

 private:
  friend class Reactor;
  class Reactor* reactor_ = nullptr;
  TurnEndHook* next_ = nullptr;
  TurnEndHook* previous_ = nullptr;
};

class Deferred {
 public:
  virtual ~Deferred() = default;
};

class Reactor {
 public:
  static Result<std::unique_ptr<Reactor>> create();
  ~Reactor();
  Reactor(const Reactor&) = delete;
  Reactor& operator=(const Reactor&) = delete;

  Result<void> watch(BorrowedFd fd, IoHandler& handler);
  // Level-triggered, read side only: for listeners, eventfds and other fds that are not drained every time.
  // `exclusive`: of several reactors that watch the same listener, wake one (EPOLLEXCLUSIVE).
  Result<void> watch_level(BorrowedFd fd, IoHandler& handler, bool exclusive = false);
  // Asks for the current readiness once more: for a handler that stopped before it was done, to let others
  // run.
  Result<void> rearm(BorrowedFd fd, IoHandler& handler);
  void unwatch(BorrowedFd fd) noexcept;

  void at_turn_end(TurnEndHook& hook) noexcept;
  void defer_destroy(std::unique_ptr<Deferred> object);
  void post(std::function<void()> function);  // runs in the next turn of this thread
  void send(std::function<void()> function);  // the same, from any thread

  // Runs `function` when this turn is over and the next has not begun: no event is half dispatched, nothing
  // waits to be destroyed.
  void between_turns(std::function<void()> function);
  // Inside between_turns(): runs the mailbox and nothing else while `still()` says so, until stop() at the
  // latest. No event is taken off an fd and no timer fires: afterwards they are there.
  void stand_still(const std::function<bool()>& still);

  TimerWheel& timers() noexcept { return timers_; }
  [[nodiscard]] TimePoint now() const noexcept { return now_; }  // monotonic, read once per turn

  void run();  // until stop()
  void run_turn(int timeout_ms);
  void stop() noexcept;  // any thread

 private:
  Reactor(UniqueFd epoll, UniqueFd wake);
  friend class TurnEndHook;
  Result<void> control(int operation, BorrowedFd fd, uint32_t events, IoHandler& handler);
  void unlink(TurnEndHook& hook) noexcept;
  void run_mailbox();
  void run_posted();
  void run_turn_end_hooks() noexcept;
  void drain_wake() noexcept;

  UniqueFd epoll_;
  UniqueFd wake_;
  TimePoint now_;
  TimerWheel timers_;
  TurnEndHook* hooks_ = nullptr;
  TurnEndHook* hooks_tail_ = nullptr;
  std::vector<std::function<void()>> posted_;
  std::vector<std::function<void()>> between_;
  std::vector<std::unique_ptr<Deferred>> deferred_;
  std::mutex mailbox_mutex_;
  std::vector<std::function<void()>> mailbox_;
  bool stopping_ = false;
};

}  // namespace fairlead
