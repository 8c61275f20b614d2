// One HBONE tunnel after its handshake: socket, record layer and HTTP/2 connection joined together. Reads and
// opens records, feeds frames to the streams; gathers the frames of all streams during a loop turn and seals
// and sends them once at its end. A peer with open streams that says nothing is asked (PING, RFC 9113 §6.7)
// and given up when it does not answer. Thread: the worker's. Ownership: the owner's, who destroys it at the
// end of the turn after on_tunnel_closed().
#pragma once

#include <memory>

#include "base/buffer.h"
#include "base/unique_fd.h"
#include "event/reactor.h"
#include "event/timer_wheel.h"
#include "hbone/connection.h"
#include "net/splice.h"
#include "proxy/bulk_lane.h"
#include "proxy/kernel_use.h"
#include "proxy/limits.h"
#include "proxy/record_socket.h"
#include "tls/handshake.h"

namespace fairlead::proxy {

class Tunnel;

class TunnelOwner {
 public:
  // Server: a CONNECT came; see hbone::ConnectionHandler::on_connect.
  virtual hbone::StreamHandler* on_tunnel_connect(Tunnel& tunnel, hbone::StreamId stream,
                                                  const hbone::ConnectRequest& request) = 0;
  virtual void on_tunnel_stream_closed(Tunnel& tunnel) noexcept = 0;
  virtual void on_tunnel_fault(Tunnel& tunnel, hbone::Fault fault) noexcept = 0;  // the peer's; for counting
  virtual void on_tunnel_kernel(Tunnel& tunnel, KernelEvent event) noexcept = 0;  // for counting
  // The tunnel is dead, its streams have been reset. `failed`: not by agreement. Called once.
  virtual void on_tunnel_closed(Tunnel& tunnel, bool failed) noexcept = 0;

 protected:
  ~TunnelOwner() = default;
};

class Tunnel final : public Deferred,
                     public BulkLane,
                     private IoHandler,
                     private TurnEndHook,
                     private hbone::ConnectionHandler {
 public:
  using Role = hbone::Connection::Role;
  // `id`: its name among the tunnels of the worker.
  Tunnel(Reactor& reactor, uint64_t id, Role role, UniqueFd fd, tls::Established established,
         TunnelOwner& owner);
  ~Tunnel() override;

  // Before start(), where kernel TLS is to be used.
  void use_kernel(const KernelUse& use) noexcept { kernel_ = &use; }
  // `leftover`: ciphertext that was received behind the handshake.
  Result<void> start(Buffer leftover);
  // GOAWAY: streams that are open go on, the tunnel closes after the last.
  void drain();
  // At once: streams are reset, the socket is closed; on_tunnel_closed is called.
  void close(bool failed) noexcept;

  Result<Step> send_from(BorrowedFd application, hbone::StreamId stream) override;
  [[nodiscard]] TunnelRecords tunnel_records() const override;

  hbone::Connection& streams() noexcept { return streams_; }
  [[nodiscard]] const RecordSocket& records() const noexcept { return records_; }
  [[nodiscard]] const std::shared_ptr<const SpiffeId>& peer() const noexcept { return peer_; }
  [[nodiscard]] uint64_t id() const noexcept { return id_; }
  [[nodiscard]] bool heard_lately() const noexcept { return reactor_.now() < heard_at_ + kHeardLately; }
  [[nodiscard]] bool usable() const noexcept { return !closed_ && !streams_.draining(); }

  // --- moving (proxy/moving.h). One that was given up because of its peer does not move.
  [[nodiscard]] bool movable() const noexcept { return !closed_ && !lingering_; }
  [[nodiscard]] Result<TunnelState> state() const;
  // Its streams want their handlers, by streams().attach(), before activate().
  static Result<std::unique_ptr<Tunnel>> resume(Reactor& reactor, uint64_t id, TunnelState state,
                                                TunnelOwner& owner);
  void activate();
  // Closes our copy of the socket and nothing else; its owner is not told.
  void let_go() noexcept;

 private:
  Tunnel(Reactor& reactor, uint64_t id, Role role, RecordSocket records, SpiffeId peer, TunnelOwner& owner);
  void on_io(uint32_t events) noexcept override;
  void on_turn_end() noexcept override;
  hbone::StreamHandler* on_connect(hbone::StreamId stream, const hbone::ConnectRequest& request) override;
  void on_goaway(hbone::ErrorCode code) override;
  void on_fault(hbone::Fault fault) override;
  void on_output() override;
  void on_stream_closed(hbone::StreamId stream) override;
  void on_idle() noexcept;
  void arm_idle() noexcept;
  void on_quiet() noexcept;

  void read();
  bool take_payload(bool& dry);
  bool read_records(bool& dry);
  void heard(size_t bytes) noexcept;
  bool open_records();
  bool open_each_record();
  bool send_output();
  [[nodiscard]] bool has_output() noexcept { return !streams_.output().empty() || !pipe_.empty(); }
  void consider_kernel();
  void note_moves() noexcept;
  void broke(const Error& error) noexcept;
  void say_farewell();
  void finish_if_drained();
  void give_up();
  void discard();

  Reactor& reactor_;
  TunnelOwner& owner_;
  uint64_t id_;
  RecordSocket records_;
  std::shared_ptr<const SpiffeId> peer_;
  hbone::Connection streams_;
  Alarm<Tunnel, &Tunnel::on_idle> idle_;
  Alarm<Tunnel, &Tunnel::on_quiet> quiet_;
  TimePoint heard_at_;  // when the last bytes of the peer came
  bool asked_ = false;  // a PING is out, and nothing has come since
  TimePoint calm_at_;   // when the peer's frames are counted anew
  const KernelUse* kernel_ = nullptr;
  RecordSocket::Place transmits_ = RecordSocket::Place::kUser;  // as was counted
  RecordSocket::Place receives_ = RecordSocket::Place::kUser;
  uint64_t bulk_written_ = 0;  // bytes of frames, of those turns and reads that had many at once
  uint64_t bulk_read_ = 0;
  net::Pipe pipe_;  // payload of the DATA frame whose header is last of the next `before_` bytes of output
  size_t before_ = 0;
  bool header_next_ = false;  // the last frame was spliced whole: another header, perhaps, and no more
  TimePoint farewell_until_;
  bool farewell_ = false;   // close_notify was sent, the kernel has not sent all
  Milliseconds idle_in_{};  // of one that moved in, from activate() on
  Milliseconds quiet_in_{};
  bool client_;
  bool fin_seen_ = false;
  // GOAWAY with an error was sent. What still comes is read and dropped: closing a socket with unread bytes
  // in it sends an RST, which may take the GOAWAY with it.
  bool lingering_ = false;
  size_t discarded_ = 0;
  bool closed_ = false;
  bool peer_closed_ = false;  // close_notify came
};

}  // namespace fairlead::proxy
