// Manifests as users write them → model objects. Fields of Pods and Services that we do not read are none of
// our business; in the policy kinds (policies_yaml.cc) a field that is not read is an error.
#include <fmt/core.h>

#include <algorithm>

#include "base/documents_yaml.h"
#include "control/source/node_yaml.h"
#include "control/source/source.h"

namespace fairlead::source {
namespace {

using YAML::Node;

constexpr size_t kMaxObjects = 500000;

class Documents {
 public:
  Documents(const std::string& file, model::ObjectSet& objects, std::string& errors)
      : reader_(file, errors), objects_(objects) {}

  void document(const Node& node) {
    if (!node.IsDefined() || node.IsNull()) return;  // nothing between two `---`
    if (kind_of(node) != "List") return object(node);
    for (const Node& item : reader_.sequence(node["items"], "items")) object(item);
  }

 private:
  std::string kind_of(const Node& node) const {
    return node.IsMap() ? reader_.text(node["kind"], "kind") : std::string();
  }

  void object(const Node& node) {
    if (!node.IsMap()) return reader_.error(node, "got no mapping, want a Kubernetes object");
    const std::string kind = kind_of(node);
    if (kind.empty()) return reader_.error(node, "object without 'kind'");
    if (kind == "List") return reader_.error(node, "got a List in a List, want objects");
    if (++count_ > kMaxObjects) return reader_.error(node, fmt::format("more than {} objects", kMaxObjects));
    const std::string version = reader_.text(node["apiVersion"], "apiVersion");
    const bool core = version.empty() || version == "v1";
    // Others have kinds of these names too.
    const bool istio = version.empty() || version.starts_with("security.istio.io/");
    if (kind == "Namespace" && core) {
      objects_.namespaces.push_back({meta(node, false)});
    } else if (kind == "Pod" && core) {
      pod(node);
    } else if (kind == "Service" && core) {
      service(node);
    } else if (kind == "PeerAuthentication" && istio) {
      read_peer_authentication(reader_, node, meta(node, true), objects_);
    } else if (kind == "AuthorizationPolicy" && istio) {
      read_authorization_policy(reader_, node, meta(node, true), objects_);
    } else if (!(kind == "ServiceAccount" && core)) {
      not_read(node, version.empty() ? kind : fmt::format("{} ({})", kind, version));
    }
  }

  // Once for each kind: a directory may hold whole applications.
  void not_read(const Node& node, const std::string& kind) {
    const bool known = std::any_of(objects_.reports.begin(), objects_.reports.end(),
                                   [&](const model::Report& report) { return report.object == kind; });
    if (known) return;
    objects_.reports.push_back({model::Report::Severity::kInfo,
                                kind,
                                reader_.position(node),
                                {},
                                "objects of this kind are not read"});
  }

  model::Meta meta(const Node& node, bool namespaced) const {
    const Node from = reader_.mapping(node["metadata"], "metadata");
    model::Meta result;
    result.at = reader_.position(node);
    result.name = reader_.text(from["name"], "metadata.name");
    if (result.name.empty()) reader_.error(node, "metadata.name is missing");
    result.ns = namespaced ? reader_.text(from["namespace"], "metadata.namespace") : std::string();
    if (namespaced && result.ns.empty()) result.ns = "default";
    result.uid = reader_.text(from["uid"], "metadata.uid");
    result.created = reader_.text(from["creationTimestamp"], "metadata.creationTimestamp");
    result.labels = reader_.labels(from["labels"], "metadata.labels");
    result.annotations = reader_.labels(from["annotations"], "metadata.annotations");
    return result;
  }

  void pod(const Node& node) {
    model::Pod result;
    result.meta = meta(node, true);
    const Node spec = reader_.mapping(node["spec"], "spec");
    result.node = reader_.text(spec["nodeName"], "spec.nodeName");
    const std::string account = reader_.text(spec["serviceAccountName"], "spec.serviceAccountName");
    if (!account.empty()) result.service_account = account;
    result.host_network = reader_.boolean(spec["hostNetwork"], "spec.hostNetwork");
    for (const Node& container : reader_.sequence(spec["containers"], "spec.containers"))
      container_ports(container, result);
    for (const Node& container : reader_.sequence(spec["initContainers"], "spec.initContainers")) {
      // Only those that stay beside the others serve.
      if (container.IsMap() && reader_.text(container["restartPolicy"], "restartPolicy") == "Always")
        container_ports(container, result);
    }
    pod_status(reader_.mapping(node["status"], "status"), result);
    objects_.pods.push_back(std::move(result));
  }

  void container_ports(const Node& node, model::Pod& into) const {
    const Node container = reader_.mapping(node, "container");
    for (const Node& entry : reader_.sequence(container["ports"], "ports")) {
      const Node item = reader_.mapping(entry, "ports");
      if (!is_tcp(item)) continue;
      into.ports.push_back({reader_.text(item["name"], "ports.name"),
                            reader_.port(item["containerPort"], "ports.containerPort")});
    }
  }

  bool is_tcp(const Node& port) const {
    const std::string protocol = reader_.text(port["protocol"], "protocol");
    return protocol.empty() || protocol == "TCP";
  }

  void pod_status(const Node& status, model::Pod& into) const {
    into.phase = reader_.text(status["phase"], "status.phase");
    for (const Node& item : reader_.sequence(status["podIPs"], "status.podIPs")) {
      into.addresses.push_back(
          reader_.text(reader_.mapping(item, "status.podIPs")["ip"], "status.podIPs.ip"));
    }
    const std::string single = reader_.text(status["podIP"], "status.podIP");
    if (into.addresses.empty() && !single.empty()) into.addresses.push_back(single);
    for (const Node& entry : reader_.sequence(status["conditions"], "status.conditions")) {
      const Node item = reader_.mapping(entry, "status.conditions");
      if (reader_.text(item["type"], "type") == "Ready")
        into.ready = reader_.text(item["status"], "status") == "True";
    }
  }

  void service(const Node& node) {
    model::Service result;
    result.meta = meta(node, true);
    const Node spec = reader_.mapping(node["spec"], "spec");
    const std::string type = reader_.text(spec["type"], "spec.type");
    if (!type.empty()) result.type = type;
    result.selector = reader_.labels(spec["selector"], "spec.selector");
    for (const Node& item : reader_.sequence(spec["clusterIPs"], "spec.clusterIPs")) {
      result.cluster_addresses.push_back(reader_.text(item, "spec.clusterIPs"));
    }
    if (result.cluster_addresses.empty())
      result.cluster_addresses.push_back(reader_.text(spec["clusterIP"], "spec.clusterIP"));
    std::erase_if(result.cluster_addresses,
                  [](const std::string& address) { return address == "None" || address.empty(); });
    for (const Node& item : reader_.sequence(spec["ports"], "spec.ports"))
      service_port(reader_.mapping(item, "spec.ports"), result);
    objects_.services.push_back(std::move(result));
  }

  void service_port(const Node& item, model::Service& into) const {
    if (!is_tcp(item)) return;
    model::ServicePort result;
    result.port = reader_.port(item["port"], "spec.ports.port");
    const std::string target = reader_.text(item["targetPort"], "spec.ports.targetPort");
    if (target.empty()) {
      result.target = result.port;
    } else if (target.find_first_not_of("0123456789") == std::string::npos) {
      result.target = reader_.port(item["targetPort"], "spec.ports.targetPort");
    } else {
      result.target_name = target;
    }
    into.ports.push_back(std::move(result));
  }

  NodeReader reader_;
  model::ObjectSet& objects_;
  size_t count_ = 0;
};

}  // namespace

void read_manifests(const std::string& file, const std::string& content, model::ObjectSet& objects,
                    std::string& errors) {
  try {
    Documents documents(file, objects, errors);
    for (const Node& document : load_documents(content)) documents.document(document);
  } catch (const YAML::Exception& broken) {
    errors += fmt::format("{}{}:{}: {}", errors.empty() ? "" : "\n", file, broken.mark.line + 1, broken.msg);
  }
}

}  // namespace fairlead::source
