#include "confine/calls.h"

#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/sched.h>
#include <linux/tls.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <initializer_list>

namespace fairlead::confine {
namespace {

constexpr uint32_t kThread = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
constexpr uint32_t kNewNamespaces =
    CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET;
#ifndef SOL_TLS
#define SOL_TLS 282
#endif
constexpr uint32_t kTcpInq = 36;       // TCP_INQ: glibc names it, musl does not
constexpr uint32_t kSocketType = 0xf;  // the rest are SOCK_NONBLOCK and SOCK_CLOEXEC
constexpr uint32_t kWrites = O_ACCMODE | O_CREAT | O_TRUNC | O_PATH | (O_TMPFILE & ~O_DIRECTORY);

Rule any(long number, const char* why) {
  return {static_cast<unsigned>(number), why, {}, Verdict::kAllow, Verdict::kRefuse};
}
Rule only(long number, const char* why, std::vector<Conditions> when, Verdict otherwise = Verdict::kRefuse) {
  return {static_cast<unsigned>(number), why, std::move(when), Verdict::kAllow, otherwise};
}

// One of these values of one argument.
std::vector<Conditions> one_of(unsigned index, std::initializer_list<uint32_t> values) {
  std::vector<Conditions> list;
  for (const uint32_t value : values) list.push_back({{.index = index, .value = value}});
  return list;
}
std::vector<Conditions> none_of_bits(unsigned index, uint32_t bits) {
  return {{{.index = index, .mask = bits, .value = 0}}};
}

// Hot calls whose arguments are looked at come first: the kernel remembers the plain ones by itself.
void add_hot(std::vector<Rule>& rules) {
  std::vector<Conditions> options;
  const auto add = [&options](uint32_t level, std::initializer_list<uint32_t> names) {
    for (const uint32_t name : names)
      options.push_back({{.index = 2, .value = name}, {.index = 1, .value = level}});
  };
  add(SOL_SOCKET, {SO_LINGER, SO_REUSEADDR, SO_KEEPALIVE});
  add(IPPROTO_TCP,
      {TCP_NODELAY, TCP_USER_TIMEOUT, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT, kTcpInq, TCP_ULP});
  add(SOL_TLS, {TLS_TX, TLS_RX});
  add(IPPROTO_IPV6, {IPV6_V6ONLY, IPV6_RECVERR});
  add(IPPROTO_IP, {IP_RECVERR});
  rules.push_back(only(__NR_setsockopt,
                       "our own options, gRPC's and the resolver's; keys to the kernel: no filters",
                       options));
  rules.push_back(only(__NR_bpf, "elements of the three maps that the keeper handed over",
                       one_of(0, {BPF_MAP_LOOKUP_ELEM, BPF_MAP_UPDATE_ELEM, BPF_MAP_DELETE_ELEM,
                                  BPF_MAP_LOOKUP_AND_DELETE_ELEM, BPF_MAP_LOOKUP_BATCH}),
                       Verdict::kKill));
}

// TCP for the controller, UDP for its name (and for the resolver's choice between its addresses).
std::vector<Conditions> sockets_of_the_proxy() {
  std::vector<Conditions> sockets;
  const auto add = [&sockets](uint32_t type, uint32_t protocol) {
    for (const uint32_t family : {AF_INET, AF_INET6})
      for (const uint32_t named : {uint32_t{0}, protocol})
        sockets.push_back({{.index = 0, .value = family},
                           {.index = 1, .mask = kSocketType, .value = type},
                           {.index = 2, .value = named}});
  };
  add(SOCK_STREAM, IPPROTO_TCP);
  add(SOCK_DGRAM, IPPROTO_UDP);
  return sockets;
}

void add_filtered(std::vector<Rule>& rules, pid_t self) {
  rules.push_back(only(__NR_fcntl, "flags and copies of fds",
                       one_of(1, {F_GETFL, F_SETFL, F_GETFD, F_SETFD, F_DUPFD_CLOEXEC, F_SETPIPE_SZ})));
  rules.push_back(
      only(__NR_socket, "the controller and its name", sockets_of_the_proxy(), Verdict::kNoFamily));
  rules.push_back(only(__NR_ioctl, "how long the name server's answer is", one_of(1, {FIONREAD})));
  rules.push_back(only(__NR_mmap, "memory that is no code", none_of_bits(2, PROT_EXEC)));
  rules.push_back(only(__NR_mprotect, "stacks of new threads", none_of_bits(2, PROT_EXEC)));
  rules.push_back(
      only(__NR_madvise, "memory given back, not the marks on that of keys", one_of(2, {MADV_DONTNEED})));
  rules.push_back(only(__NR_clone, "threads of gRPC",
                       {{{.index = 0, .mask = kThread | kNewNamespaces | CLONE_PTRACE, .value = kThread}}},
                       Verdict::kKill));
  rules.push_back(
      {__NR_clone3, "its flags lie behind a pointer: glibc falls back to clone()", {}, Verdict::kAbsent});
  rules.push_back(only(__NR_openat, "CA, token, resolver's files: to read", none_of_bits(2, kWrites)));
  rules.push_back(only(__NR_prctl, "names of threads", one_of(0, {PR_SET_NAME, PR_GET_NAME})));
  rules.push_back(only(__NR_prlimit64, "limits are read, not set",
                       {{{.index = 2, .value = 0}, {.index = 2, .value = 0, .high = true}}}));
  rules.push_back(only(__NR_tgkill, "abort() and thread cancellation: our own threads",
                       {{{.index = 0, .value = static_cast<uint32_t>(self)}}}, Verdict::kKill));
}

void add_plain(std::vector<Rule>& rules) {
  // Bytes.
  rules.push_back(any(__NR_read, "eventfd, files"));
  rules.push_back(any(__NR_write, "eventfd, log"));
  rules.push_back(any(__NR_recvfrom, "connections"));
  rules.push_back(any(__NR_sendto, "connections"));
  rules.push_back(any(__NR_recvmsg, "connections, fds from the keeper and from an old proxy"));
  rules.push_back(any(__NR_sendmsg, "connections, the keeper, a successor and its fds"));
  rules.push_back(any(__NR_sendmmsg, "resolver"));
  rules.push_back(any(__NR_splice, "bulk between sockets"));
  rules.push_back(any(__NR_pipe2, "bulk between sockets"));
  rules.push_back(any(__NR_close, "fds"));
  // Sockets. listen() is none of them: listeners come from the keeper.
  rules.push_back(any(__NR_accept4, "connections of pods, local queries"));
  rules.push_back(any(__NR_connect, "applications, other nodes, the controller"));
  rules.push_back(any(__NR_bind, "the pod's own address towards its application"));
  rules.push_back(any(__NR_shutdown, "half-close, a hand-over that is given up"));
  rules.push_back(any(__NR_getsockname, "original destinations"));
  rules.push_back(any(__NR_getsockopt, "errors and states of sockets"));
  // Waiting.
#ifdef __NR_epoll_wait
  rules.push_back(any(__NR_epoll_wait, "reactors"));
#else
  rules.push_back(any(__NR_epoll_pwait, "reactors"));
#endif
  rules.push_back(any(__NR_epoll_ctl, "reactors"));
  rules.push_back(any(__NR_epoll_create1, "reactors of workers"));
  rules.push_back(any(__NR_eventfd2, "mailboxes"));
#ifdef __NR_poll
  rules.push_back(any(__NR_poll, "resolver, gRPC"));
#else
  rules.push_back(any(__NR_ppoll, "resolver, gRPC"));
#endif
  rules.push_back(any(__NR_futex, "locks"));
  rules.push_back(any(__NR_clock_nanosleep, "gRPC"));
  rules.push_back(any(__NR_restart_syscall, "the kernel's own, after a stop"));
  // Memory, threads, the end.
  rules.push_back(any(__NR_munmap, "memory"));
  rules.push_back(any(__NR_mremap, "large reallocations"));
  rules.push_back(any(__NR_brk, "memory"));
  rules.push_back(any(__NR_set_robust_list, "new threads"));
  rules.push_back(any(__NR_rseq, "new threads"));
  rules.push_back(any(__NR_sched_yield, "spinning locks of gRPC"));
  rules.push_back(any(__NR_sched_getaffinity, "how many processors: allocator, gRPC"));
  rules.push_back(any(__NR_sched_getscheduler, "attributes of new threads"));
  rules.push_back(any(__NR_sched_getparam, "attributes of new threads"));
  rules.push_back(any(__NR_getpid, "identity"));
  rules.push_back(any(__NR_gettid, "identity"));
  rules.push_back(any(__NR_uname, "resolver"));
  rules.push_back(any(__NR_getrandom, "keys, nonces"));
  rules.push_back(any(__NR_rt_sigprocmask, "threads, abort()"));
  rules.push_back(any(__NR_rt_sigaction, "abort()"));
  rules.push_back(any(__NR_rt_sigreturn, "signal handlers"));
  rules.push_back(any(__NR_exit, "threads"));
  rules.push_back(any(__NR_exit_group, "the end"));
  // Time: the vDSO's fall-backs.
  rules.push_back(any(__NR_clock_gettime, "time"));
  rules.push_back(any(__NR_gettimeofday, "time"));
  // Files.
  rules.push_back(any(__NR_fstat, "files"));
  rules.push_back(any(__NR_newfstatat, "has the resolver's file changed"));
  rules.push_back(any(__NR_lseek, "files"));
#ifdef __NR_unlink
  rules.push_back(
      any(__NR_unlink, "proxy.sock at the end; Landlock and its owner keep it to that directory"));
#else
  rules.push_back(any(__NR_unlinkat, "proxy.sock at the end, as above"));
#endif
}

// What only an intruder calls: a dead proxy is started again within milliseconds, a live one that obeys a
// stranger is worse.
void add_hostile(std::vector<Rule>& rules) {
  const auto hostile = [&rules](const char* why, std::initializer_list<long> numbers) {
    for (const long number : numbers)
      rules.push_back({static_cast<unsigned>(number), why, {}, Verdict::kKill, Verdict::kKill});
  };
  hostile("another program", {__NR_execve, __NR_execveat});
  hostile("other processes", {__NR_ptrace, __NR_process_vm_readv, __NR_process_vm_writev, __NR_pidfd_getfd,
                              __NR_kcmp, __NR_process_madvise});
  hostile("namespaces and mounts", {__NR_setns, __NR_unshare, __NR_mount, __NR_umount2, __NR_pivot_root,
                                    __NR_chroot, __NR_move_mount, __NR_open_tree, __NR_fsopen, __NR_fsconfig,
                                    __NR_fsmount, __NR_fspick, __NR_mount_setattr, __NR_open_by_handle_at});
  hostile("the kernel itself", {__NR_init_module, __NR_finit_module, __NR_delete_module, __NR_kexec_load,
                                __NR_kexec_file_load, __NR_reboot, __NR_swapon});
  hostile("the kernel's favourite weak spots",
          {__NR_perf_event_open, __NR_userfaultfd, __NR_io_uring_setup, __NR_add_key, __NR_request_key,
           __NR_keyctl, __NR_personality});
  hostile("credentials", {__NR_setuid, __NR_setgid, __NR_setresuid, __NR_setresgid, __NR_setreuid,
                          __NR_setregid, __NR_setgroups, __NR_capset, __NR_setfsuid, __NR_setfsgid});
#ifdef __NR_fork
  hostile("processes and x86's own", {__NR_fork, __NR_vfork, __NR_iopl, __NR_ioperm, __NR_modify_ldt});
#endif
}

}  // namespace

std::vector<Rule> calls_of_the_proxy(pid_t self) {
  std::vector<Rule> rules;
  add_hot(rules);
  add_filtered(rules, self);
  add_plain(rules);
  add_hostile(rules);
  return rules;
}

}  // namespace fairlead::confine
