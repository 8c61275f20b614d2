// PeerAuthentication and AuthorizationPolicy. Strict: an unknown, doubled, empty or misplaced field could let
// somebody in whom the author meant to keep out.
#include <fmt/core.h>

#include <algorithm>
#include <array>

#include "control/source/node_yaml.h"

namespace fairlead::source {
namespace {

using YAML::Node;

void read_selector(const NodeReader& reader, const Node& spec, model::Labels& selector, bool& has_selector) {
  const Node node = spec["selector"];
  if (!node.IsDefined() || !reader.only(node, "spec.selector", {"matchLabels"})) return;
  selector = reader.labels(node["matchLabels"], "spec.selector.matchLabels");
  has_selector = !selector.empty();  // an empty selector selects all, as none does
}

// False: there is no spec, or it is broken.
bool has_spec(const NodeReader& reader, const Node& node, const std::string& kind) {
  return reader.only(node, kind, {"apiVersion", "kind", "metadata", "spec", "status"}) &&
         node["spec"].IsDefined();
}

model::MtlsMode read_mode(const NodeReader& reader, const Node& node, const std::string& what) {
  if (!reader.only(node, what, {"mode"})) return model::MtlsMode::kUnset;
  const std::string name = reader.text(node["mode"], what + ".mode");
  if (name.empty() || name == "UNSET") return model::MtlsMode::kUnset;
  if (name == "STRICT") return model::MtlsMode::kStrict;
  if (name == "PERMISSIVE") return model::MtlsMode::kPermissive;
  if (name == "DISABLE") return model::MtlsMode::kDisable;
  reader.error(node["mode"],
               fmt::format("{}.mode: got '{}', want STRICT, PERMISSIVE, DISABLE or UNSET", what, name));
  return model::MtlsMode::kUnset;
}

// Names of the fields that are there but that a TCP connection cannot answer.
template <size_t N>
std::vector<std::string> present(const Node& node, const std::array<const char*, N>& names) {
  std::vector<std::string> found;
  for (const char* name : names) {
    if (node[name].IsDefined()) found.emplace_back(name);
  }
  return found;
}

void want_some_field(const NodeReader& reader, const Node& node, const std::string& what) {
  if (node.size() == 0) reader.error(node, fmt::format("{}: got no field, want at least one", what));
}

model::PolicySource read_source(const NodeReader& reader, const Node& node) {
  constexpr std::array<const char*, 4> kUndecidable = {"requestPrincipals", "notRequestPrincipals",
                                                       "remoteIpBlocks", "notRemoteIpBlocks"};
  model::PolicySource result;
  if (!reader.only(node, "source",
                   {"principals", "notPrincipals", "namespaces", "notNamespaces", "ipBlocks", "notIpBlocks",
                    "serviceAccounts", "notServiceAccounts", "requestPrincipals", "notRequestPrincipals",
                    "remoteIpBlocks", "notRemoteIpBlocks", "trustDomains", "notTrustDomains"})) {
    return result;
  }
  want_some_field(reader, node, "source");
  result.principals = reader.strings(node["principals"], "principals");
  result.not_principals = reader.strings(node["notPrincipals"], "notPrincipals");
  result.namespaces = reader.strings(node["namespaces"], "namespaces");
  result.not_namespaces = reader.strings(node["notNamespaces"], "notNamespaces");
  result.service_accounts = reader.strings(node["serviceAccounts"], "serviceAccounts");
  result.not_service_accounts = reader.strings(node["notServiceAccounts"], "notServiceAccounts");
  result.ip_blocks = reader.strings(node["ipBlocks"], "ipBlocks");
  result.not_ip_blocks = reader.strings(node["notIpBlocks"], "notIpBlocks");
  result.trust_domains = reader.strings(node["trustDomains"], "trustDomains");
  result.not_trust_domains = reader.strings(node["notTrustDomains"], "notTrustDomains");
  result.undecidable = present(node, kUndecidable);
  for (const std::string& name : result.undecidable) (void)reader.strings(node[name], name);
  return result;
}

std::vector<uint16_t> read_ports(const NodeReader& reader, const Node& node, const std::string& what) {
  std::vector<uint16_t> ports;
  for (const Node& item : reader.items(node, what)) ports.push_back(reader.port(item, what));
  return ports;
}

model::PolicyOperation read_operation(const NodeReader& reader, const Node& node) {
  constexpr std::array<const char*, 6> kUndecidable = {"hosts",      "notHosts", "methods",
                                                       "notMethods", "paths",    "notPaths"};
  model::PolicyOperation result;
  if (!reader.only(
          node, "operation",
          {"ports", "notPorts", "hosts", "notHosts", "methods", "notMethods", "paths", "notPaths"})) {
    return result;
  }
  want_some_field(reader, node, "operation");
  result.ports = read_ports(reader, node["ports"], "ports");
  result.not_ports = read_ports(reader, node["notPorts"], "notPorts");
  result.undecidable = present(node, kUndecidable);
  for (const std::string& name : result.undecidable) (void)reader.strings(node[name], name);
  return result;
}

model::PolicyRule read_rule(const NodeReader& reader, const Node& node) {
  model::PolicyRule result;
  result.at = reader.position(node);
  if (!reader.only(node, "rule", {"from", "to", "when"})) return result;
  for (const Node& item : reader.items(node["from"], "from")) {
    if (!reader.only(item, "from", {"source"})) continue;
    if (!item["source"].IsDefined()) reader.error(item, "from: got no 'source', want one");
    if (item["source"].IsDefined()) result.from.push_back(read_source(reader, item["source"]));
  }
  for (const Node& item : reader.items(node["to"], "to")) {
    if (!reader.only(item, "to", {"operation"})) continue;
    if (!item["operation"].IsDefined()) reader.error(item, "to: got no 'operation', want one");
    if (item["operation"].IsDefined()) result.to.push_back(read_operation(reader, item["operation"]));
  }
  for (const Node& item : reader.items(node["when"], "when")) {
    if (!reader.only(item, "when", {"key", "values", "notValues"})) continue;
    result.when.push_back({reader.text(item["key"], "when.key"),
                           reader.strings(item["values"], "when.values"),
                           reader.strings(item["notValues"], "when.notValues"), reader.position(item)});
  }
  return result;
}

model::TargetRef read_target(const NodeReader& reader, const Node& node, const std::string& what) {
  model::TargetRef result;
  if (!reader.only(node, what, {"group", "kind", "name", "namespace"})) return result;
  result.group = reader.text(node["group"], what + ".group");
  result.kind = reader.text(node["kind"], what + ".kind");
  result.name = reader.text(node["name"], what + ".name");
  result.ns = reader.text(node["namespace"], what + ".namespace");
  return result;
}

}  // namespace

void read_peer_authentication(const NodeReader& reader, const Node& node, model::Meta meta,
                              model::ObjectSet& objects) {
  model::PeerAuthentication result;
  result.meta = std::move(meta);
  const Node spec = has_spec(reader, node, "PeerAuthentication") ? node["spec"] : Node(YAML::NodeType::Map);
  if (!reader.only(spec, "spec", {"selector", "mtls", "portLevelMtls"})) return;
  read_selector(reader, spec, result.selector, result.has_selector);
  if (spec["mtls"].IsDefined()) result.mode = read_mode(reader, spec["mtls"], "spec.mtls");
  const Node ports = reader.mapping(spec["portLevelMtls"], "spec.portLevelMtls");
  for (const auto& item : ports) {
    const uint16_t port = reader.port(item.first, "spec.portLevelMtls");
    const bool fresh =
        result.ports.emplace(port, read_mode(reader, item.second, "spec.portLevelMtls")).second;
    if (!fresh)
      reader.error(item.first, fmt::format("spec.portLevelMtls: port {} is there twice, want it once", port));
  }
  objects.peer_authentications.push_back(std::move(result));
}

void read_authorization_policy(const NodeReader& reader, const Node& node, model::Meta meta,
                               model::ObjectSet& objects) {
  model::AuthorizationPolicy result;
  result.meta = std::move(meta);
  const auto dry_run = result.meta.annotations.find("istio.io/dry-run");
  result.dry_run = dry_run != result.meta.annotations.end() && dry_run->second == "true";
  if (dry_run != result.meta.annotations.end() && !result.dry_run && dry_run->second != "false") {
    objects.reports.push_back({model::Report::Severity::kWarning,
                               "AuthorizationPolicy " + result.meta.ns + "/" + result.meta.name,
                               result.meta.at, "metadata.annotations[istio.io/dry-run]",
                               "is neither \"true\" nor \"false\": the policy is enforced"});
  }
  const Node spec = has_spec(reader, node, "AuthorizationPolicy") ? node["spec"] : Node(YAML::NodeType::Map);
  if (!reader.only(spec, "spec", {"selector", "targetRef", "targetRefs", "action", "rules", "provider"}))
    return;
  read_selector(reader, spec, result.selector, result.has_selector);
  for (const Node& item : reader.items(spec["targetRefs"], "spec.targetRefs"))
    result.target_refs.push_back(read_target(reader, item, "spec.targetRefs"));
  if (spec["targetRef"].IsDefined())
    result.target_refs.push_back(read_target(reader, spec["targetRef"], "spec.targetRef"));
  if (spec["action"].IsDefined()) result.action = reader.text(spec["action"], "spec.action");
  constexpr std::array<std::string_view, 4> kActions = {"ALLOW", "DENY", "AUDIT", "CUSTOM"};
  if (std::find(kActions.begin(), kActions.end(), result.action) == kActions.end()) {
    reader.error(spec["action"],
                 fmt::format("spec.action: got '{}', want ALLOW, DENY, AUDIT or CUSTOM", result.action));
  }
  for (const Node& item : reader.sequence(spec["rules"], "spec.rules"))
    result.rules.push_back(read_rule(reader, item));
  objects.authorization_policies.push_back(std::move(result));
}

}  // namespace fairlead::source
