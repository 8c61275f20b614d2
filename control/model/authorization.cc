// AuthorizationPolicy → istio.security.Authorization. What a connection cannot answer (fields of HTTP, values
// that do not parse) opens nothing: an ALLOW rule that has it is dropped, a DENY rule goes on without it and
// so denies more. Whatever was not taken at its word is reported, and told to the agents as a note.
#include <google/protobuf/wrappers.pb.h>

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

// A trust domain is what a principal begins with. Its end alone cannot be asked for.
template <class Field>
bool fill_trust_domains(const Strings& texts, Field* out) {
  const auto is_suffix = [](const std::string& text) { return text.size() > 1 && text.starts_with('*'); };
  for (const std::string& text : texts) {
    if (text.empty() || is_suffix(text)) return false;
  }
  for (const std::string& text : texts) fill_string(text.ends_with('*') ? text : text + "/*", *out->Add());
  return true;
}

// True for every connection, and not empty: agents skip an empty match. No connection goes to port 0.
void match_everything(Match& match) {
  match.add_not_destination_ports(0);
}

void extend(Authorization& out, std::string_view name, const std::string& value) {
  auto& extension = *out.add_extensions();
  extension.set_name(std::string(name));
  if (value.empty()) return;
  google::protobuf::StringValue text;
  text.set_value(value);
  extension.mutable_config()->PackFrom(text);
}

class PolicyTranslation {
 public:
  PolicyTranslation(const AuthorizationPolicy& policy, const Index& index, std::vector<Report>& reports)
      : policy_(policy), index_(index), reports_(reports), allow_(policy.action == "ALLOW") {}

  // False: the policy cannot be expressed and is left out.
  bool run(const MeshSettings& settings, Authorization& out) {
    out.set_name(policy_.meta.name);
    out.set_namespace_(policy_.meta.ns);
    out.set_action(allow_ ? istio::security::ALLOW : istio::security::DENY);
    out.set_scope(policy_.has_selector                         ? istio::security::WORKLOAD_SELECTOR
                  : policy_.meta.ns == settings.root_namespace ? istio::security::GLOBAL
                                                               : istio::security::NAMESPACE);
    if (!policy_.target_refs.empty() && !attach(settings, out)) return false;
    take_action(out);
    for (size_t i = 0; i < policy_.rules.size(); ++i) add_rule(i, out);
    if (!notes_.empty()) extend(out, kNotesExtension, notes_);
    return true;
  }

 private:
  static constexpr size_t kMaxNotes = 4096;  // octets

  void report(const Position& at, std::string field, std::string message,
              Report::Severity severity = Report::Severity::kWarning) {
    std::string note = fmt::format("{}: {}", field, message);
    std::replace(note.begin(), note.end(), '\n', ' ');
    if (notes_.size() + note.size() < kMaxNotes) notes_ += (notes_.empty() ? "" : "\n") + note;
    reports_.push_back({severity, object_name("AuthorizationPolicy", policy_.meta), at, std::move(field),
                        std::move(message)});
  }

  // Nobody here can ask a provider, so nobody is let in by one.
  void take_action(Authorization& out) {
    out.set_dry_run(policy_.dry_run);
    if (policy_.action == "AUDIT") {
      out.set_dry_run(true);  // for agents that do not know the extension: it must not decide there, either
      extend(out, kAuditExtension, {});
    } else if (policy_.action != "ALLOW" && policy_.action != "DENY") {
      out.set_dry_run(false);
      report(policy_.meta.at, "spec.action",
             fmt::format("{} is not supported: what its rules match is denied", policy_.action));
    }
  }

  // targetRefs. A policy of Services goes to the pods behind them. One of a gateway would be enforced in
  // front of whatever is behind it: it is taken for one of every pod that could be.
  bool attach(const MeshSettings& settings, Authorization& out) {
    std::string services;
    bool gateway = false;
    for (size_t i = 0; i < policy_.target_refs.size(); ++i) {
      const TargetRef& ref = policy_.target_refs[i];
      const std::string where = fmt::format("spec.targetRefs[{}]", i);
      if (ref.kind == "Service") {
        attach_service(ref, where, settings, services);
      } else if (ref.kind == "ServiceEntry") {
        report(policy_.meta.at, where,
               "destinations outside of the mesh are not supported: the policy is not in force for them",
               Report::Severity::kError);
      } else {
        gateway = true;
        if (ref.kind == "GatewayClass") out.set_scope(istio::security::GLOBAL);
        report(policy_.meta.at, where,
               fmt::format("{} is not supported: the policy is taken for one of every pod of the {}",
                           ref.kind, ref.kind == "GatewayClass" ? "mesh" : "namespace"));
      }
    }
    if (!gateway && services.empty()) return false;
    if (!gateway) out.set_scope(istio::security::WORKLOAD_SELECTOR);
    if (gateway && out.scope() == istio::security::GLOBAL && !names_class())
      out.set_scope(istio::security::NAMESPACE);  // a gateway of the root namespace is not that of the mesh
    extend(out, kTargetsExtension, gateway ? "gateway" : services);
    return true;
  }

  [[nodiscard]] bool names_class() const {
    const auto& refs = policy_.target_refs;
    return std::any_of(refs.begin(), refs.end(),
                       [](const TargetRef& ref) { return ref.kind == "GatewayClass"; });
  }

  void attach_service(const TargetRef& ref, const std::string& where, const MeshSettings& settings,
                      std::string& services) {
    if (!services.empty()) services += ',';
    services += "service:" + service_resource(policy_.meta.ns, ref.name, settings);
    const auto& known = Index::of(index_.services, policy_.meta.ns);
    const bool served = std::any_of(known.begin(), known.end(), [&](const Service* service) {
      return service->meta.name == ref.name && is_served(*service);
    });
    if (!served)
      report(policy_.meta.at, where,
             fmt::format("there is no Service {} with a selector and ports: it binds nobody", ref.name));
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
      report(rule.at, field, fmt::format("cannot be decided for a TCP connection: {}", reading()));
    }
    if (undecidable_.empty() || !allow_) *out.add_rules() = std::move(message);
  }

  [[nodiscard]] std::string_view reading() const {
    if (allow_) return "the rule allows nothing";
    if (policy_.action == "AUDIT") return "left out, so that the rule marks more";
    return "left out, so that the rule denies more";
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
      // Both lists would be principals, and all must hold: one of them can be asked for.
      check(source.trust_domains.empty() ||
                (source.principals.empty() &&
                 fill_trust_domains(source.trust_domains, match.mutable_principals())),
            where, "trustDomains");
      check(fill_trust_domains(source.not_trust_domains, match.mutable_not_principals()), where,
            "notTrustDomains");
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
    if (key == "source.trustDomain") {
      return fill_trust_domains(values,
                                negated ? match.mutable_not_principals() : match.mutable_principals());
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
  const Index& index_;
  std::vector<Report>& reports_;
  const bool allow_;
  std::string notes_;  // one a line
  std::string rule_at_;
  Strings undecidable_;
};

// Whether the pod stands behind one of the Services.
bool targets(const std::vector<TargetRef>& refs, const Pod& pod, const Index& index) {
  const auto& services = Index::of(index.services, pod.meta.ns);
  return std::any_of(services.begin(), services.end(), [&](const Service* service) {
    const bool named = std::any_of(refs.begin(), refs.end(), [&](const TargetRef& ref) {
      return ref.kind == "Service" && ref.name == service->meta.name;
    });
    return named && is_behind(pod, *service);
  });
}

}  // namespace

void translate_policies(const ObjectSet& objects, const Index& index, const MeshSettings& settings,
                        Mesh& mesh) {
  for (const AuthorizationPolicy& policy : objects.authorization_policies) {
    Authorization message;
    if (!PolicyTranslation(policy, index, mesh.reports).run(settings, message)) continue;
    mesh.policies[policy.meta.ns + "/" + policy.meta.name] = std::move(message);
  }
}

std::vector<std::string> attached_policies_of(const Pod& pod, const Index& index,
                                              const MeshSettings& settings, const Mesh& mesh) {
  std::vector<std::string> names;
  std::vector<std::string> reach = {settings.root_namespace};  // a selector there reaches every namespace
  if (pod.meta.ns != settings.root_namespace) reach.push_back(pod.meta.ns);
  for (const std::string& ns : reach) {
    for (const auto* policy : Index::of(index.attached_policies, ns)) {
      const bool applies = policy->has_selector
                               ? selects(policy->selector, pod.meta.labels)
                               : ns == pod.meta.ns && targets(policy->target_refs, pod, index);
      std::string name = ns + "/" + policy->meta.name;
      const auto found = mesh.policies.find(name);
      if (applies && found != mesh.policies.end() &&
          found->second.scope() == istio::security::WORKLOAD_SELECTOR)
        names.push_back(std::move(name));
    }
  }
  return names;
}

}  // namespace fairlead::model
