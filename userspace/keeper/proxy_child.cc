#include "keeper/proxy_child.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/close_range.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "base/log.h"

namespace fairlead::keeper {
namespace {

constexpr std::chrono::seconds kYoung{2};
constexpr std::chrono::milliseconds kFirstBackOff{10};
constexpr std::chrono::milliseconds kMaxBackOff{5000};
constexpr int kLastCapability = 63;
constexpr int kExecFailed = 127;

// Without CAP_IPC_LOCK the limit holds for the proxy. Where it cannot be raised the proxy runs on and says
// so.
void raise_locked_memory(size_t bytes) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_MEMLOCK, &limit) != 0) return;
  if (limit.rlim_cur >= bytes) return;
  const rlimit wanted{bytes, std::max<rlim_t>(limit.rlim_max, bytes)};
  if (::setrlimit(RLIMIT_MEMLOCK, &wanted) == 0) return;
  limit.rlim_cur = limit.rlim_max;            // no CAP_SYS_RESOURCE
  (void)::setrlimit(RLIMIT_MEMLOCK, &limit);  // ignoring: the proxy tells
}

// In the child, between fork and exec: only async-signal-safe calls. No step may be skipped.
[[noreturn]] void become_proxy(const ProxyCommand& command, const char* fd_text, int contract, pid_t parent) {
  const uid_t uid = command.uid;
  const auto fail = [](const char* what) {
    (void)!::write(STDERR_FILENO, what, ::strlen(what));
    ::_exit(kExecFailed);
  };
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) fail("proxy: the keeper died first\n");
  // Whoever started the keeper may have left something open; nothing of it is the proxy's.
  if (::close_range(STDERR_FILENO + 1, ~0U, CLOSE_RANGE_CLOEXEC) != 0) fail("proxy: close_range\n");
  if (::fcntl(contract, F_SETFD, 0) != 0) fail("proxy: contract fd\n");
  for (int capability = 0; capability <= kLastCapability; ++capability) {
    (void)::prctl(PR_CAPBSET_DROP, capability, 0, 0,
                  0);  // ignoring: unknown numbers; setresuid drops the rest
  }
  raise_locked_memory(command.locked_memory);
  if (::setgroups(0, nullptr) != 0 || ::setresgid(uid, uid, uid) != 0 || ::setresuid(uid, uid, uid) != 0) {
    fail("proxy: cannot give up root\n");
  }
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) fail("proxy: no_new_privs\n");
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // again: setresuid cleared it
  if (::getppid() != parent) fail("proxy: the keeper died first\n");
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  const char* const arguments[] = {"fairlead-agent",
                                   "proxy",
                                   "--config",
                                   command.config_path.c_str(),
                                   "--contract-fd",
                                   fd_text,
                                   command.successor ? "--successor" : nullptr,
                                   nullptr};
  ::execv("/proc/self/exe", const_cast<char* const*>(arguments));
  fail("proxy: exec failed\n");
  ::_exit(kExecFailed);
}

}  // namespace

ProxyChild::ProxyChild(Reactor& reactor, ProxyCommand command, Started started, Exited exited)
    : reactor_(reactor),
      command_(std::move(command)),
      started_(std::move(started)),
      exited_(std::move(exited)),
      back_off_(*this) {}

ProxyChild::~ProxyChild() {
  if (pid_ < 0) return;
  reactor_.unwatch(pidfd_);
  kill(SIGKILL);
  (void)::waitpid(pid_, nullptr, 0);
}

Result<void> ProxyChild::start() {
  std::array<int, 2> pair{};
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair.data()) != 0) {
    return Error::from_errno("socketpair");
  }
  UniqueFd ours(pair[0]);
  const UniqueFd theirs(pair[1]);
  const std::string fd_text = std::to_string(theirs.get());
  const pid_t parent = ::getpid();
  const pid_t child = ::fork();
  if (child < 0) return Error::from_errno("fork");
  if (child == 0) become_proxy(command_, fd_text.c_str(), theirs.get(), parent);
  pid_ = child;
  started_at_ = reactor_.now();
  pidfd_.reset(static_cast<int>(::syscall(SYS_pidfd_open, child, 0)));
  if (!pidfd_) return Error::from_errno("pidfd_open");
  FL_TRY(reactor_.watch_level(pidfd_, *this));
  started_(std::move(ours));
  return {};
}

void ProxyChild::keep() noexcept {
  restart_ = true;
  if (pid_ < 0 && !back_off_.armed()) reactor_.timers().arm(back_off_, reactor_.now());
}

void ProxyChild::kill(int signal) noexcept {
  if (pid_ > 0) (void)::kill(pid_, signal);  // ignoring: already dead is as good
}

void ProxyChild::on_io(uint32_t) noexcept {
  int status = 0;
  if (::waitpid(pid_, &status, WNOHANG) != pid_) return;
  reactor_.unwatch(pidfd_);
  pidfd_.reset();
  pid_ = -1;
  exited_(status);
  if (!restart_) return;
  const bool young = reactor_.now() - started_at_ < kYoung;
  back_off_time_ = young ? std::min(back_off_time_ * 2, kMaxBackOff) : kFirstBackOff;
  log::warn("keeper", "the proxy ended with status {:#x}, starting it again", status);
  reactor_.timers().arm(back_off_, reactor_.now() + (young ? back_off_time_ : std::chrono::milliseconds(0)));
}

void ProxyChild::on_back_off() noexcept {
  ++restarts_;
  const Result<void> started = start();
  if (started) return;
  log::error("keeper", "cannot start the proxy: {}, retrying", started.error().text());
  reactor_.timers().arm(back_off_, reactor_.now() + kMaxBackOff);
}

}  // namespace fairlead::keeper
