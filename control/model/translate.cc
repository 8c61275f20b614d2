#include "control/model/translate.h"

#include <algorithm>

#include "base/net_types.h"

namespace fairlead::model {
namespace {

constexpr std::string_view kModeLabel = "istio.io/dataplane-mode";
constexpr std::string_view kTunnelAnnotation = "fairlead.dev/tunnel";

std::string label(const Labels& labels, std::string_view key) {
  const auto found = labels.find(std::string(key));
  return found == labels.end() ? std::string() : found->second;
}

std::string hostname_of(const Service& service, const MeshSettings& settings) {
  return fmt::format("{}.{}.svc.{}", service.meta.name, service.meta.ns, settings.cluster_domain);
}

bool is_served(const Service& service) { return service.type != "ExternalName" && !service.selector.empty() && !service.ports.empty(); }

bool is_running(const Pod& pod) { return pod.phase != "Succeeded" && pod.phase != "Failed" && !pod.addresses.empty(); }

// 0: the pod has no port of that name.
uint16_t resolve_target(const ServicePort& port, const Pod& pod) {
  if (port.target != 0) return port.target;
  const auto named = std::find_if(pod.ports.begin(), pod.ports.end(),
                                  [&](const ContainerPort& candidate) { return candidate.name == port.target_name; });
  return named == pod.ports.end() ? 0 : named->port;
}

void add_services(const Pod& pod, const ObjectSet& objects, const MeshSettings& settings, istio::workload::Workload& workload) {
  for (const Service& service : objects.services) {
    if (service.meta.ns != pod.meta.ns || !is_served(service) || !selects(service.selector, pod.meta.labels)) continue;
    istio::workload::PortList list;
    for (const ServicePort& port : service.ports) {
      const uint16_t target = resolve_target(port, pod);
      if (target == 0) continue;
      auto* entry = list.add_ports();
      entry->set_service_port(port.port);
      entry->set_target_port(target);
    }
    (*workload.mutable_services())[service.meta.ns + "/" + hostname_of(service, settings)] = list;
  }
}

bool add_addresses(const Pod& pod, istio::workload::Workload& workload, Mesh& mesh) {
  for (const std::string& text : pod.addresses) {
    const auto address = IpAddress::parse(text);
    if (!address) {
      mesh.reports.push_back({Report::Severity::kError, "Pod " + pod.meta.ns + "/" + pod.meta.name, pod.meta.at,
                              address.error().text()});
      return false;
    }
    workload.add_addresses(address->to_octets());
  }
  return true;
}

void add_workload(const Pod& pod, const ObjectSet& objects, const MeshSettings& settings, Mesh& mesh) {
  istio::workload::Address message;
  auto& workload = *message.mutable_workload();
  workload.set_uid(fmt::format("{}//Pod/{}/{}", settings.cluster_id, pod.meta.ns, pod.meta.name));
  workload.set_name(pod.meta.name);
  workload.set_namespace_(pod.meta.ns);
  if (!add_addresses(pod, workload, mesh)) return;
  // The defaults of the protocol go unsaid.
  if (settings.trust_domain != "cluster.local") workload.set_trust_domain(settings.trust_domain);
  if (pod.service_account != "default") workload.set_service_account(pod.service_account);
  if (settings.cluster_id != "Kubernetes") workload.set_cluster_id(settings.cluster_id);
  workload.set_node(pod.node);
  const std::string canonical = label(pod.meta.labels, "service.istio.io/canonical-name");
  const std::string app = label(pod.meta.labels, "app");
  workload.set_canonical_name(!canonical.empty() ? canonical : !app.empty() ? app : pod.meta.name);
  workload.set_canonical_revision(label(pod.meta.labels, "version"));
  workload.set_workload_type(istio::workload::POD);
  workload.set_workload_name(pod.meta.name);
  if (pod.host_network) workload.set_network_mode(istio::workload::HOST_NETWORK);
  add_services(pod, objects, settings, workload);
  if (is_enrolled(pod, objects)) {
    workload.set_tunnel_protocol(istio::workload::HBONE);
    if (label(pod.meta.annotations, kTunnelAnnotation) != "15008") workload.add_extensions()->set_name(std::string(kInPlaceExtension));
    for (const std::string& name : policies_of(pod, objects, settings, mesh)) workload.add_authorization_policies(name);
    auto id = SpiffeId::make(settings.trust_domain, pod.meta.ns, pod.service_account);
    if (id) mesh.identities_by_node[pod.node].insert(std::move(*id));
  }
  mesh.addresses[workload.uid()] = std::move(message);
}

void add_service(const Service& service, const MeshSettings& settings, Mesh& mesh) {
  istio::workload::Address message;
  auto& out = *message.mutable_service();
  out.set_name(service.meta.name);
  out.set_namespace_(service.meta.ns);
  out.set_hostname(hostname_of(service, settings));
  for (const std::string& text : service.cluster_addresses) {
    const auto address = IpAddress::parse(text);
    if (!address) {
      mesh.reports.push_back({Report::Severity::kError, "Service " + service.meta.ns + "/" + service.meta.name,
                              service.meta.at, address.error().text()});
      return;
    }
    out.add_addresses()->set_address(address->to_octets());
  }
  for (const ServicePort& port : service.ports) {
    auto* entry = out.add_ports();
    entry->set_service_port(port.port);
    entry->set_target_port(port.target);
  }
  mesh.addresses[service.meta.ns + "/" + out.hostname()] = std::move(message);
}

}  // namespace

bool selects(const Labels& selector, const Labels& labels) {
  return std::all_of(selector.begin(), selector.end(), [&](const auto& wanted) {
    const auto found = labels.find(wanted.first);
    return found != labels.end() && found->second == wanted.second;
  });
}

bool is_enrolled(const Pod& pod, const ObjectSet& objects) {
  if (pod.host_network || pod.meta.ns == "kube-system") return false;
  const std::string own = label(pod.meta.labels, kModeLabel);
  if (!own.empty()) return own == "ambient";
  const auto ns = std::find_if(objects.namespaces.begin(), objects.namespaces.end(),
                               [&](const Namespace& candidate) { return candidate.meta.name == pod.meta.ns; });
  return ns != objects.namespaces.end() && label(ns->meta.labels, kModeLabel) == "ambient";
}

Mesh translate(const ObjectSet& objects, const MeshSettings& settings) {
  Mesh mesh;
  translate_policies(objects, settings, mesh);
  for (const Pod& pod : objects.pods) {
    if (is_running(pod)) add_workload(pod, objects, settings, mesh);
  }
  for (const Service& service : objects.services) {
    if (is_served(service)) add_service(service, settings, mesh);
  }
  return mesh;
}

}  // namespace fairlead::model
