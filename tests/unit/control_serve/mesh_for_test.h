// A small mesh to serve, changed by hand.
#pragma once

#include <string>

#include "control/model/translate.h"

namespace fairlead::serve::testing {

inline std::string uid(const std::string& name) {
  return "Kubernetes//Pod/shop/" + name;
}

// `last` is the last octet of its address.
inline void add_workload(model::Mesh& mesh, const std::string& name, char last,
                         const std::string& service = {}) {
  auto& workload = *mesh.addresses[uid(name)].mutable_workload();
  workload.set_uid(uid(name));
  workload.set_name(name);
  workload.set_namespace_("shop");
  workload.clear_addresses();
  workload.add_addresses(std::string("\x0a\0\0", 3) + last);
  workload.clear_services();
  if (!service.empty()) (*workload.mutable_services())[service].add_ports()->set_service_port(80);
}

inline void add_service(model::Mesh& mesh, const std::string& key, char last) {
  auto& service = *mesh.addresses[key].mutable_service();
  service.set_name(key);
  service.clear_addresses();
  service.add_addresses()->set_address(std::string("\x0a\x60\0", 3) + last);
}

inline void add_policy(model::Mesh& mesh, const std::string& name, bool deny = false) {
  auto& policy = mesh.policies["shop/" + name];
  policy.set_namespace_("shop");
  policy.set_name(name);
  policy.set_action(deny ? istio::security::DENY : istio::security::ALLOW);
}

}  // namespace fairlead::serve::testing
