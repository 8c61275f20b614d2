#include "proxy/inbound.h"

#include "base/log.h"
#include "net/socket.h"
#include "proxy/handshaking.h"
#include "proxy/peer_faults.h"
#include "proxy/worker.h"

namespace fairlead::proxy {

InboundConnection::InboundConnection(Worker& worker, std::shared_ptr<Pod> pod, UniqueFd fd,
                                     const SocketAddress& peer)
    : Connection(worker, std::move(pod), true), fd_(std::move(fd)), peer_(peer) {
  record_.source = peer;
}

ConnectionRecord InboundConnection::record() const {
  ConnectionRecord record = record_;
  if (sockets_ != nullptr) {
    record.sent = sockets_->moved(1);
    record.received = sockets_->moved(0);
  }
  return record;
}

void InboundConnection::abort() noexcept {
  if (sockets_ != nullptr) sockets_->abort();
  if (fd_) net::set_reset_on_close(fd_);
  fd_.reset();
  finish(handed_over_);
}

Task<void> InboundConnection::run() {
  Result<void> result = co_await set_up();
  if (!result) {
    log::debug("inbound", "{} {} -> {}: {}", pod_->full_name(), peer_.to_string(),
               record_.destination.to_string(), result.error().text());
  }
  if (!result || handed_over_) {
    abort();
  } else {
    record_.state = "open";
    set_up_done();
  }
}

Task<Result<void>> InboundConnection::set_up() {
  auto local = net::local_address(fd_);
  if (!local) co_return Error(std::move(local).error());
  record_.destination = record_.endpoint = *local;
  // Steered connections carry the address they were sent to; one that dials the listener itself carries
  // loopback.
  if (!pod_->owns(local->ip)) co_return Error(ErrorKind::kDenied, "not sent to the pod's address");
  FdWaiter waiter(worker_.reactor());
  FL_CO_TRY(waiter.open(fd_));
  Result<void> result;
  if (local->port == kHbonePort) {
    result = co_await tunnel(waiter);
    co_return result;
  }
  const auto source = worker_.snapshot()->workload(peer_.ip);
  const bool maybe_tunnel = source != nullptr && source->tunnel == state::Tunnel::kHbone;
  if (maybe_tunnel) {
    Result<tls::FirstBytes> kind = co_await first_bytes(waiter);
    if (!kind) co_return Error(std::move(kind).error());
    if (*kind == tls::FirstBytes::kTunnel) {
      result = co_await tunnel(waiter);
      co_return result;
    }
  }
  result = co_await plaintext(waiter, received_.empty());
  co_return result;
}

Task<Result<tls::FirstBytes>> InboundConnection::first_bytes(FdWaiter& waiter) {
  const TimePoint deadline = worker_.reactor().now() + kFirstBytesDeadline;
  for (;;) {
    if (!received_.empty()) {
      const auto kind = tls::classify(received_.span());
      if (kind != tls::FirstBytes::kNeedMore) co_return kind;
      if (received_.size() > kMaxFirstBytes) co_return tls::FirstBytes::kOther;
    }
    auto got = net::receive(fd_, received_.prepare(4096));
    if (!got) co_return Error(std::move(got).error());
    if (got->state == net::IoState::kEnd) co_return tls::FirstBytes::kOther;  // the relay meets the FIN again
    if (got->state == net::IoState::kDone) {
      received_.commit(got->bytes);
      continue;
    }
    const bool ready = co_await waiter.readable(deadline);
    if (!ready) co_return tls::FirstBytes::kOther;
  }
}

Task<Result<void>> InboundConnection::first_record(FdWaiter& waiter, TimePoint deadline) {
  while (!tls::holds_record(received_.span())) {
    Result<void> got = co_await receive_some(waiter, fd_, received_, deadline);
    if (!got) co_return Error(std::move(got).error());
  }
  co_return Result<void>();
}

Task<Result<void>> InboundConnection::tunnel(FdWaiter& waiter) {
  record_.tunnel = record_.destination.port == kHbonePort ? TunnelKind::kHbone : TunnelKind::kInPlace;
  const TimePoint deadline = worker_.reactor().now() + kHandshakeDeadline;
  handshake_ = worker_.handshakes().take(peer_.ip);
  if (!handshake_) {
    ++worker_.counters().source_limited;
    co_return Error(ErrorKind::kExhausted, "too many handshakes of this source are under way");
  }
  Result<void> said = co_await first_record(waiter, deadline);
  if (!said) {
    ++worker_.counters().handshake_failed;
    co_return Error(std::move(said).error());
  }
  auto credentials = co_await pod_->credentials(deadline);
  if (credentials == nullptr) co_return Error(ErrorKind::kUnavailable, "the pod has no certificate yet");
  auto handshake = tls::Handshake::server(credentials);
  if (!handshake) co_return Error(std::move(handshake).error());
  shaking_hands_ = true;
  std::optional<HandshakeUnderWay> under_way(worker_);
  Result<tls::Established> established =
      co_await drive_handshake(waiter, fd_, **handshake, false, received_, deadline);
  under_way.reset();
  shaking_hands_ = false;
  waiter.close();
  if (!established) {
    ++worker_.counters().handshake_failed;
    co_return Error(std::move(established).error());
  }
  handed_over_ = true;
  const InboundStream::Origin origin{record_.destination, peer_, record_.tunnel == TunnelKind::kInPlace};
  co_return worker_.inbound_tunnels().adopt(pod_, std::move(fd_), std::move(*established),
                                            std::move(received_), origin);
}

Task<Result<void>> InboundConnection::plaintext(FdWaiter& waiter, bool guard) {
  ++worker_.counters().inbound_plain;
  // The pod's policies come with its own workload: at start they may be on their way.
  auto credentials = co_await pod_->credentials(worker_.reactor().now() + kIdentityDeadline);
  if (credentials == nullptr)
    co_return Error(ErrorKind::kUnavailable, "the pod is not known to the mesh yet");
  if (!worker_.admit(*pod_, record_)) co_return Error(ErrorKind::kDenied, "denied by policy");
  Result<ApplicationSocket> application =
      co_await connect_application(worker_, pod_, record_.destination, peer_);
  if (!application) {
    ++worker_.counters().application_refused;
    co_return Error(std::move(application).error());
  }
  waiter.close();
  name_ = std::move(application->name);
  sockets_ = std::make_unique<SocketRelay>(worker_.reactor(), *this);
  co_return sockets_->start(std::move(fd_), std::move(application->fd), std::move(received_), guard);
}

// ---- streams
// ------------------------------------------------------------------------------------------------------------

InboundStream::InboundStream(Worker& worker, std::shared_ptr<Pod> pod, Tunnel& tunnel, const Origin& origin,
                             hbone::StreamId stream, hbone::ConnectRequest request)
    : InboundStream(worker, std::move(pod), origin, stream) {
  tunnel_ = &tunnel;
  request_ = std::move(request);
  relay_.adopt(tunnel.streams(), stream);
  relay_.use(tunnel);
  record_.tunnel = origin.in_place ? TunnelKind::kInPlace : TunnelKind::kHbone;
  record_.tunnel_id = tunnel.id();
  record_.peer = tunnel.peer();
  record_.source = true_client();
}

InboundStream::InboundStream(Worker& worker, std::shared_ptr<Pod> pod, const Origin& origin,
                             hbone::StreamId stream)
    : Connection(worker, std::move(pod), true),
      origin_(origin),
      stream_(stream),
      relay_(worker.reactor(), worker.counters(), *this) {}

ConnectionRecord InboundStream::record() const {
  ConnectionRecord record = record_;
  record.sent = relay_.sent();
  record.received = relay_.received();
  record.spliced = relay_.spliced();
  record.records = relay_.tunnel_records();
  return record;
}

void InboundStream::abort() noexcept {
  relay_.abort();
  if (application_.fd) net::set_reset_on_close(application_.fd);
  application_.name = ClientName();
  application_.fd.reset();
  finish(false);
}

// The address is the tunnel's own, which the kernel vouches for; of the peer's word only the port is taken.
SocketAddress InboundStream::true_client() const {
  constexpr std::string_view kKey = "for=\"";
  const size_t begin = request_.forwarded.find(kKey);
  if (begin == std::string::npos) return origin_.peer;
  const size_t from = begin + kKey.size();
  const size_t end = request_.forwarded.find('"', from);
  if (end == std::string::npos) return origin_.peer;
  const auto client = SocketAddress::parse(std::string_view(request_.forwarded).substr(from, end - from));
  if (!client || client->ip != origin_.peer.ip) return origin_.peer;
  return *client;
}

bool InboundStream::destination_allowed(const SocketAddress& destination) const {
  const auto& info = pod_->info();
  if (destination.ip != origin_.local.ip || destination.port == 0) return false;
  if (origin_.in_place) return destination.port == origin_.local.port;
  return destination.port != kHbonePort && destination.port != info.inbound_port &&
         destination.port != info.outbound_port;
}

Task<void> InboundStream::run() {
  // Reset in the same breath as it was opened: not a step is done for it.
  const int status = relay_.status() == -1 ? 0 : co_await set_up();
  if (relay_.status() == -1) {  // the peer gave up meanwhile
    abort();
  } else if (status != 200) {
    relay_.refuse(status);
    abort();
  } else {
    tunnel_->streams().respond(stream_, 200);
    record_.state = "open";
    const Result<void> started = relay_.start(std::move(application_.fd));
    if (started) {
      request_ = {};
      set_up_done();
    } else {
      abort();
    }
  }
}

Task<int> InboundStream::set_up() {
  const auto destination = SocketAddress::parse(request_.authority);
  if (!destination || !destination_allowed(*destination)) {
    ++(destination ? worker_.counters().inbound_wrong_target : worker_.counters().inbound_bad_request);
    log::debug("inbound", "{}: CONNECT to '{}' is not for this pod", pod_->full_name(), request_.authority);
    co_return 400;
  }
  record_.destination = record_.endpoint = *destination;
  if (!worker_.admit(*pod_, record_)) co_return 401;
  Result<ApplicationSocket> application =
      co_await connect_application(worker_, pod_, *destination, record_.source);
  if (!application) {
    ++worker_.counters().application_refused;
    co_return 503;
  }
  application_ = std::move(*application);
  co_return 200;
}

// ---- tunnels
// ------------------------------------------------------------------------------------------------------------

InboundTunnels::~InboundTunnels() {
  for (Tunnel* tunnel : tunnels_where([](const Entry&) { return true; })) tunnel->close(false);
}

Result<void> InboundTunnels::adopt(std::shared_ptr<Pod> pod, UniqueFd fd, tls::Established established,
                                   Buffer leftover, const InboundStream::Origin& origin) {
  SourceLimits::Ticket ticket = limits_.take(origin.peer.ip);
  if (!ticket) {
    ++worker_.counters().source_limited;
    return Error(ErrorKind::kExhausted, "too many tunnels of this source");
  }
  auto tunnel = std::make_unique<Tunnel>(worker_.reactor(), worker_.new_id(), Tunnel::Role::kServer,
                                         std::move(fd), std::move(established), *this);
  Tunnel& borrowed = *tunnel;
  if (worker_.shared().kernel != nullptr) borrowed.use_kernel(*worker_.shared().kernel);
  entries_.emplace(&borrowed, Entry{std::move(tunnel), std::move(pod), origin, std::move(ticket)});
  worker_.tunnel_opened();
  ++worker_.counters().inbound_tunnels;
  Result<void> started = borrowed.start(std::move(leftover));
  if (!started) borrowed.close(true);
  return started;
}

std::vector<Tunnel*> InboundTunnels::tunnels_where(const std::function<bool(const Entry&)>& wanted) const {
  std::vector<Tunnel*> found;
  for (const auto& [tunnel, entry] : entries_) {
    if (wanted(entry)) found.push_back(tunnel);
  }
  return found;
}

void InboundTunnels::close_of(contract::PodId pod) noexcept {
  for (Tunnel* tunnel : tunnels_where([pod](const Entry& entry) { return entry.pod->id() == pod; }))
    tunnel->close(false);
}

void InboundTunnels::drain() {
  for (Tunnel* tunnel : tunnels_where([](const Entry&) { return true; })) tunnel->drain();
}

hbone::StreamHandler* InboundTunnels::on_tunnel_connect(Tunnel& tunnel, hbone::StreamId stream,
                                                        const hbone::ConnectRequest& request) {
  const auto found = entries_.find(&tunnel);
  if (found == entries_.end() || worker_.full()) return nullptr;  // nobody: the engine refuses the stream
  const Entry& entry = found->second;
  ++worker_.counters().inbound_streams;
  auto connection =
      std::make_unique<InboundStream>(worker_, entry.pod, tunnel, entry.origin, stream, request);
  hbone::StreamHandler* handler = &connection->handler();
  worker_.start_at_turn_end(std::move(connection));
  return handler;
}

void InboundTunnels::on_tunnel_fault(Tunnel& tunnel, hbone::Fault fault) noexcept {
  ++counter_of(worker_.counters(), fault);
  log::debug("inbound", "tunnel {} of {}: fault {} of the peer", tunnel.id(), tunnel.peer()->uri(),
             static_cast<int>(fault));
}

void InboundTunnels::on_tunnel_kernel(Tunnel& tunnel, KernelEvent event) noexcept {
  ++counter_of(worker_.counters(), event);
  log::debug("inbound", "tunnel {} of {}: kernel TLS event {}", tunnel.id(), tunnel.peer()->uri(),
             static_cast<int>(event));
}

void InboundTunnels::on_tunnel_closed(Tunnel& tunnel, bool failed) noexcept {
  if (failed) ++worker_.counters().tunnels_failed;
  auto node = entries_.extract(&tunnel);
  if (!node.empty()) worker_.reactor().defer_destroy(std::move(node.mapped().tunnel));
  worker_.tunnel_closed();
}

}  // namespace fairlead::proxy
