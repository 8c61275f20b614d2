#include "control/serve/server.h"

#include <grpcpp/grpcpp.h>

#include "control/serve/certificate_service.h"
#include "control/serve/discovery_service.h"

namespace fairlead::serve {
namespace {

constexpr int kMaxReceive = 16 * 1024 * 1024;  // initial_resource_versions of 100,000 workloads
constexpr int kMaxCallsPerConnection = 64;     // one stream and a handful of certificates
constexpr int kMinPingIntervalMs = 5000;       // agents ping an idle stream: refusing that would cut them off
constexpr int kKeepaliveMs = 60000;            // a node that vanished is noticed
constexpr int kKeepaliveTimeoutMs = 20000;

}  // namespace

struct Server::Impl {
  explicit Impl(Backend b) : backend(std::move(b)), discovery(backend), certificates(backend, discovery) {}
  Result<void> serve(const ServerTls& tls);
  void end();

  const Backend backend;
  DiscoveryService discovery;
  CertificateService certificates;
  std::unique_ptr<grpc::Server> server;
  std::string listen;
  int port = 0;
};

Server::Server(std::unique_ptr<Impl> impl) noexcept : impl_(std::move(impl)) {}
Server::~Server() {
  stop();
}

Result<std::unique_ptr<Server>> Server::start(const std::string& listen, const ServerTls& tls,
                                              Backend backend) {
  auto impl = std::make_unique<Impl>(std::move(backend));
  impl->listen = listen;
  FL_TRY(impl->serve(tls));
  // Where any port would do it is this one from now on.
  if (listen.ends_with(":0"))
    impl->listen = fmt::format("{}{}", listen.substr(0, listen.size() - 1), impl->port);
  return std::unique_ptr<Server>(new Server(std::move(impl)));
}

Result<void> Server::Impl::serve(const ServerTls& tls) {
  grpc::SslServerCredentialsOptions options;
  options.pem_key_cert_pairs.push_back({tls.key_pem, tls.chain_pem});
  grpc::ServerBuilder builder;
  builder.AddListeningPort(listen, grpc::SslServerCredentials(options), &port);
  builder.RegisterService(&discovery);
  builder.RegisterService(&certificates);
  builder.SetMaxReceiveMessageSize(kMaxReceive);
  builder.SetMaxSendMessageSize(-1);  // a mesh is as large as it is
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxCallsPerConnection);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, kMinPingIntervalMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT,
                             0);  // a second controller must fail, not share the agents
  server = builder.BuildAndStart();
  if (server != nullptr && port != 0) return {};
  server.reset();
  return Error(ErrorKind::kUnavailable, fmt::format("cannot listen on {}", listen));
}

void Server::Impl::end() {
  if (server == nullptr) return;
  server->Shutdown(std::chrono::system_clock::now());  // streams never end by themselves: no grace
  server->Wait();
  server.reset();
}

// gRPC 1.51 takes one certificate per server, and a service may go from a server that has ended to the next.
Result<void> Server::change_certificate(const ServerTls& tls) {
  impl_->end();
  return impl_->serve(tls);
}

int Server::port() const {
  return impl_->port;
}
void Server::publish(const model::Mesh& mesh) {
  impl_->discovery.set_state(mesh);
}
std::vector<AgentStatus> Server::agents() const {
  return impl_->discovery.agents();
}

void Server::stop() {
  impl_->end();
}

}  // namespace fairlead::serve
