// The system calls that the proxy makes after it is locked in, each with the reason why, and those whose mere
// attempt ends it. docs/THREAT_MODEL.md argues the list; scripts/seccomp_trace tells what is missing.
#pragma once

#include <sys/types.h>

#include <vector>

#include "confine/filter.h"

namespace fairlead::confine {

// `self`: the process that signals may be sent to.
std::vector<Rule> calls_of_the_proxy(pid_t self);

}  // namespace fairlead::confine
