// The Kubernetes objects that Fairlead reads, reduced to what it uses. Plain values; where they come from (a
// directory of manifests, an API server) is the source's affair. Addresses are text as written; translate.cc
// judges them.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fairlead::model {

using Labels = std::map<std::string, std::string>;

struct Position {
  std::string file;
  int line = 0;
};

struct Meta {
  std::string ns;
  std::string name;
  std::string uid;
  Labels labels;
  Labels annotations;
  std::string
      created;  // RFC 3339 in UTC: sorts as text; the oldest wins in conflicts. Empty: younger than all
  Position at;
};

struct Namespace {
  Meta meta;
};

struct ContainerPort {
  std::string name;
  uint16_t port = 0;
};

struct Pod {
  Meta meta;
  std::string node;
  std::string service_account = "default";
  std::string phase;
  std::optional<bool> ready;  // of the Ready condition; none: nobody says
  bool host_network = false;
  std::vector<std::string> addresses;
  std::vector<ContainerPort> ports;
};

struct ServicePort {
  uint16_t port = 0;
  uint16_t target = 0;  // 0: by name
  std::string target_name;
};

struct Service {
  Meta meta;
  std::string type = "ClusterIP";
  Labels selector;
  std::vector<std::string> cluster_addresses;  // none: headless
  std::vector<ServicePort> ports;              // TCP only
};

enum class MtlsMode { kUnset, kDisable, kPermissive, kStrict };

struct PeerAuthentication {
  Meta meta;
  Labels selector;
  bool has_selector = false;
  MtlsMode mode = MtlsMode::kUnset;
  std::map<uint16_t, MtlsMode> ports;
};

struct PolicySource {
  std::vector<std::string> principals{}, not_principals{};
  std::vector<std::string> namespaces{}, not_namespaces{};
  std::vector<std::string> service_accounts{}, not_service_accounts{};
  std::vector<std::string> ip_blocks{}, not_ip_blocks{};
  std::vector<std::string> trust_domains{}, not_trust_domains{};
  // Names of its fields that a connection cannot answer: those of HTTP and newer ones.
  std::vector<std::string> undecidable{};
};
struct PolicyOperation {
  std::vector<uint16_t> ports{}, not_ports{};
  std::vector<std::string> undecidable{};
};
struct PolicyCondition {
  std::string key;
  std::vector<std::string> values, not_values;
  Position at;
};
struct PolicyRule {
  std::vector<PolicySource> from;
  std::vector<PolicyOperation> to;
  std::vector<PolicyCondition> when;
  Position at;
};

struct TargetRef {
  std::string group;  // empty: core
  std::string kind;
  std::string name;
  std::string ns;  // empty: the policy's
};

struct AuthorizationPolicy {
  Meta meta;
  std::string action = "ALLOW";
  Labels selector;
  bool has_selector = false;
  std::vector<TargetRef> target_refs;
  bool dry_run = false;
  std::vector<PolicyRule> rules;
};

// What an operator should know about an object: on its status, in logs, in `fairlead check`.
struct Report {
  enum class Severity { kInfo, kWarning, kError };
  Severity severity = Severity::kWarning;
  std::string object;  // "AuthorizationPolicy ns/name"
  Position at;
  std::string field;  // "rules[0].to[1].operation.methods"; empty: the object as a whole
  std::string message;
};

struct ObjectSet {
  std::vector<Namespace> namespaces;
  std::vector<Pod> pods;
  std::vector<Service> services;
  std::vector<PeerAuthentication> peer_authentications;
  std::vector<AuthorizationPolicy> authorization_policies;
  std::vector<Report> reports;  // what the source noticed and did not mind
};

[[nodiscard]] std::string_view to_string(Report::Severity severity) noexcept;
// "file:line: AuthorizationPolicy ns/name: field: message"
[[nodiscard]] std::string to_string(const Report& report);

}  // namespace fairlead::model
