#include "tls/kernel_tls.h"

#include <linux/tls.h>
#include <netinet/tcp.h>
#include <openssl/crypto.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>

#ifndef SOL_TLS
#define SOL_TLS 282
#endif
#ifndef TCP_ULP
#define TCP_ULP 31
#endif

namespace fairlead::tls {
namespace {

constexpr char kUlp[] = "tls";
constexpr size_t kSalt = TLS_CIPHER_AES_GCM_128_SALT_SIZE;
static_assert(kSalt == TLS_CIPHER_AES_GCM_256_SALT_SIZE);

// The oldest patch of a series that has every fix (the CVEs of sockets with this ULP); later series have all.
struct Floor {
  unsigned major, minor, patch;
};
constexpr std::array<Floor, 3> kFloors = {{{6, 12, 92}, {6, 18, 45}, {7, 1, 9}}};

int option_of(Direction direction) noexcept {
  return direction == Direction::kTransmit ? TLS_TX : TLS_RX;
}

// TLS 1.3 (RFC 8446 §5.3): the kernel wants the first four octets of the iv as salt.
template <class Info>
void fill(Info& info, uint16_t cipher, const RecordState& state) noexcept {
  info.info.version = TLS_1_3_VERSION;
  info.info.cipher_type = cipher;
  std::copy_n(state.key.begin(), sizeof info.key, info.key);
  std::copy_n(state.iv.begin(), kSalt, info.salt);
  std::copy_n(state.iv.begin() + kSalt, sizeof info.iv, info.iv);
  for (size_t i = 0; i < sizeof info.rec_seq; ++i)
    info.rec_seq[7 - i] = static_cast<uint8_t>(state.sequence >> (8 * i));
}

union CryptoInfo {
  tls_crypto_info info;
  tls12_crypto_info_aes_gcm_128 aes128;
  tls12_crypto_info_aes_gcm_256 aes256;
  CryptoInfo() noexcept { std::memset(static_cast<void*>(this), 0, sizeof *this); }
  ~CryptoInfo() { OPENSSL_cleanse(this, sizeof *this); }
};

uint64_t sequence_of(const unsigned char (&octets)[8]) noexcept {
  uint64_t sequence = 0;
  for (const unsigned char octet : octets) sequence = sequence << 8 | octet;
  return sequence;
}

union Control {
  cmsghdr align;
  char bytes[CMSG_SPACE(sizeof(unsigned char))];
};

}  // namespace

int KernelCalls::setsockopt(int fd, int level, int name, const void* value, socklen_t length) {
  return ::setsockopt(fd, level, name, value, length);
}
int KernelCalls::getsockopt(int fd, int level, int name, void* value, socklen_t* length) {
  return ::getsockopt(fd, level, name, value, length);
}
ssize_t KernelCalls::sendmsg(int fd, const msghdr* message, int flags) {
  return ::sendmsg(fd, message, flags);
}
ssize_t KernelCalls::recvmsg(int fd, msghdr* message, int flags) {
  return ::recvmsg(fd, message, flags);
}
KernelCalls& KernelCalls::real() noexcept {
  static KernelCalls calls;
  return calls;
}

std::string_view to_string(KernelTlsSupport::Why why) noexcept {
  using Why = KernelTlsSupport::Why;
  switch (why) {
    case Why::kUsable: return "usable";
    case Why::kOff: return "off";
    case Why::kNoModule: return "no-module";
    case Why::kOldKernel: return "old-kernel";
    case Why::kSelfTest: return "self-test-failed";
  }
  return "unknown";
}

bool above_kernel_tls_floor(std::string_view release) noexcept {
  std::array<unsigned, 3> version{};
  for (size_t i = 0; i < version.size(); ++i) {
    const auto [end, error] = std::from_chars(release.data(), release.data() + release.size(), version[i]);
    if (error != std::errc()) return false;
    release.remove_prefix(static_cast<size_t>(end - release.data()));
    if (i == 2) break;
    if (!release.starts_with('.')) return false;
    release.remove_prefix(1);
  }
  const auto series = [](unsigned major, unsigned minor) { return major * 1000 + minor; };
  const unsigned here = series(version[0], version[1]);
  for (const Floor& floor : kFloors)
    if (here == series(floor.major, floor.minor)) return version[2] >= floor.patch;
  return here > series(kFloors.back().major, kFloors.back().minor);
}

Result<void> KernelTls::prepare(BorrowedFd fd) const {
  if (calls_.setsockopt(fd.get(), IPPROTO_TCP, TCP_ULP, kUlp, sizeof kUlp - 1) == 0 || errno == EEXIST)
    return {};
  return Error::from_errno("TCP_ULP tls");
}

Result<void> KernelTls::hand_over(BorrowedFd fd, Direction direction, const RecordState& state) const {
  CryptoInfo info;
  socklen_t length = 0;
  if (state.key_length == TLS_CIPHER_AES_GCM_128_KEY_SIZE) {
    fill(info.aes128, TLS_CIPHER_AES_GCM_128, state);
    length = sizeof info.aes128;
  } else {
    fill(info.aes256, TLS_CIPHER_AES_GCM_256, state);
    length = sizeof info.aes256;
  }
  if (calls_.setsockopt(fd.get(), SOL_TLS, option_of(direction), &info, length) == 0) return {};
  return Error::from_errno(direction == Direction::kTransmit ? "TLS_TX" : "TLS_RX");
}

Result<uint64_t> KernelTls::sequence(BorrowedFd fd, Direction direction) const {
  CryptoInfo info;
  // The kernel wants the exact length, which differs by cipher: try both.
  for (const bool small : {true, false}) {
    socklen_t length = small ? sizeof info.aes128 : sizeof info.aes256;
    if (calls_.getsockopt(fd.get(), SOL_TLS, option_of(direction), &info, &length) == 0)
      return sequence_of(info.info.cipher_type == TLS_CIPHER_AES_GCM_128 ? info.aes128.rec_seq
                                                                         : info.aes256.rec_seq);
  }
  return Error::from_errno("getsockopt TLS");
}

Result<net::IoState> KernelTls::send(BorrowedFd fd, ContentType type, std::span<const uint8_t> body) const {
  iovec piece{const_cast<uint8_t*>(body.data()), body.size()};  // sendmsg(2) only reads it
  Control control{};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = control.bytes;
  message.msg_controllen = sizeof control.bytes;
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_TLS;
  header->cmsg_type = TLS_SET_RECORD_TYPE;
  header->cmsg_len = CMSG_LEN(1);
  *CMSG_DATA(header) = static_cast<unsigned char>(type);
  const ssize_t count = calls_.sendmsg(fd.get(), &message, MSG_NOSIGNAL);
  if (count == static_cast<ssize_t>(body.size())) return net::IoState::kDone;
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return net::IoState::kWouldBlock;
  if (count < 0) return Error::from_errno("sendmsg of a record");
  return Error(ErrorKind::kTls, "the kernel took part of a record");
}

Result<KernelTls::Received> KernelTls::receive(BorrowedFd fd, std::span<uint8_t> into) const {
  iovec piece{into.data(), into.size()};
  Control control{};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = control.bytes;
  message.msg_controllen = sizeof control.bytes;
  const ssize_t count = calls_.recvmsg(fd.get(), &message, 0);
  Received received;
  if (count < 0) {
    if (errno == EAGAIN || errno == EINTR) return received;
    return Error::from_errno("recvmsg of records");
  }
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  const bool typed =
      header != nullptr && header->cmsg_level == SOL_TLS && header->cmsg_type == TLS_GET_RECORD_TYPE;
  // A record without bytes has a type, the end of the connection has none.
  received.state = count == 0 && !typed ? net::IoState::kEnd : net::IoState::kDone;
  received.bytes = static_cast<size_t>(count);
  if (typed) received.type = static_cast<ContentType>(*CMSG_DATA(header));
  received.whole = (message.msg_flags & MSG_EOR) != 0 || received.bytes < into.size();
  return received;
}

}  // namespace fairlead::tls
