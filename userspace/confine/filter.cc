#include "confine/filter.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/seccomp.h>

#include <cstddef>

namespace fairlead::confine {
namespace {

#if defined(__x86_64__)
constexpr uint32_t kArchitecture = AUDIT_ARCH_X86_64;
constexpr bool kHasX32 = true;
#elif defined(__aarch64__)
constexpr uint32_t kArchitecture = AUDIT_ARCH_AARCH64;
constexpr bool kHasX32 = false;
#else
#error "the table of system calls was not reviewed for this architecture"
#endif
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the low word of an argument comes first");

constexpr uint32_t kX32Bit = 0x40000000;

sock_filter load(size_t offset) {
  return BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<uint32_t>(offset));
}
sock_filter give(uint32_t action) {
  return BPF_STMT(BPF_RET | BPF_K, action);
}
sock_filter unless_equal(uint32_t value, size_t skip) {
  return BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, static_cast<uint8_t>(skip));
}

uint32_t action_of(Verdict verdict, Mode mode) {
  if (verdict == Verdict::kAllow) return SECCOMP_RET_ALLOW;
  if (verdict == Verdict::kAbsent) return SECCOMP_RET_ERRNO | ENOSYS;
  if (mode == Mode::kAudit) return SECCOMP_RET_LOG;
  switch (verdict) {
    case Verdict::kRefuse: return SECCOMP_RET_ERRNO | EPERM;
    case Verdict::kNoFamily: return SECCOMP_RET_ERRNO | EAFNOSUPPORT;
    case Verdict::kUnknownCall: return SECCOMP_RET_ERRNO | ENOSYS;
    default: return SECCOMP_RET_KILL_PROCESS;
  }
}

constexpr size_t kPerArgument = 3;  // load, mask, compare

void append(std::vector<sock_filter>& program, const Conditions& conditions, uint32_t action) {
  // Behind the comparison of each: the arguments that follow it, and the verdict.
  size_t left = conditions.size() * kPerArgument + 1;
  for (const Argument& argument : conditions) {
    left -= kPerArgument;
    const size_t word = argument.index * sizeof(uint64_t) + (argument.high ? sizeof(uint32_t) : 0);
    program.push_back(load(offsetof(seccomp_data, args) + word));
    program.push_back(BPF_STMT(BPF_ALU | BPF_AND | BPF_K, argument.mask));
    program.push_back(unless_equal(argument.value, left));
  }
  program.push_back(give(action));
}

std::vector<sock_filter> body(const Rule& rule, Mode mode) {
  std::vector<sock_filter> program;
  if (rule.when.empty()) return {give(action_of(rule.verdict, mode))};
  for (const Conditions& conditions : rule.when) append(program, conditions, action_of(rule.verdict, mode));
  program.push_back(give(action_of(rule.otherwise, mode)));
  return program;
}

}  // namespace

std::vector<sock_filter> compile(const std::vector<Rule>& rules, Mode mode) {
  std::vector<sock_filter> program = {load(offsetof(seccomp_data, arch)),
                                      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kArchitecture, 1, 0),
                                      give(SECCOMP_RET_KILL_PROCESS)};
  program.push_back(load(offsetof(seccomp_data, nr)));
  if (kHasX32) {
    program.push_back(BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, kX32Bit, 0, 1));
    program.push_back(give(SECCOMP_RET_KILL_PROCESS));
  }
  for (const Rule& rule : rules) {
    const auto verdict = body(rule, mode);
    program.push_back(unless_equal(rule.number, verdict.size()));
    program.insert(program.end(), verdict.begin(), verdict.end());
  }
  program.push_back(give(action_of(Verdict::kUnknownCall, mode)));
  return program;
}

}  // namespace fairlead::confine
