// Objects → what agents need: workloads, services and policies as wire resources, and who may ask for which identity.
// Pure: the same set gives the same result. Semantics: docs of Istio's AuthorizationPolicy and PeerAuthentication for L4;
// where they leave a choice the stricter reading is taken and reported.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "authorization.pb.h"
#include "base/spiffe_id.h"
#include "control/model/objects.h"
#include "workload.pb.h"

namespace fairlead::model {

struct MeshSettings {
  std::string trust_domain = "cluster.local";
  std::string cluster_domain = "cluster.local";
  std::string cluster_id = "Kubernetes";
  std::string root_namespace = "istio-system";
};

struct Mesh {
  std::map<std::string, istio::workload::Address> addresses;       // by resource name
  std::map<std::string, istio::security::Authorization> policies;  // by "ns/name"
  std::map<std::string, std::set<SpiffeId>> identities_by_node;    // of enrolled pods
  std::vector<Report> reports;
};

Mesh translate(const ObjectSet& objects, const MeshSettings& settings);

// Shared by the parts of the translation.
[[nodiscard]] bool selects(const Labels& selector, const Labels& labels);
[[nodiscard]] bool is_enrolled(const Pod& pod, const ObjectSet& objects);
inline constexpr std::string_view kStaticStrict = "istio_converted_static_strict";
inline constexpr std::string_view kInPlaceExtension = "fairlead.dev/in-place";

// policies.cc
void translate_policies(const ObjectSet& objects, const MeshSettings& settings, Mesh& mesh);
// The names of the selector policies, and of those made of PeerAuthentications, that apply to a pod; adds the latter to
// `mesh.policies`.
std::vector<std::string> policies_of(const Pod& pod, const ObjectSet& objects, const MeshSettings& settings, Mesh& mesh);

}  // namespace fairlead::model
