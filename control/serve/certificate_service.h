// istio.v1.auth: a certificate for an identity that runs on the caller's node, and for no other. Private to
// the folder.
#pragma once

#include "certificate.grpc.pb.h"
#include "control/serve/discovery_service.h"
#include "control/serve/rate_limit.h"
#include "control/serve/server.h"

namespace fairlead::serve {

class CertificateService final : public istio::v1::auth::IstioCertificateService::CallbackService {
 public:
  CertificateService(const Backend& backend, const DiscoveryService& discovery);

  grpc::ServerUnaryReactor* CreateCertificate(grpc::CallbackServerContext* context,
                                              const istio::v1::auth::IstioCertificateRequest* request,
                                              istio::v1::auth::IstioCertificateResponse* response) override;

 private:
  grpc::Status create(const grpc::CallbackServerContext& context,
                      const istio::v1::auth::IstioCertificateRequest& request,
                      istio::v1::auth::IstioCertificateResponse& response);
  [[nodiscard]] bool runs_on(const std::string& node, const SpiffeId& id) const;
  void refuse(const std::string& text) const {
    backend_.notice(log::Level::kWarn, "certificate refused to " + text);
  }

  const Backend& backend_;
  const DiscoveryService& discovery_;
  RateLimit rate_;
};

}  // namespace fairlead::serve
