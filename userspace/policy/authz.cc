#include "policy/authz.h"

#include <algorithm>

namespace fairlead::policy {
namespace {

// Three-valued: what cannot be decided must not open anything.
enum class Verdict { kNo, kYes, kUnknown };

bool matches(const StringMatch& match, std::string_view text) {
  switch (match.kind) {
    case StringMatch::Kind::kExact: return text == match.text;
    case StringMatch::Kind::kPrefix: return text.starts_with(match.text);
    case StringMatch::Kind::kSuffix: return text.ends_with(match.text);
    case StringMatch::Kind::kPresence: return !text.empty();
  }
  return false;
}

// `text` absent: the connection shows no identity. It has no name that a pattern could match, not even the
// empty one: a peer without a certificate gets in by no positive list.
bool any_string(const std::vector<StringMatch>& list, std::optional<std::string_view> text) {
  return text.has_value() && std::any_of(list.begin(), list.end(),
                                         [text](const StringMatch& match) { return matches(match, *text); });
}

bool any_account(const std::vector<ServiceAccountMatch>& list, const SpiffeId* id) {
  return id != nullptr && std::any_of(list.begin(), list.end(), [id](const ServiceAccountMatch& match) {
           return match.ns == id->ns && match.service_account == id->service_account;
         });
}

bool any_range(const std::vector<Cidr>& list, const IpAddress& address) {
  // Families stay apart: ::/0 says nothing of IPv4, though both are kept in one form here.
  return std::any_of(list.begin(), list.end(), [&](const Cidr& range) {
    return range.base.is_v4() == address.is_v4() && range.contains(address);
  });
}

bool any_port(const std::vector<uint16_t>& list, uint16_t port) {
  return std::find(list.begin(), list.end(), port) != list.end();
}

// A list and its negation over one attribute.
template <class List, class Test>
bool attribute(const List& wanted, const List& unwanted, Test test) {
  return (wanted.empty() || test(wanted)) && (unwanted.empty() || !test(unwanted));
}

bool says_nothing(const Match& m) {
  return m.namespaces.empty() && m.not_namespaces.empty() && m.principals.empty() &&
         m.not_principals.empty() && m.service_accounts.empty() && m.not_service_accounts.empty() &&
         m.source_ips.empty() && m.not_source_ips.empty() && m.destination_ips.empty() &&
         m.not_destination_ips.empty() && m.destination_ports.empty() && m.not_destination_ports.empty();
}

// The principal as one string, made once per evaluation.
struct Facts {
  const ConnectionFacts& connection;
  std::string principal;
};

Verdict evaluate_match(const Match& m, const Facts& facts) {
  const ConnectionFacts& c = facts.connection;
  std::optional<std::string_view> ns, principal;
  if (c.source != nullptr) {
    ns = c.source->ns;
    principal = facts.principal;
  }
  const auto in_namespaces = [&](const auto& list) { return any_string(list, ns); };
  const auto in_principals = [&](const auto& list) { return any_string(list, principal); };
  const auto in_accounts = [&](const auto& list) { return any_account(list, c.source); };
  const auto from_ranges = [&](const auto& list) { return any_range(list, c.source_ip); };
  const auto to_ranges = [&](const auto& list) { return any_range(list, c.destination_ip); };
  const auto to_ports = [&](const auto& list) { return any_port(list, c.destination_port); };
  if (!m.undecidable && says_nothing(m))
    return Verdict::kNo;  // an empty match is skipped, it does not match all
  const bool all = attribute(m.namespaces, m.not_namespaces, in_namespaces) &&
                   attribute(m.principals, m.not_principals, in_principals) &&
                   attribute(m.service_accounts, m.not_service_accounts, in_accounts) &&
                   attribute(m.source_ips, m.not_source_ips, from_ranges) &&
                   attribute(m.destination_ips, m.not_destination_ips, to_ranges) &&
                   attribute(m.destination_ports, m.not_destination_ports, to_ports);
  if (!all) return Verdict::kNo;
  return m.undecidable ? Verdict::kUnknown : Verdict::kYes;
}

Verdict evaluate_clause(const Clause& clause, const Facts& facts) {
  if (clause.matches.empty()) return Verdict::kYes;
  Verdict best = Verdict::kNo;
  for (const Match& match : clause.matches) {
    const Verdict verdict = evaluate_match(match, facts);
    if (verdict == Verdict::kYes) return verdict;
    if (verdict == Verdict::kUnknown) best = verdict;
  }
  return best;
}

Verdict evaluate_rule(const Rule& rule, const Facts& facts) {
  Verdict worst = Verdict::kYes;
  for (const Clause& clause : rule.clauses) {
    const Verdict verdict = evaluate_clause(clause, facts);
    if (verdict == Verdict::kNo) return verdict;
    if (verdict == Verdict::kUnknown) worst = verdict;
  }
  return worst;
}

// The first rule that counts as matching for the policy's action, or -1.
int matching_rule(const Policy& policy, const Facts& facts) {
  for (size_t i = 0; i < policy.rules.size(); ++i) {
    const Verdict verdict = evaluate_rule(policy.rules[i], facts);
    if (verdict == Verdict::kYes || (verdict == Verdict::kUnknown && policy.action != Action::kAllow))
      return static_cast<int>(i);
  }
  return -1;
}

Facts facts_for(const ConnectionFacts& connection) {
  return {connection, connection.source != nullptr ? connection.source->principal() : std::string()};
}

bool decides(const Binding& binding, Action action, uint16_t port, DryRun dry_run) {
  return binding.policy->action == action && (!binding.policy->dry_run || dry_run == DryRun::kAsIfEnforced) &&
         binding.concerns(port);
}

// The verdict of one stage, which begins at `at`; moves `at` behind it.
Decision evaluate_stage(const PolicySet& policies, size_t& at, const Facts& facts, DryRun dry_run) {
  const size_t stage = policies[at].stage;
  bool any_allow = false;
  Decision decision{true, {}, {}, -1, "no policy"};
  for (; at < policies.size() && policies[at].stage == stage; ++at) {
    if (decision.rule >= 0 ||
        !decides(policies[at], Action::kAllow, facts.connection.destination_port, dry_run))
      continue;
    any_allow = true;
    const Policy& policy = *policies[at].policy;
    const int rule = matching_rule(policy, facts);
    if (rule >= 0) decision = {true, policy.ns, policy.name, rule, "allowed by rule"};
  }
  if (!any_allow || decision.rule >= 0) return decision;
  return {
      false, {}, {}, -1, stage == 0 ? "no ALLOW policy matches" : "no ALLOW policy of its Service matches"};
}

template <class Test>
bool any_match(const Policy& policy, Test test) {
  return std::any_of(policy.rules.begin(), policy.rules.end(), [&](const Rule& rule) {
    return std::any_of(rule.clauses.begin(), rule.clauses.end(), [&](const Clause& clause) {
      return std::any_of(clause.matches.begin(), clause.matches.end(), test);
    });
  });
}

}  // namespace

bool Binding::concerns(uint16_t port) const noexcept {
  return ports.empty() || any_port(ports, port);
}

std::string Decision::policy() const {
  return policy_name.empty() ? std::string() : fmt::format("{}/{}", policy_ns, policy_name);
}

Decision evaluate(const PolicySet& policies, const ConnectionFacts& connection, DryRun dry_run) noexcept {
  Decision decision{true, {}, {}, -1, "no policy"};
  if (policies.empty()) return decision;  // the common case costs nothing
  const Facts facts = facts_for(connection);
  for (const Binding& binding : policies) {
    if (!decides(binding, Action::kDeny, connection.destination_port, dry_run)) continue;
    const Policy& policy = *binding.policy;
    const int rule = matching_rule(policy, facts);
    if (rule >= 0) return {false, policy.ns, policy.name, rule, "denied by rule"};
  }
  for (size_t at = 0; at < policies.size();) {
    const Decision stage = evaluate_stage(policies, at, facts, dry_run);
    if (!stage.allowed) return stage;
    if (decision.rule < 0) decision = stage;
  }
  return decision;
}

bool has_dry_run(const PolicySet& policies, uint16_t port) noexcept {
  return std::any_of(policies.begin(), policies.end(), [port](const Binding& binding) {
    return binding.policy->dry_run && binding.policy->action != Action::kAudit && binding.concerns(port);
  });
}

std::vector<AuditHit> audit(const PolicySet& policies, const ConnectionFacts& connection) {
  std::vector<AuditHit> hits;
  std::optional<Facts> facts;
  for (const Binding& binding : policies) {
    if (binding.policy->action != Action::kAudit || !binding.concerns(connection.destination_port)) continue;
    const Policy* policy = binding.policy.get();
    const bool twice =  // attached to two Services
        std::any_of(hits.begin(), hits.end(), [policy](const AuditHit& hit) { return hit.policy == policy; });
    if (twice) continue;
    if (!facts) facts.emplace(facts_for(connection));
    const int rule = matching_rule(*policy, *facts);
    if (rule >= 0) hits.push_back({policy, rule});
  }
  return hits;
}

bool asks_for_source_address(const Policy& policy) noexcept {
  return any_match(
      policy, [](const Match& match) { return !match.source_ips.empty() || !match.not_source_ips.empty(); });
}

bool is_undecidable(const Policy& policy) noexcept {
  return any_match(policy, [](const Match& match) { return match.undecidable; });
}

std::string describe(const ConnectionFacts& facts) {
  const std::string who = facts.source != nullptr ? "principal " + facts.source->principal() : "plaintext";
  return fmt::format("{} from {} to {}", who, facts.source_ip.to_string(),
                     SocketAddress{facts.destination_ip, facts.destination_port}.to_string());
}

}  // namespace fairlead::policy
