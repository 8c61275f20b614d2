// Manifests as users write them → model objects. Fields of Pods and Services that we do not read are none of our business;
// in the policy kinds an unknown field could change who is let in, so it is an error.
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <set>

#include "base/net_types.h"
#include "control/source/source.h"

namespace fairlead::source {
namespace {

using model::Labels;
using YAML::Node;

class Reader {
 public:
  Reader(const std::string& file, model::ObjectSet& objects, std::string& errors) : file_(file), objects_(objects), errors_(errors) {}

  void document(const Node& node) {
    if (!node.IsDefined() || node.IsNull()) return;
    if (!node.IsMap()) return error(node, "want a Kubernetes object");
    const std::string kind = scalar(node["kind"]);
    if (kind.empty()) return error(node, "object without 'kind'");
    if (kind == "List") {
      for (const Node& item : node["items"]) document(item);
    } else if (kind == "Namespace") {
      objects_.namespaces.push_back({meta(node, false)});
    } else if (kind == "Pod") {
      pod(node);
    } else if (kind == "Service") {
      service(node);
    } else if (kind == "PeerAuthentication") {
      peer_authentication(node);
    } else if (kind == "AuthorizationPolicy") {
      authorization_policy(node);
    }  // other kinds are not ours
  }

  void error(const Node& at, const std::string& text) {
    errors_ += fmt::format("{}{}:{}: {}", errors_.empty() ? "" : "\n", file_, line(at), text);
  }

 private:
  static int line(const Node& node) { return node.IsDefined() ? node.Mark().line + 1 : 0; }
  model::Position position(const Node& node) const { return {file_, line(node)}; }
  static std::string scalar(const Node& node) { return node.IsDefined() && node.IsScalar() ? node.Scalar() : std::string(); }

  std::string text(const Node& node, const std::string& what) {
    if (!node.IsDefined() || node.IsNull()) return {};
    if (!node.IsScalar()) error(node, what + ": want a string");
    return scalar(node);
  }

  Labels labels(const Node& node, const std::string& what) {
    Labels result;
    if (!node.IsDefined() || node.IsNull()) return result;
    if (!node.IsMap()) {
      error(node, what + ": want a mapping of strings");
      return result;
    }
    for (const auto& item : node) result[item.first.Scalar()] = text(item.second, what + "." + item.first.Scalar());
    return result;
  }

  std::vector<std::string> strings(const Node& node, const std::string& what) {
    std::vector<std::string> list;
    if (!node.IsDefined() || node.IsNull()) return list;
    if (!node.IsSequence()) {
      error(node, what + ": want a list of strings");
      return list;
    }
    for (const Node& item : node) list.push_back(text(item, what));
    return list;
  }

  uint16_t port(const Node& node, const std::string& what) {
    const auto number = parse_number(scalar(node), 65535);
    if (!number || *number == 0) {
      error(node, fmt::format("{}: '{}' is not a port, want 1 to 65535", what, scalar(node)));
      return 0;
    }
    return static_cast<uint16_t>(*number);
  }

  std::vector<uint16_t> ports(const Node& node, const std::string& what) {
    std::vector<uint16_t> list;
    if (!node.IsDefined() || node.IsNull()) return list;
    if (!node.IsSequence()) {
      error(node, what + ": want a list of ports");
      return list;
    }
    for (const Node& item : node) list.push_back(port(item, what));
    return list;
  }

  // Every key of `node` must be one of `known`.
  bool only(const Node& node, const std::string& what, const std::set<std::string>& known) {
    if (!node.IsDefined() || node.IsNull()) return true;
    if (!node.IsMap()) {
      error(node, what + ": want a mapping");
      return false;
    }
    bool good = true;
    for (const auto& item : node) {
      if (known.contains(item.first.Scalar())) continue;
      std::string list;
      for (const std::string& name : known) list += (list.empty() ? "" : ", ") + name;
      error(item.first, fmt::format("{}: unknown field '{}', want one of: {}", what, item.first.Scalar(), list));
      good = false;
    }
    return good;
  }

  model::Meta meta(const Node& node, bool namespaced) {
    const Node from = node["metadata"];
    model::Meta result;
    result.at = position(node);
    if (!from.IsDefined() || !from.IsMap()) {
      error(node, "object without 'metadata'");
      return result;
    }
    result.name = text(from["name"], "metadata.name");
    if (result.name.empty()) error(from, "metadata.name is missing");
    result.ns = namespaced ? text(from["namespace"], "metadata.namespace") : std::string();
    if (namespaced && result.ns.empty()) result.ns = "default";
    result.uid = text(from["uid"], "metadata.uid");
    result.created = text(from["creationTimestamp"], "metadata.creationTimestamp");
    result.labels = labels(from["labels"], "metadata.labels");
    result.annotations = labels(from["annotations"], "metadata.annotations");
    return result;
  }

  void pod(const Node& node) {
    model::Pod result;
    result.meta = meta(node, true);
    const Node spec = node["spec"];
    const Node status = node["status"];
    if (spec.IsDefined()) {
      result.node = text(spec["nodeName"], "spec.nodeName");
      const std::string account = text(spec["serviceAccountName"], "spec.serviceAccountName");
      if (!account.empty()) result.service_account = account;
      result.host_network = scalar(spec["hostNetwork"]) == "true";
      for (const Node& container : spec["containers"]) {
        for (const Node& item : container["ports"]) {
          result.ports.push_back({scalar(item["name"]), port(item["containerPort"], "containerPort")});
        }
      }
    }
    if (status.IsDefined() && status.IsMap()) {
      result.phase = text(status["phase"], "status.phase");
      for (const Node& item : status["podIPs"]) result.addresses.push_back(text(item["ip"], "status.podIPs"));
      if (result.addresses.empty() && status["podIP"]) result.addresses.push_back(text(status["podIP"], "status.podIP"));
    }
    objects_.pods.push_back(std::move(result));
  }

  void service(const Node& node) {
    model::Service result;
    result.meta = meta(node, true);
    const Node spec = node["spec"];
    if (spec.IsDefined() && spec.IsMap()) {
      if (spec["type"]) result.type = text(spec["type"], "spec.type");
      result.selector = labels(spec["selector"], "spec.selector");
      result.cluster_addresses = strings(spec["clusterIPs"], "spec.clusterIPs");
      const std::string single = text(spec["clusterIP"], "spec.clusterIP");
      if (result.cluster_addresses.empty() && !single.empty()) result.cluster_addresses.push_back(single);
      std::erase_if(result.cluster_addresses, [](const std::string& address) { return address == "None" || address.empty(); });
      for (const Node& item : spec["ports"]) service_port(item, result);
    }
    objects_.services.push_back(std::move(result));
  }

  void service_port(const Node& item, model::Service& into) {
    const std::string protocol = scalar(item["protocol"]);
    if (!protocol.empty() && protocol != "TCP") return;
    model::ServicePort result;
    result.port = port(item["port"], "spec.ports.port");
    const std::string target = scalar(item["targetPort"]);
    if (target.empty()) {
      result.target = result.port;
    } else if (target.find_first_not_of("0123456789") == std::string::npos) {
      result.target = port(item["targetPort"], "spec.ports.targetPort");
    } else {
      result.target_name = target;
    }
    into.ports.push_back(std::move(result));
  }

  void read_selector(const Node& spec, Labels& selector, bool& has_selector) {
    const Node node = spec["selector"];
    if (!node.IsDefined() || !only(node, "spec.selector", {"matchLabels"})) return;
    selector = labels(node["matchLabels"], "spec.selector.matchLabels");
    has_selector = !selector.empty();
  }

  model::MtlsMode mode(const Node& node, const std::string& what) {
    const std::string name = text(node["mode"], what + ".mode");
    if (!only(node, what, {"mode"}) || name.empty() || name == "UNSET") return model::MtlsMode::kUnset;
    if (name == "STRICT") return model::MtlsMode::kStrict;
    if (name == "PERMISSIVE") return model::MtlsMode::kPermissive;
    if (name == "DISABLE") return model::MtlsMode::kDisable;
    error(node, fmt::format("{}.mode: '{}', want STRICT, PERMISSIVE, DISABLE or UNSET", what, name));
    return model::MtlsMode::kUnset;
  }

  void peer_authentication(const Node& node) {
    model::PeerAuthentication result;
    result.meta = meta(node, true);
    const Node spec = node["spec"];
    if (!only(spec, "spec", {"selector", "mtls", "portLevelMtls"})) return;
    if (spec.IsDefined() && spec.IsMap()) {
      read_selector(spec, result.selector, result.has_selector);
      if (spec["mtls"]) result.mode = mode(spec["mtls"], "spec.mtls");
      for (const auto& item : spec["portLevelMtls"]) {
        result.ports[port(item.first, "spec.portLevelMtls")] = mode(item.second, "spec.portLevelMtls");
      }
      if (!result.ports.empty() && !result.has_selector) error(spec["portLevelMtls"], "spec.portLevelMtls wants a selector");
    }
    objects_.peer_authentications.push_back(std::move(result));
  }

  void authorization_policy(const Node& node) {
    model::AuthorizationPolicy result;
    result.meta = meta(node, true);
    const Node spec = node["spec"];
    if (!only(spec, "spec", {"selector", "targetRef", "targetRefs", "action", "rules", "provider"})) return;
    const auto dry_run = result.meta.annotations.find("istio.io/dry-run");
    result.dry_run = dry_run != result.meta.annotations.end() && dry_run->second == "true";
    if (spec.IsDefined() && spec.IsMap()) {
      read_selector(spec, result.selector, result.has_selector);
      result.has_target_refs = spec["targetRefs"].IsDefined() || spec["targetRef"].IsDefined();
      if (spec["action"]) result.action = text(spec["action"], "spec.action");
      static const std::set<std::string> kActions = {"ALLOW", "DENY", "AUDIT", "CUSTOM"};
      if (!kActions.contains(result.action)) error(spec["action"], "spec.action: want ALLOW, DENY, AUDIT or CUSTOM");
      for (const Node& item : spec["rules"]) rule(item, result);
    }
    objects_.authorization_policies.push_back(std::move(result));
  }

  void rule(const Node& node, model::AuthorizationPolicy& into) {
    if (!only(node, "rule", {"from", "to", "when"})) return;
    model::PolicyRule result;
    result.at = position(node);
    for (const Node& item : node["from"]) {
      if (only(item, "from", {"source"})) result.from.push_back(policy_source(item["source"]));
    }
    for (const Node& item : node["to"]) {
      if (only(item, "to", {"operation"})) result.to.push_back(policy_operation(item["operation"]));
    }
    for (const Node& item : node["when"]) {
      if (!only(item, "when", {"key", "values", "notValues"})) continue;
      result.when.push_back({text(item["key"], "when.key"), strings(item["values"], "when.values"),
                             strings(item["notValues"], "when.notValues"), position(item)});
    }
    into.rules.push_back(std::move(result));
  }

  model::PolicySource policy_source(const Node& node) {
    static const std::set<std::string> kHttp = {"requestPrincipals", "notRequestPrincipals", "remoteIpBlocks", "notRemoteIpBlocks"};
    std::set<std::string> known = {"principals", "notPrincipals", "namespaces", "notNamespaces", "ipBlocks", "notIpBlocks",
                                   "serviceAccounts", "notServiceAccounts"};
    known.insert(kHttp.begin(), kHttp.end());
    model::PolicySource result;
    if (!only(node, "source", known) || !node.IsDefined() || !node.IsMap()) return result;
    result.principals = strings(node["principals"], "principals");
    result.not_principals = strings(node["notPrincipals"], "notPrincipals");
    result.namespaces = strings(node["namespaces"], "namespaces");
    result.not_namespaces = strings(node["notNamespaces"], "notNamespaces");
    result.service_accounts = strings(node["serviceAccounts"], "serviceAccounts");
    result.not_service_accounts = strings(node["notServiceAccounts"], "notServiceAccounts");
    result.ip_blocks = ranges(node["ipBlocks"], "ipBlocks");
    result.not_ip_blocks = ranges(node["notIpBlocks"], "notIpBlocks");
    result.needs_http = std::any_of(kHttp.begin(), kHttp.end(), [&](const std::string& key) { return node[key].IsDefined(); });
    return result;
  }

  std::vector<std::string> ranges(const Node& node, const std::string& what) {
    std::vector<std::string> list = strings(node, what);
    for (const std::string& range : list) {
      const auto parsed = Cidr::parse(range);
      if (!parsed) error(node, fmt::format("{}: {}", what, parsed.error().text()));
    }
    return list;
  }

  model::PolicyOperation policy_operation(const Node& node) {
    static const std::set<std::string> kHttp = {"hosts", "notHosts", "methods", "notMethods", "paths", "notPaths"};
    std::set<std::string> known = {"ports", "notPorts"};
    known.insert(kHttp.begin(), kHttp.end());
    model::PolicyOperation result;
    if (!only(node, "operation", known) || !node.IsDefined() || !node.IsMap()) return result;
    result.ports = ports(node["ports"], "ports");
    result.not_ports = ports(node["notPorts"], "notPorts");
    result.needs_http = std::any_of(kHttp.begin(), kHttp.end(), [&](const std::string& key) { return node[key].IsDefined(); });
    return result;
  }

  const std::string& file_;
  model::ObjectSet& objects_;
  std::string& errors_;
};

}  // namespace

void read_manifests(const std::string& file, const std::string& content, model::ObjectSet& objects, std::string& errors) {
  try {
    Reader reader(file, objects, errors);
    for (const Node& document : YAML::LoadAll(content)) reader.document(document);
  } catch (const YAML::Exception& broken) {
    errors += fmt::format("{}{}:{}: {}", errors.empty() ? "" : "\n", file, broken.mark.line + 1, broken.msg);
  }
}

}  // namespace fairlead::source
