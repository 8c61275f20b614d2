// Small resources for the tests of this folder: one mesh in namespace "ns".
#pragma once

#include <string>

#include "authorization.pb.h"
#include "base/net_types.h"
#include "workload.pb.h"

namespace fairlead::state {

inline IpAddress ip(const std::string& text) {
  return *IpAddress::parse(text);
}

inline istio::workload::Address workload(const std::string& name, const std::string& address,
                                         bool mesh = true) {
  istio::workload::Address message;
  auto& out = *message.mutable_workload();
  out.set_uid("Kubernetes//Pod/ns/" + name);
  out.set_name(name);
  out.set_namespace_("ns");
  out.set_service_account("sa-" + name);
  out.add_addresses(ip(address).to_octets());
  if (mesh) out.set_tunnel_protocol(istio::workload::HBONE);
  return message;
}

inline std::string service_resource(const std::string& name) {
  return "ns/" + name + ".ns.svc.cluster.local";
}

inline istio::workload::Address service(const std::string& name, const std::string& vip) {
  istio::workload::Address message;
  auto& out = *message.mutable_service();
  out.set_name(name);
  out.set_namespace_("ns");
  out.set_hostname(name + ".ns.svc.cluster.local");
  out.add_addresses()->set_address(ip(vip).to_octets());
  auto& port = *out.add_ports();
  port.set_service_port(80);
  port.set_target_port(8080);
  return message;
}

inline void join(istio::workload::Address& member, const std::string& service_name,
                 uint32_t target_port = 8080) {
  auto& port = *(*member.mutable_workload()->mutable_services())[service_resource(service_name)].add_ports();
  port.set_service_port(80);
  port.set_target_port(target_port);
}

inline istio::security::Authorization deny_all(const std::string& name, istio::security::Scope scope) {
  istio::security::Authorization message;
  message.set_namespace_("ns");
  message.set_name(name);
  message.set_scope(scope);
  message.set_action(istio::security::DENY);
  message.add_rules();
  return message;
}

}  // namespace fairlead::state
