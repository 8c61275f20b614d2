// How connections move: relaying ones as they are; of those that are still being set up what the application
// or the peer has said, from which the set-up begins anew.
#include "base/log.h"
#include "net/socket.h"
#include "proxy/departure.h"
#include "proxy/inbound.h"
#include "proxy/outbound.h"
#include "proxy/worker.h"

namespace fairlead::proxy {
namespace {

ClientName name_here(Worker& worker, const Pod& pod, const ClientNameState& state) {
  return state.published ? ClientName(worker, pod.id(), state.local) : ClientName();
}

}  // namespace

std::shared_ptr<const state::Service> Arrival::service(const std::string& full_name) {
  if (full_name.empty() || worker_.snapshot() == nullptr) return nullptr;
  if (!listed_) {
    for (const auto& service : worker_.snapshot()->services())
      services_.emplace(service->full_name(), service);
    listed_ = true;
  }
  const auto found = services_.find(full_name);
  return found == services_.end() ? nullptr : found->second;
}

// ---- what all have
// ------------------------------------------------------------------------------------------------------------

void Connection::let_go() noexcept {
  task_ = {};
  release();
}

RecordFacts Connection::facts() const {
  RecordFacts facts;
  facts.tunnel = static_cast<uint8_t>(record_.tunnel);
  facts.source = record_.source;
  facts.destination = record_.destination;
  facts.endpoint = record_.endpoint;
  if (record_.service != nullptr) facts.service = record_.service->full_name();
  if (record_.peer != nullptr) facts.peer = record_.peer->uri();
  facts.judged = record_.judged;
  facts.age = time_left(worker_.reactor().now(), record_.since);
  return facts;
}

void Connection::take_facts(const RecordFacts& facts, Arrival& arrival,
                            std::shared_ptr<const SpiffeId> peer) {
  record_.tunnel = static_cast<TunnelKind>(facts.tunnel);
  record_.source = facts.source;
  record_.destination = facts.destination;
  record_.endpoint = facts.endpoint;
  record_.service = arrival.service(facts.service);
  record_.judged = facts.judged;
  record_.since = worker_.reactor().now() - facts.age;
  record_.peer = std::move(peer);
  if (record_.peer != nullptr || facts.peer.empty()) return;
  auto parsed = SpiffeId::parse(facts.peer);
  if (parsed) record_.peer = std::make_shared<const SpiffeId>(std::move(*parsed));
}

// ---- outbound
// ------------------------------------------------------------------------------------------------------------

SetUpState OutboundConnection::set_up_state() const {
  const TimePoint now = worker_.reactor().now();
  SetUpState state;
  state.avoid = progress_.avoid;
  state.tries = static_cast<uint32_t>(progress_.tries);
  state.refused = static_cast<uint32_t>(progress_.refused);
  state.give_up_in = time_left(progress_.give_up, now);
  state.tunnel_in = time_left(progress_.tunnel_by, now);
  state.answer_in = time_left(progress_.answer_by, now);
  state.in_place = progress_.key.in_place;
  return state;
}

void OutboundConnection::take_set_up(const SetUpState& state) {
  const TimePoint now = worker_.reactor().now();
  progress_.avoid = state.avoid;
  progress_.tries = static_cast<int>(std::min<uint32_t>(state.tries, kMaxEndpointTries));
  progress_.refused = static_cast<int>(std::min<uint32_t>(state.refused, kMaxRefusedTries));
  progress_.give_up = now + state.give_up_in;
  progress_.tunnel_by = now + state.tunnel_in;
  progress_.answer_by = now + state.answer_in;
  progress_.key.in_place = state.in_place;
  progress_.key.address = record_.endpoint;
  if (!state.in_place) progress_.key.address.port = kHbonePort;
  if (auto identity = SpiffeId::parse(state.identity)) progress_.key.identity = std::move(*identity);
}

Result<void> OutboundConnection::move_out(Departure& departure) const {
  OutboundState state;
  state.record = facts();
  state.client = client_;
  state.name = name_.state();
  state.said.append(said_.span());
  state.set_up = set_up_state();
  if (application_) {
    FL_TRY_ASSIGN(state.application, net::duplicate(application_));
  }
  if (sockets_ != nullptr) {
    if (sockets_->over()) return {};
    state.stage = Stage::kSockets;
    FL_TRY_ASSIGN(state.sockets, sockets_->state());
  } else if (on_stream_ && !stream_->over()) {
    state.stage = stream_->relaying() ? Stage::kStream : Stage::kAsked;
    state.set_up.identity = progress_.key.identity.uri();
    FL_TRY_ASSIGN(state.relay, stream_->state());
  } else if (!application_) {
    return {};
  }
  if (!state.relay.on_stream) {
    departure.others.push_back({pod_->id(), std::move(state)});
    return {};
  }
  auto* tunnel = departure.tunnel<OutboundTunnelState>(record_.tunnel_id);
  if (tunnel == nullptr) return Error(ErrorKind::kInternal, "a stream without its tunnel");
  tunnel->connections.push_back(std::move(state));
  return {};
}

void OutboundConnection::move_in(Arrival& arrival, std::shared_ptr<Pod> pod, Tunnel* tunnel,
                                 OutboundState state) {
  Worker& worker = arrival.worker();
  // In the worker's table from here on.
  auto* connection =
      new OutboundConnection(worker, std::move(pod), std::move(state.application), state.client);
  connection->moved_in_ = true;
  connection->take_facts(state.record, arrival, tunnel != nullptr ? tunnel->peer() : nullptr);
  connection->take_set_up(state.set_up);
  connection->said_ = std::move(state.said);
  connection->name_ = name_here(worker, *connection->pod_, state.name);
  connection->asked_ = state.stage == Stage::kAsked;
  if (tunnel != nullptr) connection->record_.tunnel_id = tunnel->id();
  if (state.stage == Stage::kSockets) {
    connection->sockets_ = std::make_unique<SocketRelay>(worker.reactor(), *connection);
    connection->sockets_->resume(std::move(state.sockets));
  } else if (state.stage != Stage::kSettingUp) {
    connection->stream_.emplace(worker.reactor(), worker.counters(), *connection);
    connection->stream_->resume(std::move(state.relay), tunnel != nullptr ? &tunnel->streams() : nullptr);
    if (tunnel != nullptr) connection->stream_->use(*tunnel);
    connection->on_stream_ = true;
  }
}

void OutboundConnection::activate() {
  const bool set_up = sockets_ != nullptr || (stream_ && stream_->relaying());
  if (set_up) record_.state = "open";
  if (sockets_ != nullptr) sockets_->activate();
  if (stream_) stream_->activate();
  if (!set_up && !finished()) start();
}

void OutboundConnection::release() noexcept {
  if (stream_) stream_->let_go();
  if (sockets_ != nullptr) sockets_->let_go();
  application_.reset();
  name_.let_go();
}

// ---- inbound
// ------------------------------------------------------------------------------------------------------------

// One in the middle of its handshake does not move: what OpenSSL knows cannot be taken out of it. let_go()
// resets it; the peer has sent nothing of an application yet and tries again.
Result<void> InboundConnection::move_out(Departure& departure) const {
  InboundState state;
  state.record = facts();
  state.peer = peer_;
  state.name = name_.state();
  if (sockets_ != nullptr) {
    if (sockets_->over()) return {};
    state.stage = Stage::kSockets;
    FL_TRY_ASSIGN(state.sockets, sockets_->state());
  } else {
    if (!fd_ || shaking_hands_) return {};
    state.record.judged = false;
    FL_TRY_ASSIGN(state.fd, net::duplicate(fd_));
    state.received.append(received_.span());
  }
  departure.others.push_back({pod_->id(), std::move(state)});
  return {};
}

void InboundConnection::move_in(Arrival& arrival, std::shared_ptr<Pod> pod, InboundState state) {
  Worker& worker = arrival.worker();
  auto* connection = new InboundConnection(worker, std::move(pod), std::move(state.fd), state.peer);
  connection->take_facts(state.record, arrival, nullptr);
  connection->received_ = std::move(state.received);
  connection->name_ = name_here(worker, *connection->pod_, state.name);
  if (state.stage != Stage::kSockets) return;
  connection->sockets_ = std::make_unique<SocketRelay>(worker.reactor(), *connection);
  connection->sockets_->resume(std::move(state.sockets));
}

void InboundConnection::activate() {
  if (sockets_ == nullptr) return start();
  record_.state = "open";
  sockets_->activate();
}

void InboundConnection::release() noexcept {
  if (sockets_ != nullptr) sockets_->let_go();
  if (fd_ && shaking_hands_) net::set_reset_on_close(fd_);
  fd_.reset();
  name_.let_go();
}

// ---- streams that came
// ------------------------------------------------------------------------------------------------------------

Result<void> InboundStream::move_out(Departure& departure) const {
  if (relay_.over() || (!relay_.relaying() && !relay_.on_stream())) return {};  // the peer gave it up
  InboundStreamState state;
  state.stage = relay_.relaying() ? Stage::kStream : Stage::kSettingUp;
  state.record = facts();
  state.record.judged = relay_.relaying() && record_.judged;
  if (!relay_.relaying()) state.request = request_;
  state.name = application_.name.state();
  FL_TRY_ASSIGN(state.relay, relay_.state());
  if (!state.relay.on_stream) {
    departure.others.push_back({pod_->id(), std::move(state)});
    return {};
  }
  auto* tunnel = departure.tunnel<InboundTunnelState>(record_.tunnel_id);
  if (tunnel == nullptr) return Error(ErrorKind::kInternal, "a stream without its tunnel");
  tunnel->streams.push_back(std::move(state));
  return {};
}

void InboundStream::move_in(Arrival& arrival, std::shared_ptr<Pod> pod, Tunnel* tunnel, const Origin& origin,
                            InboundStreamState state) {
  Worker& worker = arrival.worker();
  auto* connection = new InboundStream(worker, std::move(pod), origin, state.relay.stream);
  connection->tunnel_ = tunnel;
  connection->take_facts(state.record, arrival, tunnel != nullptr ? tunnel->peer() : nullptr);
  connection->request_ = std::move(state.request);
  connection->application_.name = name_here(worker, *connection->pod_, state.name);
  if (tunnel != nullptr) connection->record_.tunnel_id = tunnel->id();
  connection->relay_.resume(std::move(state.relay), tunnel != nullptr ? &tunnel->streams() : nullptr);
  if (tunnel != nullptr) connection->relay_.use(*tunnel);
}

void InboundStream::activate() {
  if (!relay_.relaying()) return start();
  record_.state = "open";
  relay_.activate();
}

void InboundStream::release() noexcept {
  relay_.let_go();
  application_.fd.reset();
  application_.name.let_go();
}

}  // namespace fairlead::proxy
