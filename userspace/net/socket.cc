#include "net/socket.h"

#include <fcntl.h>
#include <linux/tcp.h>
#include <netinet/in.h>

#include <algorithm>
#include <array>
#include <string_view>

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

namespace fairlead::net {
namespace {

constexpr uint8_t kEstablished = 1;  // of tcpi_state: the kernel's header does not name it
constexpr int kFlags = SOCK_CLOEXEC | SOCK_NONBLOCK;

bool would_block(int code) {
  return code == EAGAIN || code == EWOULDBLOCK || code == EINTR;
}

Result<IoResult> finish_receive(ssize_t count) {
  const int code = errno;
  if (count > 0) return IoResult{IoState::kDone, static_cast<size_t>(count)};
  if (count == 0) return IoResult{IoState::kEnd, 0};
  if (would_block(code)) return IoResult{};
  return Error::from_code("recv", code);
}

template <class T>
void set_option(BorrowedFd fd, int level, int name, T value) noexcept {
  (void)::setsockopt(fd.get(), level, name, &value,
                     sizeof value);  // ignoring: tuning; the socket works without
}

template <class Call>
Result<SocketAddress> name_of(BorrowedFd fd, Call call, std::string_view operation) {
  sockaddr_storage storage{};
  socklen_t length = sizeof storage;
  if (call(fd.get(), reinterpret_cast<sockaddr*>(&storage), &length) != 0)
    return Error::from_errno(operation);
  return SocketAddress::from(storage);
}

}  // namespace

Result<IoResult> receive(BorrowedFd fd, std::span<uint8_t> into) {
  return finish_receive(::recv(fd.get(), into.data(), into.size(), 0));
}

Result<IoResult> peek(BorrowedFd fd, std::span<uint8_t> into) {
  return finish_receive(::recv(fd.get(), into.data(), into.size(), MSG_PEEK));
}

Result<IoResult> send(BorrowedFd fd, std::span<const uint8_t> from, bool more) {
  const ssize_t count = ::send(fd.get(), from.data(), from.size(), MSG_NOSIGNAL | (more ? MSG_MORE : 0));
  const int code = errno;
  if (count >= 0) return IoResult{IoState::kDone, static_cast<size_t>(count)};
  if (would_block(code)) return IoResult{};
  return Error::from_code("send", code);
}

Result<IoResult> send(BorrowedFd fd, std::span<const iovec> pieces) {
  msghdr message{};
  message.msg_iov = const_cast<iovec*>(pieces.data());  // sendmsg(2) only reads it
  message.msg_iovlen = pieces.size();
  const ssize_t count = ::sendmsg(fd.get(), &message, MSG_NOSIGNAL);
  const int code = errno;
  if (count >= 0) return IoResult{IoState::kDone, static_cast<size_t>(count)};
  if (would_block(code)) return IoResult{};
  return Error::from_code("sendmsg", code);
}

Result<UniqueFd> tcp_socket(int family) {
  UniqueFd fd(::socket(family, SOCK_STREAM | kFlags, IPPROTO_TCP));
  if (!fd) return Error::from_errno("socket");
  return fd;
}

Result<void> connect(BorrowedFd fd, const SocketAddress& to, int family) {
  sockaddr_storage storage;
  const socklen_t length = to.to(storage, family);
  if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&storage), length) == 0) return {};
  const int code = errno;
  if (code == EINPROGRESS) return {};
  return Error::from_code(fmt::format("connect {}", to.to_string()), code);
}

Result<void> bind(BorrowedFd fd, const SocketAddress& to, int family) {
  sockaddr_storage storage;
  const socklen_t length = to.to(storage, family);
  if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&storage), length) == 0) return {};
  const int code = errno;
  return Error::from_code(fmt::format("bind {}", to.to_string()), code);
}

Result<UniqueFd> tcp_listener(const SocketAddress& at, int backlog) {
  FL_TRY_ASSIGN(UniqueFd fd, tcp_socket(at.family()));
  set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
  if (at.family() == AF_INET6) set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
  FL_TRY(bind(fd, at, at.family()));
  if (::listen(fd.get(), backlog) != 0) {
    const int code = errno;
    return Error::from_code(fmt::format("listen {}", at.to_string()), code);
  }
  return fd;
}

Result<std::optional<Accepted>> accept(BorrowedFd listener) {
  sockaddr_storage storage{};
  socklen_t length = sizeof storage;
  UniqueFd fd(::accept4(listener.get(), reinterpret_cast<sockaddr*>(&storage), &length, kFlags));
  const int code = errno;
  if (fd) return std::optional<Accepted>(Accepted{std::move(fd), SocketAddress::from(storage)});
  // accept(2): errors of a connection that died in the backlog are to be treated like would-block.
  if (would_block(code) || code == ECONNABORTED || code == EPROTO || code == ENETDOWN || code == EHOSTDOWN ||
      code == ENONET || code == EHOSTUNREACH || code == ENETUNREACH) {
    return std::optional<Accepted>();
  }
  return Error::from_code("accept4", code);
}

Result<UniqueFd> duplicate(BorrowedFd fd) {
  UniqueFd copy(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));
  if (!copy) return Error::from_errno("dup");
  return copy;
}

Result<SocketAddress> local_address(BorrowedFd fd) {
  return name_of(fd, ::getsockname, "getsockname");
}
Result<SocketAddress> peer_address(BorrowedFd fd) {
  return name_of(fd, ::getpeername, "getpeername");
}

bool is_established(BorrowedFd fd) noexcept {
  uint8_t state = 0;  // tcpi_state, the first octet of tcp_info: the kernel fills as much as is asked for
  socklen_t length = sizeof state;
  return ::getsockopt(fd.get(), IPPROTO_TCP, TCP_INFO, &state, &length) == 0 && state == kEstablished;
}

bool all_acknowledged(BorrowedFd fd) noexcept {
  tcp_info info{};
  socklen_t length = sizeof info;
  return ::getsockopt(fd.get(), IPPROTO_TCP, TCP_INFO, &info, &length) == 0 && info.tcpi_unacked == 0 &&
         info.tcpi_notsent_bytes == 0;
}

int socket_error(BorrowedFd fd) noexcept {
  int code = 0;
  socklen_t length = sizeof code;
  if (::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &code, &length) != 0) return errno;
  return code;
}

Result<uint64_t> netns_cookie(BorrowedFd fd) {
  uint64_t cookie = 0;
  socklen_t length = sizeof cookie;
  if (::getsockopt(fd.get(), SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &length) != 0)
    return Error::from_errno("SO_NETNS_COOKIE");
  return cookie;
}

void set_nodelay(BorrowedFd fd) noexcept {
  set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
}

void set_dead_peer_timeout(BorrowedFd fd, std::chrono::seconds dead_after) noexcept {
  const int seconds = static_cast<int>(dead_after.count());
  set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, std::max(seconds / 2, 1));
  set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, std::max(seconds / 4, 1));
  set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, 2);
  set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, static_cast<unsigned>(seconds) * 1000);
}

void set_reset_on_close(BorrowedFd fd) noexcept {
  set_option(fd, SOL_SOCKET, SO_LINGER, linger{1, 0});
}

void set_end_on_close(BorrowedFd fd) noexcept {
  set_option(fd, SOL_SOCKET, SO_LINGER, linger{0, 0});
}

void shutdown_write(BorrowedFd fd) noexcept {
  (void)::shutdown(fd.get(), SHUT_WR);  // ignoring: a dead socket reports itself on the next read
}

bool has_tls_ulp(BorrowedFd fd) noexcept {
  std::array<char, 16> name{};
  socklen_t length = name.size() - 1;
  return ::getsockopt(fd.get(), IPPROTO_TCP, TCP_ULP, name.data(), &length) == 0 &&
         std::string_view(name.data()) == "tls";
}

void load_kernel_tls() noexcept {
  const auto fd = tcp_socket(AF_INET);
  // ignoring: refused in any case, for nothing is connected, but not before the module was looked for
  if (fd) (void)::setsockopt(fd->get(), IPPROTO_TCP, TCP_ULP, "tls", 3);
}

void stop_listening(BorrowedFd listener) noexcept {
  (void)::shutdown(listener.get(), SHUT_RD);  // ignoring: one that does not listen is what is wanted
}

}  // namespace fairlead::net
