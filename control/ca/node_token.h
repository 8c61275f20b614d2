// Who an agent is: a bearer token for one node, as a JWT (RFC 7519) signed ES256 with a key of the
// controller's own. It carries the claims that a Kubernetes service account token bound to a node carries, so
// that both read alike. Thread: any. Errors: kDenied, opaque for the peer, with the reason for the log.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"

namespace fairlead::ca {

inline constexpr std::string_view kAudience = "istio-ca";
inline constexpr std::string_view kAgentSubject = "system:serviceaccount:fairlead-system:fairlead-agent";
constexpr size_t kMaxToken = 8192;
constexpr size_t kMaxNodeName = 253;  // a DNS subdomain

struct Caller {
  std::string subject;
  std::string node;
};

class Authenticator {
 public:
  virtual ~Authenticator() = default;
  [[nodiscard]] virtual Result<Caller> authenticate(std::string_view token) const = 0;
};

class NodeTokens final : public Authenticator {
 public:
  // The key is made on first use under `directory` (token-key.pem, 0600), by whichever process comes first.
  static Result<std::unique_ptr<NodeTokens>> open(const std::string& directory);
  ~NodeTokens() override;
  [[nodiscard]] Result<Caller> authenticate(std::string_view token) const override;
  // kInvalidArgument for a node without a name or a ttl that is over already.
  [[nodiscard]] Result<std::string> issue(std::string_view node, std::chrono::seconds ttl) const;

 private:
  struct Impl;
  explicit NodeTokens(std::unique_ptr<Impl> impl) noexcept;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fairlead::ca
