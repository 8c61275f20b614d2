#include "contract/keeper_proxy.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <filesystem>

namespace fairlead::contract {
namespace {

size_t open_fds() {
  size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) ++count;
  return count;
}

PodAdded pod() {
  PodAdded message;
  message.pod = 0x1122334455667788;
  message.uid = "u-1";
  message.ns = "backend";
  message.name = "api";
  message.service_account = "api";
  message.addresses = {*IpAddress::parse("10.0.0.1"), *IpAddress::parse("fd00::1")};
  message.outbound_port = 15001;
  message.inbound_port = 15006;
  message.has_v6 = true;
  return message;
}

std::vector<Message> one_of_each() {
  return {Hello{},
          NeedSockets{7, AF_INET, 32},
          Synced{},
          CanTakeOver{},
          TakenOver{},
          HandedOver{},
          HandOverFailed{"no"},
          Welcome{},
          Welcome{kVersion, true},
          pod(),
          PodRemoved{9},
          Ready{},
          Sockets{9, AF_INET6},
          Drain{25000},
          HandOver{},
          TakeOver{}};
}

TEST(ContractCodec, DecodesWhatItEncodes) {
  for (const Message& message : one_of_each()) {
    Buffer bytes;
    encode(message, bytes);
    const auto decoded = decode(bytes.span());
    ASSERT_TRUE(decoded) << message.index();
    EXPECT_EQ(decoded->index(), message.index());
  }
  Buffer bytes;
  encode(pod(), bytes);
  const auto decoded = std::get<PodAdded>(*decode(bytes.span()));
  EXPECT_EQ(decoded.addresses, pod().addresses);
  EXPECT_EQ(decoded.service_account, "api");
  EXPECT_EQ(decoded.pod, pod().pod);
}

TEST(ContractCodec, RefusesEveryTruncationAndEveryTrailingByte) {
  for (const Message& message : one_of_each()) {
    Buffer bytes;
    encode(message, bytes);
    for (size_t length = 0; length < bytes.size(); ++length)
      EXPECT_FALSE(decode(bytes.span().first(length))) << message.index() << " at " << length;
    bytes.append("x");
    EXPECT_FALSE(decode(bytes.span())) << message.index();
  }
}

TEST(ContractCodec, RefusesUnknownTypesAndValuesOutOfRange) {
  const uint8_t unknown[] = {99};
  EXPECT_FALSE(decode(unknown));
  Buffer bytes;
  encode(NeedSockets{7, AF_UNIX, 1}, bytes);
  EXPECT_FALSE(decode(bytes.span()));
  bytes.clear();
  encode(NeedSockets{7, AF_INET, 200}, bytes);
  EXPECT_FALSE(decode(bytes.span()));
  bytes.clear();
  encode(Welcome{}, bytes);
  bytes.data()[bytes.size() - 1] = 2;  // neither a successor nor none
  EXPECT_FALSE(decode(bytes.span()));
}

TEST(ContractCodec, CutsAnExplanationThatIsTooLong) {
  Buffer bytes;
  encode(HandOverFailed{std::string(100'000, 'x')}, bytes);
  const auto decoded = decode(bytes.span());
  ASSERT_TRUE(decoded);
  EXPECT_EQ(std::get<HandOverFailed>(*decoded).reason.size(), kMaxReason);
}

class ContractSocket : public ::testing::Test {
 protected:
  void SetUp() override {
    int pair[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
    a.reset(pair[0]);
    b.reset(pair[1]);
  }
  UniqueFd a, b;
};

TEST_F(ContractSocket, CarriesFdsThatAreCloseOnExec) {
  const UniqueFd file(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  const std::vector<BorrowedFd> fds(kSocketBatch, BorrowedFd(file));
  ASSERT_TRUE(*send(a, Sockets{1, AF_INET}, fds));
  const auto received = receive(b);
  ASSERT_TRUE(received);
  ASSERT_EQ(received->state, ReceiveState::kMessage);
  ASSERT_EQ(received->packet.fds.size(), kSocketBatch);
  for (const UniqueFd& fd : received->packet.fds) EXPECT_TRUE(::fcntl(fd.get(), F_GETFD) & FD_CLOEXEC);
}

TEST_F(ContractSocket, LeaksNoFdWhenTheMessageIsGarbage) {
  const size_t before = open_fds();
  const UniqueFd file(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  char garbage[] = {99, 1, 2};
  iovec data{garbage, sizeof garbage};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))]{};
  msghdr header{};
  header.msg_iov = &data;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof control;
  cmsghdr* part = CMSG_FIRSTHDR(&header);
  part->cmsg_level = SOL_SOCKET;
  part->cmsg_type = SCM_RIGHTS;
  part->cmsg_len = CMSG_LEN(sizeof(int));
  const int number = file.get();
  std::memcpy(CMSG_DATA(part), &number, sizeof number);
  ASSERT_EQ(::sendmsg(a.get(), &header, 0), 3);
  EXPECT_FALSE(receive(b));
  EXPECT_EQ(open_fds(), before + 1);
}

TEST_F(ContractSocket, TellsEmptyFromClosed) {
  EXPECT_EQ(receive(b)->state, ReceiveState::kWouldBlock);
  a.reset();
  EXPECT_EQ(receive(b)->state, ReceiveState::kClosed);
}

TEST_F(ContractSocket, AFullSocketIsNoError) {
  bool sent = true;
  for (int i = 0; i < 100000 && sent; ++i) sent = *send(a, Ready{});
  EXPECT_FALSE(sent);
}

}  // namespace
}  // namespace fairlead::contract
