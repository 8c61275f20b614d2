#include "proxy/tunnel.h"

#include <array>

#include "net/socket.h"
#include "proxy/limits.h"

namespace fairlead::proxy {
namespace {

constexpr uint64_t kKeepAlivePing = 0x6661'6972'6c65'6164;  // opaque to the peer

hbone::Settings settings() {
  hbone::Settings settings;
  settings.max_concurrent_streams = kMaxStreamsPerTunnel;
  return settings;
}

}  // namespace

Tunnel::Tunnel(Reactor& reactor, uint64_t id, Role role, UniqueFd fd, tls::Established established,
               TunnelOwner& owner)
    : reactor_(reactor),
      owner_(owner),
      id_(id),
      records_(std::move(fd), std::move(established.sealer), std::move(established.opener)),
      peer_(std::make_shared<const SpiffeId>(std::move(established.peer))),
      streams_(role, settings(), *this),
      idle_(*this),
      quiet_(*this),
      client_(role == Role::kClient) {}

Tunnel::~Tunnel() {
  if (!closed_) close(true);
}

Result<void> Tunnel::start(Buffer leftover) {
  records_.put_back(std::move(leftover));
  net::set_nodelay(records_.fd());
  net::set_dead_peer_timeout(records_.fd(), kDeadPeer);
  arm_idle();
  heard_at_ = reactor_.now();
  reactor_.timers().arm(quiet_, heard_at_ + kQuietPeer);
  FL_TRY(reactor_.watch(records_.fd(), *this));  // reports at once what is ready already
  if (records_.has_received()) open_records();
  return {};
}

void Tunnel::close(bool failed) noexcept {
  if (closed_) return;
  closed_ = true;
  streams_.abort();  // every stream learns it by on_reset
  reactor_.unwatch(records_.fd());
  records_.close();
  idle_.cancel();
  quiet_.cancel();
  owner_.on_tunnel_closed(*this, failed);
}

void Tunnel::drain() {
  streams_.goaway(hbone::ErrorCode::kNoError);
  finish_if_drained();
}

void Tunnel::finish_if_drained() {
  if (closed_ || lingering_ || !streams_.drained()) return;
  if (!streams_.output().empty() || records_.waits()) return;  // on_turn_end() comes back
  (void)records_.close_notify();  // ignoring: the tunnel ends either way and carries nothing
  close(false);
}

// ---- receiving
// --------------------------------------------------------------------------------------------------------

void Tunnel::on_io(uint32_t events) noexcept {
  if (closed_) return;
  if ((events & EPOLLERR) != 0) return close(true);
  if (lingering_) return discard();
  if ((events & EPOLLOUT) != 0 && records_.waits()) reactor_.at_turn_end(*this);
  if ((events & (EPOLLRDHUP | EPOLLHUP)) != 0) fin_seen_ = true;
  if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP)) != 0) read();
}

void Tunnel::read() {
  if (reactor_.now() >= calm_at_) {
    streams_.calm();
    calm_at_ = reactor_.now() + kPeerCalm;
  }
  for (int reads = 0; !closed_; ++reads) {
    if (reads == kMaxReadsPerEvent) {
      if (!reactor_.rearm(records_.fd(), *this)) close(true);
      return;
    }
    auto got = records_.read();
    if (!got) return close(true);
    // A FIN is only orderly behind close_notify and with no stream open; everything else was cut off.
    if (got->state == net::IoState::kEnd) return close(!peer_closed_ || streams_.open_streams() != 0);
    if (got->state == net::IoState::kWouldBlock) break;
    heard_at_ = reactor_.now();
    asked_ = false;
    if (!open_records()) return;
    if (records_.read_all() && !fin_seen_) break;
  }
  records_.rest();
}

// The peer broke the rules, its streams are reset, and GOAWAY with the cause is in the output.
void Tunnel::give_up() {
  if (closed_) return;
  lingering_ = true;
  reactor_.timers().arm(idle_, reactor_.now() + kLinger);
  discard();
}

// The peer has its last words, or reads and gets them.
void Tunnel::discard() {
  if (!send_output()) return close(true);
  if (streams_.output().empty() && !records_.waits()) records_.end();
  std::array<uint8_t, 16 * 1024> nowhere;
  while (discarded_ < kMaxDiscarded) {
    auto got = net::receive(records_.fd(), nowhere);
    if (!got || got->state == net::IoState::kEnd) break;
    if (got->state == net::IoState::kWouldBlock) return;
    discarded_ += got->bytes;
  }
  close(true);
}

// False: the tunnel is closed.
bool Tunnel::open_records() {
  const bool open = open_each_record();
  if (!closed_ && !lingering_)
    streams_.settle();  // the payload lies in received_, which nobody has touched since
  return open && !closed_ && !lingering_;
}

// Opens every whole record.
bool Tunnel::open_each_record() {
  using Event = tls::RecordOpener::Event;
  while (records_.has_received()) {
    auto opened = records_.next();
    if (!opened) {
      if (records_.alert() != tls::Alert::kCloseNotify) records_.fatal(records_.alert());
      close(true);
      return false;
    }
    if (opened->event == Event::kNeedMore) break;
    if (opened->event == Event::kClosed) peer_closed_ = true;
    if (opened->event == Event::kKeyUpdate) {
      if (opened->respond && !records_.update_key()) {
        close(true);
        return false;
      }
      reactor_.at_turn_end(*this);
    }
    if (opened->event == Event::kData && !streams_.receive(opened->payload)) {
      give_up();
      return false;
    }
    if (closed_) return false;
  }
  return true;
}

// ---- sending
// ----------------------------------------------------------------------------------------------------------

void Tunnel::on_output() {
  reactor_.at_turn_end(*this);
}

// False: the socket broke.
bool Tunnel::send_output() {
  const auto taken = records_.write(streams_.output().span());
  if (taken) streams_.output().consume(*taken);
  return taken.has_value();
}

void Tunnel::on_turn_end() noexcept {
  if (closed_ || lingering_) return;
  if (!send_output()) return close(true);
  if (!streams_.output().empty()) return;  // the socket is full
  streams_.output().release();
  streams_.output_drained();
  finish_if_drained();
}

// ---- streams
// ----------------------------------------------------------------------------------------------------------

hbone::StreamHandler* Tunnel::on_connect(hbone::StreamId stream, const hbone::ConnectRequest& request) {
  return owner_.on_tunnel_connect(*this, stream, request);
}

void Tunnel::on_goaway(hbone::ErrorCode) {
  reactor_.at_turn_end(*this);
}

void Tunnel::on_fault(hbone::Fault fault) {
  owner_.on_tunnel_fault(*this, fault);
}

void Tunnel::on_stream_closed(hbone::StreamId) {
  if (closed_) return;
  if (streams_.open_streams() == 0) {
    arm_idle();
    if (streams_.draining()) reactor_.at_turn_end(*this);
  }
  owner_.on_tunnel_stream_closed(*this);
}

void Tunnel::arm_idle() noexcept {
  reactor_.timers().arm(idle_, reactor_.now() + (client_ ? kTunnelIdle : kInboundTunnelIdle));
}

void Tunnel::on_idle() noexcept {
  if (lingering_) return close(true);
  if (streams_.open_streams() == 0) drain();
}

// TCP notices a node that is gone, but not a process that hangs.
void Tunnel::on_quiet() noexcept {
  if (lingering_) return;
  const TimePoint now = reactor_.now();
  if (asked_) {
    on_fault(hbone::Fault::kSilent);
    return close(true);
  }
  TimePoint next = heard_at_ + kQuietPeer;
  if (streams_.open_streams() == 0) {
    next = now + kQuietPeer;
  } else if (next <= now) {
    asked_ = true;
    streams_.ping(kKeepAlivePing);
    next = now + kPongDeadline;
  }
  reactor_.timers().arm(quiet_, next);
}

}  // namespace fairlead::proxy
