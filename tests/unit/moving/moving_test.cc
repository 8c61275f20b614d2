// Workers that take over from each other under traffic: no byte lost, doubled, out of place or late, no
// connection reset, no new one refused.
#include <gtest/gtest.h>
#include <poll.h>

#include <algorithm>
#include <random>

#include "unit/moving/applications.h"
#include "unit/moving/nodes.h"

namespace fairlead::proxy::testing {
namespace {

class Moving : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!mesh.ready()) GTEST_SKIP() << "needs root: BPF maps cannot be made here";
    front = std::make_unique<Node>(mesh, kFront);
    back = std::make_unique<Node>(mesh, kBack);
    applications = std::make_unique<Applications>(mesh, *front);
  }
  void TearDown() override {
    if (applications == nullptr) return;
    applications->finish();
    for (const std::string& fault : applications->faults()) ADD_FAILURE() << fault;
    applications.reset();
  }
  void everything() {
    for (int i = 0; i < 3; ++i) applications->start(Kind::kBulk, 24 << 20);
    for (int i = 0; i < 8; ++i) applications->start(Kind::kEcho, 2000 + 100 * i);
    for (int i = 0; i < 4; ++i) applications->start(Kind::kHalfClosed, 300000);
    for (int i = 0; i < 3; ++i) applications->start(Kind::kSlow, 5 << 20);
    for (int i = 0; i < 3; ++i) applications->keep_starting(Kind::kSlowEnd, 200000);
    for (int i = 0; i < 2; ++i) applications->keep_starting(Kind::kEcho, 500);
  }
  // Traffic between two moves, of a length that chance gives.
  void breathe() { (void)::poll(nullptr, 0, static_cast<int>(random() % 25)); }
  static std::string told(std::vector<std::chrono::microseconds> times) {
    std::ranges::sort(times);
    if (times.empty()) return "none";
    return fmt::format("{} us, {} at most", times[times.size() / 2].count(), times.back().count());
  }

  std::minstd_rand random{11};
  Mesh mesh;
  std::unique_ptr<Node> front, back;
  std::unique_ptr<Applications> applications;
};

TEST_F(Moving, NobodyMovesAndAllIsWell) {
  everything();
}

TEST_F(Moving, BothEndsManyTimesUnderTraffic) {
  everything();
  size_t moved = 0;
  for (int i = 0; i < 60; ++i) {
    front->move();
    moved += front->report().connections.size();
    breathe();
    back->move();
    moved += back->report().connections.size();
    breathe();
    ASSERT_FALSE(HasFatalFailure());
  }
  applications->finish();
  EXPECT_GT(moved, 60u * 2 * 10) << "connections were there to be moved";
  EXPECT_GT(applications->dialled(), 21);
  for (const Node* node : {front.get(), back.get()}) {
    fmt::print("{} parcels of {} bytes together; packing {}; pause {}\n", node->parcels, node->bytes,
               told(node->packing), told(node->pauses));
  }
  fmt::print("{} connections moved, {} dialled\n", moved, applications->dialled());
  EXPECT_EQ(mesh.client_names(), 0u) << "the last owner of a client's name forgets it";
}

TEST_F(Moving, WhatComesToNothingLeavesNoTrace) {
  everything();
  for (int i = 0; i < 12; ++i) {
    for (const Move how : {Move::kThaw, Move::kSuccessorDies, Move::kCutShort, Move::kFdLost}) {
      front->move(how);
      back->move(how);
      breathe();
      ASSERT_FALSE(HasFatalFailure());
    }
  }
}

TEST_F(Moving, InAnyOrder) {
  everything();
  for (int i = 0; i < 60; ++i) {
    const auto how = static_cast<Move>(std::min<unsigned>(random() % 9, 4) == 4 ? 0 : random() % 5);
    (random() % 2 == 0 ? front : back)->move(how);
    breathe();
    ASSERT_FALSE(HasFatalFailure());
  }
}

TEST_F(Moving, ConnectionsAreListedAsTheyWere) {
  applications->start(Kind::kEcho, 5000);
  WorkerReport before;
  while (before.connections.empty() || before.connections[0].second.received < 5000) before = front->report();
  front->move();
  back->move();
  const auto after = front->report();
  ASSERT_EQ(after.connections.size(), 1u);
  const ConnectionRecord& was = before.connections[0].second;
  const ConnectionRecord& is = after.connections[0].second;
  EXPECT_EQ(is.state, "open");
  EXPECT_EQ(is.tunnel, TunnelKind::kHbone);
  EXPECT_EQ(is.source, was.source);
  EXPECT_EQ(is.destination, mesh.service);
  EXPECT_EQ(is.endpoint, was.endpoint);
  EXPECT_EQ(is.sent, was.sent);
  EXPECT_EQ(is.received, was.received);
  ASSERT_NE(is.service, nullptr);
  EXPECT_EQ(is.service->full_name(), was.service->full_name());
  ASSERT_NE(is.peer, nullptr);
  EXPECT_EQ(*is.peer, *was.peer);
  EXPECT_LT(std::chrono::abs(is.since - was.since), std::chrono::seconds(1));
  const auto inbound = back->report();
  ASSERT_EQ(inbound.connections.size(), 1u);
  EXPECT_TRUE(inbound.connections[0].second.judged);
  EXPECT_EQ(mesh.client_names(), 1u);
}

TEST_F(Moving, ASuccessorCutsOffWhatItsPoliciesDeny) {
  const UniqueFd fd = applications->dial();
  WorkerReport report;
  while (report.connections.empty() || report.connections[0].second.state != "open") report = back->report();
  back->snapshot = mesh.closed;
  back->move();
  char byte = 0;
  EXPECT_EQ(::recv(fd.get(), &byte, 1, 0), -1);
  EXPECT_EQ(errno, ECONNRESET);
  EXPECT_EQ(back->report().counters.cut_by_policy, 1u);
  EXPECT_EQ(mesh.client_names(), 0u);
}

TEST_F(Moving, AFrozenWorkerAnswersReportsAndKeepsTheRest) {
  applications->start(Kind::kEcho, 5000);
  while (front->report().connections.empty()) {
  }
  std::atomic<bool> packed = false;
  front->worker().freeze([&packed](Result<std::vector<Parcel>>) { packed = true; });
  while (!packed) {
  }
  EXPECT_EQ(front->report().connections.size(), 1u);
  std::atomic<bool> taken = false;
  front->worker().set_snapshot(mesh.open, [&taken] { taken = true; });
  (void)front->report();
  EXPECT_FALSE(taken) << "nothing changes while it stands still";
  front->worker().thaw();
  while (!taken) {
  }
}

}  // namespace
}  // namespace fairlead::proxy::testing
