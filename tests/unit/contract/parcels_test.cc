#include "contract/parcels.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <filesystem>

namespace fairlead::contract::parcels {
namespace {

const std::vector<uint8_t> kBytes = {1, 2, 3};

size_t open_fds() {
  size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) ++count;
  return count;
}

std::vector<Message> one_of_each() {
  return {Begin{1}, Part{7, true, 2, kBytes}, End{1, 3, 2}, Commit{}, Prepared{1}, Refused{"no"}, Taken{}};
}

Buffer bytes_of(const Message& message) {
  Buffer bytes;
  encode(message, bytes);
  return bytes;
}

TEST(ParcelsCodec, DecodesWhatItEncodes) {
  for (const Message& message : one_of_each()) {
    const Buffer bytes = bytes_of(message);
    const auto decoded = decode(bytes.span());
    ASSERT_TRUE(decoded) << message.index();
    EXPECT_TRUE(std::ranges::equal(bytes_of(*decoded).span(), bytes.span())) << message.index();
  }
}

TEST(ParcelsCodec, RefusesEveryTruncationAndEveryTrailingByte) {
  for (const Message& message : one_of_each()) {
    if (std::holds_alternative<Part>(message)) continue;  // its length is the packet's; End tells the sum
    Buffer bytes = bytes_of(message);
    for (size_t length = 0; length < bytes.size(); ++length)
      EXPECT_FALSE(decode(bytes.span().first(length))) << message.index() << " at " << length;
    bytes.append("x");
    EXPECT_FALSE(decode(bytes.span())) << message.index();
  }
  const Buffer part = bytes_of(Part{0, false, 0, {}});
  for (size_t length = 0; length < part.size(); ++length) EXPECT_FALSE(decode(part.span().first(length)));
}

TEST(ParcelsCodec, RefusesWhatIsOutOfRange) {
  EXPECT_FALSE(decode(std::array<uint8_t, 1>{99}));
  EXPECT_FALSE(decode(bytes_of(Part{0, true, kMaxFds + 1, kBytes}).span()));
  EXPECT_FALSE(decode(bytes_of(Part{0, true, 0, std::vector<uint8_t>(kMaxPart + 1)}).span()));
  Buffer bytes = bytes_of(Part{0, true, 0, kBytes});
  bytes.data()[3] = 2;  // neither the last nor another
  EXPECT_FALSE(decode(bytes.span()));
}

TEST(ParcelsSocket, APartArrivesWithItsBytesAndItsFds) {
  const auto pair = packet_pair();
  ASSERT_TRUE(pair);
  const UniqueFd file(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  const std::vector<uint8_t> large(kMaxPart, 42);
  const std::vector<BorrowedFd> fds(kMaxFds, BorrowedFd(file));
  ASSERT_TRUE(*send(pair->one, Part{3, true, kMaxFds, large}, fds));
  const auto received = receive(pair->other);
  ASSERT_TRUE(received);
  const auto& part = std::get<Part>(received->message);
  EXPECT_TRUE(std::ranges::equal(part.bytes, large));
  EXPECT_EQ(received->fds.size(), kMaxFds);
  EXPECT_EQ(part.worker, 3);
}

TEST(ParcelsSocket, LostAndSurplusFdsAreNoticed) {
  const auto pair = packet_pair();
  ASSERT_TRUE(pair);
  const UniqueFd file(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  const size_t before = open_fds();
  for (const size_t sent : {0, 1, 3}) {
    const Buffer bytes = bytes_of(Part{0, true, 2, kBytes});
    ASSERT_TRUE(*send_packet(pair->one, bytes.span(), std::vector<BorrowedFd>(sent, BorrowedFd(file))));
    EXPECT_FALSE(receive(pair->other)) << sent;
  }
  ASSERT_TRUE(
      *send_packet(pair->one, bytes_of(Commit{}).span(), std::vector<BorrowedFd>(1, BorrowedFd(file))));
  EXPECT_FALSE(receive(pair->other)) << "Commit carries nothing";
  EXPECT_EQ(open_fds(), before);
  EXPECT_FALSE(send(pair->one, Part{0, true, 2, kBytes})) << "what is not there cannot be promised";
}

}  // namespace
}  // namespace fairlead::contract::parcels
