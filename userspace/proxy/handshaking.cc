#include "proxy/handshaking.h"

#include "net/socket.h"
#include "proxy/limits.h"

namespace fairlead::proxy {
namespace {

Task<Result<void>> send_all(FdWaiter& waiter, BorrowedFd fd, Buffer& out, TimePoint deadline) {
  while (!out.empty()) {
    auto sent = net::send(fd, out.span());
    if (!sent) co_return Error(std::move(sent).error());
    out.consume(sent->bytes);
    if (sent->state != net::IoState::kWouldBlock) continue;
    const bool ready = co_await waiter.writable(deadline);
    if (!ready) co_return Error(ErrorKind::kTimeout, "TLS handshake: the peer does not read");
  }
  co_return Result<void>();
}

}  // namespace

Task<Result<void>> receive_some(FdWaiter& waiter, BorrowedFd fd, Buffer& in, TimePoint deadline) {
  for (;;) {
    auto got = net::receive(fd, in.prepare(4096));
    if (!got) co_return Error(std::move(got).error());
    if (got->state == net::IoState::kEnd)
      co_return Error(ErrorKind::kClosed, "TLS handshake: the peer closed");
    if (got->state == net::IoState::kDone) {
      in.commit(got->bytes);
      co_return Result<void>();
    }
    const bool ready = co_await waiter.readable(deadline);
    if (!ready) co_return Error(ErrorKind::kTimeout, "TLS handshake: no answer in time");
  }
}

Task<Result<tls::Established>> drive_handshake(FdWaiter& waiter, BorrowedFd fd, tls::Handshake& handshake,
                                               bool client, Buffer& received, TimePoint deadline) {
  Buffer out;
  if (client) FL_CO_TRY(handshake.start(out));
  for (size_t total = received.size();;) {
    auto progress = handshake.advance(received.span(), out);
    if (!progress) {
      (void)net::send(fd, out.span());  // ignoring: the alert is a courtesy
      co_return Error(std::move(progress).error());
    }
    received.consume(progress->consumed);
    Result<void> sent = co_await send_all(waiter, fd, out, deadline);
    if (!sent) co_return Error(std::move(sent).error());
    if (progress->done) break;
    if (progress->consumed > 0 && !received.empty()) continue;
    const size_t before = received.size();
    Result<void> got = co_await receive_some(waiter, fd, received, deadline);
    if (!got) co_return Error(std::move(got).error());
    total += received.size() - before;
    if (total > kMaxHandshakeBytes) co_return Error(ErrorKind::kExhausted, "TLS handshake: too many bytes");
  }
  co_return handshake.finish();
}

Task<Result<void>> finish_connect(Reactor& reactor, BorrowedFd fd, TimePoint deadline) {
  if (net::is_established(fd)) co_return Result<void>();
  FdWaiter waiter(reactor);
  FL_CO_TRY(waiter.open(fd));
  const bool ready = co_await waiter.writable(deadline);
  if (!ready) co_return Error(ErrorKind::kTimeout, "connect: no answer in time");
  const int code = net::socket_error(fd);
  if (code != 0) co_return Error::from_code("connect", code);
  co_return Result<void>();
}

}  // namespace fairlead::proxy
