// L4 authorisation: pure decisions over values (istio.security.Authorization semantics; AuthorizationPolicy
// §evaluation). Any DENY that matches denies; with no ALLOW policy in the set all is allowed; else one ALLOW
// must match. What cannot be decided is denied. Thread: any (immutable). evaluate() allocates nothing but the
// principal's text, once, and only where there is a policy.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/net_types.h"
#include "base/spiffe_id.h"

namespace fairlead::policy {

enum class Action { kAllow, kDeny };
enum class Scope { kGlobal, kNamespace, kWorkload };

struct StringMatch {
  enum class Kind { kExact, kPrefix, kSuffix, kPresence };
  Kind kind = Kind::kExact;
  std::string text;
};
struct ServiceAccountMatch {
  std::string ns;
  std::string service_account;
};
// Every list that is not empty must match one value, and no not_* list may.
struct Match {
  std::vector<StringMatch> namespaces, not_namespaces;
  std::vector<StringMatch> principals, not_principals;
  std::vector<ServiceAccountMatch> service_accounts, not_service_accounts;
  std::vector<Cidr> source_ips, not_source_ips, destination_ips, not_destination_ips;
  std::vector<uint16_t> destination_ports, not_destination_ports;
  // Carries something we do not know: never matches for ALLOW; for DENY matches whatever the lists do not
  // exclude. A list of which a part is not known is left empty by whoever sets this: it excludes nothing.
  bool undecidable = false;
};
struct Clause {
  std::vector<Match> matches;  // any; none: true
};
struct Rule {
  std::vector<Clause> clauses;  // all
};
struct Policy {
  std::string ns;
  std::string name;
  Scope scope = Scope::kWorkload;
  Action action = Action::kAllow;
  bool dry_run = false;
  std::vector<Rule> rules;  // any; none: never matches
  [[nodiscard]] std::string full_name() const { return ns + "/" + name; }
};

struct ConnectionFacts {
  const SpiffeId* source = nullptr;  // from the verified certificate; null: plaintext
  IpAddress source_ip;
  IpAddress destination_ip;
  uint16_t destination_port = 0;  // the application's port
};

struct Decision {
  bool allowed = false;
  std::string_view policy_ns;  // the policy that decided; empty: none did. Views into the Policy.
  std::string_view policy_name;
  int rule = -1;  // index in the policy, -1: none
  // "no policy", "allowed by rule", "denied by rule", "no ALLOW policy matches", "policy is missing"
  std::string_view reason;
};

using PolicySet = std::vector<std::shared_ptr<const Policy>>;

Decision evaluate(const PolicySet& policies, const ConnectionFacts& facts) noexcept;
// "principal cluster.local/ns/a/sa/b" or "plaintext", source ip, destination: for logs and `fairlead why`.
std::string describe(const ConnectionFacts& facts);

}  // namespace fairlead::policy
