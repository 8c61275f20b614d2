// How tunnels move: their sockets, records and streams, and those who own them.
#include <algorithm>

#include "proxy/departure.h"
#include "proxy/inbound.h"
#include "proxy/tunnel_pool.h"
#include "proxy/worker.h"

namespace fairlead::proxy {

Result<PipeState> state_of(const net::Pipe& pipe) {
  PipeState state;
  if (pipe.empty()) return state;
  FL_TRY_ASSIGN(state.read_end, net::duplicate(pipe.read_end()));
  FL_TRY_ASSIGN(state.write_end, net::duplicate(pipe.write_end()));
  state.holds = pipe.holds();
  return state;
}

net::Pipe pipe_of(PipeState state) noexcept {
  return net::Pipe::of(std::move(state.read_end), std::move(state.write_end), state.holds);
}

// ---- RecordSocket
// ------------------------------------------------------------------------------------------------------

Result<RecordSocketState> RecordSocket::state() const {
  RecordSocketState state;
  FL_TRY_ASSIGN(state.fd, net::duplicate(fd_));
  state.seal = sealer_.state();
  state.sealed_records = sealer_.records();
  state.open = opener_.state();
  state.opened = opener_.progress();
  state.received.append(received_.span());
  state.sealed.append(sealed_.span());
  state.transmits = static_cast<uint8_t>(transmits_);
  state.receives = static_cast<uint8_t>(receives_);
  state.sent_at_most = sent_at_most_;
  state.type = static_cast<uint8_t>(type_);
  state.pending_record = pending_record_;
  state.owes_update = owes_update_;
  state.owes_close = owes_close_;
  state.rekeys = rekeys_;
  state.worn = worn_;
  return state;
}

Result<RecordSocket> RecordSocket::resume(RecordSocketState state) {
  FL_TRY_ASSIGN(auto sealer, tls::RecordSealer::resume(state.seal, state.sealed_records));
  FL_TRY_ASSIGN(auto opener, tls::RecordOpener::resume(state.open, std::move(state.opened)));
  RecordSocket records(std::move(state.fd), std::move(sealer), std::move(opener));
  records.received_ = std::move(state.received);
  records.sealed_ = std::move(state.sealed);
  records.transmits_ = static_cast<Place>(state.transmits);
  records.receives_ = static_cast<Place>(state.receives);
  records.sent_at_most_ = state.sent_at_most;
  records.type_ = static_cast<tls::ContentType>(state.type);
  records.pending_record_ = state.pending_record;
  records.owes_update_ = state.owes_update;
  records.owes_close_ = state.owes_close;
  records.rekeys_ = state.rekeys;
  records.worn_ = state.worn;
  return records;
}

// ---- Tunnel
// ------------------------------------------------------------------------------------------------------------

Result<TunnelState> Tunnel::state() const {
  TunnelState state;
  const TimePoint now = reactor_.now();
  FL_TRY_ASSIGN(state.records, records_.state());
  state.peer = *peer_;
  state.streams = streams_.state();
  state.asked = asked_;
  state.peer_closed = peer_closed_;
  state.heard_ago = time_left(now, heard_at_);
  state.idle_in = time_left(idle_.deadline(), now);
  state.quiet_in = time_left(quiet_.deadline(), now);
  state.calm_in = time_left(calm_at_, now);
  state.bulk_written = bulk_written_;
  state.bulk_read = bulk_read_;
  FL_TRY_ASSIGN(state.pipe, state_of(pipe_));
  state.before = before_;
  state.header_next = header_next_;
  state.farewell = farewell_;
  state.farewell_in = time_left(farewell_until_, now);
  return state;
}

Result<std::unique_ptr<Tunnel>> Tunnel::resume(Reactor& reactor, uint64_t id, TunnelState state,
                                               TunnelOwner& owner) {
  const Role role = state.streams.role;
  FL_TRY_ASSIGN(auto records, RecordSocket::resume(std::move(state.records)));
  std::unique_ptr<Tunnel> tunnel(
      new Tunnel(reactor, id, role, std::move(records), std::move(state.peer), owner));
  const TimePoint now = reactor.now();
  tunnel->asked_ = state.asked;
  tunnel->peer_closed_ = state.peer_closed;
  tunnel->heard_at_ = now - state.heard_ago;
  tunnel->calm_at_ = now + state.calm_in;
  tunnel->idle_in_ = state.idle_in;
  tunnel->quiet_in_ = state.quiet_in;
  tunnel->bulk_written_ = state.bulk_written;
  tunnel->bulk_read_ = state.bulk_read;
  tunnel->pipe_ = pipe_of(std::move(state.pipe));
  tunnel->before_ = state.before;
  tunnel->header_next_ = state.header_next;
  tunnel->farewell_ = state.farewell;
  tunnel->farewell_until_ = now + state.farewell_in;
  tunnel->transmits_ = tunnel->records_.transmits();  // counted by the predecessor
  tunnel->receives_ = tunnel->records_.receives();
  const Result<void> resumed = tunnel->streams_.resume(std::move(state.streams));
  if (!resumed) {
    tunnel->let_go();
    return resumed.error();
  }
  return tunnel;
}

// What is ready already is reported by the first look at the socket.
void Tunnel::activate() {
  if (closed_) return;
  const TimePoint now = reactor_.now();
  reactor_.timers().arm(idle_, now + idle_in_);
  reactor_.timers().arm(quiet_, now + quiet_in_);
  if (!reactor_.watch(records_.fd(), *this)) return close(true);
  reactor_.at_turn_end(*this);
  if (records_.has_received()) open_records();
}

void Tunnel::let_go() noexcept {
  if (closed_) return;
  closed_ = true;
  reactor_.unwatch(records_.fd());
  records_.close();
  idle_.cancel();
  quiet_.cancel();
}

// ---- of those that this side opened
// ------------------------------------------------------------------------------------------------------

Result<void> TunnelPool::move_out(Departure& departure) const {
  for (const auto& [key, entry] : entries_) {
    for (const auto& tunnel : entry.tunnels) {
      if (!tunnel->movable()) continue;
      OutboundTunnelState state;
      state.address = key.address;
      state.identity = key.identity;
      state.in_place = key.in_place;
      state.peer_limit = static_cast<uint32_t>(std::min<size_t>(entry.peer_limit, UINT32_MAX));
      FL_TRY_ASSIGN(state.tunnel, tunnel->state());
      departure.tunnels.emplace(tunnel->id(), Moved{pod_.id(), std::move(state)});
    }
  }
  return {};
}

Result<Tunnel*> TunnelPool::move_in(OutboundTunnelState& state) {
  FL_TRY_ASSIGN(auto tunnel,
                Tunnel::resume(worker_.reactor(), worker_.new_id(), std::move(state.tunnel), *this));
  if (worker_.shared().kernel != nullptr) tunnel->use_kernel(*worker_.shared().kernel);
  Entry& entry = entries_[{state.address, state.identity, state.in_place}];
  entry.peer_limit = state.peer_limit == UINT32_MAX ? SIZE_MAX : state.peer_limit;
  entry.tunnels.push_back(std::move(tunnel));
  ++tunnels_;
  worker_.tunnel_opened();
  return entry.tunnels.back().get();
}

void TunnelPool::activate() {
  for (auto& [key, entry] : entries_) {
    for (size_t i = entry.tunnels.size(); i-- > 0;) entry.tunnels[i]->activate();  // may close it
  }
}

void TunnelPool::let_go() noexcept {
  for (auto& [key, entry] : entries_) {
    entry.connecting = {};
    entry.busy = false;
    for (auto& tunnel : entry.tunnels) {
      tunnel->let_go();
      --tunnels_;
      worker_.tunnel_closed();
    }
    entry.tunnels.clear();
  }
}

// ---- of those that came
// --------------------------------------------------------------------------------------------------------

Result<void> InboundTunnels::move_out(Departure& departure) const {
  for (const auto& [tunnel, entry] : entries_) {
    if (!tunnel->movable()) continue;
    InboundTunnelState state;
    state.local = entry.origin.local;
    state.peer = entry.origin.peer;
    state.in_place = entry.origin.in_place;
    FL_TRY_ASSIGN(state.tunnel, tunnel->state());
    departure.tunnels.emplace(tunnel->id(), Moved{entry.pod->id(), std::move(state)});
  }
  return {};
}

// They were let in before: a limit that is reached does not end them.
Result<Tunnel*> InboundTunnels::move_in(std::shared_ptr<Pod> pod, InboundTunnelState& state) {
  FL_TRY_ASSIGN(auto tunnel,
                Tunnel::resume(worker_.reactor(), worker_.new_id(), std::move(state.tunnel), *this));
  if (worker_.shared().kernel != nullptr) tunnel->use_kernel(*worker_.shared().kernel);
  Tunnel* const borrowed = tunnel.get();
  const InboundStream::Origin origin{state.local, state.peer, state.in_place};
  entries_.emplace(borrowed, Entry{std::move(tunnel), std::move(pod), origin, limits_.take(origin.peer.ip)});
  worker_.tunnel_opened();
  return borrowed;
}

void InboundTunnels::activate() {
  for (Tunnel* tunnel : tunnels_where([](const Entry&) { return true; })) tunnel->activate();
}

void InboundTunnels::let_go() noexcept {
  for (auto& [tunnel, entry] : entries_) {
    tunnel->let_go();
    worker_.tunnel_closed();
  }
  entries_.clear();
}

}  // namespace fairlead::proxy
