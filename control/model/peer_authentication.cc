// PeerAuthentication → a policy that denies connections without a verified principal. Levels, each overriding
// the one before unless it is UNSET: mesh (root namespace, no selector) < namespace < workload < port.
// DISABLE asks for plaintext only, which a mesh pod never insists on: it is ignored, as in ambient meshes,
// and so inherits like UNSET.
#include <fmt/core.h>

#include "control/model/parts.h"

namespace fairlead::model {
namespace {

using istio::security::Authorization;
using istio::security::Match;

bool says(MtlsMode mode) {
  return mode == MtlsMode::kStrict || mode == MtlsMode::kPermissive;
}

struct Levels {
  const PeerAuthentication* mesh = nullptr;
  const PeerAuthentication* ns = nullptr;
  const PeerAuthentication* workload = nullptr;

  [[nodiscard]] bool strict() const {
    MtlsMode mode = MtlsMode::kUnset;
    for (const auto* level : {mesh, ns, workload}) {
      if (level != nullptr && says(level->mode)) mode = level->mode;
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
    if (!says(mode) || (mode == MtlsMode::kStrict) == strict) continue;
    strict ? match.add_not_destination_ports(port) : match.add_destination_ports(port);
    any = true;
  }
  return any;
}

void report(const PeerAuthentication& peer, std::string field, std::string message, Mesh& mesh) {
  mesh.reports.push_back({Report::Severity::kWarning, object_name("PeerAuthentication", peer.meta),
                          peer.meta.at, std::move(field), std::move(message)});
}

void report_disabled(const PeerAuthentication& peer, Mesh& mesh) {
  constexpr const char* kIgnored = "DISABLE is ignored: the mode of the wider level holds";
  if (peer.mode == MtlsMode::kDisable) report(peer, "spec.mtls.mode", kIgnored, mesh);
  for (const auto& [port, mode] : peer.ports) {
    if (mode == MtlsMode::kDisable) report(peer, fmt::format("spec.portLevelMtls[{}]", port), kIgnored, mesh);
  }
}

}  // namespace

void report_peer_authentications(const ObjectSet& objects, const Index& index, const MeshSettings& settings,
                                 Mesh& mesh) {
  for (const PeerAuthentication& peer : objects.peer_authentications) {
    report_disabled(peer, mesh);
    if (peer.has_selector && peer.meta.ns == settings.root_namespace)
      report(peer, "spec.selector", "selects pods of the root namespace only, not of the mesh", mesh);
  }
  // Who is overruled by an older one, and by which.
  std::map<const PeerAuthentication*, const PeerAuthentication*> overruled;
  for (const auto& [ns, peers] : index.peer_authentications) {
    const PeerAuthentication* first = nullptr;
    for (const auto* peer : peers) {
      if (peer->has_selector) continue;
      if (first != nullptr) overruled.emplace(peer, first);
      if (first == nullptr) first = peer;
    }
  }
  for (const Pod& pod : objects.pods) {
    const PeerAuthentication* workload = levels_of(pod, index, settings).workload;
    if (workload == nullptr) continue;
    for (const auto* peer : Index::of(index.peer_authentications, pod.meta.ns)) {
      if (peer->has_selector && peer != workload && selects(peer->selector, pod.meta.labels))
        overruled.emplace(peer, workload);
    }
  }
  for (const auto& [ns, peers] : index.peer_authentications) {
    for (const auto* peer : peers) {
      const auto found = overruled.find(peer);
      if (found == overruled.end()) continue;
      const std::string& older = found->second->meta.name;
      report(*peer, {},
             peer->has_selector
                 ? fmt::format("{} is older: for the pods that both select, that one holds", older)
                 : fmt::format("{} is older: that one holds", older),
             mesh);
    }
  }
}

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
