#include "control/serve/server.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <array>
#include <deque>
#include <mutex>

#include "base/log.h"
#include "certificate.grpc.pb.h"
#include "control/serve/delta_stream.h"
#include "discovery.grpc.pb.h"

namespace fairlead::serve {
namespace {

namespace xds = envoy::service::discovery::v3;
namespace auth = istio::v1::auth;

constexpr int kMaxReceive = 64 * 1024 * 1024;  // initial_resource_versions of a large mesh
constexpr size_t kMaxStreams = 5000;
constexpr std::string_view kBearer = "Bearer ";
constexpr std::string_view kIstio = "Istio ";

// The bearer token of a call; empty when there is none.
std::string_view token_of(const grpc::CallbackServerContext& context) {
  const auto found = context.client_metadata().find("authorization");
  if (found == context.client_metadata().end()) return {};
  const std::string_view value(found->second.data(), found->second.size());
  for (const std::string_view scheme : {kBearer, kIstio}) {
    if (value.starts_with(scheme)) return value.substr(scheme.size());
  }
  return {};
}

grpc::Status unauthenticated() { return {grpc::StatusCode::UNAUTHENTICATED, "request authenticate failure"}; }

class DiscoveryService;

// One agent's stream. Everything below the lock; gRPC calls may come on any of its threads.
class AgentStream final : public grpc::ServerBidiReactor<xds::DeltaDiscoveryRequest, xds::DeltaDiscoveryResponse> {
 public:
  AgentStream(DiscoveryService& service, std::string node) : service_(service) { status_.node = std::move(node); }

  void begin() { StartRead(&request_); }
  void refuse(const grpc::Status& status) { Finish(status); }
  void state_changed();
  AgentStatus status() const {
    const std::lock_guard lock(mutex_);
    return status_;
  }

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override {}
  void OnDone() override;

 private:
  void read_request();
  void send_next();  // under the lock

  DiscoveryService& service_;
  mutable std::mutex mutex_;
  xds::DeltaDiscoveryRequest request_;
  xds::DeltaDiscoveryResponse response_;
  std::map<std::string, Subscription> subscriptions_;
  std::map<std::string, std::string> unanswered_;  // type → nonce in flight: one push per type at a time
  AgentStatus status_;
  uint64_t next_nonce_ = 1;
  bool writing_ = false;
  bool closing_ = false;
};

class DiscoveryService final : public xds::AggregatedDiscoveryService::CallbackService {
 public:
  explicit DiscoveryService(Backend& backend) : backend_(backend) {}

  grpc::ServerBidiReactor<xds::DeltaDiscoveryRequest, xds::DeltaDiscoveryResponse>* DeltaAggregatedResources(
      grpc::CallbackServerContext* context) override {
    auto node = backend_.node_of(token_of(*context));
    auto* stream = new AgentStream(*this, node ? *node : std::string());  // deletes itself in OnDone, as gRPC wants it
    if (!node) {
      log::warn("discovery", "{} refused: {}", context->peer(), node.error().text());
      stream->refuse(unauthenticated());
    } else if (!add(stream)) {
      stream->refuse({grpc::StatusCode::RESOURCE_EXHAUSTED, "too many streams"});
    } else {
      log::info("discovery", "agent of node {} connected from {}", *node, context->peer());
      stream->begin();
    }
    return stream;
  }

  PublishedPtr state() const {
    const std::lock_guard lock(state_mutex_);
    return state_;
  }
  void set_state(PublishedPtr state) {
    {
      const std::lock_guard lock(state_mutex_);
      state_ = std::move(state);
    }
    const std::lock_guard lock(mutex_);
    for (AgentStream* stream : streams_) stream->state_changed();
  }
  std::vector<AgentStatus> agents() const {
    const std::lock_guard lock(mutex_);
    std::vector<AgentStatus> list;
    for (const AgentStream* stream : streams_) list.push_back(stream->status());
    return list;
  }
  void remove(AgentStream* stream) {
    const std::lock_guard lock(mutex_);
    streams_.erase(stream);
  }

 private:
  bool add(AgentStream* stream) {
    const std::lock_guard lock(mutex_);
    if (streams_.size() >= kMaxStreams) return false;
    streams_.insert(stream);
    return true;
  }

  Backend& backend_;
  mutable std::mutex mutex_;  // taken before a stream's
  std::set<AgentStream*> streams_;
  mutable std::mutex state_mutex_;  // taken after a stream's
  PublishedPtr state_;
};

void AgentStream::state_changed() {
  const std::lock_guard lock(mutex_);
  send_next();
}

void AgentStream::OnReadDone(bool ok) {
  if (!ok) {
    const std::lock_guard lock(mutex_);
    if (!std::exchange(closing_, true)) Finish(grpc::Status::OK);
    return;
  }
  {
    const std::lock_guard lock(mutex_);
    read_request();
    send_next();
  }
  StartRead(&request_);
}

void AgentStream::read_request() {
  const std::string& type = request_.type_url();
  if (type != kAddressType && type != kPolicyType) return;  // other types are never answered
  const std::string& nonce = request_.response_nonce();
  if (!nonce.empty()) {
    const auto sent = unanswered_.find(type);
    if (sent != unanswered_.end() && sent->second == nonce) unanswered_.erase(sent);
    if (request_.has_error_detail()) {
      // Not sent again until it changes: a resend would be refused again.
      ++status_.rejections;
      status_.last_rejection = request_.error_detail().message();
      log::warn("discovery", "node {} rejects: {}", status_.node, status_.last_rejection);
    }
  }
  subscriptions_[type].update(request_);
}

void AgentStream::send_next() {
  if (writing_ || closing_) return;
  const PublishedPtr state = service_.state();
  if (state == nullptr) return;
  for (auto& [type, subscription] : subscriptions_) {
    if (unanswered_.contains(type)) continue;
    auto response = subscription.next(type, *state);
    if (!response) continue;
    response_ = std::move(*response);
    response_.set_nonce(std::to_string(next_nonce_++));
    unanswered_[type] = response_.nonce();
    ++status_.pushes;
    writing_ = true;
    StartWrite(&response_);
    return;
  }
}

void AgentStream::OnWriteDone(bool ok) {
  const std::lock_guard lock(mutex_);
  writing_ = false;
  if (ok) send_next();
}

void AgentStream::OnDone() {
  service_.remove(this);
  if (!status_.node.empty()) log::info("discovery", "agent of node {} disconnected", status_.node);
  delete this;
}

class CertificateService final : public auth::IstioCertificateService::CallbackService {
 public:
  CertificateService(Backend& backend, DiscoveryService& discovery) : backend_(backend), discovery_(discovery) {}

  grpc::ServerUnaryReactor* CreateCertificate(grpc::CallbackServerContext* context,
                                              const auth::IstioCertificateRequest* request,
                                              auth::IstioCertificateResponse* response) override {
    auto* reactor = context->DefaultReactor();
    reactor->Finish(create(*context, *request, *response));
    return reactor;
  }

 private:
  // The peer gets an opaque answer, the log the reason.
  grpc::Status create(const grpc::CallbackServerContext& context, const auth::IstioCertificateRequest& request,
                      auth::IstioCertificateResponse& response) {
    const auto node = backend_.node_of(token_of(context));
    if (!node) {
      log::warn("certificates", "{} refused: {}", context.peer(), node.error().text());
      return unauthenticated();
    }
    const auto& fields = request.metadata().fields();
    const auto wanted = fields.find("ImpersonatedIdentity");
    const auto id = SpiffeId::parse(wanted == fields.end() ? std::string() : wanted->second.string_value());
    if (!id || !runs_on(*node, *id)) {
      log::warn("certificates", "node {} refused: asks for '{}', which does not run there", *node,
                wanted == fields.end() ? std::string() : wanted->second.string_value().substr(0, 256));
      return {grpc::StatusCode::UNAUTHENTICATED, "request impersonation authentication failure"};
    }
    const auto certificate = backend_.sign(request.csr(), *id, std::chrono::seconds(request.validity_duration()));
    if (!certificate) {
      log::warn("certificates", "node {}, {}: {}", *node, id->uri(), certificate.error().text());
      return {grpc::StatusCode::INVALID_ARGUMENT, "CSR signing error"};
    }
    response.add_cert_chain(certificate->leaf_pem);
    response.add_cert_chain(certificate->roots_pem);
    return grpc::Status::OK;
  }

  bool runs_on(const std::string& node, const SpiffeId& id) const {
    const PublishedPtr state = discovery_.state();
    if (state == nullptr) return false;
    const auto found = state->identities_by_node.find(node);
    return found != state->identities_by_node.end() && found->second.contains(id);
  }

  Backend& backend_;
  DiscoveryService& discovery_;
};

}  // namespace

struct Server::Impl {
  explicit Impl(Backend b) : backend(std::move(b)), discovery(backend), certificates(backend, discovery) {}
  Backend backend;
  DiscoveryService discovery;
  CertificateService certificates;
  std::unique_ptr<grpc::Server> server;
};

Server::Server(std::unique_ptr<Impl> impl) noexcept : impl_(std::move(impl)) {}
Server::~Server() { stop(); }

Result<std::unique_ptr<Server>> Server::start(const std::string& listen, const ServerTls& tls, Backend backend) {
  auto impl = std::make_unique<Impl>(std::move(backend));
  grpc::SslServerCredentialsOptions options;
  options.pem_key_cert_pairs.push_back({tls.key_pem, tls.chain_pem});
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(listen, grpc::SslServerCredentials(options), &port);
  builder.RegisterService(&impl->discovery);
  builder.RegisterService(&impl->certificates);
  builder.SetMaxReceiveMessageSize(kMaxReceive);
  builder.SetMaxSendMessageSize(-1);
  // Agents ping an idle stream; refusing that would cut them off.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  impl->server = builder.BuildAndStart();
  if (impl->server == nullptr || port == 0) return Error(ErrorKind::kUnavailable, fmt::format("cannot listen on {}", listen));
  return std::unique_ptr<Server>(new Server(std::move(impl)));
}

void Server::publish(model::Mesh mesh) { impl_->discovery.set_state(encode(mesh)); }
std::vector<AgentStatus> Server::agents() const { return impl_->discovery.agents(); }

void Server::stop() {
  if (impl_->server == nullptr) return;
  impl_->server->Shutdown(std::chrono::system_clock::now());
  impl_->server->Wait();
  impl_->server.reset();
}

}  // namespace fairlead::serve
