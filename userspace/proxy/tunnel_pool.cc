#include "proxy/tunnel_pool.h"

#include <algorithm>

#include "net/socket.h"
#include "proxy/handshaking.h"
#include "proxy/limits.h"
#include "proxy/peer_faults.h"
#include "proxy/worker.h"

namespace fairlead::proxy {
namespace {

// A new tunnel is used before its SETTINGS come: until then those of the endpoint's last one count.
size_t stream_limit(Tunnel& tunnel, size_t& peer_limit) {
  const size_t limit = std::min(kMaxStreamsPerTunnel, tunnel.streams().stream_limit());
  if (!tunnel.streams().settings_known()) return std::min(limit, std::max<size_t>(peer_limit, 1));
  peer_limit = limit;
  return limit;
}

}  // namespace

TunnelPool::~TunnelPool() {
  close_all();
}

void TunnelPool::close_all() noexcept {
  for (auto& [key, entry] : entries_) {
    while (!entry.tunnels.empty()) entry.tunnels.back()->close(false);  // takes itself out of the entry
  }
}

void TunnelPool::drain() {
  for (auto& [key, entry] : entries_) {
    for (size_t i = entry.tunnels.size(); i-- > 0;) entry.tunnels[i]->drain();
  }
}

Tunnel* TunnelPool::least_loaded(Entry& entry, bool beside_bulk) {
  Tunnel* best = nullptr;
  for (const auto& tunnel : entry.tunnels) {
    if (!tunnel->usable() || tunnel->streams().open_streams() >= stream_limit(*tunnel, entry.peer_limit))
      continue;
    if (!beside_bulk && tunnel->streams().carries_bulk()) continue;
    if (best == nullptr || tunnel->streams().open_streams() < best->streams().open_streams())
      best = tunnel.get();
  }
  return best;
}

Task<Result<Tunnel*>> TunnelPool::acquire(TunnelKey key, TimePoint deadline) {
  Entry& entry = entries_[key];
  for (;;) {
    if (Tunnel* tunnel = least_loaded(entry, false)) co_return tunnel;
    if (entry.tunnels.size() >= kMaxTunnelsPerKey) {
      if (Tunnel* tunnel = least_loaded(entry, true)) co_return tunnel;
      co_return Error(ErrorKind::kExhausted, "too many streams to this endpoint");
    }
    const uint64_t failures = entry.failures;
    if (!entry.busy) {
      entry.busy = true;
      entry.connecting = connect(key, entry);
      entry.connecting.start();
    }
    if (entry.busy) {
      const bool told = co_await entry.changed.wait(worker_.reactor(), deadline);
      if (!told) co_return Error(ErrorKind::kTimeout, "no tunnel in time");
    }
    if (entry.failures != failures) co_return Error(entry.last_error);
  }
}

Task<void> TunnelPool::connect(TunnelKey key, Entry& entry) {
  Result<std::unique_ptr<Tunnel>> tunnel = co_await establish(std::move(key));
  if (tunnel) {
    entry.tunnels.push_back(std::move(*tunnel));
  } else {
    ++entry.failures;
    entry.last_error = std::move(tunnel).error();
  }
  entry.busy = false;
  entry.changed.notify_all();
}

Task<Result<std::unique_ptr<Tunnel>>> TunnelPool::establish(TunnelKey key) {
  Reactor& reactor = worker_.reactor();
  auto credentials = co_await pod_.credentials(reactor.now() + kIdentityDeadline);
  if (credentials == nullptr) co_return Error(ErrorKind::kUnavailable, "the pod has no certificate yet");
  const int family = key.address.family();
  Result<UniqueFd> socket = co_await pod_.take_socket(family);
  if (!socket) co_return Error(std::move(socket).error());
  UniqueFd fd = std::move(*socket);
  FL_CO_TRY(net::connect(fd, key.address, family));
  Result<void> connected = co_await finish_connect(reactor, fd, reactor.now() + kConnectDeadline);
  if (!connected) co_return Error(std::move(connected).error());
  FdWaiter waiter(reactor);
  FL_CO_TRY(waiter.open(fd));
  std::vector<SpiffeId> expected{key.identity};
  auto handshake = tls::Handshake::client(credentials, std::move(expected), key.in_place);
  if (!handshake) co_return Error(std::move(handshake).error());
  Buffer received;
  std::optional<HandshakeUnderWay> under_way(worker_);
  Result<tls::Established> established =
      co_await drive_handshake(waiter, fd, **handshake, true, received, reactor.now() + kHandshakeDeadline);
  under_way.reset();
  waiter.close();
  if (!established) {
    ++worker_.counters().handshake_failed;
    co_return Error(std::move(established).error());
  }
  auto tunnel = std::make_unique<Tunnel>(reactor, worker_.new_id(), Tunnel::Role::kClient, std::move(fd),
                                         std::move(*established), *this);
  if (worker_.shared().kernel != nullptr) tunnel->use_kernel(*worker_.shared().kernel);
  ++tunnels_;
  worker_.tunnel_opened();
  ++worker_.counters().tunnels_opened;
  FL_CO_TRY(tunnel->start(std::move(received)));
  if (!tunnel->usable()) co_return Error(ErrorKind::kClosed, "the peer closed the tunnel at once");
  co_return tunnel;
}

void TunnelPool::on_tunnel_fault(Tunnel&, hbone::Fault fault) noexcept {
  ++counter_of(worker_.counters(), fault);
}

void TunnelPool::on_tunnel_kernel(Tunnel&, KernelEvent event) noexcept {
  ++counter_of(worker_.counters(), event);
}

void TunnelPool::on_tunnel_closed(Tunnel& tunnel, bool failed) noexcept {
  --tunnels_;
  if (failed) ++worker_.counters().tunnels_failed;
  for (auto& [key, entry] : entries_) {
    const auto found =
        std::find_if(entry.tunnels.begin(), entry.tunnels.end(),
                     [&](const std::unique_ptr<Tunnel>& candidate) { return candidate.get() == &tunnel; });
    if (found == entry.tunnels.end()) continue;
    worker_.reactor().defer_destroy(std::move(*found));
    entry.tunnels.erase(found);
    break;
  }
  worker_.tunnel_closed();
}

}  // namespace fairlead::proxy
