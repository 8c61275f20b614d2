#include "proxy/socket_relay.h"

#include "net/socket.h"
#include "proxy/limits.h"
#include "tls/handshake.h"

namespace fairlead::proxy {

SocketRelay::SocketRelay(Reactor& reactor, RelayOwner& owner) noexcept : reactor_(reactor), owner_(owner) {
  for (int i = 0; i < 2; ++i) {
    sides_[static_cast<size_t>(i)].relay = this;
    sides_[static_cast<size_t>(i)].index = i;
  }
}

SocketRelay::~SocketRelay() {
  abort();
}

Result<void> SocketRelay::start(UniqueFd client, UniqueFd server, Buffer from_client, bool guard) {
  sides_[0].fd = std::move(client);
  sides_[1].fd = std::move(server);
  sides_[0].backlog = std::move(from_client);
  sides_[0].moved = sides_[0].backlog.size();
  guard_ = guard;
  for (Side& side : sides_) {
    net::set_nodelay(side.fd);
    // Until both ends are through, whoever closes this socket (the kernel, when the process dies) breaks the
    // connection: a FIN would pass for the end of the data.
    net::set_reset_on_close(side.fd);
    FL_TRY(reactor_.watch(side.fd, side));
  }
  return {};
}

void SocketRelay::close_both(bool reset) noexcept {
  over_ = true;
  owner_.on_relay_closing();
  for (Side& side : sides_) {
    if (!side.fd) continue;
    reactor_.unwatch(side.fd);
    if (!reset) net::set_end_on_close(side.fd);
    side.fd.reset();
    side.backlog.release();
  }
}

void SocketRelay::abort() noexcept {
  if (!over_) close_both(true);
}

void SocketRelay::fail() noexcept {
  close_both(true);
  owner_.on_relay_end(false);
}

void SocketRelay::on_side_io(Side& side, uint32_t events) noexcept {
  if (over_) return;
  if ((events & EPOLLERR) != 0) return fail();
  if ((events & EPOLLOUT) != 0) {
    side.writable = true;
    pump(other(side));
  }
  if (!over_ && (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP)) != 0) {
    side.readable = true;
    if ((events & (EPOLLRDHUP | EPOLLHUP)) != 0) side.fin_seen = true;
    pump(side);
  }
}

// False: the connection is over.
bool SocketRelay::write_backlog(Side& from, Side& to) {
  while (!from.backlog.empty() && to.writable) {
    auto sent = net::send(to.fd, from.backlog.span());
    if (!sent) {
      fail();
      return false;
    }
    if (sent->state == net::IoState::kWouldBlock) to.writable = false;
    from.backlog.consume(sent->bytes);
  }
  if (from.backlog.empty()) from.backlog.release();
  return true;
}

bool SocketRelay::guard_stops(Side& from) {
  if (!guard_ || from.index != 0) return false;
  guard_ = false;
  return tls::classify(from.backlog.span()) == tls::FirstBytes::kTunnel;
}

void SocketRelay::pump(Side& from) {
  Side& to = other(from);
  for (int reads = 0;;) {
    if (!write_backlog(from, to)) return;
    if (!from.readable || from.ended || from.backlog.size() >= kMaxRelayBacklog) break;
    if (++reads > kMaxReadsPerEvent) {
      if (!reactor_.rearm(from.fd, from)) fail();
      return;
    }
    auto got = net::receive(from.fd, from.backlog.prepare(kReadChunk).first(kReadChunk));
    if (!got) return fail();
    from.backlog.commit(got->bytes);
    from.moved += got->bytes;
    if (got->state == net::IoState::kEnd) from.ended = true;
    if (got->state == net::IoState::kWouldBlock || (got->bytes < kReadChunk && !from.fin_seen))
      from.readable = false;
    if (got->bytes > 0 && guard_stops(from)) return fail();
  }
  if (from.ended && from.backlog.empty() && !to.shut) {
    to.shut = true;
    net::shutdown_write(to.fd);
  }
  if (sides_[0].shut && sides_[1].shut) {
    close_both(false);
    owner_.on_relay_end(true);
  }
}

}  // namespace fairlead::proxy
