// How relays move: what they have read and not written yet goes with them; what is ready in their sockets is
// reported anew where they go on.
#include "net/socket.h"
#include "proxy/departure.h"
#include "proxy/socket_relay.h"
#include "proxy/stream_relay.h"

namespace fairlead::proxy {

// ---- StreamRelay
// ------------------------------------------------------------------------------------------------------------

Result<StreamRelayState> StreamRelay::state() const {
  StreamRelayState state;
  if (application_) {
    FL_TRY_ASSIGN(state.application, net::duplicate(application_));
  }
  FL_TRY_ASSIGN(state.pipe, state_of(pipe_));
  state.stream = stream_;
  state.on_stream = connection_ != nullptr;
  state.pending.append(pending_.span());
  state.said.append(said_.span());
  state.said_again = static_cast<uint32_t>(said_again_);
  state.sent = sent_;
  state.received = received_;
  state.status = status_;
  state.relaying = state_ == State::kRelaying;
  state.refused = refused_;
  state.peer_ended = peer_ended_;
  state.write_side_closed = write_side_closed_;
  state.read_side_closed = read_side_closed_;
  return state;
}

void StreamRelay::resume(StreamRelayState state, hbone::Connection* connection) noexcept {
  connection_ = connection;
  stream_ = state.stream;
  if (connection != nullptr) connection->attach(stream_, *this);
  application_ = std::move(state.application);
  pipe_ = pipe_of(std::move(state.pipe));
  pending_ = std::move(state.pending);
  said_ = std::move(state.said);
  said_again_ = state.said_again;
  sent_ = state.sent;
  received_ = state.received;
  status_ = state.status;
  state_ = state.relaying ? State::kRelaying : State::kOpening;
  refused_ = state.refused;
  peer_ended_ = state.peer_ended;
  write_side_closed_ = state.write_side_closed;
  read_side_closed_ = state.read_side_closed;
}

void StreamRelay::activate() noexcept {
  if (state_ == State::kOver || !application_) return;
  if (!reactor_.watch(application_, *this)) return fail(hbone::ErrorCode::kInternalError);
  if (has_to_say()) read_application();  // what was said on another stream
}

void StreamRelay::let_go() noexcept {
  state_ = State::kOver;
  connection_ = nullptr;
  if (application_) reactor_.unwatch(application_);
  application_.reset();
  pipe_ = net::Pipe();
  pending_.release();
  said_.release();
}

// ---- SocketRelay
// ------------------------------------------------------------------------------------------------------------

Result<SocketRelayState> SocketRelay::state() const {
  SocketRelayState state;
  for (size_t i = 0; i < sides_.size(); ++i) {
    const Side& side = sides_[i];
    FL_TRY_ASSIGN(state.sides[i].fd, net::duplicate(side.fd));
    state.sides[i].backlog.append(side.backlog.span());
    state.sides[i].moved = side.moved;
    state.sides[i].ended = side.ended;
    state.sides[i].shut = side.shut;
  }
  state.guard = guard_;
  return state;
}

void SocketRelay::resume(SocketRelayState state) noexcept {
  for (size_t i = 0; i < sides_.size(); ++i) {
    Side& side = sides_[i];
    side.fd = std::move(state.sides[i].fd);
    side.backlog = std::move(state.sides[i].backlog);
    side.moved = state.sides[i].moved;
    side.ended = state.sides[i].ended;
    side.shut = state.sides[i].shut;
  }
  guard_ = state.guard;
}

void SocketRelay::activate() noexcept {
  for (Side& side : sides_) {
    if (!reactor_.watch(side.fd, side)) return fail();
  }
}

void SocketRelay::let_go() noexcept {
  over_ = true;
  for (Side& side : sides_) {
    if (!side.fd) continue;
    reactor_.unwatch(side.fd);
    side.fd.reset();
    side.backlog.release();
  }
}

}  // namespace fairlead::proxy
