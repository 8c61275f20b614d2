// Workers that take over from each other under traffic: no byte lost, doubled, out of place or late, no
// connection reset, no new one refused.
#include <gtest/gtest.h>
#include <poll.h>

#include <algorithm>
#include <future>
#include <random>

#include "net/socket.h"
#include "tls/handshake.h"
#include "unit/moving/applications.h"
#include "unit/moving/nodes.h"

namespace fairlead::proxy::testing {
namespace {

class Moving : public ::testing::TestWithParam<bool> {
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
    for (const std::string& fault : applications->unexpected_faults()) ADD_FAILURE() << fault;
    applications.reset();
  }
  void everything() {
    for (int i = 0; i < 3; ++i) applications->start(Kind::kBulk, 10 << 20);
    for (int i = 0; i < 8; ++i) applications->start(Kind::kEcho, 2000 + 100 * i);
    for (const SocketAddress& to : {mesh.outside, mesh.self}) {
      applications->start(Kind::kEcho, 3000, to);
      applications->start(Kind::kBulk, 8 << 20, to);
      applications->start(Kind::kHalfClosed, 300000, to);
      applications->start(Kind::kSlow, 300000, to);
    }
    for (int i = 0; i < 4; ++i) applications->start(Kind::kHalfClosed, 300000);
    for (int i = 0; i < 3; ++i) applications->start(Kind::kSlow, 1 << 20);
    for (int i = 0; i < 3; ++i) applications->keep_starting(Kind::kSlowEnd, 150000);
    for (int i = 0; i < 2; ++i) applications->keep_starting(Kind::kEcho, 500);
  }
  // Traffic between two moves, of a length that chance gives.
  void breathe() { (void)::poll(nullptr, 0, static_cast<int>(random() % 25)); }
  // Until so many connections of a node are in a state.
  static void wait_for(Node& node, ptrdiff_t wanted, std::string_view state) {
    for (const auto give_up = Clock::now() + std::chrono::seconds(20); Clock::now() < give_up;) {
      const WorkerReport report = node.report();
      const auto are = std::ranges::count_if(
          report.connections, [&](const auto& connection) { return connection.second.state == state; });
      if (are == wanted) return;
      (void)::poll(nullptr, 0, 2);
    }
    FAIL() << "never: " << wanted << " " << state;
  }
  static std::string told(std::vector<std::chrono::microseconds> times) {
    std::ranges::sort(times);
    if (times.empty()) return "none";
    return fmt::format("{} us, {} at most", times[times.size() / 2].count(), times.back().count());
  }

  std::minstd_rand random{11};
  Mesh mesh{GetParam()};
  std::unique_ptr<Node> front, back;
  std::unique_ptr<Applications> applications;
};

TEST_P(Moving, NobodyMovesAndAllIsWell) {
  everything();
}

TEST_P(Moving, BothEndsManyTimesUnderTraffic) {
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

TEST_P(Moving, WhatComesToNothingLeavesNoTrace) {
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

TEST_P(Moving, InAnyOrder) {
  everything();
  for (int i = 0; i < 60; ++i) {
    const auto how = static_cast<Move>(std::min<unsigned>(random() % 9, 4) == 4 ? 0 : random() % 5);
    (random() % 2 == 0 ? front : back)->move(how);
    breathe();
    ASSERT_FALSE(HasFatalFailure());
  }
}

TEST_P(Moving, ConnectionsAreListedAsTheyWere) {
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
  EXPECT_EQ(is.tunnel, GetParam() ? TunnelKind::kInPlace : TunnelKind::kHbone);
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

TEST_P(Moving, ASuccessorCutsOffWhatItsPoliciesDeny) {
  const UniqueFd fd = applications->dial();
  wait_for(*back, 1, "open");
  back->snapshot = mesh.closed;
  back->move();
  char byte = 0;
  EXPECT_EQ(::recv(fd.get(), &byte, 1, 0), -1);
  EXPECT_EQ(errno, ECONNRESET);
  EXPECT_EQ(back->report().counters.cut_by_policy, 1u);
  EXPECT_EQ(mesh.client_names(), 0u);
}

TEST_P(Moving, AFrozenWorkerAnswersReportsAndKeepsTheRest) {
  applications->start(Kind::kEcho, 5000);
  wait_for(*front, 1, "open");
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

// ---- connections that are still being set up

// No tunnel yet: no CONNECT was sent.
TEST_P(Moving, WhoWaitsForATunnelWaitsInTheSuccessor) {
  mesh.withheld = kFront;
  for (int i = 0; i < 5; ++i) applications->start(Kind::kEcho, 3000);
  wait_for(*front, 5, "connecting");
  front->move();
  front->move(Move::kThaw);
  front->move(Move::kSuccessorDies);
  front->move();
  EXPECT_EQ(front->report().connections.size(), 5u);
  mesh.withheld = 0;
  front->give_withheld();
  wait_for(*front, 5, "open");
}

// CONNECT was sent and is not answered; what the client has said is with the other side already where tunnels
// go in place.
TEST_P(Moving, WhoWaitsForAnAnswerWaitsInTheSuccessor) {
  applications->start(Kind::kEcho, 3000);  // the tunnel is there, and trusted with early bytes
  wait_for(*back, 1, "open");
  for (const bool with_back : {false, true}) {
    mesh.withheld = kBack;
    back->move();  // the stock of sockets is gone with the predecessor
    for (int i = 0; i < 5; ++i) applications->start(Kind::kEcho, 3000);
    wait_for(*back, 5, "connecting");
    front->move();
    front->move(Move::kThaw);
    front->move(Move::kCutShort);
    front->move();
    if (with_back) {
      back->move();
      back->move(Move::kSuccessorDies);
      back->move(Move::kThaw);
    }
    wait_for(*back, 5, "connecting");
    wait_for(*front, 5, "connecting");
    mesh.withheld = 0;
    back->give_withheld();
    wait_for(*back, with_back ? 11 : 6, "open");
    wait_for(*front, with_back ? 11 : 6, "open");
  }
}

// The peer refuses behind the move: another endpoint is looked for as always, and there is none.
TEST_P(Moving, ARefusalBehindTheMoveEndsTheConnection) {
  applications->start(Kind::kEcho, 3000);
  wait_for(*back, 1, "open");
  mesh.withheld = kBack;
  back->move();
  const UniqueFd fd = applications->dial();
  wait_for(*back, 1, "connecting");
  front->move();
  back->snapshot = mesh.closed;
  back->move();  // judges it anew: 401
  char byte = 0;
  EXPECT_EQ(::recv(fd.get(), &byte, 1, 0), -1);
  EXPECT_EQ(errno, ECONNRESET);
  EXPECT_EQ(front->report().counters.outbound_refused, 1u);
  applications->expect_faults();  // of the open one, which is cut off
}

// A peer that may be a tunnel's, and has said half of its first word.
TEST_P(Moving, FirstBytesMove) {
  UniqueFd fd = std::move(*net::tcp_socket(AF_INET));
  ASSERT_TRUE(net::bind(fd, mesh.front, AF_INET).has_value());
  ASSERT_TRUE(net::connect(fd, back->inbound(), AF_INET).has_value());
  wait_for(*back, 1, "connecting");
  back->move();
  back->move(Move::kThaw);
  EXPECT_EQ(back->report().connections.size(), 1u);
  if (!GetParam()) return;  // on port 15008 nothing but a tunnel may come
  ASSERT_TRUE(
      net::send(fd, std::array<uint8_t, 4>{static_cast<uint8_t>(Kind::kLikeTls), 3, 1, 0}).has_value());
  (void)::poll(nullptr, 0, 20);
  back->move();
  applications->talk(std::move(fd), Kind::kLikeTls, 900, 100);
}

class RawPeer {
 public:
  RawPeer(const Mesh& mesh, const SocketAddress& to) {
    fd = std::move(*net::tcp_socket(AF_INET));
    EXPECT_TRUE(net::bind(fd, mesh.front, AF_INET).has_value());
    EXPECT_TRUE(net::connect(fd, to, AF_INET).has_value());
    auto made = tls::Handshake::client(mesh.credentials[0], {mesh.credentials[1]->id()}, mesh.in_place);
    EXPECT_TRUE(made.has_value());
    handshake = std::move(*made);
    EXPECT_TRUE(handshake->start(out).has_value());
  }
  void say() {
    EXPECT_TRUE(net::send(fd, out.span()).has_value());
    out.clear();
  }
  // Reads the server's part.
  bool hear() {
    for (bool done = false; !done;) {
      pollfd ready{fd.get(), POLLIN, 0};
      if (::poll(&ready, 1, 5000) <= 0) return false;
      auto got = net::receive(fd, in.prepare(16384));
      if (!got || got->state != net::IoState::kDone) return false;
      in.commit(got->bytes);
      auto progress = handshake->advance(in.span(), out);
      if (!progress) return false;
      in.consume(progress->consumed);
      done = progress->done;
    }
    return true;
  }
  UniqueFd fd;
  std::unique_ptr<tls::Handshake> handshake;
  Buffer in, out;
};

TEST_P(Moving, AHandshakeUnderWayIsWaitedFor) {
  RawPeer peer(mesh, back->inbound());
  peer.say();
  ASSERT_TRUE(peer.hear());  // the server waits for our part
  std::thread mover([this] { back->move(); });
  (void)::poll(nullptr, 0, 50);
  EXPECT_EQ(back->parcels, 0u) << "the freeze waits";
  peer.say();
  mover.join();
  EXPECT_EQ(back->report().tunnels, 1u);
  EXPECT_EQ(back->parcels, 1u);
  pollfd ready{peer.fd.get(), POLLIN, 0};
  ASSERT_EQ(::poll(&ready, 1, 5000), 1);
  EXPECT_EQ(ready.revents & (POLLERR | POLLHUP), 0) << "its SETTINGS, no reset";
}

TEST_P(Moving, AHandshakeThatDoesNotEndIsReset) {
  RawPeer peer(mesh, back->inbound());
  peer.say();
  ASSERT_TRUE(peer.hear());
  back->move(Move::kThaw);
  back->move(Move::kSuccessorDies);
  EXPECT_EQ(back->report().connections.size(), 1u) << "as if nothing had been asked";
  back->move();
  pollfd ready{peer.fd.get(), POLLIN, 0};
  ASSERT_EQ(::poll(&ready, 1, 5000), 1);
  char byte = 0;
  EXPECT_EQ(::recv(peer.fd.get(), &byte, 1, 0), -1);
  EXPECT_EQ(errno, ECONNRESET);
  EXPECT_EQ(back->report().connections.size(), 0u);
}

// A connection from outside the mesh, in plaintext.
TEST_P(Moving, PlaintextThatCameMoves) {
  if (!GetParam()) return;  // port 15008 takes none
  UniqueFd fd = std::move(*net::tcp_socket(AF_INET));
  ASSERT_TRUE(net::bind(fd, {mesh.outside.ip, 0}, AF_INET).has_value());
  ASSERT_TRUE(net::connect(fd, back->inbound(), AF_INET).has_value());
  wait_for(*back, 1, "open");
  for (int i = 0; i < 3; ++i) back->move();
  EXPECT_EQ(mesh.client_names(), 1u);
  applications->talk(std::move(fd), Kind::kEcho, 900, 200);
}

TEST_P(Moving, AWorkerThatDrainsDoesNotFreeze) {
  front->worker().drain([] {});
  std::promise<bool> refused;
  front->worker().freeze([&](Result<std::vector<Parcel>> all) { refused.set_value(!all.has_value()); });
  EXPECT_TRUE(refused.get_future().get());
}

TEST_P(Moving, ASuccessorDoesNotAcceptBeforeItServes) {
  mesh.withheld = kFront;
  const UniqueFd waiting = applications->dial();
  wait_for(*front, 1, "connecting");
  front->move();
  EXPECT_EQ(front->report().counters.outbound_accepted, 0u) << "its predecessor did";
  const UniqueFd another = applications->dial();
  wait_for(*front, 2, "connecting");
  EXPECT_EQ(front->report().counters.outbound_accepted, 1u);
}

INSTANTIATE_TEST_SUITE_P(Tunnels, Moving, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "InPlace" : "OnPort15008"; });

}  // namespace
}  // namespace fairlead::proxy::testing
