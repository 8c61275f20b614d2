// A pod's cgroup. Ownership: the caller's. Thread: any.
#pragma once

#include <string>

#include "base/result.h"
#include "base/unique_fd.h"

namespace fairlead::keeper {

// It is below the root of its hierarchy: never attach at the root (docs/ARCHITECTURE.md, beside Cilium).
Result<UniqueFd> open_pod_cgroup(const std::string& path);

}  // namespace fairlead::keeper
