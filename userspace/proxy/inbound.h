// A connection that came to an enrolled pod: told apart by its first bytes, then a tunnel or plaintext.
//
// Where the source is a mesh workload the first bytes are waited for (kFirstBytesDeadline): a hint that saves
// plaintext clients the wait, never an identity. Port 15008 is always a tunnel. What turns out to be
// plaintext is judged as plaintext.
#pragma once

#include <memory>
#include <unordered_map>

#include "proxy/application.h"
#include "proxy/connection.h"
#include "proxy/socket_relay.h"
#include "proxy/source_limits.h"
#include "proxy/stream_relay.h"
#include "proxy/tunnel.h"

namespace fairlead::proxy {

class InboundConnection final : public Connection, public RelayOwner {
 public:
  InboundConnection(Worker& worker, std::shared_ptr<Pod> pod, UniqueFd fd, const SocketAddress& peer);
  [[nodiscard]] ConnectionRecord record() const override;
  void abort() noexcept override;
  Result<void> move_out(Departure& departure) const override;
  static void move_in(Arrival& arrival, std::shared_ptr<Pod> pod, InboundState state);
  void activate() override;

 private:
  void release() noexcept override;
  Task<void> run() override;
  Task<Result<void>> set_up();
  // Reads until the first bytes are classified or the deadline passes. kOther with nothing read: the client
  // waits for the server to speak.
  Task<Result<tls::FirstBytes>> first_bytes(FdWaiter& waiter);
  // Waits for the whole first record: OpenSSL's part, which costs most, is made for peers that say something.
  Task<Result<void>> first_record(FdWaiter& waiter, TimePoint deadline);
  Task<Result<void>> tunnel(FdWaiter& waiter);
  Task<Result<void>> plaintext(FdWaiter& waiter, bool guard);
  void on_relay_closing() noexcept override { name_ = ClientName(); }
  void on_relay_end(bool orderly) noexcept override { finish(orderly); }

  UniqueFd fd_;
  SocketAddress peer_;
  Buffer received_;
  ClientName name_;
  std::unique_ptr<SocketRelay> sockets_;
  SourceLimits::Ticket handshake_;
  bool shaking_hands_ = false;  // OpenSSL is at it: what it has said and heard cannot move
  bool handed_over_ = false;    // the socket belongs to a Tunnel now
};

// One CONNECT stream of a tunnel that came to a pod.
class InboundStream final : public Connection, public RelayOwner {
 public:
  struct Origin {
    SocketAddress local;  // where the tunnel came to
    SocketAddress peer;   // where from
    bool in_place = false;
  };
  InboundStream(Worker& worker, std::shared_ptr<Pod> pod, Tunnel& tunnel, const Origin& origin,
                hbone::StreamId stream, hbone::ConnectRequest request);
  [[nodiscard]] ConnectionRecord record() const override;
  void abort() noexcept override;
  hbone::StreamHandler& handler() noexcept { return relay_; }
  Result<void> move_out(Departure& departure) const override;
  // `tunnel`: null where the stream is over.
  static void move_in(Arrival& arrival, std::shared_ptr<Pod> pod, Tunnel* tunnel, const Origin& origin,
                      InboundStreamState state);
  void activate() override;

 private:
  InboundStream(Worker& worker, std::shared_ptr<Pod> pod, const Origin& origin, hbone::StreamId stream);
  void release() noexcept override;
  Task<void> run() override;
  // The status to answer with; 200 only with the application connected.
  Task<int> set_up();
  [[nodiscard]] bool destination_allowed(const SocketAddress& destination) const;
  [[nodiscard]] SocketAddress true_client() const;
  void on_relay_closing() noexcept override { application_.name = ClientName(); }
  void on_relay_end(bool orderly) noexcept override { finish(orderly); }

  Tunnel* tunnel_ =
      nullptr;  // for the answer, until when it outlives the stream, which it resets before it goes
  Origin origin_;
  hbone::StreamId stream_;
  hbone::ConnectRequest request_;
  ApplicationSocket application_;  // outlives the relay, which has its name forgotten
  StreamRelay relay_;
};

// All tunnels that came to the pods of one worker.
class InboundTunnels final : public TunnelOwner {
 public:
  explicit InboundTunnels(Worker& worker) noexcept : worker_(worker) {}
  ~InboundTunnels();
  Result<void> adopt(std::shared_ptr<Pod> pod, UniqueFd fd, tls::Established established, Buffer leftover,
                     const InboundStream::Origin& origin);
  void close_of(contract::PodId pod) noexcept;
  void drain();
  // --- moving (proxy/moving.h)
  Result<void> move_out(Departure& departure) const;
  Result<Tunnel*> move_in(std::shared_ptr<Pod> pod, InboundTunnelState& state);
  void activate();
  void let_go() noexcept;

 private:
  struct Entry {
    std::unique_ptr<Tunnel> tunnel;
    std::shared_ptr<Pod> pod;
    InboundStream::Origin origin;
    SourceLimits::Ticket ticket;
  };
  hbone::StreamHandler* on_tunnel_connect(Tunnel& tunnel, hbone::StreamId stream,
                                          const hbone::ConnectRequest& request) override;
  void on_tunnel_stream_closed(Tunnel&) noexcept override {}
  void on_tunnel_fault(Tunnel& tunnel, hbone::Fault fault) noexcept override;
  void on_tunnel_kernel(Tunnel& tunnel, KernelEvent event) noexcept override;
  void on_tunnel_closed(Tunnel& tunnel, bool failed) noexcept override;
  std::vector<Tunnel*> tunnels_where(const std::function<bool(const Entry&)>& wanted) const;

  Worker& worker_;
  SourceLimits limits_{kMaxTunnelsPerSource, kMaxInboundTunnels};
  std::unordered_map<Tunnel*, Entry> entries_;
};

}  // namespace fairlead::proxy
