#include "confine/lock_in.h"

#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "confine/calls.h"

namespace fairlead::confine {
namespace {

// The kernel counts a task's directory as a link of its parent's: 2 and one per thread (proc(5)).
Result<void> expect_one_thread() {
  struct stat tasks{};
  if (::stat("/proc/self/task", &tasks) != 0) return Error::from_errno("stat /proc/self/task");
  if (tasks.st_nlink != 3) return Error(ErrorKind::kInternal, "lock in: another thread runs already");
  return {};
}

Result<void> hide_memory() {
  const rlimit none{0, 0};
  if (::setrlimit(RLIMIT_CORE, &none) != 0) return Error::from_errno("RLIMIT_CORE");
  if (::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0) return Error::from_errno("PR_SET_DUMPABLE");
  return {};
}

Result<void> install(const std::vector<sock_filter>& program) {
  if (program.size() > BPF_MAXINSNS) return Error(ErrorKind::kInternal, "seccomp filter too long");
  const sock_fprog filter{static_cast<unsigned short>(program.size()),
                          const_cast<sock_filter*>(program.data())};  // seccomp(2) only reads it
  const long result = ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &filter);
  if (result != 0) return Error::from_errno("seccomp filter");
  return {};
}

}  // namespace

Result<LockedIn> lock_in(const Options& options) {
  // Landlock would not reach the others. A sanitizer's own thread is no harm where nothing is enforced.
  if (options.seccomp == Mode::kEnforce) FL_TRY(expect_one_thread());
  FL_TRY(hide_memory());
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return Error::from_errno("PR_SET_NO_NEW_PRIVS");
  LockedIn locked;
  locked.seccomp = options.seccomp;
  FL_TRY_ASSIGN(locked.landlock, close_files(options.files));
  FL_TRY(install(compile(calls_of_the_proxy(::getpid()), options.seccomp)));
  return locked;
}

}  // namespace fairlead::confine
