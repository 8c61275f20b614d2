#include "state/snapshot.h"

#include <algorithm>

#include "bpf/abi/types.h"
#include "state/decode.h"
#include "state/snapshot_builder.h"

namespace fairlead::state {
namespace {

uint16_t find_port(const std::vector<ServicePort>& ports, uint16_t service_port) {
  const auto found = std::find_if(ports.begin(), ports.end(), [service_port](const ServicePort& port) {
    return port.service_port == service_port;
  });
  return found == ports.end() ? 0 : found->target_port;
}

// Who stands for an address that two workloads claim: the one in the mesh, then the one that may not be sent
// plaintext, then the pod.
bool better(const Workload& a, const Workload& b) {
  if (a.tunnel != b.tunnel) return a.tunnel == Tunnel::kHbone || b.tunnel == Tunnel::kNone;
  const auto is_pod = [](const Workload& workload) {
    return workload.uid.find("/Pod/") != std::string::npos;
  };
  return is_pod(a) && !is_pod(b);
}

// STRICT as ambient control planes deliver it; some name it without sending it.
const std::shared_ptr<const policy::Policy>& built_in_strict() {
  static const auto kPolicy = [] {
    auto strict = std::make_shared<policy::Policy>();
    strict->ns = "istio-system";
    strict->name = kStaticStrict;
    strict->action = policy::Action::kDeny;
    policy::Match match;
    match.not_principals.push_back({policy::StringMatch::Kind::kPresence, {}});
    strict->rules.push_back({{policy::Clause{{match}}}});
    return std::shared_ptr<const policy::Policy>(strict);
  }();
  return kPolicy;
}

void drop_from(std::unordered_map<std::string, std::set<std::string>>& index, const std::string& key,
               const std::string& resource) {
  const auto found = index.find(key);
  if (found == index.end()) return;
  found->second.erase(resource);
  if (found->second.empty()) index.erase(found);
}

// The ports on which the workload stands behind a Service; none, which means all, when it does not say.
std::vector<uint16_t> target_ports(const std::vector<ServicePort>& ports) {
  std::vector<uint16_t> targets;
  for (const ServicePort& port : ports) {
    if (port.target_port == 0) return {};
    targets.push_back(port.target_port);
  }
  return targets;
}

// Adds policies to a workload in the order of the stages.
class Binder {
 public:
  explicit Binder(Workload& workload) : workload_(workload) {}

  void add(const std::shared_ptr<const policy::Policy>& policy) {
    const size_t gateway = workload_.services.size() + 1;
    if (policy->gateway) return add(policy, {}, gateway);
    bool found = false;
    for (size_t i = 0; i < workload_.services.size(); ++i) {
      const auto& [name, ports] = workload_.services[i];
      const auto& attached = policy->services;
      if (std::find(attached.begin(), attached.end(), name) == attached.end()) continue;
      found = true;
      add(policy, target_ports(ports), i + 1);
    }
    // Attached to no Service, or to one that the workload does not stand behind although it names the policy.
    if (!found) add(policy, {}, 0);
  }

  void finish() {
    for (auto& [stage, bindings] : stages_) {
      std::move(bindings.begin(), bindings.end(), std::back_inserter(workload_.policies));
    }
  }

 private:
  void add(const std::shared_ptr<const policy::Policy>& policy, std::vector<uint16_t> ports, size_t stage) {
    stages_[stage].emplace_back(policy, std::move(ports), stage);
  }

  Workload& workload_;
  std::map<size_t, policy::PolicySet> stages_;
};

}  // namespace

uint16_t Service::target_port(const Endpoint& endpoint, uint16_t service_port) const noexcept {
  if (const uint16_t own = find_port(endpoint.ports, service_port)) return own;
  if (!endpoint.ports.empty()) return 0;  // the endpoint's list replaces the service's
  return find_port(ports, service_port);
}

std::shared_ptr<const Workload> Snapshot::workload(const IpAddress& address) const noexcept {
  const auto found = by_address_.find(address);
  return found == by_address_.end() ? nullptr : found->second;
}

std::shared_ptr<const Service> Snapshot::service(const IpAddress& vip) const noexcept {
  const auto found = by_vip_.find(vip);
  return found == by_vip_.end() ? nullptr : found->second;
}

std::unordered_map<IpAddress, uint32_t> Snapshot::destinations() const {
  std::unordered_map<IpAddress, uint32_t> wanted;
  for (const auto& service : services_) {
    const bool empty = service->endpoints.empty() && !service->ports.empty();
    if (!empty && !service->has_mesh_endpoint) continue;
    for (const IpAddress& vip : service->addresses) wanted[vip] = empty ? FL_DEST_REFUSE : FL_DEST_CAPTURE;
  }
  for (const auto& [address, workload] : by_address_) {
    if (workload->tunnel != Tunnel::kNone) wanted[address] = FL_DEST_CAPTURE;
  }
  for (const IpAddress& address : elsewhere_) wanted[address] = FL_DEST_CAPTURE;
  return wanted;
}

// ---- the builder
// --------------------------------------------------------------------------------------------------------

void SnapshotBuilder::touch_services_of(const Workload& workload) {
  for (const auto& [name, ports] : workload.services) {
    const auto found = services_.find(name);
    if (found != services_.end()) found->second.built = nullptr;
  }
}

void SnapshotBuilder::touch_workload(WorkloadEntry& entry) {
  if (std::exchange(entry.built, nullptr) != nullptr) touch_services_of(entry.decoded);
}

// Those to whom the policy applies or may apply: only they, and the services that hold them, are built anew.
void SnapshotBuilder::touch_workloads_under(const std::string& resource, const policy::Policy& policy) {
  if (policy.scope == policy::Scope::kGlobal) everything_stale_ = true;
  if (policy.scope == policy::Scope::kNamespace) stale_namespaces_.insert(policy.ns);
  stale_names_.insert(resource);
}

void SnapshotBuilder::touch_stale_workloads() {
  for (const std::string& policy : stale_names_) {
    const auto naming = named_by_.find(policy);
    if (naming == named_by_.end()) continue;
    for (const std::string& resource : naming->second) touch_workload(workloads_.at(resource));
  }
  if (everything_stale_ || !stale_namespaces_.empty()) {
    for (auto& [resource, entry] : workloads_) {
      if (everything_stale_ || stale_namespaces_.contains(entry.decoded.ns)) touch_workload(entry);
    }
  }
  everything_stale_ = false;
  stale_namespaces_.clear();
  stale_names_.clear();
}

Result<void> SnapshotBuilder::set_address(const std::string& resource,
                                          const istio::workload::Address& message) {
  if (message.has_workload()) {
    FL_TRY_ASSIGN(Workload workload, decode_workload(message.workload(), network_));
    remove_address(resource);
    touch_services_of(workload);
    for (const auto& [service, ports] : workload.services) members_[service].insert(resource);
    for (const std::string& policy : workload.policy_names) named_by_[policy].insert(resource);
    workloads_[resource] = {std::move(workload), nullptr};
    return {};
  }
  if (message.has_service()) {
    FL_TRY_ASSIGN(Service service, decode_service(message.service(), network_));
    // Workloads name their services by "namespace/hostname": under another name it would never have
    // endpoints.
    if (service.full_name() != resource) {
      return Error(ErrorKind::kInvalidArgument,
                   fmt::format("{}: holds the service {}", resource, service.full_name()));
    }
    remove_address(resource);
    services_[resource] = {std::move(service), nullptr};
    return {};
  }
  return Error(ErrorKind::kInvalidArgument, fmt::format("{}: neither workload nor service", resource));
}

void SnapshotBuilder::remove_address(const std::string& resource) {
  services_.erase(resource);
  const auto found = workloads_.find(resource);
  if (found == workloads_.end()) return;
  touch_services_of(found->second.decoded);
  for (const auto& [service, ports] : found->second.decoded.services) drop_from(members_, service, resource);
  for (const std::string& policy : found->second.decoded.policy_names) drop_from(named_by_, policy, resource);
  workloads_.erase(found);
}

Result<void> SnapshotBuilder::set_policy(const std::string& resource,
                                         const istio::security::Authorization& message) {
  auto decoded = decode_policy(message);
  if (!decoded) {
    switch (message.scope()) {
      case istio::security::NAMESPACE: deny_unreadable_policy(resource, policy::Scope::kNamespace); break;
      case istio::security::WORKLOAD_SELECTOR:
        deny_unreadable_policy(resource, policy::Scope::kWorkload);
        break;
      default: deny_unreadable_policy(resource);
    }
    return std::move(decoded).error().context(resource);
  }
  put_policy(resource, std::move(*decoded));
  return {};
}

// A refused update must not leave anything more open than the policy that it was meant to be: the last
// readable one stays in force, and where there is none, its scope is denied until a readable one comes or it
// is removed.
void SnapshotBuilder::deny_unreadable_policy(const std::string& resource, policy::Scope scope) {
  if (policies_.contains(resource)) return;
  put_policy(resource, unreadable_policy(resource, scope));
}

void SnapshotBuilder::put_policy(const std::string& resource, policy::Policy policy) {
  remove_policy(resource);  // who was under the old one is not always under the new one
  touch_workloads_under(resource, policy);
  policies_[resource] = std::make_shared<const policy::Policy>(std::move(policy));
}

void SnapshotBuilder::remove_policy(const std::string& resource) {
  const auto found = policies_.find(resource);
  if (found == policies_.end()) return;
  touch_workloads_under(resource, *found->second);
  policies_.erase(found);
}

void SnapshotBuilder::keep_only_addresses(const std::set<std::string>& resources) {
  std::vector<std::string> gone;
  for (const auto& [name, entry] : workloads_) {
    if (!resources.contains(name)) gone.push_back(name);
  }
  for (const auto& [name, entry] : services_) {
    if (!resources.contains(name)) gone.push_back(name);
  }
  for (const std::string& name : gone) remove_address(name);
}

void SnapshotBuilder::keep_only_policies(const std::set<std::string>& resources) {
  std::vector<std::string> gone;
  for (const auto& [name, policy] : policies_) {
    if (!resources.contains(name)) gone.push_back(name);
  }
  for (const std::string& name : gone) remove_policy(name);
}

std::shared_ptr<const policy::Policy> SnapshotBuilder::policy_named(const std::string& name) const {
  const auto found = policies_.find(name);
  if (found != policies_.end()) return found->second;
  const size_t slash = name.find('/');
  if (slash != std::string::npos && std::string_view(name).substr(slash + 1) == kStaticStrict)
    return built_in_strict();
  return nullptr;
}

std::shared_ptr<const Workload> SnapshotBuilder::bind_policies(const Workload& decoded) const {
  auto workload = std::make_shared<Workload>(decoded);
  Binder binder(*workload);
  for (const auto& policy : global_policies_) binder.add(policy);
  const auto of_namespace = namespace_policies_.find(decoded.ns);
  if (of_namespace != namespace_policies_.end()) {
    for (const auto& policy : of_namespace->second) binder.add(policy);
  }
  for (const std::string& name : decoded.policy_names) {
    if (const auto policy = policy_named(name)) {
      binder.add(policy);
    } else {
      workload->policy_missing = true;
    }
  }
  binder.finish();
  return workload;
}

void SnapshotBuilder::index_policies() {
  global_policies_.clear();
  namespace_policies_.clear();
  for (const auto& [name, policy] : policies_) {
    if (policy->scope == policy::Scope::kGlobal) global_policies_.push_back(policy);
    if (policy->scope == policy::Scope::kNamespace) namespace_policies_[policy->ns].push_back(policy);
  }
}

// Its members are built already.
std::shared_ptr<const Service> SnapshotBuilder::build_service(const std::string& name,
                                                              const Service& decoded) const {
  auto service = std::make_shared<Service>(decoded);
  const auto members = members_.find(name);
  if (members == members_.end()) return service;
  for (const std::string& resource : members->second) {
    const auto& workload = workloads_.at(resource).built;
    const auto ports = std::find_if(workload->services.begin(), workload->services.end(),
                                    [&](const auto& item) { return item.first == name; });
    service->endpoints.push_back({workload, ports->second});
    if (workload->tunnel != Tunnel::kNone) service->has_mesh_endpoint = true;
  }
  return service;
}

// What somebody on our own network has is never elsewhere: also what a workload has that is not found by it.
void SnapshotBuilder::find_elsewhere(Snapshot& snapshot) const {
  for (const auto& workload : snapshot.workloads_) {
    if (!workload->foreign || workload->tunnel == Tunnel::kNone || workload->host_network) continue;
    snapshot.elsewhere_.insert(workload->addresses.begin(), workload->addresses.end());
  }
  for (const auto& service : snapshot.services_) {
    if (!service->has_mesh_endpoint) continue;
    snapshot.elsewhere_.insert(service->foreign_addresses.begin(), service->foreign_addresses.end());
  }
  if (snapshot.elsewhere_.empty()) return;
  std::erase_if(snapshot.elsewhere_,
                [&](const IpAddress& address) { return snapshot.by_vip_.contains(address); });
  for (const auto& workload : snapshot.workloads_) {
    if (workload->foreign) continue;
    for (const IpAddress& address : workload->addresses) snapshot.elsewhere_.erase(address);
  }
}

SnapshotPtr SnapshotBuilder::build() {
  auto snapshot = std::make_shared<Snapshot>();
  snapshot->version_ = ++version_;
  index_policies();
  touch_stale_workloads();
  snapshot->workloads_.reserve(workloads_.size());
  snapshot->by_address_.reserve(workloads_.size());
  for (auto& [name, entry] : workloads_) {
    if (entry.built == nullptr) entry.built = bind_policies(entry.decoded);
    snapshot->workloads_.push_back(entry.built);
    if (entry.built->host_network || entry.built->foreign) continue;
    for (const IpAddress& address : entry.built->addresses) {
      auto& slot = snapshot->by_address_[address];
      if (slot == nullptr || better(*entry.built, *slot)) slot = entry.built;
    }
  }
  for (auto& [name, entry] : services_) {
    if (entry.built == nullptr) entry.built = build_service(name, entry.decoded);
    snapshot->services_.push_back(entry.built);
    for (const IpAddress& vip : entry.built->addresses) snapshot->by_vip_.try_emplace(vip, entry.built);
  }
  find_elsewhere(*snapshot);
  for (const auto& [name, policy] : policies_) snapshot->policies_.push_back(policy);
  return snapshot;
}

}  // namespace fairlead::state
