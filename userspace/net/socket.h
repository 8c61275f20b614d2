// Sockets by named operations. Every fd is CLOEXEC and non-blocking from birth unless it says otherwise.
// Reading and writing return bytes, would-block, end or an Error – would-block is a value (IoState).
// Thread: any; an fd belongs to one thread at a time.
#pragma once

#include <sys/socket.h>
#include <sys/uio.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "base/net_types.h"
#include "base/result.h"
#include "base/unique_fd.h"

namespace fairlead::net {

enum class IoState : uint8_t { kDone, kWouldBlock, kEnd };
struct IoResult {
  IoState state = IoState::kWouldBlock;
  size_t bytes = 0;  // where kDone
};

// kEnd: the peer's FIN (recv) – never from send. Errors: the socket's, e.g. ECONNRESET in Error::code().
Result<IoResult> receive(BorrowedFd fd, std::span<uint8_t> into);
Result<IoResult> peek(BorrowedFd fd, std::span<uint8_t> into);
// `more`: the rest of what should travel together follows at once (MSG_MORE).
Result<IoResult> send(BorrowedFd fd, std::span<const uint8_t> from, bool more = false);

// Several pieces in one call (sendmsg(2)); IOV_MAX at most.
Result<IoResult> send(BorrowedFd fd, std::span<const iovec> pieces);

Result<UniqueFd> tcp_socket(int family);
// Starts a connect; completion is EPOLLOUT, then socket_error().
Result<void> connect(BorrowedFd fd, const SocketAddress& to, int family);
Result<void> bind(BorrowedFd fd, const SocketAddress& to, int family);
// SO_REUSEADDR set, listening. `v6_only` for AF_INET6.
Result<UniqueFd> tcp_listener(const SocketAddress& at, int backlog);
// kWouldBlock is std::nullopt.
struct Accepted {
  UniqueFd fd;
  SocketAddress peer;
};
Result<std::optional<Accepted>> accept(BorrowedFd listener);

// Another file descriptor of the same socket.
Result<UniqueFd> duplicate(BorrowedFd fd);
Result<SocketAddress> local_address(BorrowedFd fd);
Result<SocketAddress> peer_address(BorrowedFd fd);
// Whether a started connect() has come through already: over lo it has when connect() returns.
[[nodiscard]] bool is_established(BorrowedFd fd) noexcept;
// Whether the peer's kernel has everything that was sent, a FIN included (TCP_INFO); false when it cannot be
// told.
[[nodiscard]] bool all_acknowledged(BorrowedFd fd) noexcept;
// SO_ERROR, read and cleared; 0 when there is none.
[[nodiscard]] int socket_error(BorrowedFd fd) noexcept;
Result<uint64_t> netns_cookie(BorrowedFd fd);

void set_nodelay(BorrowedFd fd) noexcept;
// A peer that is silent for `dead_after` while it should answer or acknowledge is given up: keep-alive and
// TCP_USER_TIMEOUT together (tcp(7)).
void set_dead_peer_timeout(BorrowedFd fd, std::chrono::seconds dead_after) noexcept;
// The next close() sends RST instead of FIN: truncated data is never passed off as a clean end. Sockets that
// a listener accepts inherit it, and set_nodelay().
void set_reset_on_close(BorrowedFd fd) noexcept;
// Takes set_reset_on_close() back: close() sends what is left and a FIN.
void set_end_on_close(BorrowedFd fd) noexcept;
void shutdown_write(BorrowedFd fd) noexcept;
// Whether the kernel has put its TLS on the socket: a direction of it, or both, may be the kernel's.
[[nodiscard]] bool has_tls_ulp(BorrowedFd fd) noexcept;
// Has the kernel load its TLS module, where it may; needs CAP_NET_ADMIN. No error: whether it is there is
// seen by those who use it.
void load_kernel_tls() noexcept;
// Ends listening for every process that has a copy: the address can be listened at anew at once. What waits in
// the backlog is reset.
void stop_listening(BorrowedFd listener) noexcept;

}  // namespace fairlead::net
