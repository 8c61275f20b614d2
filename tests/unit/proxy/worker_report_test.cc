// A worker's report of its connections: bounded, in pages, whole, while connections come and go.
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "proxy/connection.h"
#include "proxy/pod.h"
#include "proxy/worker.h"

namespace fairlead::proxy {
namespace {

class Idle final : public Connection {
 public:
  Idle(Worker& worker, std::shared_ptr<Pod> pod, bool inbound)
      : Connection(worker, std::move(pod), inbound) {}
  void abort() noexcept override { finish(true); }

 private:
  Task<void> run() override { co_return; }
};

class Reporting : public ::testing::Test {
 protected:
  void SetUp() override {
    worker = std::move(*Worker::create({}));
    contract::PodAdded info;
    info.pod = 1;
    info.ns = "shop";
    info.name = "cart";
    pod = std::make_shared<Pod>(*worker, info);
  }
  void TearDown() override {
    pod.reset();
    worker.reset();
  }
  Idle* open(bool inbound = false) {
    auto* made = new Idle(*worker, pod, inbound);  // finish() destroys it
    open_[made->record().id] = made;
    return made;
  }
  void close(uint64_t id) {
    open_.at(id)->abort();
    open_.erase(id);
    worker->reactor().run_turn(0);
  }
  WorkerReport ask(uint64_t below) {
    WorkerReport report;
    worker->report({below, false}, [&](WorkerReport answer) { report = std::move(answer); });
    worker->reactor().run_turn(0);
    return report;
  }
  // Everything; `between` runs after each page.
  std::vector<uint64_t> all(const std::function<void(const WorkerReport&)>& between = {}) {
    std::vector<uint64_t> ids;
    for (uint64_t below = UINT64_MAX; below != 0;) {
      const WorkerReport page = ask(below);
      EXPECT_LE(page.connections.size(), kMaxReportedConnections);
      for (const auto& [name, record] : page.connections) {
        EXPECT_EQ(name, "shop/cart");
        EXPECT_LT(record.id, below);
        ids.push_back(record.id);
      }
      if (between) between(page);
      below = page.connections_left_below;
    }
    return ids;
  }

  std::unique_ptr<Worker> worker;
  std::shared_ptr<Pod> pod;
  std::map<uint64_t, Idle*> open_;
};

TEST_F(Reporting, NothingIsAskedForAndNothingComes) {
  open(true);
  open();
  open();
  const WorkerReport report = ask(0);
  EXPECT_TRUE(report.connections.empty());
  EXPECT_EQ(report.inbound, 1u);
  EXPECT_EQ(report.outbound, 2u);
  close(open_.begin()->first);
  EXPECT_EQ(ask(0).inbound, 0u);
}

TEST_F(Reporting, EveryConnectionOnceYoungestFirst) {
  for (const size_t count : {size_t{0}, size_t{1}, kMaxReportedConnections, kMaxReportedConnections + 1,
                             3 * kMaxReportedConnections + 7}) {
    while (open_.size() < count) open();
    const auto ids = all();
    ASSERT_EQ(ids.size(), count);
    EXPECT_TRUE(std::is_sorted(ids.rbegin(), ids.rend()));
  }
}

TEST_F(Reporting, ConnectionsThatEndOrBeginBetweenPagesDisturbNobody) {
  while (open_.size() < 3 * kMaxReportedConnections) open();
  std::set<uint64_t> stayed;
  for (const auto& [id, connection] : open_) stayed.insert(id);
  const auto ids = all([&](const WorkerReport& page) {
    open();
    // The very one that the next page would begin with, and the last of this page.
    for (const uint64_t id : {page.connections_left_below - 1, page.connections_left_below}) {
      if (!open_.contains(id)) continue;
      close(id);
      stayed.erase(id);
    }
  });
  const std::set<uint64_t> seen(ids.begin(), ids.end());
  EXPECT_EQ(seen.size(), ids.size()) << "one was shown twice";
  for (const uint64_t id : stayed) EXPECT_TRUE(seen.contains(id)) << id;
}

TEST_F(Reporting, TwoWhoAskAtOnceBothGetEverything) {
  while (open_.size() < 2 * kMaxReportedConnections + 5) open();
  size_t theirs = 0;
  const auto ids =
      all([&](const WorkerReport&) { theirs = std::max(theirs, ask(UINT64_MAX).connections.size()); });
  EXPECT_EQ(ids.size(), open_.size());
  EXPECT_EQ(theirs, kMaxReportedConnections);
}

TEST_F(Reporting, TheWorkerIsSoonBackAtWork) {
  while (open_.size() < 100000) open();
  std::vector<int64_t> took;
  for (uint64_t below = UINT64_MAX; below != 0;) {
    WorkerReport page;
    worker->report({below, false}, [&](WorkerReport answer) { page = std::move(answer); });
    const TimePoint before = Clock::now();
    worker->reactor().run_turn(0);
    took.push_back(std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - before).count());
    below = page.connections_left_below;
  }
  EXPECT_GE(took.size(), 100000 / kMaxReportedConnections);
  std::sort(took.begin(), took.end());
  RecordProperty("median_us", static_cast<int>(took[took.size() / 2]));
  EXPECT_LT(took[took.size() / 2], 20000) << "microseconds; on an idle machine it is 100";
}

}  // namespace
}  // namespace fairlead::proxy
