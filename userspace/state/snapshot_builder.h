// The mutable model behind the snapshots, keyed by xDS resource names. build() shares every Workload, Service
// and Policy that did not change with the snapshot before, so that a small change in a large mesh is cheap.
// Thread: one (the xDS client's).
#pragma once

#include <map>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>

#include "authorization.pb.h"
#include "state/snapshot.h"
#include "workload.pb.h"

namespace fairlead::state {

class SnapshotBuilder {
 public:
  // `network`: the agent's own.
  explicit SnapshotBuilder(std::string network = {}) : network_(std::move(network)) {}
  // Errors name the resource; what was there under that name stays – except that a policy which cannot be
  // read never leaves less protection: with nothing to keep, one that denies everything stands in for it.
  Result<void> set_address(const std::string& resource, const istio::workload::Address& message);
  Result<void> set_policy(const std::string& resource, const istio::security::Authorization& message);
  // For bytes that are no policy at all. Its scope is unknown, so it is the widest that it could have had.
  void deny_unreadable_policy(const std::string& resource, policy::Scope scope = policy::Scope::kGlobal);
  void remove_address(const std::string& resource);
  void remove_policy(const std::string& resource);
  // After a reconnect on which the controller sent everything anew.
  void keep_only_addresses(const std::set<std::string>& resources);
  void keep_only_policies(const std::set<std::string>& resources);

  [[nodiscard]] SnapshotPtr build();

 private:
  struct WorkloadEntry {
    Workload decoded;
    std::shared_ptr<const Workload> built;  // null: must be built anew
  };
  struct ServiceEntry {
    Service decoded;
    std::shared_ptr<const Service> built;
  };
  void touch_services_of(const Workload& workload);
  void touch_workload(WorkloadEntry& entry);
  void touch_workloads_under(const std::string& resource, const policy::Policy& policy);
  void touch_stale_workloads();
  void put_policy(const std::string& resource, policy::Policy policy);
  [[nodiscard]] std::shared_ptr<const Service> build_service(const std::string& name,
                                                             const Service& decoded) const;
  [[nodiscard]] std::shared_ptr<const Workload> bind_policies(const Workload& decoded) const;
  [[nodiscard]] std::shared_ptr<const policy::Policy> policy_named(const std::string& name) const;
  void index_policies();
  void find_elsewhere(Snapshot& snapshot) const;

  std::string network_;
  std::map<std::string, WorkloadEntry> workloads_;  // by resource name
  std::map<std::string, ServiceEntry> services_;
  std::map<std::string, std::shared_ptr<const policy::Policy>> policies_;
  std::vector<std::shared_ptr<const policy::Policy>> global_policies_;
  std::unordered_map<std::string, std::vector<std::shared_ptr<const policy::Policy>>> namespace_policies_;
  std::unordered_map<std::string, std::set<std::string>> members_;   // "ns/hostname" → workload resources
  std::unordered_map<std::string, std::set<std::string>> named_by_;  // policy "ns/name" → workload resources
  // What policies did since the last build(): workloads are looked through once per build, not per policy.
  bool everything_stale_ = false;
  std::set<std::string> stale_namespaces_;
  std::set<std::string> stale_names_;
  uint64_t version_ = 0;
};

}  // namespace fairlead::state
