#include "confine/filter.h"

#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/audit.h>
#include <linux/bpf.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <array>
#include <cstring>
#include <set>

#include "confine/calls.h"

namespace fairlead::confine {
namespace {

#if defined(__x86_64__)
constexpr uint32_t kHere = AUDIT_ARCH_X86_64;
constexpr uint32_t kElsewhere = AUDIT_ARCH_I386;
#else
constexpr uint32_t kHere = AUDIT_ARCH_AARCH64;
constexpr uint32_t kElsewhere = AUDIT_ARCH_ARM;
#endif
constexpr pid_t kSelf = 4711;

// As the kernel runs it; what compile() never emits fails the test.
uint32_t evaluate(const std::vector<sock_filter>& program, const seccomp_data& call) {
  uint32_t accumulator = 0;
  for (size_t at = 0; at < program.size(); ++at) {
    const sock_filter& step = program[at];
    switch (step.code) {
      case BPF_LD | BPF_W | BPF_ABS:
        std::memcpy(&accumulator, reinterpret_cast<const char*>(&call) + step.k, sizeof accumulator);
        break;
      case BPF_ALU | BPF_AND | BPF_K: accumulator &= step.k; break;
      case BPF_JMP | BPF_JEQ | BPF_K: at += accumulator == step.k ? step.jt : step.jf; break;
      case BPF_JMP | BPF_JGE | BPF_K: at += accumulator >= step.k ? step.jt : step.jf; break;
      case BPF_RET | BPF_K: return step.k;
      default: ADD_FAILURE() << "instruction " << step.code; return 0;
    }
  }
  ADD_FAILURE() << "the filter runs off its end";
  return 0;
}

uint32_t judge(long number, std::array<uint64_t, 6> arguments = {}, Mode mode = Mode::kEnforce,
               uint32_t architecture = kHere) {
  static const auto enforce = compile(calls_of_the_proxy(kSelf), Mode::kEnforce);
  static const auto audit = compile(calls_of_the_proxy(kSelf), Mode::kAudit);
  seccomp_data call{};
  call.nr = static_cast<int>(number);
  call.arch = architecture;
  std::copy(arguments.begin(), arguments.end(), std::begin(call.args));
  return evaluate(mode == Mode::kEnforce ? enforce : audit, call);
}

constexpr uint32_t kAllow = SECCOMP_RET_ALLOW;
constexpr uint32_t kKill = SECCOMP_RET_KILL_PROCESS;
constexpr uint32_t refused(int code) {
  return SECCOMP_RET_ERRNO | static_cast<uint32_t>(code);
}
constexpr uint64_t kGarbageAbove = 0xdeadbeef00000000;

TEST(Filter, CallsOfAnotherArchitectureKillInBothModes) {
  for (const Mode mode : {Mode::kEnforce, Mode::kAudit}) {
    EXPECT_EQ(judge(__NR_read, {}, mode, kElsewhere), kKill);
#if defined(__x86_64__)
    EXPECT_EQ(judge(0x40000000 | __NR_read, {}, mode), kKill) << "x32";
#endif
  }
}

TEST(Filter, WhatItDoesNotKnowIsAnOlderKernel) {
  for (const Mode mode : {Mode::kEnforce, Mode::kAudit})
    EXPECT_EQ(judge(__NR_clone3, {}, mode), refused(ENOSYS)) << "glibc falls back to clone() on nothing else";
  EXPECT_EQ(judge(__NR_listen), refused(ENOSYS));
  EXPECT_EQ(judge(__NR_memfd_create), refused(ENOSYS));
  EXPECT_EQ(judge(999), refused(ENOSYS));
}

TEST(Filter, HostileCallsKill) {
  for (const long number : {__NR_execve, __NR_execveat, __NR_ptrace, __NR_setns, __NR_unshare, __NR_mount,
                            __NR_process_vm_readv, __NR_process_vm_writev, __NR_keyctl, __NR_kexec_load,
                            __NR_init_module, __NR_finit_module, __NR_open_by_handle_at, __NR_setresuid,
                            __NR_io_uring_setup, __NR_perf_event_open, __NR_userfaultfd}) {
    EXPECT_EQ(judge(number), kKill) << number;
    EXPECT_EQ(judge(number, {}, Mode::kAudit), SECCOMP_RET_LOG) << number;
  }
}

TEST(Filter, AuditAllowsAndLogs) {
  EXPECT_EQ(judge(__NR_read, {}, Mode::kAudit), kAllow) << "what is allowed is not logged";
  EXPECT_EQ(judge(__NR_listen, {}, Mode::kAudit), SECCOMP_RET_LOG);
  EXPECT_EQ(judge(__NR_socket, {AF_UNIX, SOCK_STREAM, 0}, Mode::kAudit), SECCOMP_RET_LOG);
}

TEST(Filter, OnlyElementsOfBpfMaps) {
  for (const int command : {BPF_MAP_LOOKUP_ELEM, BPF_MAP_UPDATE_ELEM, BPF_MAP_DELETE_ELEM,
                            BPF_MAP_LOOKUP_AND_DELETE_ELEM, BPF_MAP_LOOKUP_BATCH}) {
    EXPECT_EQ(judge(__NR_bpf, {static_cast<uint64_t>(command)}), kAllow) << command;
  }
  for (const int command : {BPF_MAP_CREATE, BPF_PROG_LOAD, BPF_OBJ_PIN, BPF_OBJ_GET, BPF_PROG_ATTACH,
                            BPF_PROG_GET_FD_BY_ID, BPF_MAP_GET_FD_BY_ID, BPF_LINK_CREATE, BPF_MAP_FREEZE}) {
    EXPECT_EQ(judge(__NR_bpf, {static_cast<uint64_t>(command)}), kKill) << command;
    EXPECT_EQ(judge(__NR_bpf, {kGarbageAbove | static_cast<uint64_t>(command)}), kKill) << command;
  }
}

TEST(Filter, SocketsForTheControllerAndItsName) {
  EXPECT_EQ(judge(__NR_socket, {AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0}), kAllow);
  EXPECT_EQ(judge(__NR_socket, {AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, IPPROTO_TCP}), kAllow);
  EXPECT_EQ(judge(__NR_socket, {AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, IPPROTO_UDP}), kAllow);
  for (const auto& wrong :
       std::initializer_list<std::array<uint64_t, 6>>{{AF_UNIX, SOCK_STREAM, 0},
                                                      {AF_NETLINK, SOCK_RAW, 0},
                                                      {AF_PACKET, SOCK_RAW, 0},
                                                      {AF_ALG, SOCK_SEQPACKET, 0},
                                                      {AF_INET, SOCK_RAW, IPPROTO_ICMP},
                                                      {AF_INET, SOCK_DGRAM, IPPROTO_ICMP},
                                                      {AF_INET, SOCK_STREAM, IPPROTO_MPTCP},
                                                      {AF_INET, SOCK_STREAM, IPPROTO_SCTP},
                                                      {AF_INET, SOCK_SEQPACKET, IPPROTO_SCTP}}) {
    EXPECT_EQ(judge(__NR_socket, wrong), refused(EAFNOSUPPORT))
        << wrong[0] << ' ' << wrong[1] << ' ' << wrong[2];
  }
}

TEST(Filter, OptionsThatAreOursAndNoOthers) {
  EXPECT_EQ(judge(__NR_setsockopt, {9, SOL_SOCKET, SO_LINGER}), kAllow);
  EXPECT_EQ(judge(__NR_setsockopt, {9, IPPROTO_TCP, TCP_USER_TIMEOUT}), kAllow);
  EXPECT_EQ(judge(__NR_setsockopt, {9, IPPROTO_IP, IP_RECVERR}), kAllow);
  for (const int name : {SO_ATTACH_FILTER, SO_ATTACH_BPF, SO_ATTACH_REUSEPORT_EBPF, SO_BINDTODEVICE, SO_MARK})
    EXPECT_EQ(judge(__NR_setsockopt, {9, SOL_SOCKET, static_cast<uint64_t>(name)}), refused(EPERM)) << name;
  EXPECT_EQ(judge(__NR_setsockopt, {9, IPPROTO_IP, IP_TRANSPARENT}), refused(EPERM));
  EXPECT_EQ(judge(__NR_setsockopt, {9, SOL_SOCKET, TCP_USER_TIMEOUT}), refused(EPERM))
      << "a name has its level";
  EXPECT_EQ(judge(__NR_ioctl, {9, FIONREAD}), kAllow);
  EXPECT_EQ(judge(__NR_ioctl, {9, TIOCSTI}), refused(EPERM));
  EXPECT_EQ(judge(__NR_madvise, {0, 4096, MADV_DONTNEED}), kAllow);
  EXPECT_EQ(judge(__NR_madvise, {0, 4096, MADV_DODUMP}), refused(EPERM));
}

TEST(Filter, NoNewCode) {
  EXPECT_EQ(judge(__NR_mmap, {0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS}), kAllow);
  EXPECT_EQ(judge(__NR_mmap, {0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE}), refused(EPERM));
  EXPECT_EQ(judge(__NR_mprotect, {0, 4096, PROT_READ | PROT_WRITE}), kAllow);
  EXPECT_EQ(judge(__NR_mprotect, {0, 4096, kGarbageAbove | PROT_EXEC}), refused(EPERM));
  EXPECT_EQ(judge(__NR_pkey_mprotect, {0, 4096, PROT_EXEC}), refused(ENOSYS));
}

TEST(Filter, ThreadsButNoProcesses) {
  constexpr uint64_t kThread = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD |
                               CLONE_SYSVSEM | CLONE_SETTLS | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID;
  EXPECT_EQ(judge(__NR_clone, {kThread}), kAllow);
  EXPECT_EQ(judge(__NR_clone, {17}), kKill) << "fork";
  EXPECT_EQ(judge(__NR_clone, {CLONE_VM | CLONE_VFORK | 17}), kKill) << "posix_spawn";
  EXPECT_EQ(judge(__NR_clone, {kThread | CLONE_NEWNET}), kKill);
  EXPECT_EQ(judge(__NR_clone, {kThread | CLONE_NEWUSER}), kKill);
}

TEST(Filter, FilesAreReadOnly) {
  EXPECT_EQ(judge(__NR_openat, {0, 0, O_RDONLY | O_CLOEXEC}), kAllow);
  for (const int flags : {O_WRONLY, O_RDWR, O_RDONLY | O_CREAT, O_RDONLY | O_TRUNC, O_PATH, O_TMPFILE}) {
    EXPECT_EQ(judge(__NR_openat, {0, 0, static_cast<uint64_t>(flags)}), refused(EPERM)) << flags;
  }
}

TEST(Filter, SignalsToItselfLimitsToRead) {
  EXPECT_EQ(judge(__NR_tgkill, {kSelf, 1, 6}), kAllow);
  EXPECT_EQ(judge(__NR_tgkill, {kSelf + 1, 1, 9}), kKill);
  EXPECT_EQ(judge(__NR_kill, {kSelf + 1, 9}), refused(ENOSYS));
  EXPECT_EQ(judge(__NR_prlimit64, {0, 7, 0, 0x7fff0000}), kAllow);
  EXPECT_EQ(judge(__NR_prlimit64, {0, 7, 0x7fff00001000, 0}), refused(EPERM));
  EXPECT_EQ(judge(__NR_prlimit64, {0, 7, kGarbageAbove, 0}), refused(EPERM)) << "a pointer has two halves";
  EXPECT_EQ(judge(__NR_prctl, {PR_SET_NAME}), kAllow);
  EXPECT_EQ(judge(__NR_prctl, {PR_SET_DUMPABLE, 1}), refused(EPERM));
  EXPECT_EQ(judge(__NR_prctl, {PR_SET_SECCOMP, 2}), refused(EPERM));
}

TEST(Filter, NamesNoCallTwiceAndGivesAReason) {
  std::set<unsigned> seen;
  for (const Rule& rule : calls_of_the_proxy(kSelf)) {
    EXPECT_TRUE(seen.insert(rule.number).second) << rule.number << ": the second is never reached";
    EXPECT_NE(std::strlen(rule.why), 0u) << rule.number;
  }
}

}  // namespace
}  // namespace fairlead::confine
