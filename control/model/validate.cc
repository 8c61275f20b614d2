// What the schema of a manifest cannot say: names, duplicates, and values of policy fields that would never
// mean what their author meant. The rules are those of Istio's admission, so that a set that passes here
// passes there.
#include <algorithm>
#include <array>
#include <set>

#include "base/net_types.h"
#include "control/model/parts.h"

namespace fairlead::model {
namespace {

using Strings = std::vector<std::string>;

constexpr size_t kMaxLabel = 63;   // RFC 1123
constexpr size_t kMaxItems = 512;  // rules, from, to of a policy
constexpr size_t kMaxServiceAccounts = 16;
constexpr size_t kMaxTargets = 16;

bool is_label(std::string_view text) {
  return text.size() <= kMaxLabel && text.find('.') == std::string_view::npos && is_subdomain(text);
}

// The form that sorts as text: the age of PeerAuthentications decides between them.
bool is_utc(std::string_view text) {
  constexpr std::string_view kForm = "0000-00-00T00:00:00Z";
  if (text.size() != kForm.size()) return false;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool digit = text[i] >= '0' && text[i] <= '9';
    if (kForm[i] == '0' ? !digit : text[i] != kForm[i]) return false;
  }
  return true;
}

bool is_condition_key(std::string_view key) {
  constexpr std::array<std::string_view, 15> kKeys = {"source.ip",
                                                      "remote.ip",
                                                      "source.namespace",
                                                      "source.serviceAccount",
                                                      "source.trustDomain",
                                                      "source.principal",
                                                      "destination.ip",
                                                      "destination.port",
                                                      "connection.sni",
                                                      "request.auth.principal",
                                                      "request.auth.audiences",
                                                      "request.auth.presenter",
                                                      "request.headers[",
                                                      "request.auth.claims[",
                                                      "experimental."};
  return std::any_of(kKeys.begin(), kKeys.end(), [key](std::string_view known) {
    return known.back() == '[' || known.back() == '.' ? key.starts_with(known) : key == known;
  });
}

class Validation {
 public:
  Validation(const ObjectSet& objects, const MeshSettings& settings)
      : objects_(objects), settings_(settings) {}

  std::vector<Report> run() {
    for (const Namespace& ns : objects_.namespaces) object("Namespace", ns.meta, false);
    for (const Pod& pod : objects_.pods) {
      object("Pod", pod.meta, true);
      if (!is_subdomain(pod.service_account))
        error("spec.serviceAccountName", got(pod.service_account, "a DNS subdomain"));
    }
    for (const Service& service : objects_.services) object("Service", service.meta, true);
    for (const PeerAuthentication& peer : objects_.peer_authentications) {
      object("PeerAuthentication", peer.meta, true);
      if (!peer.meta.created.empty() && !is_utc(peer.meta.created))
        error("metadata.creationTimestamp", got(peer.meta.created, "a moment like 2026-01-31T12:00:00Z"));
      if (!peer.ports.empty() && !peer.has_selector)
        error("spec.portLevelMtls", "wants a selector beside it");
    }
    for (const AuthorizationPolicy& policy : objects_.authorization_policies) authorization_policy(policy);
    return std::move(reports_);
  }

 private:
  static std::string got(const std::string& value, std::string_view want) {
    return fmt::format("got '{}', want {}", value.substr(0, 256), want);
  }
  void add(Report::Severity severity, std::string field, std::string message) {
    reports_.push_back({severity, object_, at_, std::move(field), std::move(message)});
  }
  void error(std::string field, std::string message) {
    add(Report::Severity::kError, std::move(field), std::move(message));
  }

  void object(std::string_view kind, const Meta& meta, bool namespaced) {
    object_ = object_name(kind, meta);
    at_ = meta.at;
    if (!is_subdomain(meta.name)) error("metadata.name", got(meta.name, "a DNS subdomain"));
    if (namespaced && !is_label(meta.ns)) error("metadata.namespace", got(meta.ns, "a DNS label"));
    const auto [first, fresh] = seen_.emplace(object_, meta.at);
    if (!fresh)
      error({}, fmt::format("is there twice, first at {}:{}", first->second.file, first->second.line));
  }

  void authorization_policy(const AuthorizationPolicy& policy) {
    object("AuthorizationPolicy", policy.meta, true);
    if (policy.has_selector && !policy.target_refs.empty())
      error("spec", "has both selector and targetRefs, want one");
    if (policy.target_refs.size() > kMaxTargets)
      error("spec.targetRefs",
            fmt::format("got {} items, want at most {}", policy.target_refs.size(), kMaxTargets));
    for (const TargetRef& ref : policy.target_refs) target(ref, policy.meta.ns);
    count("spec.rules", policy.rules.size());
    for (size_t i = 0; i < policy.rules.size(); ++i) {
      const PolicyRule& rule = policy.rules[i];
      const std::string where = fmt::format("rules[{}]", i);
      at_ = rule.at;
      count(where + ".from", rule.from.size());
      count(where + ".to", rule.to.size());
      for (size_t k = 0; k < rule.from.size(); ++k)
        source(rule.from[k], fmt::format("{}.from[{}].source", where, k));
      for (const PolicyCondition& item : rule.when) condition(item, where + ".when");
    }
  }

  void target(const TargetRef& ref, const std::string& policy_ns) {
    const std::string what = ref.group == "core" ? "/" + ref.kind : ref.group + "/" + ref.kind;
    constexpr std::array<std::string_view, 4> kKinds = {"/Service", "networking.istio.io/ServiceEntry",
                                                        "gateway.networking.k8s.io/Gateway",
                                                        "gateway.networking.k8s.io/GatewayClass"};
    if (std::find(kKinds.begin(), kKinds.end(), what) == kKinds.end()) {
      error("spec.targetRefs", got(what, "a Service, ServiceEntry, Gateway or GatewayClass, with its group"));
    } else if (ref.kind == "GatewayClass" && policy_ns != settings_.root_namespace) {
      error("spec.targetRefs", "a GatewayClass is only for policies of the root namespace");
    }
    if (!is_subdomain(ref.name)) error("spec.targetRefs.name", got(ref.name, "a DNS subdomain"));
    if (!ref.ns.empty() && ref.ns != policy_ns)
      error("spec.targetRefs.namespace", got(ref.ns, "the namespace of the policy"));
  }

  void count(const std::string& where, size_t items) {
    if (items > kMaxItems) error(where, fmt::format("got {} items, want at most {}", items, kMaxItems));
  }

  void source(const PolicySource& source, const std::string& where) {
    principals(source.principals, where + ".principals");
    principals(source.not_principals, where + ".notPrincipals");
    patterns(source.namespaces, where + ".namespaces");
    patterns(source.not_namespaces, where + ".notNamespaces");
    patterns(source.trust_domains, where + ".trustDomains");
    patterns(source.not_trust_domains, where + ".notTrustDomains");
    accounts(source.service_accounts, where + ".serviceAccounts");
    accounts(source.not_service_accounts, where + ".notServiceAccounts");
    ranges(source.ip_blocks, where + ".ipBlocks");
    ranges(source.not_ip_blocks, where + ".notIpBlocks");
    const bool by_account = !source.service_accounts.empty() || !source.not_service_accounts.empty();
    const bool by_name = !source.principals.empty() || !source.not_principals.empty() ||
                         !source.namespaces.empty() || !source.not_namespaces.empty();
    if (by_account && by_name)
      error(where, "has serviceAccounts beside principals or namespaces, want either");
  }

  void condition(const PolicyCondition& item, const std::string& where) {
    at_ = item.at;
    if (!is_condition_key(item.key))
      error(where + ".key", got(item.key, "a condition of AuthorizationPolicy"));
    if (item.values.empty() && item.not_values.empty()) error(where, "has neither values nor notValues");
    for (const Strings* values : {&item.values, &item.not_values}) {
      const std::string field = fmt::format("{}[{}]", where, item.key);
      if (item.key.ends_with(".ip")) ranges(*values, field);
      if (item.key == "destination.port") ports(*values, field);
      if (item.key == "source.principal") principals(*values, field);
      if (item.key == "source.namespace" || item.key == "source.trustDomain") patterns(*values, field);
      if (item.key == "source.serviceAccount") accounts(*values, field);
    }
  }

  void patterns(const Strings& values, const std::string& where) {
    for (const std::string& value : values) {
      const size_t star = value.find('*');
      const bool one_at_an_end =
          star == std::string::npos || (star == value.rfind('*') && (star == 0 || star == value.size() - 1));
      if (value.empty() || !one_at_an_end)
        error(where, got(value, "text with at most one '*', first or last"));
    }
  }

  void principals(const Strings& values, const std::string& where) {
    patterns(values, where);
    for (const std::string& value : values) {
      if (value.starts_with("spiffe://")) {
        error(where, got(value, "TRUST-DOMAIN/ns/NAMESPACE/sa/NAME without spiffe://"));
        continue;
      }
      const size_t slash = value.find('/');
      // No alias magic: cluster.local is a trust domain like any other.
      if (slash != std::string::npos && slash != 0 && !value.starts_with('*') &&
          value.substr(0, slash) != settings_.trust_domain) {
        add(Report::Severity::kWarning, where,
            fmt::format("'{}' is not of this mesh's trust domain {}: matches nobody", value,
                        settings_.trust_domain));
      }
    }
  }

  void accounts(const Strings& values, const std::string& where) {
    if (values.size() > kMaxServiceAccounts) {
      error(where,
            fmt::format("got {} service accounts, want at most {}", values.size(), kMaxServiceAccounts));
    }
    for (const std::string& value : values) {
      const size_t slash = value.find('/');
      const bool good = slash == std::string::npos
                            ? is_subdomain(value)
                            : is_label(value.substr(0, slash)) && is_subdomain(value.substr(slash + 1));
      if (!good) error(where, got(value, "NAMESPACE/NAME or NAME, without wildcards"));
    }
  }

  void ranges(const Strings& values, const std::string& where) {
    for (const std::string& value : values) {
      if (!Cidr::parse(value)) error(where, got(value, "an address or a range like 10.0.0.0/8"));
    }
  }

  void ports(const Strings& values, const std::string& where) {
    for (const std::string& value : values) {
      if (parse_number(value, 65535).value_or(0) == 0) error(where, got(value, "a port from 1 to 65535"));
    }
  }

  const ObjectSet& objects_;
  const MeshSettings& settings_;
  std::vector<Report> reports_;
  std::map<std::string, Position> seen_;
  std::string object_;
  Position at_;
};

}  // namespace

std::vector<Report> validate(const ObjectSet& objects, const MeshSettings& settings) {
  return Validation(objects, settings).run();
}

}  // namespace fairlead::model
