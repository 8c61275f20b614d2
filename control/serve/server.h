// The controller's face: delta discovery (envoy.service.discovery.v3) and the certificate service
// (istio.v1.auth) over TLS. Thread: gRPC's own; publish() from one thread at a time, agents() from any,
// stop() and change_certificate() from one that is not gRPC's. A slow agent gets the newest state, never a
// queue of old ones. Errors: kUnavailable when the address cannot be had.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/log.h"
#include "base/result.h"
#include "base/spiffe_id.h"
#include "control/model/translate.h"

namespace fairlead::serve {

struct ServerTls {
  std::string chain_pem;
  std::string key_pem;
};

// What the services need from the rest of the controller; called on gRPC threads, concurrently, and sometimes
// under locks of the server: none may call the server.
struct Backend {
  // The node of the bearer of a token.
  std::function<Result<std::string>(std::string_view token)> node_of;
  struct Certificate {
    std::string leaf_pem;
    std::string roots_pem;
  };
  std::function<Result<Certificate>(const std::string& csr, const SpiffeId& id, std::chrono::seconds ttl)>
      sign;
  // What an operator should see; peers get opaque answers. One line, printable.
  std::function<void(log::Level level, const std::string& text)> notice;
  // agents() would now say something else.
  std::function<void()> agents_changed;
};

struct TypeStatus {
  std::string type;  // "istio.workload.Address"
  uint64_t pushes = 0;
  uint64_t acknowledged = 0;
  uint64_t rejected = 0;
  bool in_flight = false;  // a push without an answer yet
  std::string last_rejection;
};

struct AgentStatus {
  std::string node;
  std::string peer;  // as gRPC writes it
  std::vector<TypeStatus> types;
};

class Server {
 public:
  // `listen` is "IP:PORT"; port 0 takes a free one. Until the first publish() streams wait and no certificate
  // is given.
  static Result<std::unique_ptr<Server>> start(const std::string& listen, const ServerTls& tls,
                                               Backend backend);
  ~Server();
  [[nodiscard]] int port() const;
  // Serves on with another certificate, at the same address. Streams end and come back; what was published
  // stays. Fails when the address cannot be had: then nobody is served until another call succeeds.
  Result<void> change_certificate(const ServerTls& tls);
  void publish(const model::Mesh& mesh);
  [[nodiscard]] std::vector<AgentStatus> agents() const;
  void stop();

 private:
  struct Impl;
  explicit Server(std::unique_ptr<Impl> impl) noexcept;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fairlead::serve
