// A connection that an application of an enrolled pod made to a mesh destination: captured, resolved,
// tunnelled. Everything that fails resets the application's socket: it was told "connected" by the kernel
// already.
#pragma once

#include <optional>
#include <vector>

#include "proxy/application.h"
#include "proxy/connection.h"
#include "proxy/resolve.h"
#include "proxy/socket_relay.h"
#include "proxy/stream_relay.h"
#include "proxy/tunnel_pool.h"

namespace fairlead::proxy {

class OutboundConnection final : public Connection, public RelayOwner {
 public:
  // `client`: the captured socket's own address, as accept() gave it.
  OutboundConnection(Worker& worker, std::shared_ptr<Pod> pod, UniqueFd application,
                     const SocketAddress& client);
  [[nodiscard]] ConnectionRecord record() const override;
  void abort() noexcept override;
  Result<void> move_out(Departure& departure) const override;
  // `tunnel`: where its stream is; null: none, or over.
  static void move_in(Arrival& arrival, std::shared_ptr<Pod> pod, Tunnel* tunnel, OutboundState state);
  void activate() override;

 private:
  void release() noexcept override;
  [[nodiscard]] SetUpState set_up_state() const;
  void take_set_up(const SetUpState& state);
  Task<void> run() override;
  // Endpoints of the Service one after the other until one takes the connection; none of them has passed on a
  // byte before.
  Task<Result<void>> set_up();
  Result<void> find_original();
  Target first_target();
  Target asked_target() const;
  Target another_target();
  Task<Result<void>> reach(Target target);
  Task<Result<void>> through_tunnel(Target target);
  Task<Result<void>> ask(hbone::ConnectRequest request);
  Task<Result<void>> send_connect(hbone::ConnectRequest request);
  Task<Result<void>> to_self(Target target);
  Task<Result<void>> plain(Target target);
  void take_back() noexcept;
  [[nodiscard]] bool spoke() const noexcept;
  void on_relay_closing() noexcept override { name_ = ClientName(); }
  void on_relay_end(bool orderly) noexcept override { finish(orderly); }

  // How far the set-up has come: what a successor goes on from.
  struct Progress {
    std::vector<SocketAddress> avoid;  // endpoints that failed
    int tries = 1;                     // of endpoints
    TimePoint give_up{};
    TunnelKey key;    // whom CONNECT is for
    int refused = 0;  // streams that the peer refused unseen
    TimePoint tunnel_by{};
    TimePoint answer_by{};
  };
  UniqueFd application_;
  Progress progress_;
  bool moved_in_ = false;   // its destination is known
  bool asked_ = false;      // a predecessor's CONNECT is out
  bool on_stream_ = false;  // stream_ is the present try's, not what is left of one before
  Buffer said_;             // by the application early, to be said elsewhere
  SocketAddress client_;
  ClientName name_;
  std::optional<StreamRelay> stream_;
  std::unique_ptr<SocketRelay> sockets_;
  bool endpoint_failed_ = false;  // the last one tried: another may do
  // What `fairlead why` shows when the connection is not made: a literal; empty when it is told already.
  std::string_view refusal_ = "the connection could not be set up";
};

}  // namespace fairlead::proxy
