// AuthorizationPolicy → istio.security.Authorization. What a connection cannot answer (fields of HTTP, values
// that do not parse) opens nothing: an ALLOW rule that has it is dropped, a DENY rule goes on without it and
// so denies more.
#include <algorithm>

#include "base/net_types.h"
#include "control/model/parts.h"

namespace fairlead::model {
namespace {

using istio::security::Authorization;
using istio::security::Clause;
using istio::security::Match;
using istio::security::StringMatch;
using Strings = std::vector<std::string>;

void fill_string(const std::string& text, StringMatch& out) {
  if (text == "*") {
    (void)out.mutable_presence();
  } else if (text.ends_with('*')) {
    out.set_prefix(text.substr(0, text.size() - 1));
  } else if (text.starts_with('*')) {
    out.set_suffix(text.substr(1));
  } else {
    out.set_exact(text);
  }
}

// The fillers: false, and nothing filled, when a value cannot be read. Dropping the whole list is what widens
// a DENY.
template <class Field>
bool fill_strings(const Strings& texts, Field* out) {
  // An empty string would be "equal" to the principal that a plaintext peer does not have.
  if (std::any_of(texts.begin(), texts.end(), [](const std::string& text) { return text.empty(); }))
    return false;
  for (const std::string& text : texts) fill_string(text, *out->Add());
  return true;
}

template <class Field>
bool fill_ranges(const Strings& texts, Field* out) {
  std::vector<Cidr> ranges;
  for (const std::string& text : texts) {
    const auto range = Cidr::parse(text);
    if (!range) return false;
    ranges.push_back(*range);
  }
  for (const Cidr& range : ranges) {
    auto* entry = out->Add();
    entry->set_address(range.base.to_octets());
    entry->set_length(range.base.is_v4() ? range.length - 96u : range.length);
  }
  return true;
}

template <class Field>
bool fill_ports(const Strings& texts, Field* out) {
  std::vector<uint32_t> ports;
  for (const std::string& text : texts) {
    const auto port = parse_number(text, 65535);
    if (!port) return false;
    ports.push_back(static_cast<uint32_t>(*port));
  }
  out->Add(ports.begin(), ports.end());
  return true;
}

template <class Field>
bool fill_accounts(const Strings& texts, const std::string& policy_ns, Field* out) {
  for (const std::string& text : texts) {
    const size_t slash = text.find('/');
    auto* entry = out->Add();
    entry->set_namespace_(slash == std::string::npos ? policy_ns : text.substr(0, slash));
    entry->set_serviceaccount(slash == std::string::npos ? text : text.substr(slash + 1));
  }
  return true;
}

// True for every connection, and not empty: agents skip an empty match. No connection goes to port 0.
void match_everything(Match& match) {
  match.add_not_destination_ports(0);
}

class PolicyTranslation {
 public:
  PolicyTranslation(const AuthorizationPolicy& policy, std::vector<Report>& reports)
      : policy_(policy), reports_(reports) {}

  // False: the policy cannot be expressed and is left out.
  bool run(const MeshSettings& settings, Authorization& out) {
    if (policy_.has_target_refs)
      return unsupported("targetRefs", "waypoints are not supported: the policy is not in force");
    if (policy_.action != "ALLOW" && policy_.action != "DENY") {
      return unsupported("action",
                         fmt::format("{} is not supported: the policy is not in force", policy_.action));
    }
    deny_ = policy_.action == "DENY";
    out.set_name(policy_.meta.name);
    out.set_namespace_(policy_.meta.ns);
    out.set_dry_run(policy_.dry_run);
    out.set_action(deny_ ? istio::security::DENY : istio::security::ALLOW);
    const bool in_root = policy_.meta.ns == settings.root_namespace;
    out.set_scope(policy_.has_selector ? istio::security::WORKLOAD_SELECTOR
                  : in_root            ? istio::security::GLOBAL
                                       : istio::security::NAMESPACE);
    for (size_t i = 0; i < policy_.rules.size(); ++i) add_rule(i, out);
    return true;
  }

 private:
  void report(const Position& at, std::string field, std::string message) {
    reports_.push_back({Report::Severity::kWarning, object_name("AuthorizationPolicy", policy_.meta), at,
                        std::move(field), std::move(message)});
  }

  bool unsupported(std::string field, std::string message) {
    report(policy_.meta.at, std::move(field), std::move(message));
    return false;
  }

  void add_rule(size_t number, Authorization& out) {
    const PolicyRule& rule = policy_.rules[number];
    rule_at_ = fmt::format("rules[{}]", number);
    undecidable_.clear();
    istio::security::Rule message;
    if (!rule.from.empty()) add_sources(rule, *message.add_clauses());
    if (!rule.to.empty()) add_operations(rule, *message.add_clauses());
    if (!rule.when.empty()) add_conditions(rule, message);
    for (const std::string& field : undecidable_) {
      report(rule.at, field,
             deny_ ? "cannot be decided for a TCP connection: left out, so that the rule denies more"
                   : "cannot be decided for a TCP connection: the rule allows nothing");
    }
    if (undecidable_.empty() || deny_) *out.add_rules() = std::move(message);
  }

  void check(bool readable, const std::string& where, std::string_view field) {
    if (!readable) undecidable_.push_back(fmt::format("{}.{}", where, field));
  }

  // `- source: {}` matches any source; so does one of which nothing decidable is left.
  void close(Match& match, const Strings& undecidable, const std::string& where) {
    for (const std::string& field : undecidable) check(false, where, field);
    if (match.ByteSizeLong() == 0) match_everything(match);
  }

  void add_sources(const PolicyRule& rule, Clause& clause) {
    for (size_t i = 0; i < rule.from.size(); ++i) {
      const PolicySource& source = rule.from[i];
      const std::string where = fmt::format("{}.from[{}].source", rule_at_, i);
      Match& match = *clause.add_matches();
      check(fill_strings(source.principals, match.mutable_principals()), where, "principals");
      check(fill_strings(source.not_principals, match.mutable_not_principals()), where, "notPrincipals");
      check(fill_strings(source.namespaces, match.mutable_namespaces()), where, "namespaces");
      check(fill_strings(source.not_namespaces, match.mutable_not_namespaces()), where, "notNamespaces");
      fill_accounts(source.service_accounts, policy_.meta.ns, match.mutable_service_accounts());
      fill_accounts(source.not_service_accounts, policy_.meta.ns, match.mutable_not_service_accounts());
      check(fill_ranges(source.ip_blocks, match.mutable_source_ips()), where, "ipBlocks");
      check(fill_ranges(source.not_ip_blocks, match.mutable_not_source_ips()), where, "notIpBlocks");
      close(match, source.undecidable, where);
    }
  }

  void add_operations(const PolicyRule& rule, Clause& clause) {
    for (size_t i = 0; i < rule.to.size(); ++i) {
      const PolicyOperation& operation = rule.to[i];
      Match& match = *clause.add_matches();
      for (const uint16_t port : operation.ports) match.add_destination_ports(port);
      for (const uint16_t port : operation.not_ports) match.add_not_destination_ports(port);
      close(match, operation.undecidable, fmt::format("{}.to[{}].operation", rule_at_, i));
    }
  }

  // All conditions must hold: each is a clause of its own.
  void add_conditions(const PolicyRule& rule, istio::security::Rule& message) {
    for (size_t i = 0; i < rule.when.size(); ++i) {
      const PolicyCondition& condition = rule.when[i];
      Match match;
      const bool readable = fill_condition(condition.key, condition.values, false, match) &&
                            fill_condition(condition.key, condition.not_values, true, match);
      check(readable, fmt::format("{}.when[{}]", rule_at_, i), condition.key);
      if (readable && match.ByteSizeLong() > 0) *message.add_clauses()->add_matches() = std::move(match);
    }
  }

  bool fill_condition(std::string_view key, const Strings& values, bool negated, Match& match) {
    if (key == "source.ip")
      return fill_ranges(values, negated ? match.mutable_not_source_ips() : match.mutable_source_ips());
    if (key == "destination.ip") {
      return fill_ranges(values,
                         negated ? match.mutable_not_destination_ips() : match.mutable_destination_ips());
    }
    if (key == "source.namespace") {
      return fill_strings(values, negated ? match.mutable_not_namespaces() : match.mutable_namespaces());
    }
    if (key == "source.principal") {
      return fill_strings(values, negated ? match.mutable_not_principals() : match.mutable_principals());
    }
    if (key == "source.serviceAccount") {
      return fill_accounts(values, policy_.meta.ns,
                           negated ? match.mutable_not_service_accounts() : match.mutable_service_accounts());
    }
    if (key == "destination.port") {
      return fill_ports(values,
                        negated ? match.mutable_not_destination_ports() : match.mutable_destination_ports());
    }
    return false;
  }

  const AuthorizationPolicy& policy_;
  std::vector<Report>& reports_;
  bool deny_ = false;
  std::string rule_at_;
  Strings undecidable_;
};

}  // namespace

void translate_policies(const ObjectSet& objects, const MeshSettings& settings, Mesh& mesh) {
  for (const AuthorizationPolicy& policy : objects.authorization_policies) {
    Authorization message;
    if (!PolicyTranslation(policy, mesh.reports).run(settings, message)) continue;
    mesh.policies[policy.meta.ns + "/" + policy.meta.name] = std::move(message);
  }
}

std::vector<std::string> selector_policies_of(const Pod& pod, const Index& index,
                                              const MeshSettings& settings, const Mesh& mesh) {
  std::vector<std::string> names;
  std::vector<std::string> reach = {settings.root_namespace};  // a selector there reaches every namespace
  if (pod.meta.ns != settings.root_namespace) reach.push_back(pod.meta.ns);
  for (const std::string& ns : reach) {
    for (const auto* policy : Index::of(index.selector_policies, ns)) {
      std::string name = ns + "/" + policy->meta.name;
      if (selects(policy->selector, pod.meta.labels) && mesh.policies.contains(name))
        names.push_back(std::move(name));
    }
  }
  return names;
}

}  // namespace fairlead::model
