#include "contract/hand_over.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <filesystem>

namespace fairlead::contract::hand_over {
namespace {

size_t open_fds() {
  size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) ++count;
  return count;
}

OfferedPod pod() {
  return {"uid-1", 0x1122334455667788, {*IpAddress::parse("10.0.0.1"), *IpAddress::parse("fd00::1")}, true};
}

std::vector<Message> one_of_each() {
  return {Ask{1, 1, 2, "0.1.0", "node1", "/sys/fs/bpf/fairlead"},
          Prepared{},
          Taken{},
          Mine{},
          Failed{"no certificate"},
          Refused{"this agent is stopping"},
          Offer{1, "0.1.0", 3, 4},
          pod(),
          PodGone{"uid-1"},
          AllPods{},
          Take{},
          Yours{}};
}

Buffer bytes_of(const Message& message) {
  Buffer bytes;
  encode(message, bytes);
  return bytes;
}

TEST(HandOverCodec, DecodesWhatItEncodes) {
  for (const Message& message : one_of_each()) {
    const auto decoded = decode(bytes_of(message).span());
    ASSERT_TRUE(decoded) << message.index();
    EXPECT_EQ(decoded->index(), message.index());
    EXPECT_TRUE(std::ranges::equal(bytes_of(*decoded).span(), bytes_of(message).span())) << message.index();
  }
}

TEST(HandOverCodec, RefusesEveryTruncationAndEveryTrailingByte) {
  for (const Message& message : one_of_each()) {
    Buffer bytes = bytes_of(message);
    for (size_t length = 0; length < bytes.size(); ++length)
      EXPECT_FALSE(decode(bytes.span().first(length))) << message.index() << " at " << length;
    bytes.append("x");
    EXPECT_FALSE(decode(bytes.span())) << message.index();
  }
}

TEST(HandOverCodec, RefusesWhatIsOutOfRange) {
  EXPECT_FALSE(decode(std::array<uint8_t, 1>{99}));
  EXPECT_FALSE(decode(bytes_of(Ask{1, 2, 2, "", "", ""}).span())) << "the oldest is newer than the newest";
  EXPECT_FALSE(decode(bytes_of(OfferedPod{"", 1, {}, false}).span())) << "a pod without uid";
  OfferedPod many = pod();
  many.addresses.assign(kMaxPodAddresses + 1, many.addresses[0]);
  EXPECT_FALSE(decode(bytes_of(many).span()));
  Buffer bytes = bytes_of(pod());
  bytes.data()[bytes.size() - 1] = 2;  // has_v6
  EXPECT_FALSE(decode(bytes.span()));
  const auto cut = decode(bytes_of(Refused{std::string(100'000, 'x')}).span());
  ASSERT_TRUE(cut);
  EXPECT_EQ(std::get<Refused>(*cut).reason.size(), kMaxReason);
}

TEST(HandOverCodec, ALaterVersionMayAskForMore) {
  Buffer later = bytes_of(Ask{kNewest + 1, 1, 2, "9.9.9", "node1", "/x"});
  later.append("and something that is not known yet");
  const auto decoded = decode(later.span());
  ASSERT_TRUE(decoded);
  EXPECT_EQ(std::get<Ask>(*decoded).node, "node1");
  EXPECT_EQ(agree(std::get<Ask>(*decoded)), kNewest);
}

TEST(HandOverCodec, AgreesOnTheNewestThatBothSpeak) {
  EXPECT_EQ(agree(Ask{kNewest, kOldest, 0, "", "", ""}), kNewest);
  EXPECT_EQ(agree(Ask{kNewest + 5, kNewest, 0, "", "", ""}), kNewest);
  EXPECT_EQ(agree(Ask{kNewest + 5, kNewest + 1, 0, "", "", ""}), std::nullopt) << "too new";
  EXPECT_EQ(agree(Ask{0, 0, 0, "", "", ""}), std::nullopt) << "too old";
}

class HandOverSocket : public ::testing::Test {
 protected:
  void SetUp() override {
    auto made = packet_pair();
    ASSERT_TRUE(made);
    pair = std::move(*made);
    file.reset(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  }
  bool send(const Message& message, size_t fds) {
    return *send_packet(pair.one, bytes_of(message).span(), std::vector<BorrowedFd>(fds, BorrowedFd(file)));
  }
  PacketPair pair;
  UniqueFd file;
};

TEST_F(HandOverSocket, CarriesExactlyTheFdsOfAMessage) {
  OfferedPod v4 = pod();
  v4.has_v6 = false;
  const std::pair<Message, std::vector<size_t>> cases[] = {
      {pod(), {5}}, {v4, {3}}, {Take{}, {0, 1}}, {Yours{}, {1}}, {Prepared{}, {0}}, {AllPods{}, {0}}};
  for (const auto& [message, good] : cases) {
    for (size_t count = 0; count <= 6; ++count) {
      const size_t before = open_fds();
      {
        ASSERT_TRUE(send(message, count));
        const auto received = receive(pair.other);
        EXPECT_EQ(received.has_value(), std::ranges::find(good, count) != good.end())
            << message.index() << " with " << count;
        if (received) EXPECT_EQ(received->fds.size(), count);
      }
      EXPECT_EQ(open_fds(), before) << message.index() << " with " << count;
    }
  }
}

TEST_F(HandOverSocket, RefusesWhatIsLargerThanAgreed) {
  Buffer large;
  large.append(std::string(kMaxMessage + 1, 'x'));
  ASSERT_TRUE(*send_packet(pair.one, large.span()));
  EXPECT_FALSE(receive(pair.other));
}

TEST_F(HandOverSocket, TellsEmptyFromClosed) {
  EXPECT_EQ(receive(pair.other)->state, ReceiveState::kWouldBlock);
  pair.one.reset();
  EXPECT_EQ(receive(pair.other)->state, ReceiveState::kClosed);
}

}  // namespace
}  // namespace fairlead::contract::hand_over
