// May this connection reach this workload? Everybody who asks – a new connection, an open one after a change,
// `fairlead authz check` – asks here. Pure. Thread: any.
#pragma once

#include <optional>
#include <vector>

#include "policy/authz.h"
#include "state/snapshot.h"

namespace fairlead::proxy {

// `workload` null: the mesh does not know the destination.
policy::Decision judge(const state::Workload* workload, const policy::ConnectionFacts& facts) noexcept;

// What does not decide but is worth knowing.
struct Remarks {
  std::optional<policy::Decision> dry_run;  // with the dry-run policies in force; none: there are none
  std::vector<policy::AuditHit> audits;
};
Remarks remarks(const state::Workload* workload, const policy::ConnectionFacts& facts);

}  // namespace fairlead::proxy
