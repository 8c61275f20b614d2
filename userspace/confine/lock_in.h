// A process locks itself in: whoever takes it over later finds neither programs to run, nor files to read,
// nor kernel interfaces beyond those that it lived by. Called once, before the first byte of a stranger is
// read and before the first further thread starts; nothing of it can be undone. Thread: the only one of the
// process.
#pragma once

#include "base/result.h"
#include "confine/filter.h"
#include "confine/landlock.h"

namespace fairlead::confine {

struct Options {
  Mode seccomp = Mode::kEnforce;
  FileRules files;
};

struct LockedIn {
  Mode seccomp = Mode::kEnforce;
  int landlock = 0;  // version, 0: the kernel has none
};

// No core dump, no ptrace and no /proc entry for processes of the same user, no privilege through exec, files
// by Landlock, system calls by seccomp. An error means that the process must not go on.
Result<LockedIn> lock_in(const Options& options);

}  // namespace fairlead::confine
