// A seccomp filter out of a table: which system calls with which arguments, and what happens to the others.
// Pure: values in, classic BPF out; lock_in.h installs it. Thread: any.
#pragma once

#include <linux/filter.h>

#include <cstdint>
#include <vector>

namespace fairlead::confine {

enum class Verdict {
  kAllow,
  kRefuse,       // EPERM: the call exists, these arguments are not for us
  kNoFamily,     // EAFNOSUPPORT: to a library, a kernel built without that kind of socket
  kUnknownCall,  // ENOSYS: to a library, an older kernel; it falls back
  kAbsent,       // ENOSYS in audit mode, too: a call that is never ours to allow, with a fall-back that is
  kKill,         // the process dies: no code of ours gets here
};

// (argument & mask) == value, on the lower 32 bits: flags, commands and fds have none above that the kernel
// heeds. `high` looks at the upper half instead, for pointers.
struct Argument {
  unsigned index = 0;
  uint32_t mask = ~0u;
  uint32_t value = 0;
  bool high = false;
};
using Conditions = std::vector<Argument>;  // all must hold

struct Rule {
  unsigned number = 0;
  const char* why = "";
  std::vector<Conditions> when;  // one must hold; none: whatever the arguments
  Verdict verdict = Verdict::kAllow;
  Verdict otherwise = Verdict::kRefuse;
};

enum class Mode {
  kEnforce,
  kAudit,  // what would be refused or killed happens and is logged by the kernel (SECCOMP_RET_LOG)
};

// What no rule names gets kUnknownCall. Calls of another architecture, x32 included, kill in both modes:
// their numbers mean other calls.
std::vector<sock_filter> compile(const std::vector<Rule>& rules, Mode mode);

}  // namespace fairlead::confine
