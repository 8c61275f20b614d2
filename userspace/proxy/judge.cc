#include "proxy/judge.h"

namespace fairlead::proxy {

policy::Decision judge(const state::Workload* workload, const policy::ConnectionFacts& facts) noexcept {
  if (workload == nullptr) return {false, {}, {}, -1, "the pod is not known to the mesh"};
  if (workload->policy_missing) return {false, {}, {}, -1, "a policy that is named is missing"};
  return policy::evaluate(workload->policies, facts);
}

Remarks remarks(const state::Workload* workload, const policy::ConnectionFacts& facts) {
  Remarks result;
  if (workload == nullptr) return result;
  if (!workload->policy_missing && policy::has_dry_run(workload->policies, facts.destination_port)) {
    const auto decision = policy::evaluate(workload->policies, facts, policy::DryRun::kAsIfEnforced);
    result.dry_run = {decision.allowed, {decision.policy(), decision.rule}, decision.reason};
  }
  for (const policy::AuditHit& hit : policy::audit(workload->policies, facts))
    result.audits.push_back({hit.policy->full_name(), hit.rule});
  return result;
}

}  // namespace fairlead::proxy
