// Small objects to translate: what a case does not name is as a running pod of a mesh has it.
#pragma once

#include <string>
#include <utility>

#include "control/model/translate.h"

namespace fairlead::model::testing {

inline Meta meta(std::string ns, std::string name, Labels labels = {}) {
  Meta result;
  result.ns = std::move(ns);
  result.name = std::move(name);
  result.labels = std::move(labels);
  result.at = {"test.yaml", 7};
  return result;
}

inline Namespace ambient_namespace(std::string name) {
  return {meta("", std::move(name), {{"istio.io/dataplane-mode", "ambient"}})};
}

inline Pod pod(std::string ns, std::string name, Labels labels = {}, std::string address = "10.244.1.2") {
  Pod result;
  result.meta = meta(std::move(ns), std::move(name), std::move(labels));
  result.node = "node1";
  result.phase = "Running";
  result.addresses = {std::move(address)};
  return result;
}

inline const istio::workload::Workload& workload(const Mesh& mesh, const std::string& uid) {
  static const istio::workload::Workload kNone;
  const auto found = mesh.addresses.find(uid);
  return found == mesh.addresses.end() ? kNone : found->second.workload();
}

}  // namespace fairlead::model::testing
