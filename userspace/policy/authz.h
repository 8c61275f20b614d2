// L4 authorisation: pure decisions over values (istio.security.Authorization semantics; AuthorizationPolicy
// §evaluation). Any DENY that matches denies; with no ALLOW policy in the set all is allowed; else one ALLOW
// must match. AUDIT never decides. What cannot be decided is denied. Thread: any (immutable). evaluate()
// allocates nothing but the principal's text, once, and only where there is a policy.
#pragma once

#include <concepts>
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

enum class Action { kAllow, kDeny, kAudit };
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
  // Carries something we do not know: never matches for ALLOW; for DENY and AUDIT matches whatever the lists
  // do not exclude. A list of which a part is not known is left empty by whoever sets this: it excludes
  // nothing.
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
  // Whom it is attached to instead of workloads as such (targetRefs): Services, "ns/hostname", or a gateway.
  std::vector<std::string> services;
  bool gateway = false;
  std::vector<std::string> notes;  // how its author's words were read where we could not do as they say
  [[nodiscard]] std::string full_name() const { return ns + "/" + name; }
};

// A policy as it applies to one workload.
struct Binding {
  template <std::convertible_to<std::shared_ptr<const Policy>> Pointer>
  // NOLINTNEXTLINE(google-explicit-constructor): a policy alone applies to all of the workload
  Binding(Pointer bound, std::vector<uint16_t> only = {}, size_t within = 0)
      : policy(std::move(bound)), ports(std::move(only)), stage(within) {}
  std::shared_ptr<const Policy> policy;
  std::vector<uint16_t> ports;  // of the application, those that it is about; empty: all
  // ALLOW policies of one stage are alternatives, and every stage that has any must allow: 0 is the workload,
  // the others are what it is reached through. A connection does not prove through which Service it came.
  size_t stage = 0;
  [[nodiscard]] bool concerns(uint16_t port) const noexcept;
};
// All that applies to a workload; the bindings of a stage are neighbours.
using PolicySet = std::vector<Binding>;

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
  // "no policy", "allowed by rule", "denied by rule", "no ALLOW policy matches", "no ALLOW policy of its
  // Service matches"
  std::string_view reason;
  [[nodiscard]] std::string policy() const;  // "ns/name", empty: none
};

// A rule of an AUDIT policy that matched. Refers to the policy.
struct AuditHit {
  const Policy* policy = nullptr;
  int rule = -1;
};

// kAsIfEnforced: what the decision would be without the dry-run annotations.
enum class DryRun { kLeftOut, kAsIfEnforced };
Decision evaluate(const PolicySet& policies, const ConnectionFacts& facts,
                  DryRun dry_run = DryRun::kLeftOut) noexcept;
// Whether evaluate() could decide otherwise as if enforced.
bool has_dry_run(const PolicySet& policies, uint16_t port) noexcept;
std::vector<AuditHit> audit(const PolicySet& policies, const ConnectionFacts& facts);

// Whether a decision of this policy may depend on the address of the source.
bool asks_for_source_address(const Policy& policy) noexcept;
// Whether a part of it is not understood by this agent.
bool is_undecidable(const Policy& policy) noexcept;
// "principal cluster.local/ns/a/sa/b" or "plaintext", source ip, destination: for logs and `fairlead why`.
std::string describe(const ConnectionFacts& facts);

}  // namespace fairlead::policy
