// A Kubernetes workload's SPIFFE ID: spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT.
// Parsing is strict (SPIFFE-ID §2): one spelling per identity, no upper case, no percent, no query, nothing
// more.
#pragma once

#include <compare>
#include <functional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace fairlead {

struct SpiffeId {
  std::string trust_domain;
  std::string ns;
  std::string service_account;

  static Result<SpiffeId> parse(std::string_view uri);
  // Checks the parts against the same rules as parse().
  static Result<SpiffeId> make(std::string_view trust_domain, std::string_view ns,
                               std::string_view service_account);
  [[nodiscard]] std::string uri() const;        // with spiffe://
  [[nodiscard]] std::string principal() const;  // without, as Istio's policies write it
  auto operator<=>(const SpiffeId&) const noexcept = default;
};

}  // namespace fairlead

template <>
struct std::hash<fairlead::SpiffeId> {
  size_t operator()(const fairlead::SpiffeId& id) const noexcept {
    const std::hash<std::string> hash;
    return (hash(id.trust_domain) * 31 + hash(id.ns)) * 31 + hash(id.service_account);
  }
};
