// How a worker moves: everything that it has, to a successor and from a predecessor.
#include "base/log.h"
#include "proxy/acceptor.h"
#include "proxy/departure.h"
#include "proxy/inbound.h"
#include "proxy/outbound.h"
#include "proxy/tunnel_pool.h"
#include "proxy/worker.h"

namespace fairlead::proxy {

void Worker::tell(std::function<void()> message) {
  reactor_->send([this, message = std::move(message)] {
    if (life_ == Life::kFrozen || moved_in_) {
      kept_.push_back(message);
    } else {
      message();
    }
  });
}

// ---- the old one
// ----------------------------------------------------------------------------------------------------------

void Worker::freeze(std::function<void(Result<std::vector<Parcel>>)> packed) {
  reactor_->send([this, packed = std::move(packed)] {
    if (life_ != Life::kServing || draining_)
      return packed(Error(ErrorKind::kUnavailable, "the worker is on its way out, or not in yet"));
    life_ = Life::kFreezing;
    packed_ = packed;
    set_accepting(false);
    reactor_->timers().arm(handshakes_waited_, reactor_->now() + kHandshakesFinish);
    if (handshakes_under_way_ == 0) on_handshakes_waited();
  });
}

void Worker::handshake_ended() noexcept {
  if (--handshakes_under_way_ == 0 && life_ == Life::kFreezing) on_handshakes_waited();
}

void Worker::on_handshakes_waited() noexcept {
  handshakes_waited_.cancel();
  reactor_->between_turns([this] { pack(); });
}

void Worker::pack() {
  if (life_ != Life::kFreezing) return;  // thawed meanwhile
  auto parcels = make_parcels();
  const auto packed = std::exchange(packed_, nullptr);
  life_ = parcels ? Life::kFrozen : Life::kServing;
  if (!parcels) set_accepting(may_accept());
  packed(std::move(parcels));
  reactor_->stand_still([this] { return life_ == Life::kFrozen; });
}

Result<std::vector<Parcel>> Worker::make_parcels() const {
  Departure departure;
  for (const auto& [id, pod] : pods_) FL_TRY(pod->tunnels().move_out(departure));
  FL_TRY(inbound_tunnels_->move_out(departure));
  for (const Connection* connection = connections_; connection != nullptr; connection = connection->next_)
    FL_TRY(connection->move_out(departure));
  std::vector<Parcel> parcels;
  parcels.reserve(departure.tunnels.size() + departure.others.size());
  for (auto& [id, tunnel] : departure.tunnels) parcels.push_back(pack_parcel(std::move(tunnel)));
  for (Moved& other : departure.others) parcels.push_back(pack_parcel(std::move(other)));
  return parcels;
}

void Worker::thaw() {
  reactor_->send([this] {
    if (life_ != Life::kFreezing && life_ != Life::kFrozen) return;
    life_ = Life::kServing;
    handshakes_waited_.cancel();
    set_accepting(may_accept());
    for (auto& message : std::exchange(kept_, {})) tell(std::move(message));
    if (auto packed = std::exchange(packed_, nullptr)) packed(Error(ErrorKind::kCancelled, "thawed"));
  });
}

void Worker::let_go(std::function<void()> gone) {
  reactor_->send([this, gone = std::move(gone)] {
    if (life_ == Life::kFrozen) {
      life_ = Life::kGone;
      kept_.clear();
      forget_all();
    }
    gone();
  });
}

void Worker::forget_all() noexcept {
  acceptors_.clear();
  while (connections_ != nullptr) {
    Connection* const connection = connections_;
    connection->let_go();
    delete connection;  // takes itself out of the list
  }
  for (auto& [id, pod] : pods_) pod->tunnels().let_go();
  inbound_tunnels_->let_go();
  moved_in_ = false;
}

// ---- the new one
// ----------------------------------------------------------------------------------------------------------

void Worker::unpack(std::vector<Parcel> parcels, std::function<void(Result<void>)> ready) {
  // std::function wants copyable captures: the parcels travel in a shared_ptr.
  auto all = std::make_shared<std::vector<Parcel>>(std::move(parcels));
  reactor_->send([this, all, ready = std::move(ready)] { take_in_all(std::move(*all), ready); });
}

void Worker::take_in_all(std::vector<Parcel> parcels, const std::function<void(Result<void>)>& ready) {
  if (life_ != Life::kWaking || snapshot_ == nullptr)
    return ready(Error(ErrorKind::kUnavailable, "the worker serves already, or does not know the mesh yet"));
  moved_in_ = true;
  Arrival arrival(*this);
  for (Parcel& parcel : parcels) {
    auto moved = unpack_parcel(std::move(parcel));
    Result<void> taken = moved ? take_in(arrival, std::move(*moved)) : Result<void>(moved.error());
    if (taken) continue;
    forget_all();
    return ready(std::move(taken));
  }
  ready({});
}

Result<void> Worker::take_in(Arrival& arrival, Moved moved) {
  const auto found = pods_.find(moved.pod);
  if (found == pods_.end()) {
    log::warn("worker", "a connection of pod {} came, which is gone", moved.pod);
    return {};
  }
  const std::shared_ptr<Pod>& pod = found->second;
  if (auto* out = std::get_if<OutboundTunnelState>(&moved.what)) {
    FL_TRY_ASSIGN(Tunnel * tunnel, pod->tunnels().move_in(*out));
    for (auto& connection : out->connections)
      OutboundConnection::move_in(arrival, pod, tunnel, std::move(connection));
  } else if (auto* in = std::get_if<InboundTunnelState>(&moved.what)) {
    FL_TRY_ASSIGN(Tunnel * tunnel, inbound_tunnels_->move_in(pod, *in));
    const InboundStream::Origin origin{in->local, in->peer, in->in_place};
    for (auto& stream : in->streams) InboundStream::move_in(arrival, pod, tunnel, origin, std::move(stream));
  } else if (auto* outbound = std::get_if<OutboundState>(&moved.what)) {
    OutboundConnection::move_in(arrival, pod, nullptr, std::move(*outbound));
  } else if (auto* inbound = std::get_if<InboundState>(&moved.what)) {
    InboundConnection::move_in(arrival, pod, std::move(*inbound));
  } else if (auto* stream = std::get_if<InboundStreamState>(&moved.what)) {
    InboundStream::move_in(arrival, pod, nullptr, {}, std::move(*stream));
  }
  return {};
}

void Worker::activate() {
  reactor_->send([this] {
    if (life_ == Life::kWaking) begin_to_serve();
  });
}

// Connections before tunnels: whoever is to hear from a stream has its socket watched by then.
void Worker::begin_to_serve() {
  life_ = Life::kServing;
  moved_in_ = false;
  for (Connection *connection = connections_, *next = nullptr; connection != nullptr; connection = next) {
    next = connection->next_;
    connection->activate();
  }
  for (auto& [id, pod] : pods_) pod->tunnels().activate();
  inbound_tunnels_->activate();
  // Judged by the predecessor's snapshot: as after any change of policy.
  std::unordered_set<const Pod*> known;
  for (const auto& [id, pod] : pods_) {
    if (pod->workload() != nullptr) known.insert(pod.get());
  }
  judge_again(known);
  for (auto& message : std::exchange(kept_, {})) tell(std::move(message));
  set_accepting(may_accept());
}

}  // namespace fairlead::proxy
