#include "event/reactor.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>

namespace fairlead {
namespace {

constexpr int kEventsPerTurn = 256;
// What a hook schedules belongs to this turn, too; but one that always schedules itself anew (a bulk stream
// whose socket takes all) must let others have their turn.
constexpr int kRoundsPerTurn = 4;
constexpr uint32_t kBothEdges =
    static_cast<uint32_t>(EPOLLIN | EPOLLOUT | EPOLLRDHUP) | static_cast<uint32_t>(EPOLLET);

}  // namespace

TurnEndHook::~TurnEndHook() {
  if (reactor_ != nullptr) reactor_->unlink(*this);
}

Result<std::unique_ptr<Reactor>> Reactor::create() {
  UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll) return Error::from_errno("epoll_create1");
  UniqueFd wake(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake) return Error::from_errno("eventfd");
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.ptr = nullptr;  // the wake-up is the only registration without a handler
  if (epoll_ctl(epoll.get(), EPOLL_CTL_ADD, wake.get(), &event) != 0)
    return Error::from_errno("epoll_ctl eventfd");
  return std::unique_ptr<Reactor>(new Reactor(std::move(epoll), std::move(wake)));
}

Reactor::Reactor(UniqueFd epoll, UniqueFd wake)
    : epoll_(std::move(epoll)), wake_(std::move(wake)), now_(Clock::now()), timers_(now_) {}

Reactor::~Reactor() {
  while (!deferred_.empty()) {  // destroying one may defer another
    auto doomed = std::move(deferred_);
    deferred_.clear();
    doomed.clear();
  }
  for (TurnEndHook* hook = hooks_; hook != nullptr; hook = hook->next_) hook->reactor_ = nullptr;
}

Result<void> Reactor::control(int operation, BorrowedFd fd, uint32_t events, IoHandler& handler) {
  epoll_event event{};
  event.events = events;
  event.data.ptr = &handler;
  if (epoll_ctl(epoll_.get(), operation, fd.get(), &event) != 0) return Error::from_errno("epoll_ctl");
  return {};
}

Result<void> Reactor::watch(BorrowedFd fd, IoHandler& handler) {
  return control(EPOLL_CTL_ADD, fd, kBothEdges, handler);
}

Result<void> Reactor::rearm(BorrowedFd fd, IoHandler& handler) {
  return control(EPOLL_CTL_MOD, fd, kBothEdges, handler);
}

Result<void> Reactor::watch_level(BorrowedFd fd, IoHandler& handler, bool exclusive) {
  const uint32_t one_of_many = exclusive ? static_cast<uint32_t>(EPOLLEXCLUSIVE) : 0u;
  return control(EPOLL_CTL_ADD, fd, EPOLLIN | one_of_many, handler);
}

void Reactor::unwatch(BorrowedFd fd) noexcept {
  (void)epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd.get(),
                  nullptr);  // ignoring: the fd may never have been added
}

void Reactor::at_turn_end(TurnEndHook& hook) noexcept {
  if (hook.reactor_ != nullptr) return;
  hook.reactor_ = this;
  hook.next_ = nullptr;
  hook.previous_ = hooks_tail_;
  (hooks_tail_ != nullptr ? hooks_tail_->next_ : hooks_) = &hook;
  hooks_tail_ = &hook;
}

void Reactor::unlink(TurnEndHook& hook) noexcept {
  (hook.previous_ != nullptr ? hook.previous_->next_ : hooks_) = hook.next_;
  (hook.next_ != nullptr ? hook.next_->previous_ : hooks_tail_) = hook.previous_;
  hook.reactor_ = nullptr;
  hook.next_ = hook.previous_ = nullptr;
}

void Reactor::run_turn_end_hooks() noexcept {
  for (int round = 0; round < kRoundsPerTurn && hooks_ != nullptr; ++round) {
    TurnEndHook* const last = hooks_tail_;
    for (bool more = true; more && hooks_ != nullptr;) {
      TurnEndHook& hook = *hooks_;
      more = &hook != last;
      unlink(hook);
      hook.on_turn_end();
    }
  }
}

void Reactor::defer_destroy(std::unique_ptr<Deferred> object) {
  deferred_.push_back(std::move(object));
}

void Reactor::post(std::function<void()> function) {
  posted_.push_back(std::move(function));
}

void Reactor::between_turns(std::function<void()> function) {
  between_.push_back(std::move(function));
}

void Reactor::stand_still(const std::function<bool()>& still) {
  while (!stopping_ && still()) {
    pollfd wake{wake_.get(), POLLIN, 0};
    (void)::poll(&wake, 1, -1);  // ignoring: an interrupted one looks into the mailbox
    drain_wake();
    run_mailbox();
  }
}

void Reactor::send(std::function<void()> function) {
  {
    const std::lock_guard lock(mailbox_mutex_);
    mailbox_.push_back(std::move(function));
  }
  const uint64_t one = 1;
  (void)!::write(wake_.get(), &one, sizeof one);  // ignoring: a full counter wakes as well
}

void Reactor::stop() noexcept {
  send([this] { stopping_ = true; });
}

void Reactor::drain_wake() noexcept {
  uint64_t count = 0;
  (void)!::read(wake_.get(), &count, sizeof count);  // ignoring: only resets the counter
}

void Reactor::run_mailbox() {
  std::vector<std::function<void()>> work;
  {
    const std::lock_guard lock(mailbox_mutex_);
    work.swap(mailbox_);
  }
  for (auto& function : work) function();
}

void Reactor::run_posted() {
  run_mailbox();
  std::vector<std::function<void()>> work;
  work.swap(posted_);
  for (auto& function : work) function();
}

void Reactor::run_turn(int timeout_ms) {
  std::array<epoll_event, kEventsPerTurn> events;
  if (!posted_.empty() || hooks_ != nullptr) timeout_ms = 0;
  if (timeout_ms != 0) timeout_ms = timers_.next_within(Clock::now(), timeout_ms);
  const int count = epoll_wait(epoll_.get(), events.data(), events.size(), timeout_ms);
  now_ = Clock::now();
  run_posted();
  timers_.expire(now_);
  for (int i = 0; i < count; ++i) {
    auto* handler = static_cast<IoHandler*>(events[static_cast<size_t>(i)].data.ptr);
    if (handler == nullptr) {
      drain_wake();
      run_posted();
    } else {
      handler->on_io(events[static_cast<size_t>(i)].events);
    }
  }
  run_turn_end_hooks();
  while (!deferred_.empty()) {
    auto doomed = std::move(deferred_);
    deferred_.clear();
    doomed.clear();
  }
  std::vector<std::function<void()>> work;
  work.swap(between_);
  for (auto& function : work) function();
}

void Reactor::run() {
  while (!stopping_) run_turn(-1);
  stopping_ = false;
}

}  // namespace fairlead
