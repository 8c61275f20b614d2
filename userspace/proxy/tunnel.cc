#include "proxy/tunnel.h"

#include <array>

#include "hbone/frame.h"
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
    : Tunnel(reactor, id, role,
             RecordSocket(std::move(fd), std::move(established.sealer), std::move(established.opener)),
             std::move(established.peer), owner) {}

Tunnel::Tunnel(Reactor& reactor, uint64_t id, Role role, RecordSocket records, SpiffeId peer,
               TunnelOwner& owner)
    : reactor_(reactor),
      owner_(owner),
      id_(id),
      records_(std::move(records)),
      peer_(std::make_shared<const SpiffeId>(std::move(peer))),
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
  if (closed_ || lingering_ || farewell_ || !streams_.drained()) return;
  if (has_output() || records_.waits()) return;  // on_turn_end() comes back
  (void)records_.close_notify();                 // ignoring: the tunnel ends either way and carries nothing
  say_farewell();
}

// Closing while the kernel has records to send would drop them, and nothing tells when it has none: look
// again.
void Tunnel::say_farewell() {
  const TimePoint now = reactor_.now();
  if (!farewell_) {
    if (records_.transmits() != RecordSocket::Place::kKernel) return close(false);
    farewell_ = true;
    farewell_until_ = now + kLinger;
  }
  if (records_.all_left() || now >= farewell_until_) return close(false);
  reactor_.timers().arm(idle_, now + kFarewellLook);
}

// ---- receiving
// --------------------------------------------------------------------------------------------------------

void Tunnel::on_io(uint32_t events) noexcept {
  if (closed_) return;
  if ((events & EPOLLERR) != 0) return close(true);
  if (lingering_) return discard();
  if ((events & EPOLLOUT) != 0 && (records_.waits() || has_output())) reactor_.at_turn_end(*this);
  if ((events & (EPOLLRDHUP | EPOLLHUP)) != 0) fin_seen_ = true;
  if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP)) != 0) read();
}

void Tunnel::read() {
  if (reactor_.now() >= calm_at_) {
    streams_.calm();
    calm_at_ = reactor_.now() + kPeerCalm;
  }
  for (int reads = 0; !closed_ && !lingering_; ++reads) {
    if (reads == kMaxReadsPerEvent) {
      if (!reactor_.rearm(records_.fd(), *this)) close(true);
      return;
    }
    bool dry = false;
    if (!take_payload(dry) && !read_records(dry)) return;
    if (dry) break;
  }
  if (closed_ || lingering_) return;
  records_.rest();
  consider_kernel();
}

// Payload of a long DATA frame goes past user space. False: records are to be read.
bool Tunnel::take_payload(bool& dry) {
  if (records_.receives() != RecordSocket::Place::kKernel) return false;
  const hbone::Connection::OpenData open = streams_.open_data();
  if (open.handler == nullptr || open.left < kSpliceWorth) return false;
  const auto taken = open.handler->take_from(records_.fd(), open.left);
  if (!taken && taken.error().code() == EINVAL) return false;  // the next record is of another type
  if (!taken || taken->state == net::IoState::kEnd) {
    if (!taken) broke(taken.error());
    close(true);
    return true;
  }
  if (taken->state == net::IoState::kDone && taken->bytes == 0) return false;
  dry = taken->state == net::IoState::kWouldBlock;
  if (dry) return true;
  heard(taken->bytes);
  header_next_ = taken->bytes == open.left;
  if (!streams_.skip_data(taken->bytes)) give_up();
  return true;
}

// False: the tunnel is closed.
bool Tunnel::read_records(bool& dry) {
  auto got = records_.read(std::exchange(header_next_, false) ? hbone::kFrameHeader : kReadChunk);
  note_moves();
  if (!got) {
    broke(got.error());
    close(true);
    return false;
  }
  // A FIN is only orderly behind close_notify and with no stream open; everything else was cut off.
  if (got->state == net::IoState::kEnd) {
    close(!peer_closed_ || streams_.open_streams() != 0);
    return false;
  }
  dry = records_.read_all() && !(fin_seen_ && got->state == net::IoState::kDone);
  if (got->state == net::IoState::kWouldBlock) return true;
  heard(got->bytes);
  return open_records();
}

void Tunnel::heard(size_t bytes) noexcept {
  if (bytes >= kSpliceWorth) bulk_read_ += bytes;
  heard_at_ = reactor_.now();
  asked_ = false;
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
  if (!has_output() && !records_.waits()) records_.end();
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
      broke(opened.error());
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

// False: the socket broke. A DATA frame whose payload is in the pipe ends before anything else is sent.
bool Tunnel::send_output() {
  Buffer& output = streams_.output();
  while (before_ > 0) {
    const auto taken = records_.write(output.span().first(before_), true);
    if (!taken) return broke(taken.error()), false;
    if (*taken == 0) return true;
    output.consume(*taken);
    before_ -= *taken;
  }
  if (!pipe_.empty()) {
    const auto sent = records_.drain(pipe_);
    if (!sent) return broke(sent.error()), false;
    if (!pipe_.empty()) return true;
  }
  const auto taken = records_.write(output.span());
  if (!taken) return broke(taken.error()), false;
  output.consume(*taken);
  if (*taken >= kSpliceWorth) bulk_written_ += *taken;
  note_moves();
  return true;
}

void Tunnel::on_turn_end() noexcept {
  if (closed_ || lingering_) return;
  if (!send_output()) return close(true);
  if (has_output()) return;  // the socket is full
  streams_.output().release();
  consider_kernel();
  streams_.output_drained();
  finish_if_drained();
}

Result<BulkLane::Step> Tunnel::send_from(BorrowedFd application, hbone::StreamId stream) {
  if (records_.transmits() != RecordSocket::Place::kKernel || !streams_.is_bulk(stream)) return Step{};
  const size_t room = pipe_.empty() && before_ == 0 ? streams_.announceable(stream) : 0;
  if (room == 0) {
    streams_.hold_back(stream);
    return Step{Sent::kLater, 0};
  }
  if (!pipe_) {
    auto made = net::Pipe::create(kPipeSize);
    if (!made) return Step{};  // out of file descriptors: copying goes on
    pipe_ = std::move(*made);
  }
  FL_TRY_ASSIGN(const net::IoResult filled, pipe_.fill(application, room));
  if (filled.state == net::IoState::kEnd) return Step{Sent::kEnd, 0};
  if (filled.state == net::IoState::kWouldBlock) return Step{Sent::kWouldBlock, 0};
  streams_.announce_data(stream, filled.bytes);
  before_ = streams_.output().size();
  return Step{Sent::kMoved, filled.bytes};
}

TunnelRecords Tunnel::tunnel_records() const {
  using Place = RecordSocket::Place;
  return {.cipher = records_.suite(),
          .kernel_sends = records_.transmits() == Place::kKernel,
          .kernel_receives = records_.receives() == Place::kKernel,
          .ulp = net::has_tls_ulp(records_.fd()),
          .sent = records_.records(tls::Direction::kTransmit),
          .received = records_.records(tls::Direction::kReceive)};
}

// ---- the kernel
// --------------------------------------------------------------------------------------------------------

void Tunnel::consider_kernel() {
  if (kernel_ == nullptr || closed_) return;
  if (records_.worn() && !streams_.draining()) drain();
  if (!streams_.carries_bulk() || !kernel_->on.load(std::memory_order_relaxed)) return;
  if (bulk_written_ > kernel_->after) records_.move_transmit(kernel_->rekeys);
  if (bulk_read_ > kernel_->after) records_.move_receive();
}

void Tunnel::note_moves() noexcept {
  using Place = RecordSocket::Place;
  const auto note = [this](Place& counted, Place now, KernelEvent moved) {
    if (counted == now) return;
    counted = now;
    if (now == Place::kKernel) owner_.on_tunnel_kernel(*this, moved);
    if (now == Place::kRefused) owner_.on_tunnel_kernel(*this, KernelEvent::kRefused);
  };
  note(transmits_, records_.transmits(), KernelEvent::kTransmits);
  note(receives_, records_.receives(), KernelEvent::kReceives);
}

void Tunnel::broke(const Error& error) noexcept {
  using Place = RecordSocket::Place;
  if (records_.receives() != Place::kKernel && records_.transmits() != Place::kKernel) return;
  switch (error.code()) {
    case ECONNRESET:
    case EPIPE:
    case ETIMEDOUT: return;  // the connection's, not the records'
    case EBADMSG: return owner_.on_tunnel_kernel(*this, KernelEvent::kBadRecord);
    case EBUSY:
    case EKEYEXPIRED: return owner_.on_tunnel_kernel(*this, KernelEvent::kKeyUpdate);
    default: return owner_.on_tunnel_kernel(*this, KernelEvent::kBroken);
  }
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
  if (farewell_) return say_farewell();
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
