// May this connection reach this workload? Everybody who asks – a new connection, an open one after a change,
// `fairlead authz check` – asks here. Pure. Thread: any.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "policy/authz.h"
#include "state/snapshot.h"

namespace fairlead::proxy {

// `workload` null: the mesh does not know the destination.
policy::Decision judge(const state::Workload* workload, const policy::ConnectionFacts& facts) noexcept;

struct RuleName {
  std::string policy;  // "ns/name"
  int rule = -1;
};
// What the decision would be with the dry-run policies in force.
struct DryRun {
  bool allowed = false;
  RuleName by;
  std::string_view reason;  // a literal
};
// What does not decide but is worth knowing; by name, so that it outlives the policies.
struct Remarks {
  std::optional<DryRun> dry_run;  // none: there are no such policies
  std::vector<RuleName> audits;   // rules of AUDIT policies that matched
};
Remarks remarks(const state::Workload* workload, const policy::ConnectionFacts& facts);

}  // namespace fairlead::proxy
