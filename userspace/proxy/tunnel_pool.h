// The tunnels of one pod: per (destination address, destination identity, placement), as many as its streams
// need. The pod is part of the key by construction, and with it the source identity and address: a tunnel
// carries streams of one identity only. Thread: the worker's. Ownership: owns its client tunnels.
#pragma once

#include <map>
#include <memory>
#include <tuple>
#include <vector>

#include "base/net_types.h"
#include "base/spiffe_id.h"
#include "event/task.h"
#include "event/wait.h"
#include "proxy/tunnel.h"

namespace fairlead::proxy {

struct Departure;
class Pod;
class Worker;

struct TunnelKey {
  SocketAddress address;  // where the tunnel connects to
  SpiffeId identity;      // who must answer
  bool in_place = false;
  auto operator<=>(const TunnelKey&) const noexcept = default;
};

class TunnelPool final : public TunnelOwner {
 public:
  TunnelPool(Worker& worker, Pod& pod) noexcept : worker_(worker), pod_(pod) {}
  ~TunnelPool();

  // A tunnel that takes one more stream: open it in the same turn. Concurrent misses of a key share one
  // connect.
  Task<Result<Tunnel*>> acquire(TunnelKey key, TimePoint deadline);
  [[nodiscard]] size_t size() const noexcept { return tunnels_; }
  void drain();  // GOAWAY on every tunnel
  void close_all() noexcept;

  // --- moving (proxy/moving.h)
  Result<void> move_out(Departure& departure) const;
  Result<Tunnel*> move_in(OutboundTunnelState& state);
  void activate();
  void let_go() noexcept;  // tunnels that are being made end

 private:
  struct Entry {
    std::vector<std::unique_ptr<Tunnel>> tunnels;
    Task<void> connecting;
    bool busy = false;             // `connecting` runs
    size_t peer_limit = SIZE_MAX;  // of streams, as the endpoint's last SETTINGS had it
    uint64_t failures = 0;
    Error last_error{ErrorKind::kUnavailable, "not tried"};
    Signal changed;
  };
  Task<void> connect(TunnelKey key, Entry& entry);
  Task<Result<std::unique_ptr<Tunnel>>> establish(TunnelKey key);
  // A bulk stream has its tunnel to itself where there is another; `beside_bulk`: there is none.
  static Tunnel* least_loaded(Entry& entry, bool beside_bulk);

  hbone::StreamHandler* on_tunnel_connect(Tunnel&, hbone::StreamId, const hbone::ConnectRequest&) override {
    return nullptr;
  }
  void on_tunnel_stream_closed(Tunnel&) noexcept override {}
  void on_tunnel_fault(Tunnel& tunnel, hbone::Fault fault) noexcept override;
  void on_tunnel_kernel(Tunnel& tunnel, KernelEvent event) noexcept override;
  void on_tunnel_closed(Tunnel& tunnel, bool failed) noexcept override;

  Worker& worker_;
  Pod& pod_;
  std::map<TunnelKey, Entry> entries_;
  size_t tunnels_ = 0;
};

}  // namespace fairlead::proxy
