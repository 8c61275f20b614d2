#include "ebpf/features.h"

#include <bpf/bpf.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <span>
#include <thread>

#include "base/file.h"
#include "base/scope.h"
#include "ebpf/hooks.h"
#include "ebpf/map.h"

namespace fairlead::ebpf {
namespace {

constexpr int kNetnsCookieOption = 71;  // SO_NETNS_COOKIE, younger than the C library's headers
constexpr const char* kUpgradeKernel = "use Linux 6.1 or later with CONFIG_BPF_SYSCALL and CONFIG_CGROUP_BPF";

Feature found(std::string name, bool required, std::string detail) {
  return {std::move(name), required, true, std::move(detail), ""};
}

Feature missing(std::string name, bool required, std::string detail, std::string remedy) {
  return {std::move(name), required, false, std::move(detail), std::move(remedy)};
}

Feature from(std::string name, bool required, const Result<void>& result, std::string remedy) {
  if (result) return found(std::move(name), required, "works");
  return missing(std::move(name), required, result.error().text(), std::move(remedy));
}

constexpr bpf_insn move(uint8_t target, int value) {
  return {BPF_ALU64 | BPF_MOV | BPF_K, target, 0, 0, value};
}
constexpr bpf_insn call(int helper) {
  return {BPF_JMP | BPF_CALL, 0, 0, 0, helper};
}
constexpr bpf_insn load_context(int16_t offset) {
  return {BPF_LDX | BPF_MEM | BPF_W, 0, 1, offset, 0};
}
constexpr bpf_insn leave() {
  return {BPF_JMP | BPF_EXIT, 0, 0, 0, 0};
}

constexpr bpf_insn kReturnOne[] = {move(0, 1), leave()};
constexpr bpf_insn kSetRetval[] = {move(1, -ECONNREFUSED), call(BPF_FUNC_set_retval), move(0, 0), leave()};
constexpr bpf_insn kReadIngress[] = {load_context(offsetof(bpf_sk_lookup, ingress_ifindex)), move(0, 1),
                                     leave()};

Result<UniqueFd> load(bpf_prog_type type, bpf_attach_type attach, std::span<const bpf_insn> instructions) {
  bpf_prog_load_opts options{};
  options.sz = sizeof options;
  options.expected_attach_type = type == BPF_PROG_TYPE_SOCK_OPS ? bpf_attach_type{} : attach;
  UniqueFd fd(
      ::bpf_prog_load(type, "fl_probe", "Dual BSD/GPL", instructions.data(), instructions.size(), &options));
  if (!fd) return bpf_error("load probe program", errno);
  return fd;
}

Result<void> try_load(bpf_prog_type type, bpf_attach_type attach, std::span<const bpf_insn> instructions) {
  FL_TRY(load(type, attach, instructions));
  return {};
}

// Attaches to a cgroup made for it, of this process' own name, which goes again.
Result<void> try_cgroup(const std::string& mount, bpf_prog_type type, bpf_attach_type attach) {
  const std::string path = fmt::format("{}/fairlead-probe-{}", mount, ::getpid());
  if (::mkdir(path.c_str(), 0755) != 0) return Error::from_errno(fmt::format("make {}", path));
  const ScopeExit remove([&] { ::rmdir(path.c_str()); });
  FL_TRY_ASSIGN(const UniqueFd cgroup, open_file(path, O_RDONLY | O_DIRECTORY));
  FL_TRY_ASSIGN(const UniqueFd program, load(type, attach, kReturnOne));
  const UniqueFd link(::bpf_link_create(program.get(), cgroup.get(), attach, nullptr));
  if (!link) return bpf_error("attach to a child cgroup", errno);
  return {};
}

// Attaches in a network namespace that lives as long as the thread that made it.
Result<void> try_lookup() {
  Result<void> result;
  std::thread thread([&] {
    result = [&]() -> Result<void> {
      if (::unshare(CLONE_NEWNET) != 0) return Error::from_errno("make a network namespace");
      FL_TRY_ASSIGN(const UniqueFd netns, open_file("/proc/thread-self/ns/net", O_RDONLY));
      FL_TRY_ASSIGN(const UniqueFd program, load(BPF_PROG_TYPE_SK_LOOKUP, BPF_SK_LOOKUP, kReadIngress));
      const UniqueFd link(::bpf_link_create(program.get(), netns.get(), BPF_SK_LOOKUP, nullptr));
      if (!link) return bpf_error("attach to a network namespace", errno);
      return {};
    }();
  });
  thread.join();
  return result;
}

Result<void> try_take() {
  const UniqueFd fd(::bpf_map_create(BPF_MAP_TYPE_LRU_HASH, "fl_probe", 4, 4, 16, nullptr));
  if (!fd) return bpf_error("create LRU map", errno);
  const Map<uint32_t, uint32_t> map(fd);
  FL_TRY(map.put(1, 2));
  FL_TRY(map.entries(16));
  FL_TRY_ASSIGN(const auto taken, map.take(1));
  if (taken != std::optional<uint32_t>(2)) return Error(ErrorKind::kBpf, "the element was not there");
  return {};
}

Result<void> try_netns_cookie() {
  const UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  uint64_t cookie = 0;
  socklen_t length = sizeof cookie;
  if (::getsockopt(fd.get(), SOL_SOCKET, kNetnsCookieOption, &cookie, &length) != 0) {
    return Error::from_errno("SO_NETNS_COOKIE");
  }
  return {};
}

// An unconnected socket is refused by the module (ENOTCONN); without the module there is nobody to refuse
// (ENOENT).
Feature kernel_tls() {
  const UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int result = ::setsockopt(fd.get(), IPPROTO_TCP, TCP_ULP, "tls", 3);
  if (result == 0 || errno == ENOTCONN) return found("kernel-tls", false, "TCP_ULP \"tls\" is there");
  return missing("kernel-tls", false, Error::from_errno("TCP_ULP \"tls\"").text(),
                 "load the module tls; without it bulk streams are encrypted in user space");
}

Feature file_exists(std::string name, bool required, const std::string& path, std::string remedy) {
  if (::access(path.c_str(), R_OK) == 0) return found(std::move(name), required, path);
  return missing(std::move(name), required, Error::from_errno(path).text(), std::move(remedy));
}

Feature bpffs(const std::string& directory) {
  if (on_bpffs(directory)) return found("bpffs", true, directory);
  return missing("bpffs", true, fmt::format("{} is on no BPF file system", directory),
                 "mount -t bpf bpf /sys/fs/bpf");
}

Result<void> check_shared(const std::string& mount) {
  FL_TRY_ASSIGN(const UniqueFd root, open_file(mount, O_RDONLY | O_DIRECTORY));
  for (const Hook& hook : kAttachOrder) {
    if (hook.type == BPF_SK_LOOKUP) continue;
    uint32_t flags = 0, count = 0;
    if (::bpf_prog_query(root.get(), hook.type, 0, &flags, nullptr, &count) != 0) {
      return bpf_error(fmt::format("query {}", hook.name), errno);
    }
    if (count != 0 && (flags & (BPF_F_ALLOW_MULTI | BPF_F_ALLOW_OVERRIDE)) == 0) {
      return Error(ErrorKind::kBpf, fmt::format("{} of the root cgroup is held exclusively", hook.name));
    }
  }
  return {};
}

void probe_cgroup(const std::string& mount, std::vector<Feature>& features) {
  const auto sock_addr = BPF_PROG_TYPE_CGROUP_SOCK_ADDR;
  features.push_back(found("cgroup2", true, mount));
  features.push_back(from("root-cgroup-shared", true, check_shared(mount),
                          "a program attached without BPF_F_ALLOW_MULTI keeps pods from having their own; "
                          "restart its owner so that "
                          "it attaches by link (Cilium does when its agent restarts on Linux 5.7 or later)"));
  features.push_back(
      from("cgroup-sock-addr", true, try_cgroup(mount, sock_addr, BPF_CGROUP_INET4_CONNECT), kUpgradeKernel));
  features.push_back(
      from("getpeername", true, try_cgroup(mount, sock_addr, BPF_CGROUP_INET4_GETPEERNAME), kUpgradeKernel));
  features.push_back(
      from("sockops", true, try_cgroup(mount, BPF_PROG_TYPE_SOCK_OPS, BPF_CGROUP_SOCK_OPS), kUpgradeKernel));
}

std::string unescape(std::string_view field) {
  std::string text;
  for (size_t i = 0; i < field.size(); ++i) {
    // proc(5): blanks and backslashes as three octal digits
    if (field[i] == '\\' && i + 3 < field.size()) {
      text += static_cast<char>((field[i + 1] - '0') * 64 + (field[i + 2] - '0') * 8 + (field[i + 3] - '0'));
      i += 3;
    } else {
      text += field[i];
    }
  }
  return text;
}

}  // namespace

std::optional<std::string> cgroup2_mount_in(std::string_view mounts) {
  while (!mounts.empty()) {
    const size_t end = mounts.find('\n');
    const std::string_view line = mounts.substr(0, end);
    mounts.remove_prefix(end == std::string_view::npos ? mounts.size() : end + 1);
    const size_t first = line.find(' ');
    const size_t second = first == std::string_view::npos ? first : line.find(' ', first + 1);
    if (second == std::string_view::npos) continue;
    const std::string_view type = line.substr(second + 1, line.find(' ', second + 1) - second - 1);
    if (type == "cgroup2") return unescape(line.substr(first + 1, second - first - 1));
  }
  return std::nullopt;
}

std::optional<std::string> cgroup2_mount() {
  const auto mounts = read_file("/proc/self/mounts");
  if (!mounts) return std::nullopt;
  return cgroup2_mount_in(*mounts);
}

bool on_bpffs(const std::string& path) {
  std::string nearest = path;
  struct statfs status{};
  while (::statfs(nearest.c_str(), &status) != 0) {
    const size_t slash = nearest.rfind('/');
    if (errno != ENOENT || nearest == "/" || slash == std::string::npos) return false;
    nearest = slash == 0 ? "/" : nearest.substr(0, slash);
  }
  return static_cast<uint64_t>(status.f_type) == BPF_FS_MAGIC;
}

std::vector<Feature> probe_features(const FeatureOptions& options) {
  std::vector<Feature> features;
  features.push_back(bpffs(options.bpf_directory));
  const auto mount = options.cgroup_mount.empty() ? cgroup2_mount() : std::optional(options.cgroup_mount);
  if (mount) {
    probe_cgroup(*mount, features);
  } else {
    features.push_back(missing("cgroup2", true, "no cgroup2 in /proc/self/mounts",
                               "mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified"));
  }
  features.push_back(from("set-retval", true,
                          try_load(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_CONNECT, kSetRetval),
                          kUpgradeKernel));
  features.push_back(from("sk-lookup", true, try_lookup(), kUpgradeKernel));
  features.push_back(from("map-take", true, try_take(), kUpgradeKernel));
  features.push_back(from("netns-cookie", true, try_netns_cookie(), kUpgradeKernel));
  features.push_back(
      file_exists("btf", true, "/sys/kernel/btf/vmlinux", "use a kernel with CONFIG_DEBUG_INFO_BTF"));
  features.push_back(kernel_tls());
  features.push_back(file_exists("mptcp", false, "/proc/sys/net/mptcp/enabled",
                                 "nothing: without it there are no MPTCP connections to capture"));
  return features;
}

}  // namespace fairlead::ebpf
