// Moves plaintext between two sockets of the same worker: connections outside the mesh, and a pod that
// reaches itself. Half-close passes through, a reset on one side becomes a reset on the other, a slow reader
// stops its sender at kMaxRelayBacklog bytes. Explicit state machine, one per connection, both directions.
// Thread: the worker's. Ownership: both fds.
#pragma once

#include <array>

#include "base/buffer.h"
#include "base/unique_fd.h"
#include "event/reactor.h"
#include "proxy/moving_state.h"
#include "proxy/relay_end.h"

namespace fairlead::proxy {

class SocketRelay {
 public:
  SocketRelay(Reactor& reactor, RelayOwner& owner) noexcept;
  ~SocketRelay();
  SocketRelay(const SocketRelay&) = delete;
  SocketRelay& operator=(const SocketRelay&) = delete;

  // Side 0 is the client. `from_client` was read from it already. With `guard`, the first bytes that come
  // from the client are looked at and a tunnel's ClientHello resets the connection: it must never reach an
  // application.
  Result<void> start(UniqueFd client, UniqueFd server, Buffer from_client, bool guard);
  void abort() noexcept;
  // --- moving (proxy/moving.h)
  [[nodiscard]] bool over() const noexcept { return over_; }
  [[nodiscard]] Result<SocketRelayState> state() const;
  void resume(SocketRelayState state) noexcept;
  void activate() noexcept;
  void let_go() noexcept;
  [[nodiscard]] uint64_t moved(int from_side) const noexcept {
    return sides_[static_cast<size_t>(from_side)].moved;
  }

 private:
  struct Side final : IoHandler {
    SocketRelay* relay = nullptr;
    int index = 0;
    UniqueFd fd;
    Buffer backlog;  // read from this side, not yet written to the other
    uint64_t moved = 0;
    bool readable = false;
    bool writable = false;
    bool fin_seen = false;  // a FIN is in the socket: a short read does not mean it is empty
    bool ended = false;     // its FIN was read
    bool shut = false;      // our FIN went to it
    void on_io(uint32_t events) noexcept override { relay->on_side_io(*this, events); }
  };

  Side& other(const Side& side) noexcept { return sides_[side.index == 0 ? 1 : 0]; }
  void on_side_io(Side& side, uint32_t events) noexcept;
  void pump(Side& from);
  bool write_backlog(Side& from, Side& to);
  bool guard_stops(Side& from);
  void close_both(bool reset) noexcept;
  void fail() noexcept;

  Reactor& reactor_;
  RelayOwner& owner_;
  std::array<Side, 2> sides_;
  bool guard_ = false;
  bool over_ = false;
};

}  // namespace fairlead::proxy
