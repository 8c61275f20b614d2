// The controller's face: delta discovery (envoy.service.discovery.v3) and the certificate service (istio.v1.auth) over TLS.
// Thread: gRPC's own; publish() from any. A slow agent gets the newest state, never a queue of old ones.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/spiffe_id.h"
#include "control/model/translate.h"

namespace fairlead::serve {

struct ServerTls {
  std::string chain_pem;
  std::string key_pem;
};

// What the services need from the rest of the controller; callbacks run on gRPC threads, concurrently.
struct Backend {
  // The node of the bearer of a token.
  std::function<Result<std::string>(std::string_view token)> node_of;
  struct Certificate {
    std::string leaf_pem;
    std::string roots_pem;
  };
  std::function<Result<Certificate>(const std::string& csr, const SpiffeId& id, std::chrono::seconds ttl)> sign;
};

struct AgentStatus {
  std::string node;
  uint64_t pushes = 0;
  uint64_t rejections = 0;
  std::string last_rejection;
};

class Server {
 public:
  static Result<std::unique_ptr<Server>> start(const std::string& listen, const ServerTls& tls, Backend backend);
  ~Server();
  void publish(model::Mesh mesh);
  [[nodiscard]] std::vector<AgentStatus> agents() const;
  void stop();

 private:
  struct Impl;
  explicit Server(std::unique_ptr<Impl> impl) noexcept;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fairlead::serve
