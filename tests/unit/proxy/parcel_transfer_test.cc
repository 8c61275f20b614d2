// Parcels from an old proxy to its successor over a real socket pair: whole, in order, with their fds, or not
// at all.
#include <fcntl.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <random>

#include "proxy/parcel_giver.h"
#include "proxy/parcel_taker.h"

namespace fairlead::proxy {
namespace {

size_t open_fds() {
  size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) ++count;
  return count;
}

Parcel parcel(std::minstd_rand& dice, size_t bytes, size_t fds) {
  Parcel made;
  std::vector<uint8_t> content(bytes);
  for (uint8_t& byte : content) byte = static_cast<uint8_t>(dice());
  made.bytes.append(content);
  for (size_t i = 0; i < fds; ++i) made.fds.emplace_back(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  return made;
}

struct Old final : ParcelGiver::Owner {
  void giving_failed(const std::string& why) override { failed = why; }
  void committed() override { ++commits; }
  void giving_done() override { done = true; }
  std::optional<std::string> failed;
  int commits = 0;
  bool done = false;
};

struct New final : ParcelTaker::Owner {
  void unpack(std::vector<std::vector<Parcel>> by_worker) override { got = std::move(by_worker); }
  void taken() override { ++takes; }
  void taking_failed(const std::string& why) override { failed = why; }
  std::optional<std::vector<std::vector<Parcel>>> got;
  std::optional<std::string> failed;
  int takes = 0;
};

class Transfer : public ::testing::Test {
 protected:
  void SetUp() override {
    reactor = std::move(*Reactor::create());
    auto pair = std::move(*contract::packet_pair());
    giver = std::move(*ParcelGiver::open(*reactor, std::move(pair.one), old));
    taker = std::move(*ParcelTaker::open(*reactor, std::move(pair.other), successor));
  }
  template <class Test>
  void turn_until(Test test) {
    const auto end = Clock::now() + std::chrono::seconds(10);
    while (!test() && Clock::now() < end) reactor->run_turn(20);
    ASSERT_TRUE(test());
  }
  std::unique_ptr<Reactor> reactor;
  Old old;
  New successor;
  std::unique_ptr<ParcelGiver> giver;
  std::unique_ptr<ParcelTaker> taker;
};

TEST_F(Transfer, EveryParcelArrivesWholeAndWithItsFds) {
  std::minstd_rand dice(7);
  const std::pair<size_t, size_t> shapes[] = {{0, 0},      {1, 1},        {0, 3},       {61440, 64},
                                              {61441, 65}, {100, 200},    {300'000, 2}, {1 << 20, 0},
                                              {5, 0},      {122'880, 128}};
  std::vector<ParcelGiver::Load> loads(3);
  std::vector<std::vector<std::pair<std::vector<uint8_t>, size_t>>> wanted(3);
  const size_t before = open_fds();
  for (size_t i = 0; i < 30; ++i) {
    const auto [bytes, fds] = shapes[i % std::size(shapes)];
    const size_t worker = (i / 3) % 3;
    Parcel made = parcel(dice, bytes, fds);
    wanted[worker].emplace_back(std::vector<uint8_t>(made.bytes.span().begin(), made.bytes.span().end()),
                                fds);
    loads[worker].worker = static_cast<uint16_t>(worker);
    loads[worker].parcels.push_back(std::move(made));
  }
  giver->send(std::move(loads));
  turn_until([&] { return successor.got.has_value(); });
  ASSERT_EQ(successor.got->size(), 3u);
  for (size_t worker = 0; worker < 3; ++worker) {
    const auto& parcels = (*successor.got)[worker];
    ASSERT_EQ(parcels.size(), wanted[worker].size());
    for (size_t i = 0; i < parcels.size(); ++i) {
      EXPECT_TRUE(std::ranges::equal(parcels[i].bytes.span(), wanted[worker][i].first)) << worker << "/" << i;
      EXPECT_EQ(parcels[i].fds.size(), wanted[worker][i].second);
    }
  }
  EXPECT_EQ(old.commits, 0) << "before it was built";
  taker->unpacked(Result<void>());
  turn_until([&] { return old.done; });
  EXPECT_EQ(old.commits, 1);
  EXPECT_EQ(successor.takes, 1);
  EXPECT_FALSE(old.failed || successor.failed);
  successor.got.reset();
  giver.reset();
  taker.reset();
  EXPECT_EQ(open_fds(), before - 2) << "their own ends of the pair are closed, and no fd is left";
}

TEST_F(Transfer, WhatCannotBeBuiltIsNotCommitted) {
  std::minstd_rand dice(8);
  std::vector<ParcelGiver::Load> loads(1);
  loads[0].parcels.push_back(parcel(dice, 10, 1));
  giver->send(std::move(loads));
  turn_until([&] { return successor.got.has_value(); });
  taker->unpacked(Error(ErrorKind::kProtocol, "unknown kind"));
  turn_until([&] { return old.failed.has_value(); });
  EXPECT_NE(old.failed->find("unknown kind"), std::string::npos) << *old.failed;
  EXPECT_EQ(successor.failed, "unknown kind");
  EXPECT_EQ(old.commits + successor.takes, 0);
}

TEST_F(Transfer, AnOldProxyThatGoesBeforeCommitTakesItBack) {
  giver->send({});
  turn_until([&] { return successor.got.has_value(); });
  giver.reset();
  turn_until([&] { return successor.failed.has_value(); });
  EXPECT_EQ(successor.takes, 0);
}

TEST_F(Transfer, ASuccessorThatGoesIsNoticed) {
  taker.reset();
  turn_until([&] { return old.failed.has_value(); });
  EXPECT_EQ(old.commits, 0);
}

TEST_F(Transfer, NothingIsLargerThanAgreed) {
  std::minstd_rand dice(9);
  std::vector<ParcelGiver::Load> loads(1);
  loads[0].parcels.push_back(parcel(dice, contract::parcels::kMaxParcel + 1, 0));
  giver->send(std::move(loads));
  EXPECT_TRUE(old.failed.has_value());
  turn_until([&] { return successor.failed.has_value(); });
}

}  // namespace
}  // namespace fairlead::proxy
