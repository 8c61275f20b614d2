// Objects → what agents need: workloads, services and policies as wire resources, and who may ask for which
// identity. Pure: the same set gives the same result. Semantics: docs of Istio's AuthorizationPolicy and
// PeerAuthentication for L4; where they leave a choice the stricter reading is taken and reported.
#pragma once

#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "authorization.pb.h"
#include "base/spiffe_id.h"
#include "control/model/objects.h"
#include "workload.pb.h"

namespace fairlead::model {

inline constexpr std::string_view kStaticStrict = "istio_converted_static_strict";
inline constexpr std::string_view kPortLevelPrefix = "converted_peer_authentication_";
inline constexpr std::string_view kInPlaceExtension = "fairlead.dev/in-place";
// Its value (a StringValue) lists ports, comma-separated, on which the workload's agent takes no tunnel.
inline constexpr std::string_view kNotInPlaceExtension = "fairlead.dev/not-in-place";

// Of policies (userspace/state/decode.h says what their values mean).
inline constexpr std::string_view kAuditExtension = "fairlead.dev/audit";
inline constexpr std::string_view kTargetsExtension = "fairlead.dev/targets";
inline constexpr std::string_view kNotesExtension = "fairlead.dev/notes";

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

// What is wrong with a set as a whole. An error means that a policy may not say what its author meant: the
// set must not come into force. translate() is safe without it, but then takes the stricter reading of each
// such field.
[[nodiscard]] std::vector<Report> validate(const ObjectSet& objects, const MeshSettings& settings);

[[nodiscard]] Mesh translate(const ObjectSet& objects, const MeshSettings& settings);

}  // namespace fairlead::model
