#include "control/model/translate.h"

#include <google/protobuf/wrappers.pb.h>

#include <algorithm>

#include "base/net_types.h"
#include "control/model/parts.h"

namespace fairlead::model {
namespace {

constexpr std::string_view kModeLabel = "istio.io/dataplane-mode";
constexpr std::string_view kSidecarAnnotation = "sidecar.istio.io/status";
constexpr std::string_view kTunnelAnnotation = "fairlead.dev/tunnel";
constexpr std::string_view kExcludeInboundAnnotation = "traffic.sidecar.istio.io/excludeInboundPorts";
constexpr std::string_view kExcludedNamespace = "kube-system";

std::string hostname_of(std::string_view ns, std::string_view name, const MeshSettings& settings) {
  return fmt::format("{}.{}.svc.{}", name, ns, settings.cluster_domain);
}

bool is_running(const Pod& pod) {
  return pod.phase != "Succeeded" && pod.phase != "Failed" && !pod.addresses.empty();
}

// A pod of which nobody says whether it is ready (manifests written by hand) is, once it runs.
bool is_healthy(const Pod& pod) {
  return pod.ready.value_or(pod.phase != "Pending");
}

// 0: the pod has no port of that name.
uint16_t resolve_target(const ServicePort& port, const Pod& pod) {
  if (port.target != 0) return port.target;
  const auto named = std::find_if(pod.ports.begin(), pod.ports.end(), [&](const ContainerPort& candidate) {
    return candidate.name == port.target_name;
  });
  return named == pod.ports.end() ? 0 : named->port;
}

}  // namespace

bool is_served(const Service& service) {
  return service.type != "ExternalName" && !service.selector.empty() && !service.ports.empty();
}

bool is_enrolled(const Pod& pod, const Index& index) {
  if (pod.host_network || pod.meta.ns == kExcludedNamespace) return false;
  if (!value_of(pod.meta.annotations, kSidecarAnnotation).empty()) return false;  // it speaks mTLS for itself
  const std::string own = value_of(pod.meta.labels, kModeLabel);
  if (own == "ambient" || own == "none") return own == "ambient";
  const auto ns = index.namespaces.find(pod.meta.ns);
  return ns != index.namespaces.end() && value_of(ns->second->meta.labels, kModeLabel) == "ambient";
}

bool is_behind(const Pod& pod, const Service& service) {
  return is_served(service) && selects(service.selector, pod.meta.labels) &&
         std::any_of(service.ports.begin(), service.ports.end(),
                     [&](const ServicePort& port) { return resolve_target(port, pod) != 0; });
}

std::string service_resource(std::string_view ns, std::string_view name, const MeshSettings& settings) {
  return fmt::format("{}/{}", ns, hostname_of(ns, name, settings));
}

namespace {

class Translation {
 public:
  Translation(const ObjectSet& objects, const MeshSettings& settings)
      : objects_(objects), settings_(settings), index_(objects) {}

  Mesh run() {
    mesh_.reports = objects_.reports;
    translate_policies(objects_, index_, settings_, mesh_);
    report_peer_authentications(objects_, index_, settings_, mesh_);
    for (const Pod& pod : objects_.pods) {
      if (is_running(pod)) add_workload(pod);
    }
    for (const Service& service : objects_.services) {
      if (is_served(service)) add_service(service);
    }
    return std::move(mesh_);
  }

 private:
  // What is left out must not be reached in plaintext by mistake either: the report is an error, not a
  // remark.
  void leave_out(std::string_view kind, const Meta& meta, std::string field, const std::string& why) {
    mesh_.reports.push_back(
        {Report::Severity::kError, object_name(kind, meta), meta.at, std::move(field), why + ": left out"});
  }

  // Ports that the pod excludes from capture: a tunnel on them would meet the application. Peers take port
  // 15008 instead.
  void add_excluded_ports(const Pod& pod, istio::workload::Workload& workload) {
    const std::string ports = value_of(pod.meta.annotations, kExcludeInboundAnnotation);
    if (ports.empty()) return;
    auto& extension = *workload.add_extensions();
    extension.set_name(std::string(kNotInPlaceExtension));
    google::protobuf::StringValue value;
    value.set_value(ports);
    extension.mutable_config()->PackFrom(value);
  }

  void add_workload(const Pod& pod) {
    istio::workload::Address message;
    auto& workload = *message.mutable_workload();
    const auto id = SpiffeId::make(settings_.trust_domain, pod.meta.ns, pod.service_account);
    if (!id) return leave_out("Pod", pod.meta, "spec.serviceAccountName", id.error().text());
    for (const std::string& text : pod.addresses) {
      const auto address = IpAddress::parse(text);
      if (!address) return leave_out("Pod", pod.meta, "status.podIPs", address.error().text());
      workload.add_addresses(address->to_octets());
    }
    describe(pod, workload);
    add_services(pod, workload);
    if (is_enrolled(pod, index_)) enrol(pod, *id, workload);
    mesh_.addresses[workload.uid()] = std::move(message);
  }

  void describe(const Pod& pod, istio::workload::Workload& workload) const {
    workload.set_uid(fmt::format("{}//Pod/{}/{}", settings_.cluster_id, pod.meta.ns, pod.meta.name));
    workload.set_name(pod.meta.name);
    workload.set_namespace_(pod.meta.ns);
    // The defaults of the protocol go unsaid.
    if (settings_.trust_domain != "cluster.local") workload.set_trust_domain(settings_.trust_domain);
    if (pod.service_account != "default") workload.set_service_account(pod.service_account);
    if (settings_.cluster_id != "Kubernetes") workload.set_cluster_id(settings_.cluster_id);
    workload.set_node(pod.node);
    const std::string canonical = value_of(pod.meta.labels, "service.istio.io/canonical-name");
    const std::string app = value_of(pod.meta.labels, "app");
    workload.set_canonical_name(!canonical.empty() ? canonical : !app.empty() ? app : pod.meta.name);
    workload.set_canonical_revision(value_of(pod.meta.labels, "version"));
    workload.set_workload_type(istio::workload::POD);
    workload.set_workload_name(pod.meta.name);
    workload.set_status(is_healthy(pod) ? istio::workload::HEALTHY : istio::workload::UNHEALTHY);
    if (pod.host_network) workload.set_network_mode(istio::workload::HOST_NETWORK);
  }

  void add_services(const Pod& pod, istio::workload::Workload& workload) {
    for (const Service* service : Index::of(index_.services, pod.meta.ns)) {
      if (!is_served(*service) || !selects(service->selector, pod.meta.labels)) continue;
      istio::workload::PortList list;
      for (const ServicePort& port : service->ports) {
        const uint16_t target = resolve_target(port, pod);
        if (target == 0) continue;
        auto* entry = list.add_ports();
        entry->set_service_port(port.port);
        entry->set_target_port(target);
      }
      (*workload.mutable_services())[service_resource(service->meta.ns, service->meta.name, settings_)] =
          list;
    }
  }

  void enrol(const Pod& pod, const SpiffeId& id, istio::workload::Workload& workload) {
    workload.set_tunnel_protocol(istio::workload::HBONE);
    if (value_of(pod.meta.annotations, kTunnelAnnotation) != "15008") {
      workload.add_extensions()->set_name(std::string(kInPlaceExtension));
      add_excluded_ports(pod, workload);
    }
    for (std::string& name : attached_policies_of(pod, index_, settings_, mesh_)) {
      workload.add_authorization_policies(std::move(name));
    }
    std::string plaintext = plaintext_policy_of(pod, index_, settings_, mesh_);
    if (!plaintext.empty()) workload.add_authorization_policies(std::move(plaintext));
    mesh_.identities_by_node[pod.node].insert(id);
  }

  void add_service(const Service& service) {
    istio::workload::Address message;
    auto& out = *message.mutable_service();
    out.set_name(service.meta.name);
    out.set_namespace_(service.meta.ns);
    out.set_hostname(hostname_of(service.meta.ns, service.meta.name, settings_));
    for (const std::string& text : service.cluster_addresses) {
      const auto address = IpAddress::parse(text);
      if (!address) return leave_out("Service", service.meta, "spec.clusterIPs", address.error().text());
      out.add_addresses()->set_address(address->to_octets());
    }
    for (const ServicePort& port : service.ports) {
      auto* entry = out.add_ports();
      entry->set_service_port(port.port);
      entry->set_target_port(port.target);  // 0: each workload says where
    }
    mesh_.addresses[service_resource(service.meta.ns, service.meta.name, settings_)] = std::move(message);
  }

  const ObjectSet& objects_;
  const MeshSettings& settings_;
  Index index_;
  Mesh mesh_;
};

}  // namespace

Mesh translate(const ObjectSet& objects, const MeshSettings& settings) {
  return Translation(objects, settings).run();
}

}  // namespace fairlead::model
