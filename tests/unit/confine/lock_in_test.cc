// What a process that is locked in can still do, tried by real system calls in children that lock themselves
// in with the proxy's own code.
#include "confine/lock_in.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <functional>
#include <thread>

#include "base/file.h"

namespace fairlead::confine {
namespace {

constexpr int kNotLocked = 100;
#ifndef __has_feature
#define __has_feature(name) 0
#endif
constexpr bool kSanitized = __has_feature(address_sanitizer) || __has_feature(thread_sanitizer);

class LockIn : public ::testing::Test {
 protected:
  void SetUp() override {
    if (kSanitized) GTEST_SKIP() << "a sanitizer has threads, mappings and calls of its own";
    std::string name = ::testing::TempDir() + "/confineXXXXXX";
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    directory = name;
    for (const char* part : {"/config", "/run", "/other"}) ASSERT_TRUE(make_directories(directory + part));
    ASSERT_TRUE(write_file_atomically(directory + "/config/token", "first"));
    ASSERT_TRUE(write_file_atomically(directory + "/other/secret", "no business of ours"));
    ASSERT_TRUE(write_file_atomically(directory + "/run/proxy.sock", ""));
  }
  void TearDown() override {
    if (!directory.empty()) (void)std::system(("rm -rf '" + directory + "'").c_str());
  }

  Options options(Mode mode = Mode::kEnforce) const {
    Options made;
    made.seccomp = mode;
    made.files.readable = {directory + "/config/token", "/etc/resolv.conf"};
    made.files.sockets = directory + "/run";
    return made;
  }

  // The wait status of a child that is locked in and then does it; what it returns is its exit code.
  int locked(const std::function<int()>& act, Mode mode = Mode::kEnforce) const {
    const Options chosen = options(mode);
    const pid_t child = ::fork();
    if (child == 0) {
      const auto result = lock_in(chosen);
      if (!result) std::fputs(result.error().text().c_str(), stderr);
      ::_exit(result ? act() : kNotLocked);
    }
    int status = -1;
    EXPECT_EQ(::waitpid(child, &status, 0), child);
    return status;
  }
  void expect_killed(const std::function<int()>& act, const char* what) const {
    const int status = locked(act);
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS) << what << ": status " << status;
  }
  // `act` gives an errno, 0 for success.
  void expect_errno(const std::function<int()>& act, int code, const char* what) const {
    const int status = locked(act);
    EXPECT_TRUE(WIFEXITED(status)) << what << ": status " << status;
    EXPECT_EQ(WEXITSTATUS(status), code) << what;
  }

  std::string directory;
};

int errno_of(long result) {
  return result < 0 ? errno : 0;
}
int errno_of_open(const std::string& path, int flags = O_RDONLY) {
  return errno_of(::open(path.c_str(), flags | O_CLOEXEC, 0600));
}
bool has_landlock() {
  return ::syscall(SYS_landlock_create_ruleset, nullptr, 0, 1) > 0;
}

TEST_F(LockIn, RunsNoOtherProgram) {
  expect_killed([] { return ::execl("/bin/true", "true", nullptr); }, "execve");
  expect_killed([] { return static_cast<int>(::fork()); }, "fork");
  expect_killed([] { return std::system("true"); }, "system");
}

TEST_F(LockIn, TouchesNoOtherProcess) {
  const pid_t parent = ::getpid();
  expect_killed([=] { return static_cast<int>(::ptrace(PTRACE_ATTACH, parent, nullptr, nullptr)); },
                "ptrace");
  expect_killed(
      [=] {
        char byte = 0;
        const iovec here{&byte, 1};
        const iovec there{&byte, 1};
        return static_cast<int>(::syscall(SYS_process_vm_readv, parent, &here, 1, &there, 1, 0));
      },
      "process_vm_readv");
  expect_errno([=] { return errno_of(::kill(parent, 0)); }, ENOSYS, "kill");
}

TEST_F(LockIn, LoadsNoBpfProgram) {
  expect_killed(
      [] {
        bpf_attr attributes{};
        return static_cast<int>(::syscall(SYS_bpf, BPF_PROG_LOAD, &attributes, sizeof attributes));
      },
      "bpf(PROG_LOAD)");
  expect_errno(
      [] {
        bpf_attr attributes{};
        attributes.map_fd = static_cast<uint32_t>(-1);
        return errno_of(::syscall(SYS_bpf, BPF_MAP_LOOKUP_ELEM, &attributes, sizeof attributes));
      },
      EBADF, "bpf(MAP_LOOKUP_ELEM) reaches the kernel");
}

TEST_F(LockIn, EntersNoNamespace) {
  const UniqueFd ours(::open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC));
  ASSERT_TRUE(ours);
  expect_killed([&] { return ::setns(ours.get(), CLONE_NEWNET); }, "setns");
  expect_killed([] { return ::unshare(CLONE_NEWUSER); }, "unshare");
}

TEST_F(LockIn, ReadsWhatItNeedsAndNoOtherFile) {
  if (!has_landlock()) GTEST_SKIP() << "this kernel has no Landlock";
  expect_errno([&] { return errno_of_open(directory + "/config/token"); }, 0, "token");
  expect_errno([&] { return errno_of_open("/etc/resolv.conf"); }, 0, "resolv.conf");
  for (const std::string& other :
       {std::string("/etc/hostname"), std::string("/etc/shadow"), std::string("/etc/passwd"),
        std::string("/proc/self/maps"), std::string("/"), directory + "/other/secret"}) {
    expect_errno([&] { return errno_of_open(other); }, EACCES, other.c_str());
  }
  expect_errno([&] { return errno_of_open(directory + "/config/token", O_RDWR); }, EPERM, "writing");
  expect_errno([&] { return errno_of_open(directory + "/run/new", O_WRONLY | O_CREAT); }, EPERM, "creating");
}

TEST_F(LockIn, SeesATokenThatIsReplacedLater) {
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  int go[2];
  ASSERT_EQ(::pipe(go), 0);
  std::thread other([&] {
    char byte = 0;
    EXPECT_EQ(::read(ready[0], &byte, 1), 1);
    EXPECT_TRUE(write_file_atomically(directory + "/config/token", "second"));
    EXPECT_EQ(::write(go[1], &byte, 1), 1);
  });
  expect_errno(
      [&] {
        char byte = 0;
        if (::write(ready[1], &byte, 1) != 1 || ::read(go[0], &byte, 1) != 1) return 1;
        const auto token = read_file(directory + "/config/token", 100);
        return token && *token == "second" ? 0 : 2;
      },
      0, "the replaced token");
  other.join();
}

TEST_F(LockIn, RemovesItsSocketAndNothingElse) {
  if (!has_landlock()) GTEST_SKIP() << "this kernel has no Landlock";
  expect_errno([&] { return errno_of(::unlink((directory + "/config/token").c_str())); }, EACCES, "token");
  expect_errno([&] { return errno_of(::unlink((directory + "/run/proxy.sock").c_str())); }, 0, "socket");
}

TEST_F(LockIn, OpensNoSocketButForTheController) {
  expect_errno([] { return errno_of(::socket(AF_INET, SOCK_STREAM, 0)); }, 0, "TCP");
  expect_errno([] { return errno_of(::socket(AF_UNIX, SOCK_STREAM, 0)); }, EAFNOSUPPORT, "Unix");
  expect_errno([] { return errno_of(::socket(AF_NETLINK, SOCK_RAW, 0)); }, EAFNOSUPPORT, "netlink");
  expect_errno([] { return errno_of(::socket(AF_PACKET, SOCK_RAW, 0)); }, EAFNOSUPPORT, "packet");
  const UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  expect_errno([&] { return errno_of(::listen(fd.get(), 1)); }, ENOSYS, "listen");
}

TEST_F(LockIn, MakesNoCode) {
  expect_errno(
      [] {
        void* page = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (page == MAP_FAILED) return 1;
        return errno_of(::mprotect(page, 4096, PROT_READ | PROT_EXEC));
      },
      EPERM, "mprotect");
}

TEST_F(LockIn, StartsThreadsAndEndsByAbort) {
  expect_errno(
      [] {
        int value = 0;
        std::thread thread([&] { value = 7; });
        thread.join();
        return value == 7 ? 0 : 1;
      },
      0, "a thread");
  const int status = locked([]() -> int { std::abort(); });
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT) << status;
  EXPECT_FALSE(WCOREDUMP(status));
}

TEST_F(LockIn, FiltersAllThreadsThatComeLater) {
  expect_killed(
      [] {
        std::thread thread([] { (void)::unshare(CLONE_NEWUSER); });
        thread.join();
        return 0;
      },
      "unshare in a thread");
}

TEST_F(LockIn, IsHiddenFromItsOwnUser) {
  expect_errno(
      [] {
        rlimit core{1, 1};
        if (::getrlimit(RLIMIT_CORE, &core) != 0 || core.rlim_cur != 0 || core.rlim_max != 0) return 1;
        return 0;
      },
      0, "core dumps");
  const Options chosen = options();
  int hold[2];
  ASSERT_EQ(::pipe(hold), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    if (::getuid() == 0 && ::setresuid(65532, 65532, 65532) != 0) ::_exit(1);
    if (!lock_in(chosen)) ::_exit(kNotLocked);
    (void)!::write(hold[1], "x", 1);
    (void)::poll(nullptr, 0, -1);
    ::_exit(0);
  }
  char byte = 0;
  ASSERT_EQ(::read(hold[0], &byte, 1), 1);
  // A second process of that user: neither its memory nor its debugger's seat.
  const pid_t sibling = ::fork();
  if (sibling == 0) {
    if (::getuid() == 0 && ::setresuid(65532, 65532, 65532) != 0) ::_exit(1);
    const bool memory = ::open(("/proc/" + std::to_string(child) + "/mem").c_str(), O_RDONLY) >= 0;
    const bool attached = ::ptrace(PTRACE_SEIZE, child, nullptr, nullptr) == 0;
    ::_exit(memory ? 2 : attached ? 3 : 0);
  }
  int status = -1;
  EXPECT_EQ(::waitpid(sibling, &status, 0), sibling);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0) << "2: its memory was open, 3: it could be attached to";
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
}

TEST_F(LockIn, RefusesToBeginBesideAnotherThread) {
  const pid_t child = ::fork();
  if (child == 0) {
    std::thread idle([] { (void)::poll(nullptr, 0, -1); });
    ::_exit(lock_in(options()) ? 1 : 0);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

TEST_F(LockIn, AuditOnlyTells) {
  const int status = locked([] { return ::unshare(0) == 0 ? 0 : 1; }, Mode::kAudit);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

}  // namespace
}  // namespace fairlead::confine
