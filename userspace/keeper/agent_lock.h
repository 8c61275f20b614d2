// Who is the agent of a run directory: whoever holds the lock on `agent.lock` (flock(2)). It belongs to the
// open file, which a successor is sent: there is no moment in which nobody holds it, and the kernel frees it
// when the last of them is dead. Thread: any.
#pragma once

#include <optional>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"

namespace fairlead::keeper {

// nullopt: another agent holds it.
Result<std::optional<UniqueFd>> try_agent_lock(const std::string& run_directory);

}  // namespace fairlead::keeper
