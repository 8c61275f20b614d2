#include "control/serve/certificate_service.h"

#include "control/serve/call.h"

namespace fairlead::serve {
namespace {

// A full node (250 pods) starts at once; from then on each identity comes back twice a day.
constexpr double kBurst = 500;
constexpr double kPerSecond = 50;
constexpr size_t kMaxBusyNodes = 10000;
constexpr const char* kIdentityField = "ImpersonatedIdentity";

}  // namespace

CertificateService::CertificateService(const Backend& backend, const DiscoveryService& discovery)
    : backend_(backend), discovery_(discovery), rate_(kBurst, kPerSecond, kMaxBusyNodes) {}

grpc::ServerUnaryReactor* CertificateService::CreateCertificate(
    grpc::CallbackServerContext* context, const istio::v1::auth::IstioCertificateRequest* request,
    istio::v1::auth::IstioCertificateResponse* response) {
  auto* reactor = context->DefaultReactor();
  reactor->Finish(create(*context, *request, *response));
  return reactor;
}

// The peer gets an opaque answer, the log the reason.
grpc::Status CertificateService::create(const grpc::CallbackServerContext& context,
                                        const istio::v1::auth::IstioCertificateRequest& request,
                                        istio::v1::auth::IstioCertificateResponse& response) {
  const auto node = backend_.node_of(token_of(context));
  if (!node) {
    refuse(fmt::format("{}: {}", context.peer(), node.error().text()));
    return unauthenticated();
  }
  if (!rate_.allow(*node, RateLimit::Clock::now())) {
    refuse(fmt::format("node {}: more than {} at once and {} a second", *node, kBurst, kPerSecond));
    return {grpc::StatusCode::RESOURCE_EXHAUSTED, "too many requests"};
  }
  const auto& fields = request.metadata().fields();
  const auto field = fields.find(kIdentityField);
  const std::string wanted = field == fields.end() ? std::string() : field->second.string_value();
  // Strict parsing has one spelling per identity: equal values are equal bytes.
  const auto id = SpiffeId::parse(wanted);
  if (!id || !runs_on(*node, *id)) {
    refuse(fmt::format("node {}: '{}' does not run there", *node, printable(wanted)));
    return {grpc::StatusCode::UNAUTHENTICATED, "request impersonation authentication failure"};
  }
  const auto certificate =
      backend_.sign(request.csr(), *id, std::chrono::seconds(request.validity_duration()));
  if (!certificate) {
    refuse(fmt::format("node {} for {}: {}", *node, id->uri(), certificate.error().text()));
    return {grpc::StatusCode::INVALID_ARGUMENT, "CSR signing error"};
  }
  response.add_cert_chain(certificate->leaf_pem);
  response.add_cert_chain(certificate->roots_pem);
  return grpc::Status::OK;
}

bool CertificateService::runs_on(const std::string& node, const SpiffeId& id) const {
  const PublishedPtr state = discovery_.state();
  if (state == nullptr) return false;
  const auto found = state->identities_by_node.find(node);
  return found != state->identities_by_node.end() && found->second.contains(id);
}

}  // namespace fairlead::serve
