// What a set-up coroutine waits for: an fd to become ready, or somebody to notify it – always with a
// deadline.
//
//   FdWaiter waiter(reactor);  FL_CO_TRY(waiter.open(fd));
//   const bool ready = co_await waiter.readable(deadline);     // false: deadline passed
//   const bool told = co_await signal.wait(reactor, deadline);
//
// Cancellation is destruction: an awaiter that goes away takes itself off what it waited for.
// Thread: the reactor's.
#pragma once

#include <sys/epoll.h>

#include <coroutine>

#include "base/result.h"
#include "event/reactor.h"

namespace fairlead {

// Edge-triggered readiness of one fd for one coroutine. The fd stays its owner's and must be open until
// close() or the end.
class FdWaiter final : public IoHandler {
 public:
  explicit FdWaiter(Reactor& reactor) noexcept : reactor_(reactor) {}
  FdWaiter(const FdWaiter&) = delete;
  FdWaiter& operator=(const FdWaiter&) = delete;
  ~FdWaiter() { close(); }

  Result<void> open(BorrowedFd fd) {
    close();
    fd_ = fd.get();
    ready_ = 0;
    return reactor_.watch(fd, *this);
  }
  // Stops watching: the fd goes to its next handler.
  void close() noexcept {
    if (fd_ >= 0) reactor_.unwatch(BorrowedFd(fd_));
    fd_ = -1;
  }

  class Awaiter final : public Timer {
   public:
    Awaiter(FdWaiter& waiter, uint32_t mask, TimePoint deadline) noexcept
        : waiter_(waiter), mask_(mask | EPOLLERR | EPOLLHUP), deadline_(deadline) {}
    ~Awaiter() override {
      if (waiter_.awaiter_ == this) waiter_.awaiter_ = nullptr;
    }
    bool await_ready() noexcept { return (waiter_.ready_ & mask_) != 0; }
    void await_suspend(std::coroutine_handle<> handle) noexcept {
      handle_ = handle;
      waiter_.awaiter_ = this;
      waiter_.reactor_.timers().arm(*this, deadline_);
    }
    // The readiness is used up: the caller is going to read or write until would-block.
    bool await_resume() noexcept {
      const bool ready = (waiter_.ready_ & mask_) != 0;
      waiter_.ready_ &= ~(mask_ & ~static_cast<uint32_t>(EPOLLERR | EPOLLHUP | EPOLLRDHUP));
      return ready;
    }
    void on_timer() noexcept override { wake(); }

   private:
    friend class FdWaiter;
    void wake() noexcept {
      cancel();
      waiter_.awaiter_ = nullptr;
      handle_.resume();
    }
    FdWaiter& waiter_;
    uint32_t mask_;
    TimePoint deadline_;
    std::coroutine_handle<> handle_;
  };

  Awaiter readable(TimePoint deadline) noexcept { return {*this, EPOLLIN | EPOLLRDHUP, deadline}; }
  Awaiter writable(TimePoint deadline) noexcept { return {*this, EPOLLOUT, deadline}; }

  void on_io(uint32_t events) noexcept override {
    if (fd_ < 0) return;
    ready_ |= events;
    if (awaiter_ != nullptr && (ready_ & awaiter_->mask_) != 0) awaiter_->wake();
  }

 private:
  Reactor& reactor_;
  int fd_ = -1;
  uint32_t ready_ = 0;
  Awaiter* awaiter_ = nullptr;
};

// Any number of coroutines wait; notify_all() wakes those that wait now, in the order they came, at the end
// of the turn.
class Signal {
 public:
  Signal() = default;
  Signal(const Signal&) = delete;
  Signal& operator=(const Signal&) = delete;
  ~Signal() {
    for (Waiter* waiter = head_; waiter != nullptr; waiter = waiter->next_) waiter->signal_ = nullptr;
  }

  class Waiter final : public Timer, public TurnEndHook {
   public:
    Waiter(Signal& signal, Reactor& reactor, TimePoint deadline) noexcept
        : signal_(&signal), reactor_(reactor), deadline_(deadline) {}
    ~Waiter() override {
      if (linked_ && signal_ != nullptr) signal_->unlink(*this);
    }
    bool await_ready() noexcept { return false; }
    void await_suspend(std::coroutine_handle<> handle) noexcept {
      handle_ = handle;
      signal_->link(*this);
      reactor_.timers().arm(*this, deadline_);
    }
    bool await_resume() const noexcept { return notified_; }
    void on_timer() noexcept override {
      if (!linked_) return;  // already notified: the turn's end resumes
      if (signal_ != nullptr) signal_->unlink(*this);
      linked_ = false;
      handle_.resume();
    }
    void on_turn_end() noexcept override {
      cancel();
      handle_.resume();
    }

   private:
    friend class Signal;
    Signal* signal_;
    Reactor& reactor_;
    TimePoint deadline_;
    std::coroutine_handle<> handle_;
    Waiter* next_ = nullptr;
    Waiter* previous_ = nullptr;
    bool linked_ = false;
    bool notified_ = false;
  };

  // True when notified, false when the deadline passed.
  Waiter wait(Reactor& reactor, TimePoint deadline) noexcept { return {*this, reactor, deadline}; }

  void notify_all() noexcept {
    while (head_ != nullptr) {
      Waiter& waiter = *head_;
      unlink(waiter);
      waiter.notified_ = true;
      // Not at once: the notifier is in the middle of something.
      waiter.reactor_.at_turn_end(waiter);
    }
  }

 private:
  void link(Waiter& waiter) noexcept {
    waiter.linked_ = true;
    waiter.previous_ = tail_;
    waiter.next_ = nullptr;
    (tail_ != nullptr ? tail_->next_ : head_) = &waiter;
    tail_ = &waiter;
  }
  void unlink(Waiter& waiter) noexcept {
    (waiter.previous_ != nullptr ? waiter.previous_->next_ : head_) = waiter.next_;
    (waiter.next_ != nullptr ? waiter.next_->previous_ : tail_) = waiter.previous_;
    waiter.linked_ = false;
  }

  Waiter* head_ = nullptr;
  Waiter* tail_ = nullptr;
};

}  // namespace fairlead
