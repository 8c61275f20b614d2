// The mesh as this agent knows it, as one immutable value: workloads, services, policies and the look-ups
// that a connection needs. Built on the control thread from xDS, swapped whole; a connection reads it once.
// Protobuf stops before here. Thread: any (immutable), held by shared_ptr. Cost of a look-up does not grow
// with the number of workloads or of policies that do not concern it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "base/net_types.h"
#include "base/spiffe_id.h"
#include "policy/authz.h"

namespace fairlead::state {

// kUnsupported: some tunnel that this agent does not speak. Nothing goes there: not even plaintext.
enum class Tunnel { kNone, kHbone, kUnsupported };

struct ServicePort {
  uint16_t service_port = 0;
  uint16_t target_port = 0;
};

struct Workload {
  std::string uid;
  std::string name;
  std::string ns;
  SpiffeId identity;
  std::vector<IpAddress> addresses;
  std::string network;
  bool foreign = false;  // on another network than the agent's: its addresses may be somebody else's on ours
  std::string node;
  std::string canonical_name;
  std::string workload_name;
  std::string cluster;
  Tunnel tunnel = Tunnel::kNone;
  bool in_place = false;  // its agent takes tunnels on the application's own port (a Fairlead agent)
  std::vector<uint16_t> not_in_place;  // ports that are excluded there: port 15008 is used for them
  bool healthy = true;
  bool host_network = false;  // shares the node's addresses: not found by address
  std::vector<std::pair<std::string, std::vector<ServicePort>>> services;  // "ns/hostname" → ports
  std::vector<std::string> policy_names;                                   // selector policies, "ns/name"
  policy::PolicySet policies;   // every one that applies to it as a destination, in whatever way
  bool policy_missing = false;  // a named policy is not known: everything to it is denied (architecture §6.3)
};

struct Endpoint {
  std::shared_ptr<const Workload> workload;
  std::vector<ServicePort> ports;  // overrides the service's target ports when not empty
};

struct Service {
  std::string ns;
  std::string name;
  std::string hostname;
  std::vector<IpAddress> addresses;          // VIPs
  std::vector<IpAddress> foreign_addresses;  // VIPs on other networks
  std::vector<ServicePort> ports;
  std::vector<Endpoint> endpoints;
  bool has_mesh_endpoint = false;  // one that must not be sent plaintext, whether it can be reached or not
  [[nodiscard]] std::string full_name() const { return ns + "/" + hostname; }
  // 0 when the service has no such port.
  [[nodiscard]] uint16_t target_port(const Endpoint& endpoint, uint16_t service_port) const noexcept;
};

class Snapshot {
 public:
  [[nodiscard]] std::shared_ptr<const Workload> workload(const IpAddress& address) const noexcept;
  [[nodiscard]] std::shared_ptr<const Service> service(const IpAddress& vip) const noexcept;
  // A mesh destination that only other networks have: it cannot be reached by this address, and an agent that
  // was told the wrong network of its own must not send plaintext there.
  [[nodiscard]] bool elsewhere(const IpAddress& address) const noexcept {
    return elsewhere_.contains(address);
  }
  [[nodiscard]] const std::vector<std::shared_ptr<const Workload>>& workloads() const noexcept {
    return workloads_;
  }
  [[nodiscard]] const std::vector<std::shared_ptr<const Service>>& services() const noexcept {
    return services_;
  }
  [[nodiscard]] const std::vector<std::shared_ptr<const policy::Policy>>& policies() const noexcept {
    return policies_;
  }
  [[nodiscard]] uint64_t version() const noexcept { return version_; }

  // What fl_dests must hold: address → FL_DEST_* flags. Mesh workloads, VIPs of services with a mesh
  // endpoint, both also of other networks (capture), VIPs of services with ports but no endpoint at all
  // (refuse).
  [[nodiscard]] std::unordered_map<IpAddress, uint32_t> destinations() const;

 private:
  friend class SnapshotBuilder;
  uint64_t version_ = 0;
  std::vector<std::shared_ptr<const Workload>> workloads_;
  std::vector<std::shared_ptr<const Service>> services_;
  std::vector<std::shared_ptr<const policy::Policy>> policies_;
  std::unordered_map<IpAddress, std::shared_ptr<const Workload>> by_address_;
  std::unordered_map<IpAddress, std::shared_ptr<const Service>> by_vip_;
  std::unordered_set<IpAddress> elsewhere_;
};

using SnapshotPtr = std::shared_ptr<const Snapshot>;

}  // namespace fairlead::state
