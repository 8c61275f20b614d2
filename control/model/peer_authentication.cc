// PeerAuthentication → a policy that denies connections without a verified principal. Levels, each overriding
// the one before unless it is UNSET: mesh (root namespace, no selector) < namespace < workload < port.
#include <fmt/core.h>

#include "control/model/parts.h"

namespace fairlead::model {
namespace {

using istio::security::Authorization;
using istio::security::Match;

struct Levels {
  const PeerAuthentication* mesh = nullptr;
  const PeerAuthentication* ns = nullptr;
  const PeerAuthentication* workload = nullptr;

  // DISABLE asks for plaintext only, which a mesh pod never insists on: read as PERMISSIVE.
  [[nodiscard]] bool strict() const {
    MtlsMode mode = MtlsMode::kUnset;
    for (const auto* level : {mesh, ns, workload}) {
      if (level != nullptr && level->mode != MtlsMode::kUnset) mode = level->mode;
    }
    return mode == MtlsMode::kStrict;
  }
};

// The oldest of each level. A selector in the root namespace selects pods of that namespace only.
Levels levels_of(const Pod& pod, const Index& index, const MeshSettings& settings) {
  Levels levels;
  for (const auto* peer : Index::of(index.peer_authentications, settings.root_namespace)) {
    if (!peer->has_selector && levels.mesh == nullptr) levels.mesh = peer;
  }
  for (const auto* peer : Index::of(index.peer_authentications, pod.meta.ns)) {
    if (!peer->has_selector && levels.ns == nullptr) levels.ns = peer;
    if (peer->has_selector && levels.workload == nullptr && selects(peer->selector, pod.meta.labels))
      levels.workload = peer;
  }
  return levels;
}

Authorization deny_plaintext(const std::string& ns, std::string name) {
  Authorization policy;
  policy.set_namespace_(ns);
  policy.set_name(std::move(name));
  policy.set_scope(istio::security::WORKLOAD_SELECTOR);
  policy.set_action(istio::security::DENY);
  (void)policy.add_rules()->add_clauses()->add_matches()->add_not_principals()->mutable_presence();
  return policy;
}

// The ports whose mode differs from the pod's own; false: there are none.
bool add_port_exceptions(const PeerAuthentication& peer, bool strict, Authorization& policy) {
  Match& match = *policy.mutable_rules(0)->mutable_clauses(0)->mutable_matches(0);
  bool any = false;
  for (const auto& [port, mode] : peer.ports) {
    if (mode == MtlsMode::kUnset || (mode == MtlsMode::kStrict) == strict) continue;
    strict ? match.add_not_destination_ports(port) : match.add_destination_ports(port);
    any = true;
  }
  return any;
}

}  // namespace

std::string plaintext_policy_of(const Pod& pod, const Index& index, const MeshSettings& settings,
                                Mesh& mesh) {
  const Levels levels = levels_of(pod, index, settings);
  const bool strict = levels.strict();
  if (levels.workload != nullptr && !levels.workload->ports.empty()) {
    const Meta& meta = levels.workload->meta;
    Authorization policy = deny_plaintext(meta.ns, fmt::format("{}{}", kPortLevelPrefix, meta.name));
    if (add_port_exceptions(*levels.workload, strict, policy)) {
      std::string name = fmt::format("{}/{}", policy.namespace_(), policy.name());
      mesh.policies[name] = std::move(policy);
      return name;
    }
  }
  if (!strict) return {};
  std::string name = fmt::format("{}/{}", settings.root_namespace, kStaticStrict);
  mesh.policies.try_emplace(name, deny_plaintext(settings.root_namespace, std::string(kStaticStrict)));
  return name;
}

}  // namespace fairlead::model
