// AuthorizationPolicy and PeerAuthentication → istio.security.Authorization.
#include <algorithm>

#include "base/net_types.h"
#include "control/model/translate.h"

namespace fairlead::model {
namespace {

using istio::security::Authorization;
using istio::security::Clause;
using istio::security::Match;
using istio::security::StringMatch;

std::string object_name(std::string_view kind, const Meta& meta) { return fmt::format("{} {}/{}", kind, meta.ns, meta.name); }

void fill_string(const std::string& text, StringMatch& out) {
  if (text == "*") {
    (void)out.mutable_presence();
  } else if (text.size() > 1 && text.back() == '*') {
    out.set_prefix(text.substr(0, text.size() - 1));
  } else if (text.size() > 1 && text.front() == '*') {
    out.set_suffix(text.substr(1));
  } else {
    out.set_exact(text);
  }
}

template <class Field>
void fill_strings(const std::vector<std::string>& texts, Field* out) {
  for (const std::string& text : texts) fill_string(text, *out->Add());
}

// A range that cannot be read must not widen anything: an address of no octets, which agents take as undecidable.
template <class Field>
void fill_ranges(const std::vector<std::string>& texts, Field* out) {
  for (const std::string& text : texts) {
    auto* entry = out->Add();
    const auto range = Cidr::parse(text);
    if (!range) continue;
    const bool v4 = range->base.is_v4();
    entry->set_address(range->base.to_octets());
    entry->set_length(v4 ? range->length - 96u : range->length);
  }
}

template <class Field>
void fill_accounts(const std::vector<std::string>& texts, const std::string& policy_ns, Field* out) {
  for (const std::string& text : texts) {
    const size_t slash = text.find('/');
    auto* entry = out->Add();
    entry->set_namespace_(slash == std::string::npos ? policy_ns : text.substr(0, slash));
    entry->set_serviceaccount(slash == std::string::npos ? text : text.substr(slash + 1));
  }
}

// True for every connection, and not empty: empty matches are skipped by agents. No connection goes to port 0.
void match_everything(Match& match) { match.add_not_destination_ports(0); }

bool says_nothing(const Match& match) { return match.ByteSizeLong() == 0; }

class PolicyTranslation {
 public:
  PolicyTranslation(const AuthorizationPolicy& policy, Mesh& mesh) : policy_(policy), mesh_(mesh) {}

  // False: the policy cannot be expressed and is left out.
  bool run(const MeshSettings& settings, Authorization& out) {
    out.set_name(policy_.meta.name);
    out.set_namespace_(policy_.meta.ns);
    out.set_dry_run(policy_.dry_run);
    if (policy_.action != "ALLOW" && policy_.action != "DENY") {
      report(Report::Severity::kWarning, policy_.meta.at, fmt::format("action {} is not supported yet: ignored", policy_.action));
      return false;
    }
    deny_ = policy_.action == "DENY";
    out.set_action(deny_ ? istio::security::DENY : istio::security::ALLOW);
    if (policy_.has_selector && !policy_.selector.empty()) {
      out.set_scope(istio::security::WORKLOAD_SELECTOR);
    } else {
      out.set_scope(policy_.meta.ns == settings.root_namespace ? istio::security::GLOBAL : istio::security::NAMESPACE);
    }
    for (const PolicyRule& rule : policy_.rules) add_rule(rule, out);
    return true;
  }

 private:
  void report(Report::Severity severity, const Position& at, std::string message) {
    mesh_.reports.push_back({severity, object_name("AuthorizationPolicy", policy_.meta), at, std::move(message)});
  }

  void add_rule(const PolicyRule& rule, Authorization& out) {
    istio::security::Rule message;
    needs_http_ = false;
    if (!rule.from.empty()) add_sources(rule, *message.add_clauses());
    if (!rule.to.empty()) add_operations(rule, *message.add_clauses());
    for (const PolicyCondition& condition : rule.when) add_condition(condition, message);
    if (needs_http_) {
      report(Report::Severity::kWarning, rule.at,
             deny_ ? "has fields that only HTTP can decide: they are left out, so that more is denied"
                   : "has fields that only HTTP can decide: the rule allows nothing");
    }
    // ALLOW: what cannot be judged opens nothing.
    if (needs_http_ && !deny_) return;
    *out.add_rules() = std::move(message);
  }

  void close_match(Match& match, bool needs_http) {
    needs_http_ = needs_http_ || needs_http;
    // `- source: {}` matches any source; so does, for DENY, one of which only HTTP fields were left out.
    if (says_nothing(match)) match_everything(match);
  }

  void add_sources(const PolicyRule& rule, Clause& clause) {
    for (const PolicySource& source : rule.from) {
      Match& match = *clause.add_matches();
      fill_strings(source.principals, match.mutable_principals());
      fill_strings(source.not_principals, match.mutable_not_principals());
      fill_strings(source.namespaces, match.mutable_namespaces());
      fill_strings(source.not_namespaces, match.mutable_not_namespaces());
      fill_accounts(source.service_accounts, policy_.meta.ns, match.mutable_service_accounts());
      fill_accounts(source.not_service_accounts, policy_.meta.ns, match.mutable_not_service_accounts());
      fill_ranges(source.ip_blocks, match.mutable_source_ips());
      fill_ranges(source.not_ip_blocks, match.mutable_not_source_ips());
      close_match(match, source.needs_http);
    }
  }

  void add_operations(const PolicyRule& rule, Clause& clause) {
    for (const PolicyOperation& operation : rule.to) {
      Match& match = *clause.add_matches();
      for (const uint16_t port : operation.ports) match.add_destination_ports(port);
      for (const uint16_t port : operation.not_ports) match.add_not_destination_ports(port);
      close_match(match, operation.needs_http);
    }
  }

  void add_condition(const PolicyCondition& condition, istio::security::Rule& rule) {
    Match match;
    if (condition.key == "source.ip") {
      fill_ranges(condition.values, match.mutable_source_ips());
      fill_ranges(condition.not_values, match.mutable_not_source_ips());
    } else if (condition.key == "destination.ip") {
      fill_ranges(condition.values, match.mutable_destination_ips());
      fill_ranges(condition.not_values, match.mutable_not_destination_ips());
    } else if (condition.key == "source.namespace") {
      fill_strings(condition.values, match.mutable_namespaces());
      fill_strings(condition.not_values, match.mutable_not_namespaces());
    } else if (condition.key == "source.principal") {
      fill_strings(condition.values, match.mutable_principals());
      fill_strings(condition.not_values, match.mutable_not_principals());
    } else if (condition.key == "destination.port") {
      // An unreadable port is sent as one that no connection has: undecidable for agents.
      for (const std::string& port : condition.values) match.add_destination_ports(static_cast<uint32_t>(parse_number(port, 65535).value_or(65536)));
      for (const std::string& port : condition.not_values) match.add_not_destination_ports(static_cast<uint32_t>(parse_number(port, 65535).value_or(65536)));
    } else {
      needs_http_ = true;
      return;
    }
    if (!says_nothing(match)) *rule.add_clauses()->add_matches() = std::move(match);
  }

  const AuthorizationPolicy& policy_;
  Mesh& mesh_;
  bool deny_ = false;
  bool needs_http_ = false;
};

// ---- PeerAuthentication -------------------------------------------------------------------------------------------------

bool older(const Meta& a, const Meta& b) { return std::tie(a.created, a.ns, a.name) < std::tie(b.created, b.ns, b.name); }

// The oldest of those that `fits` accepts.
template <class Fits>
const PeerAuthentication* oldest(const ObjectSet& objects, Fits fits) {
  const PeerAuthentication* best = nullptr;
  for (const PeerAuthentication& candidate : objects.peer_authentications) {
    if (fits(candidate) && (best == nullptr || older(candidate.meta, best->meta))) best = &candidate;
  }
  return best;
}

struct EffectiveMtls {
  bool strict = false;
  const PeerAuthentication* workload_level = nullptr;
};

EffectiveMtls effective_mtls(const Pod& pod, const ObjectSet& objects, const MeshSettings& settings) {
  const auto* mesh = oldest(objects, [&](const auto& p) { return p.meta.ns == settings.root_namespace && !p.has_selector; });
  const auto* ns = oldest(objects, [&](const auto& p) {
    return p.meta.ns == pod.meta.ns && p.meta.ns != settings.root_namespace && !p.has_selector;
  });
  const auto* workload = oldest(objects, [&](const auto& p) {
    return p.meta.ns == pod.meta.ns && p.has_selector && selects(p.selector, pod.meta.labels);
  });
  EffectiveMtls effective;
  effective.workload_level = workload;
  for (const auto* level : {mesh, ns, workload}) {
    if (level != nullptr && level->mode != MtlsMode::kUnset) effective.strict = level->mode == MtlsMode::kStrict;
  }
  return effective;
}

Authorization deny_plaintext(const std::string& ns, const std::string& name) {
  Authorization policy;
  policy.set_namespace_(ns);
  policy.set_name(name);
  policy.set_scope(istio::security::WORKLOAD_SELECTOR);
  policy.set_action(istio::security::DENY);
  (void)policy.add_rules()->add_clauses()->add_matches()->add_not_principals()->mutable_presence();
  return policy;
}

// Ports whose mode differs from the workload's own; "ns/name" of the policy that says so, empty when there are none.
std::string port_level_policy(const EffectiveMtls& mtls, Mesh& mesh) {
  const PeerAuthentication& source = *mtls.workload_level;
  const std::string name = "converted_peer_authentication_" + source.meta.name;
  Authorization policy = deny_plaintext(source.meta.ns, name);
  Match& match = *policy.mutable_rules(0)->mutable_clauses(0)->mutable_matches(0);
  for (const auto& [port, mode] : source.ports) {
    if (mode == MtlsMode::kUnset || (mode == MtlsMode::kStrict) == mtls.strict) continue;
    mtls.strict ? match.add_not_destination_ports(port) : match.add_destination_ports(port);
  }
  if (match.destination_ports().empty() && match.not_destination_ports().empty()) return {};
  const std::string resource = source.meta.ns + "/" + name;
  mesh.policies[resource] = std::move(policy);
  return resource;
}

}  // namespace

void translate_policies(const ObjectSet& objects, const MeshSettings& settings, Mesh& mesh) {
  for (const AuthorizationPolicy& policy : objects.authorization_policies) {
    if (policy.has_target_refs) {
      mesh.reports.push_back({Report::Severity::kWarning, object_name("AuthorizationPolicy", policy.meta), policy.meta.at,
                              "targetRefs are not supported yet: ignored"});
      continue;
    }
    Authorization message;
    if (!PolicyTranslation(policy, mesh).run(settings, message)) continue;
    mesh.policies[policy.meta.ns + "/" + policy.meta.name] = std::move(message);
  }
}

std::vector<std::string> policies_of(const Pod& pod, const ObjectSet& objects, const MeshSettings& settings, Mesh& mesh) {
  std::vector<std::string> names;
  for (const AuthorizationPolicy& policy : objects.authorization_policies) {
    const std::string resource = policy.meta.ns + "/" + policy.meta.name;
    const bool in_reach = policy.meta.ns == pod.meta.ns || policy.meta.ns == settings.root_namespace;
    if (!policy.has_selector || policy.selector.empty() || !in_reach || !mesh.policies.contains(resource)) continue;
    if (selects(policy.selector, pod.meta.labels)) names.push_back(resource);
  }
  const EffectiveMtls mtls = effective_mtls(pod, objects, settings);
  std::string by_port = mtls.workload_level != nullptr ? port_level_policy(mtls, mesh) : std::string();
  if (!by_port.empty()) {
    names.push_back(std::move(by_port));
  } else if (mtls.strict) {
    const std::string resource = settings.root_namespace + "/" + std::string(kStaticStrict);
    mesh.policies[resource] = deny_plaintext(settings.root_namespace, std::string(kStaticStrict));
    names.push_back(resource);
  }
  return names;
}

}  // namespace fairlead::model
