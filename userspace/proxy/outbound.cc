#include "proxy/outbound.h"

#include "base/log.h"
#include "net/socket.h"
#include "proxy/handshaking.h"
#include "proxy/worker.h"

namespace fairlead::proxy {
namespace {

constexpr std::string_view kNotAccepted = "the application did not accept";

// What an answer to CONNECT means.
std::string_view refusal_of(int status) {
  switch (status) {
    case 401: return "the policy of the destination does not let it in";
    case 503: return kNotAccepted;
    case -1: return "the peer reset the stream";
    default: return "the peer does not take it";
  }
}

}  // namespace

OutboundConnection::OutboundConnection(Worker& worker, std::shared_ptr<Pod> pod, UniqueFd application,
                                       const SocketAddress& client)
    : Connection(worker, std::move(pod), false), application_(std::move(application)), client_(client) {
  record_.source = client;
}

ConnectionRecord OutboundConnection::record() const {
  ConnectionRecord record = record_;
  if (stream_) {
    record.sent = stream_->sent();
    record.received = stream_->received();
    record.spliced = stream_->spliced();
    record.records = stream_->tunnel_records();
  } else if (sockets_ != nullptr) {
    record.sent = sockets_->moved(0);
    record.received = sockets_->moved(1);
  }
  return record;
}

void OutboundConnection::abort() noexcept {
  if (stream_) stream_->abort();
  if (sockets_ != nullptr) sockets_->abort();
  if (application_) net::set_reset_on_close(application_);
  application_.reset();
  finish(false);
}

Task<void> OutboundConnection::run() {
  Result<void> result = co_await set_up();
  if (!result) {
    log::debug("outbound", "{} {} -> {}: {}", pod_->full_name(), client_.to_string(),
               record_.destination.to_string(), result.error().text());
    if (!refusal_.empty()) worker_.refused(*pod_, record_, refusal_, result.error().text());
    abort();
  } else {
    record_.state = "open";
    set_up_done();
  }
}

Result<void> OutboundConnection::find_original() {
  // What was dialled is one of many endpoints on loopback, and part of the key.
  FL_TRY_ASSIGN(const SocketAddress dialled, net::local_address(application_));
  FL_TRY_ASSIGN(const auto original, worker_.shared().originals->take(pod_->id(), client_, dialled));
  if (!original) {
    // Nobody was captured from there: a process of the pod that dials the listener itself.
    ++worker_.counters().outbound_no_original;
    refusal_ = "it was not captured: the agent's own port was dialled";
    return Error(ErrorKind::kDenied, "no original destination");
  }
  record_.destination = *original;
  // The captured socket looks out from loopback; the world knows it by the pod's address.
  for (const IpAddress& address : pod_->info().addresses) {
    if (client_.ip.is_loopback() && address.is_v4() == client_.ip.is_v4()) record_.source.ip = address;
  }
  return {};
}

Target OutboundConnection::first_target() {
  Target target = another_target();
  if (target.kind == Target::Kind::kRefused && !progress_.avoid.empty()) {  // better a suspect than nobody
    progress_.avoid.clear();
    target = another_target();
  }
  return target;
}

Target OutboundConnection::another_target() {
  const auto pick = [this](size_t count) { return worker_.pick(count); };
  return resolve(*worker_.snapshot(), pod_->info().addresses, record_.destination, pick, progress_.avoid);
}

// Whose answer is waited for, where a predecessor asked.
Target OutboundConnection::asked_target() const {
  Target target;
  target.kind = progress_.key.in_place ? Target::Kind::kTunnelInPlace : Target::Kind::kTunnelHbone;
  target.service = record_.service;
  target.endpoint = record_.endpoint;
  return target;
}

Task<Result<void>> OutboundConnection::set_up() {
  if (!moved_in_) {
    FL_CO_TRY(find_original());
    progress_.give_up = worker_.reactor().now() + kRetryFor;
    progress_.avoid = pod_->suspects();
  }
  Target target = asked_ ? asked_target() : first_target();
  for (;; ++progress_.tries) {
    record_.endpoint = target.endpoint;
    record_.service = target.service;
    endpoint_failed_ = false;
    Result<void> result = co_await reach(target);
    if (result || !endpoint_failed_ || target.service == nullptr || progress_.tries >= kMaxEndpointTries ||
        worker_.reactor().now() > progress_.give_up)
      co_return result;
    progress_.avoid.push_back(target.endpoint);
    target = another_target();
    if (target.kind == Target::Kind::kRefused) co_return result;  // the others failed before
    ++worker_.counters().outbound_retried;
  }
}

Task<Result<void>> OutboundConnection::reach(Target target) {
  Result<void> result;
  if (!asked_) take_back();
  switch (target.kind) {
    case Target::Kind::kTunnelInPlace:
    case Target::Kind::kTunnelHbone: result = co_await through_tunnel(std::move(target)); break;
    case Target::Kind::kSelf: result = co_await to_self(std::move(target)); break;
    case Target::Kind::kPlain: result = co_await plain(std::move(target)); break;
    case Target::Kind::kRefused:
      ++worker_.counters().outbound_unresolved;
      refusal_ = target.why;
      result = Error(ErrorKind::kNotFound, std::string(target.why));
      break;
  }
  co_return result;
}

Task<Result<void>> OutboundConnection::through_tunnel(Target target) {
  if (!asked_) {
    progress_.key.in_place = target.kind == Target::Kind::kTunnelInPlace;
    progress_.key.address = target.endpoint;
    if (!progress_.key.in_place) progress_.key.address.port = kHbonePort;
    progress_.key.identity = target.workload->identity;
    progress_.refused = 0;
    progress_.tunnel_by = worker_.reactor().now() + kIdentityDeadline + kConnectDeadline;
  }
  record_.tunnel = progress_.key.in_place ? TunnelKind::kInPlace : TunnelKind::kHbone;
  hbone::ConnectRequest request;
  request.authority = target.endpoint.to_string();
  request.forwarded = fmt::format("for=\"{}\"", record_.source.to_string());
  if (target.service != nullptr) request.forwarded += fmt::format(";host={}", target.service->hostname);
  for (; progress_.refused < kMaxRefusedTries; ++progress_.refused) {
    Result<void> answered = co_await ask(request);
    if (!answered) {
      ++worker_.counters().outbound_failed;
      refusal_ = "no tunnel to the endpoint";
      endpoint_failed_ = !spoke();
      pod_->suspect(target.endpoint);
      co_return Error(std::move(answered).error());
    }
    if (!stream_->refused()) break;
  }
  const int status = stream_->status();
  if (status == 200)
    co_return application_ ? stream_->start(std::move(application_), std::move(said_)) : stream_->start();
  ++(status == 401 ? worker_.counters().outbound_refused : worker_.counters().outbound_failed);
  refusal_ = refusal_of(status);
  endpoint_failed_ = status == 503 || (status == -1 && !spoke());
  co_return Error(ErrorKind::kDenied, fmt::format("the peer answered {}", status));
}

// The peer that did not answer may have passed on what was said early: to say it elsewhere could say it
// twice.
bool OutboundConnection::spoke() const noexcept {
  return stream_ && stream_->spoke();
}

void OutboundConnection::take_back() noexcept {
  if (stream_ && !application_) application_ = stream_->take_back(said_);
  on_stream_ = false;
}

// The answer to CONNECT, which goes out first unless a predecessor sent it.
Task<Result<void>> OutboundConnection::ask(hbone::ConnectRequest request) {
  if (!std::exchange(asked_, false)) {
    Result<void> sent = co_await send_connect(std::move(request));
    if (!sent) co_return sent;
  }
  if (stream_->status() == 0) {
    const bool told = co_await stream_->answer().wait(worker_.reactor(), progress_.answer_by);
    if (!told) co_return Error(ErrorKind::kTimeout, "CONNECT was not answered in time");
  }
  co_return Result<void>();
}

// On a stream of its own.
Task<Result<void>> OutboundConnection::send_connect(hbone::ConnectRequest request) {
  take_back();
  Result<Tunnel*> tunnel = co_await pod_->tunnels().acquire(progress_.key, progress_.tunnel_by);
  if (!tunnel) co_return Error(std::move(tunnel).error());
  record_.tunnel_id = (*tunnel)->id();
  record_.peer = (*tunnel)->peer();
  stream_.emplace(worker_.reactor(), worker_.counters(), *this);
  FL_CO_TRY(stream_->open((*tunnel)->streams(), request));
  stream_->use(**tunnel);
  on_stream_ = true;
  progress_.answer_by = worker_.reactor().now() + kResponseDeadline;
  // Only between our own ends, for others may want to answer first; and not to one that may be dead: what was
  // said cannot be said to another endpoint.
  if (progress_.key.in_place && (*tunnel)->heard_lately())
    FL_CO_TRY(stream_->speak_early(std::move(application_), std::move(said_)));
  co_return Result<void>();
}

// What a pod sends to itself passes sk_lookup: there is no tunnel to oneself. The policy is the same, judged
// here.
Task<Result<void>> OutboundConnection::to_self(Target target) {
  refusal_ = "the pod has no identity yet";
  auto credentials = co_await pod_->credentials(worker_.reactor().now() + kIdentityDeadline);
  if (credentials == nullptr) co_return Error(ErrorKind::kUnavailable, "the pod has no certificate yet");
  // The pod is its own peer; the workload is that of its own address.
  record_.peer = std::shared_ptr<const SpiffeId>(credentials, &credentials->id());
  refusal_ = {};
  if (!worker_.admit(*pod_, record_)) co_return Error(ErrorKind::kDenied, "denied by policy");
  refusal_ = kNotAccepted;
  Result<ApplicationSocket> application =
      co_await connect_application(worker_, pod_, target.endpoint, record_.source);
  if (!application) {
    ++worker_.counters().application_refused;
    endpoint_failed_ = true;
    co_return Error(std::move(application).error());
  }
  name_ = std::move(application->name);
  sockets_ = std::make_unique<SocketRelay>(worker_.reactor(), *this);
  co_return sockets_->start(std::move(application_), std::move(application->fd), std::move(said_), false);
}

Task<Result<void>> OutboundConnection::plain(Target target) {
  ++worker_.counters().outbound_plain;
  refusal_ = "the endpoint cannot be reached";
  const int family = target.endpoint.family();
  Result<UniqueFd> socket = co_await pod_->take_socket(family);
  if (!socket) co_return Error(std::move(socket).error());
  UniqueFd fd = std::move(*socket);
  FL_CO_TRY(net::connect(fd, target.endpoint, family));
  Result<void> connected =
      co_await finish_connect(worker_.reactor(), fd, worker_.reactor().now() + kConnectDeadline);
  endpoint_failed_ = !connected;
  if (!connected) co_return Error(std::move(connected).error());
  sockets_ = std::make_unique<SocketRelay>(worker_.reactor(), *this);
  co_return sockets_->start(std::move(application_), std::move(fd), std::move(said_), false);
}

}  // namespace fairlead::proxy
