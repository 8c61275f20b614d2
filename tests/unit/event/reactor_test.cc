#include "event/reactor.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <thread>

#include "event/task.h"
#include "event/wait.h"

namespace fairlead {
namespace {

struct CountingTimer final : Timer {
  void on_timer() noexcept override { ++fired; }
  int fired = 0;
};

TEST(TimerWheel, FiresAtItsDeadlineAndNotBefore) {
  const TimePoint start{};
  TimerWheel wheel(start);
  CountingTimer near;
  CountingTimer far;
  wheel.arm(near, start + Milliseconds(100));
  wheel.arm(far, start + std::chrono::seconds(60));  // several turns of the wheel
  wheel.expire(start + Milliseconds(99));
  EXPECT_EQ(near.fired, 0);
  wheel.expire(start + Milliseconds(140));
  EXPECT_EQ(near.fired, 1);
  for (int second = 1; second < 60; ++second) wheel.expire(start + std::chrono::seconds(second));
  EXPECT_EQ(far.fired, 0);
  wheel.expire(start + std::chrono::seconds(61));
  EXPECT_EQ(far.fired, 1);
  EXPECT_TRUE(wheel.empty());
}

TEST(TimerWheel, SurvivesALongSleep) {
  const TimePoint start{};
  TimerWheel wheel(start);
  CountingTimer timers[50];
  for (int i = 0; i < 50; ++i) wheel.arm(timers[i], start + Milliseconds(i * 777));
  wheel.expire(start + std::chrono::hours(1));
  for (const CountingTimer& timer : timers) EXPECT_EQ(timer.fired, 1);
}

TEST(TimerWheel, CancelledAndDestroyedTimersNeverFire) {
  const TimePoint start{};
  TimerWheel wheel(start);
  CountingTimer cancelled;
  wheel.arm(cancelled, start + Milliseconds(50));
  {
    CountingTimer destroyed;
    wheel.arm(destroyed, start + Milliseconds(50));
  }
  cancelled.cancel();
  wheel.expire(start + std::chrono::seconds(1));
  EXPECT_EQ(cancelled.fired, 0);
  EXPECT_TRUE(wheel.empty());
}

class ReactorTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto created = Reactor::create();
    ASSERT_TRUE(created);
    reactor = std::move(*created);
    int pair[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
    left.reset(pair[0]);
    right.reset(pair[1]);
  }
  TimePoint soon() const { return Clock::now() + std::chrono::seconds(5); }
  std::unique_ptr<Reactor> reactor;
  UniqueFd left, right;
};

Task<int> add(int a, int b) {
  co_return a + b;
}
Task<void> store_sum(int& into) {
  const int sum = co_await add(2, 3);
  into = co_await add(sum, 5);
}

TEST_F(ReactorTest, TasksReturnValuesThroughAwaits) {
  int value = 0;
  Task<void> task = store_sum(value);
  EXPECT_EQ(value, 0);  // lazy
  task.start();
  EXPECT_EQ(value, 10);
  EXPECT_TRUE(task.done());
}

Task<void> read_byte(Reactor& reactor, BorrowedFd fd, TimePoint deadline, int& outcome) {
  FdWaiter waiter(reactor);
  if (!waiter.open(fd)) co_return;
  const bool ready = co_await waiter.readable(deadline);
  outcome = ready ? 1 : 2;
}

TEST_F(ReactorTest, AWaiterWakesWhenItsFdIsReadable) {
  int outcome = 0;
  Task<void> task = read_byte(*reactor, left, soon(), outcome);
  task.start();
  reactor->run_turn(0);
  EXPECT_EQ(outcome, 0);
  ASSERT_EQ(::write(right.get(), "x", 1), 1);
  for (int turn = 0; turn < 100 && outcome == 0; ++turn) reactor->run_turn(50);
  EXPECT_EQ(outcome, 1);
}

TEST_F(ReactorTest, AWaiterGivesUpAtItsDeadline) {
  int outcome = 0;
  Task<void> task = read_byte(*reactor, left, Clock::now() + Milliseconds(30), outcome);
  task.start();
  for (int turn = 0; turn < 100 && outcome == 0; ++turn) reactor->run_turn(50);
  EXPECT_EQ(outcome, 2);
}

TEST_F(ReactorTest, DestroyingATaskThatWaitsCancelsIt) {
  int outcome = 0;
  {
    Task<void> task = read_byte(*reactor, left, soon(), outcome);
    task.start();
  }
  ASSERT_EQ(::write(right.get(), "x", 1), 1);
  reactor->run_turn(10);
  EXPECT_EQ(outcome, 0);
}

Task<void> wait_for(Reactor& reactor, Signal& signal, TimePoint deadline, std::vector<int>& order, int id) {
  const bool told = co_await signal.wait(reactor, deadline);
  order.push_back(told ? id : -id);
}

TEST_F(ReactorTest, ASignalWakesAllThatWaitInTheOrderTheyCame) {
  Signal signal;
  std::vector<int> order;
  Task<void> first = wait_for(*reactor, signal, soon(), order, 1);
  Task<void> second = wait_for(*reactor, signal, soon(), order, 2);
  first.start();
  second.start();
  signal.notify_all();
  EXPECT_TRUE(order.empty());  // not in the middle of the notifier
  reactor->run_turn(0);
  EXPECT_EQ(order, (std::vector<int>{1, 2}));
}

TEST_F(ReactorTest, ASignalThatDiesLetsItsWaitersTimeOut) {
  std::vector<int> order;
  auto signal = std::make_unique<Signal>();
  Task<void> task = wait_for(*reactor, *signal, Clock::now() + Milliseconds(30), order, 1);
  task.start();
  signal.reset();
  for (int turn = 0; turn < 100 && order.empty(); ++turn) reactor->run_turn(50);
  EXPECT_EQ(order, std::vector<int>{-1});
}

TEST_F(ReactorTest, MailboxAndStopWorkFromAnotherThread) {
  int ran = 0;
  std::thread other([&] {
    for (int i = 0; i < 100; ++i) reactor->send([&ran] { ++ran; });
    reactor->stop();
  });
  reactor->run();
  other.join();
  EXPECT_EQ(ran, 100);
}

struct Hook final : TurnEndHook {
  explicit Hook(int& count) : counter(count) {}
  void on_turn_end() noexcept override { ++counter; }
  int& counter;
};

TEST_F(ReactorTest, TurnEndHooksRunOnceAndUnlinkThemselves) {
  int count = 0;
  Hook hook(count);
  reactor->at_turn_end(hook);
  reactor->at_turn_end(hook);
  {
    Hook gone(count);
    reactor->at_turn_end(gone);
  }
  reactor->run_turn(0);
  reactor->run_turn(0);
  EXPECT_EQ(count, 1);
}

}  // namespace
}  // namespace fairlead
