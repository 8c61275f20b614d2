#include "tls/kernel_tls.h"

#include <gtest/gtest.h>
#include <linux/tls.h>
#include <netinet/tcp.h>

#include <array>
#include <cstring>
#include <map>

namespace fairlead::tls {
namespace {

// A kernel that remembers what it was asked, and answers as it was told.
class FakeKernel final : public KernelCalls {
 public:
  struct Option {
    int level, name;
    std::vector<uint8_t> value;
  };
  int setsockopt(int, int level, int name, const void* value, socklen_t length) override {
    if (refuse != 0) return errno = refuse, -1;
    const auto* bytes = static_cast<const uint8_t*>(value);
    options.push_back({level, name, {bytes, bytes + length}});
    return 0;
  }
  int getsockopt(int, int level, int name, void* value, socklen_t* length) override {
    for (const Option& option : options) {
      if (option.level != level || option.name != name) continue;
      if (option.value.size() != *length) return errno = EINVAL, -1;
      std::memcpy(value, option.value.data(), *length);
      return 0;
    }
    return errno = EBUSY, -1;
  }
  ssize_t sendmsg(int, const msghdr* message, int) override {
    if (refuse != 0) return errno = refuse, -1;
    const cmsghdr* header = CMSG_FIRSTHDR(message);
    sent_type = header != nullptr && header->cmsg_type == TLS_SET_RECORD_TYPE ? *CMSG_DATA(header) : 0;
    const auto* bytes = static_cast<const uint8_t*>(message->msg_iov[0].iov_base);
    sent.assign(bytes, bytes + message->msg_iov[0].iov_len);
    return short_by > 0 ? static_cast<ssize_t>(sent.size()) - short_by : static_cast<ssize_t>(sent.size());
  }
  ssize_t recvmsg(int, msghdr* message, int) override {
    if (refuse != 0) return errno = refuse, -1;
    std::memcpy(message->msg_iov[0].iov_base, sent.data(), sent.size());
    if (type == 0) {
      message->msg_controllen = 0;
    } else {
      cmsghdr* header = CMSG_FIRSTHDR(message);
      header->cmsg_level = 282;
      header->cmsg_type = TLS_GET_RECORD_TYPE;
      header->cmsg_len = CMSG_LEN(1);
      *CMSG_DATA(header) = type;
    }
    return static_cast<ssize_t>(sent.size());
  }

  std::vector<Option> options;
  std::vector<uint8_t> sent;
  unsigned char sent_type = 0;
  unsigned char type = 0;
  int refuse = 0;
  ssize_t short_by = 0;
};

const BorrowedFd kNoFd{-1};

RecordState state_of(CipherSuite suite) {
  TrafficSecret secret;
  secret.suite = suite;
  secret.length = suite == CipherSuite::kAes128GcmSha256 ? 32 : 48;
  for (size_t i = 0; i < secret.length; ++i) secret.bytes[i] = static_cast<uint8_t>(i);
  RecordState state = RecordSealer::create(secret)->state();
  state.sequence = 0x0102030405060708;
  return state;
}

TEST(KernelTlsFloor, KnowsTheSeriesWithTheFixes) {
  const std::map<std::string, bool> cases = {
      {"6.12.91", false},        {"6.12.92", true},         {"6.12.117+deb12-amd64", true},
      {"6.12", false},           {"6.1.0-40-amd64", false}, {"6.18.44", false},
      {"6.18.45-talos", true},   {"6.13.12", false},        {"7.0.11", false},
      {"7.1.8", false},          {"7.1.9", true},           {"7.2.0-rc1", true},
      {"8.0.0", true},           {"5.15.209", false},       {"", false},
      {"six.12.92", false},      {"6.12.x", false},         {"7", false},
      {"99999999999.1.1", false}};
  for (const auto& [release, good] : cases) EXPECT_EQ(above_kernel_tls_floor(release), good) << release;
}

TEST(KernelTls, AsksForTheUlpOnceAndTakesItTwice) {
  FakeKernel kernel;
  ASSERT_TRUE(KernelTls(kernel).prepare(kNoFd));
  ASSERT_EQ(kernel.options.size(), 1u);
  EXPECT_EQ(kernel.options[0].level, IPPROTO_TCP);
  EXPECT_EQ(kernel.options[0].name, 31);
  EXPECT_EQ(std::string(kernel.options[0].value.begin(), kernel.options[0].value.end()), "tls");
  kernel.refuse = EEXIST;
  EXPECT_TRUE(KernelTls(kernel).prepare(kNoFd));
  kernel.refuse = ENOENT;
  EXPECT_EQ(KernelTls(kernel).prepare(kNoFd).error().code(), ENOENT);
}

TEST(KernelTls, GivesKeyIvAndSequenceAsTheKernelWantsThem) {
  FakeKernel kernel;
  const RecordState state = state_of(CipherSuite::kAes128GcmSha256);
  ASSERT_TRUE(KernelTls(kernel).hand_over(kNoFd, Direction::kTransmit, state));
  ASSERT_EQ(kernel.options[0].value.size(), sizeof(tls12_crypto_info_aes_gcm_128));
  tls12_crypto_info_aes_gcm_128 info;
  std::memcpy(&info, kernel.options[0].value.data(), sizeof info);
  EXPECT_EQ(kernel.options[0].level, 282);
  EXPECT_EQ(kernel.options[0].name, TLS_TX);
  EXPECT_EQ(info.info.version, TLS_1_3_VERSION);
  EXPECT_EQ(info.info.cipher_type, TLS_CIPHER_AES_GCM_128);
  EXPECT_EQ(0, std::memcmp(info.key, state.key.data(), 16));
  EXPECT_EQ(0, std::memcmp(info.salt, state.iv.data(), 4));
  EXPECT_EQ(0, std::memcmp(info.iv, state.iv.data() + 4, 8));
  const std::array<uint8_t, 8> sequence = {1, 2, 3, 4, 5, 6, 7, 8};
  EXPECT_EQ(0, std::memcmp(info.rec_seq, sequence.data(), 8));
}

TEST(KernelTls, GivesTheLongKeyToTheReceivingSide) {
  FakeKernel kernel;
  const RecordState state = state_of(CipherSuite::kAes256GcmSha384);
  ASSERT_TRUE(KernelTls(kernel).hand_over(kNoFd, Direction::kReceive, state));
  ASSERT_EQ(kernel.options[0].value.size(), sizeof(tls12_crypto_info_aes_gcm_256));
  tls12_crypto_info_aes_gcm_256 info;
  std::memcpy(&info, kernel.options[0].value.data(), sizeof info);
  EXPECT_EQ(kernel.options[0].name, TLS_RX);
  EXPECT_EQ(info.info.cipher_type, TLS_CIPHER_AES_GCM_256);
  EXPECT_EQ(0, std::memcmp(info.key, state.key.data(), 32));
}

TEST(KernelTls, TellsWhichCallFailed) {
  FakeKernel kernel;
  kernel.refuse = EBUSY;
  const auto result =
      KernelTls(kernel).hand_over(kNoFd, Direction::kTransmit, state_of(CipherSuite::kAes128GcmSha256));
  EXPECT_EQ(result.error().code(), EBUSY);
  EXPECT_NE(result.error().text().find("TLS_TX"), std::string::npos);
}

TEST(KernelTls, ReadsTheSequenceOfEitherCipher) {
  for (const CipherSuite suite : {CipherSuite::kAes128GcmSha256, CipherSuite::kAes256GcmSha384}) {
    FakeKernel kernel;
    ASSERT_TRUE(KernelTls(kernel).hand_over(kNoFd, Direction::kReceive, state_of(suite)));
    EXPECT_EQ(KernelTls(kernel).sequence(kNoFd, Direction::kReceive).value(), 0x0102030405060708u);
    EXPECT_FALSE(KernelTls(kernel).sequence(kNoFd, Direction::kTransmit));
  }
}

TEST(KernelTls, SendsRecordsOfOtherTypesWhole) {
  FakeKernel kernel;
  const std::array<uint8_t, 2> body = {1, 0};
  EXPECT_EQ(KernelTls(kernel).send(kNoFd, ContentType::kAlert, body).value(), net::IoState::kDone);
  EXPECT_EQ(kernel.sent_type, 21);
  EXPECT_EQ(kernel.sent, std::vector<uint8_t>({1, 0}));
  kernel.short_by = 1;
  EXPECT_FALSE(KernelTls(kernel).send(kNoFd, ContentType::kAlert, body));
  kernel.refuse = EAGAIN;
  EXPECT_EQ(KernelTls(kernel).send(kNoFd, ContentType::kAlert, body).value(), net::IoState::kWouldBlock);
  kernel.refuse = EPIPE;
  EXPECT_EQ(KernelTls(kernel).send(kNoFd, ContentType::kAlert, body).error().code(), EPIPE);
}

TEST(KernelTls, TellsTheTypeOfWhatCameAndTheEndFromAnEmptyRecord) {
  FakeKernel kernel;
  std::array<uint8_t, 16> room;
  kernel.sent = {24, 0, 0, 1, 0};
  kernel.type = 22;
  const auto handshake = KernelTls(kernel).receive(kNoFd, room);
  EXPECT_EQ(handshake->state, net::IoState::kDone);
  EXPECT_EQ(handshake->type, ContentType::kHandshake);
  EXPECT_EQ(handshake->bytes, 5u);
  kernel.sent = {};
  kernel.type = 23;
  EXPECT_EQ(KernelTls(kernel).receive(kNoFd, room)->state, net::IoState::kDone);
  kernel.type = 0;
  EXPECT_EQ(KernelTls(kernel).receive(kNoFd, room)->state, net::IoState::kEnd);
  kernel.refuse = EAGAIN;
  EXPECT_EQ(KernelTls(kernel).receive(kNoFd, room)->state, net::IoState::kWouldBlock);
  for (const int code : {EBADMSG, EIO, EINVAL, EKEYEXPIRED}) {
    kernel.refuse = code;
    EXPECT_EQ(KernelTls(kernel).receive(kNoFd, room).error().code(), code);
  }
}

TEST(RecordOpener, TakesRecordsThatTheKernelOpened) {
  auto opener = RecordOpener::resume(state_of(CipherSuite::kAes128GcmSha256));
  std::vector<uint8_t> data = {1, 2, 3};
  auto opened = opener->opened_by_kernel(ContentType::kApplicationData, data);
  EXPECT_EQ(opened->event, RecordOpener::Event::kData);
  EXPECT_EQ(opened->payload.data(), data.data());
  std::vector<uint8_t> update = {24, 0, 0, 1, 1};
  opened = opener->opened_by_kernel(ContentType::kHandshake, update);
  EXPECT_EQ(opened->event, RecordOpener::Event::kKeyUpdate);
  EXPECT_TRUE(opened->respond);
  EXPECT_EQ(opener->state().sequence, 0u) << "a new key counts anew";
  EXPECT_FALSE(opener->opened_by_kernel(static_cast<ContentType>(24), data)) << "heartbeat";
}

TEST(RecordOpener, KeepsAHandshakeMessageThatTheKernelGaveInPieces) {
  auto opener = RecordOpener::resume(state_of(CipherSuite::kAes128GcmSha256));
  std::vector<uint8_t> half = {24, 0, 0};
  EXPECT_EQ(opener->opened_by_kernel(ContentType::kHandshake, half)->event, RecordOpener::Event::kIgnored);
  EXPECT_FALSE(opener->movable());
  std::vector<uint8_t> rest = {1, 0};
  EXPECT_EQ(opener->opened_by_kernel(ContentType::kHandshake, rest)->event, RecordOpener::Event::kKeyUpdate);
}

TEST(RecordOpener, EndsAtTheAlertsThatTheKernelGave) {
  auto opener = RecordOpener::resume(state_of(CipherSuite::kAes128GcmSha256));
  std::vector<uint8_t> close = {1, 0};
  EXPECT_EQ(opener->opened_by_kernel(ContentType::kAlert, close)->event, RecordOpener::Event::kClosed);
  auto other = RecordOpener::resume(state_of(CipherSuite::kAes128GcmSha256));
  std::vector<uint8_t> fatal = {2, 20};
  EXPECT_EQ(other->opened_by_kernel(ContentType::kAlert, fatal).error().code(), 20);
}

TEST(RecordSealer, ItsNextStateIsWhatThePeerExpectsBehindAKeyUpdate) {
  RecordState first = state_of(CipherSuite::kAes256GcmSha384);
  first.sequence = 7;
  auto with_message = RecordSealer::resume(first);
  auto for_kernel = RecordSealer::resume(first);
  Buffer message;
  ASSERT_TRUE(with_message->update_key(message));
  const auto next = for_kernel->next_state();
  EXPECT_EQ(next->key, with_message->state().key);
  EXPECT_EQ(next->sequence, 0u);
}

TEST(MissingOfRecord, CountsDownToWhole) {
  std::vector<uint8_t> record = {23, 3, 3, 0, 20};
  record.resize(25);
  for (size_t have = 0; have <= record.size(); ++have) {
    const size_t wanted = have < 5 ? 5 - have : 25 - have;
    EXPECT_EQ(missing_of_record(std::span(record).first(have)), wanted);
  }
  record.resize(40);
  EXPECT_EQ(missing_of_record(record), 0u);
}

}  // namespace
}  // namespace fairlead::tls
