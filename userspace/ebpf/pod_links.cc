#include "ebpf/pod_links.h"

#include <bpf/bpf.h>
#include <sys/stat.h>

#include "ebpf/map.h"

namespace fairlead::ebpf {
namespace {

Result<uint64_t> inode_of(BorrowedFd fd) {
  struct stat status{};
  if (::fstat(fd.get(), &status) != 0) return Error::from_errno("stat cgroup or netns");
  return uint64_t{status.st_ino};
}

// What a link is attached to, as the kernel tells; 0 when it is attached to nothing any more. A cgroup's id
// is its inode number, as a namespace's is.
struct Target {
  uint32_t attach_type = 0;
  uint64_t inode = 0;
};

Result<Target> target_of(BorrowedFd link) {
  bpf_link_info info{};
  uint32_t size = sizeof info;
  if (::bpf_obj_get_info_by_fd(link.get(), &info, &size) != 0) return bpf_error("read link", errno);
  if (info.type == BPF_LINK_TYPE_CGROUP) return Target{info.cgroup.attach_type, info.cgroup.cgroup_id};
  if (info.type == BPF_LINK_TYPE_NETNS) return Target{info.netns.attach_type, info.netns.netns_ino};
  return Target{};
}

Result<void> create_link(BorrowedFd program, BorrowedFd target, const Hook& hook, const std::string& path) {
  const UniqueFd link(::bpf_link_create(program.get(), target.get(), hook.type, nullptr));
  if (!link) {
    const int error = errno;
    Error failed = bpf_error(fmt::format("attach {}", hook.name), error);
    if (error != EPERM) return failed;
    return std::move(failed).context(
        "a parent cgroup may hold an exclusive program (attached without BPF_F_ALLOW_MULTI)");
  }
  if (auto pinned = pin(link, path); !pinned) {
    (void)::bpf_link_detach(link.get());  // the error of the pin is the one that matters
    return std::move(pinned).error();
  }
  return {};
}

// A live link to the same place takes the program in place, so that there is no moment without one.
Result<void> ensure_link(BorrowedFd program, BorrowedFd target, const Hook& hook, const std::string& path) {
  auto link = open_pin(path);
  if (!link && link.error().code() == ENOENT) return create_link(program, target, hook, path);
  if (!link) return std::move(link).error();
  FL_TRY_ASSIGN(const uint64_t wanted, inode_of(target));
  FL_TRY_ASSIGN(const Target held, target_of(*link));
  if (held.attach_type == static_cast<uint32_t>(hook.type) && held.inode == wanted) {
    if (::bpf_link_update(link->get(), program.get(), nullptr) == 0) return {};
    if (errno != ENOLINK) return bpf_error(fmt::format("replace {}", hook.name), errno);
  }
  link->reset();
  FL_TRY(remove_link_pin(path));
  return create_link(program, target, hook, path);
}

}  // namespace

bool is_captured(const PinPaths& paths, const std::string& uid) {
  const auto link = open_pin(fmt::format("{}/{}", paths.pod(uid), kConnect4.name));
  if (!link) return false;
  const auto target = target_of(*link);
  return target && target->inode != 0;
}

Result<void> attach_hooks(const PinPaths& paths, const Programs& programs, const PodAttachment& attachment) {
  const std::string directory = paths.pod(attachment.uid);
  if (::mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST) {
    return Error::from_errno(fmt::format("make {}", directory));
  }
  FL_TRY_ASSIGN(const UniqueFd lookup, load_lookup_program(paths, attachment.netns_cookie));
  for (const Hook& hook : kAttachOrder) {
    const bool on_netns = hook.type == BPF_SK_LOOKUP;
    const BorrowedFd program = programs.of(hook).value_or(BorrowedFd(lookup));
    FL_TRY(ensure_link(program, on_netns ? attachment.netns : attachment.cgroup, hook,
                       fmt::format("{}/{}", directory, hook.name)));
  }
  return {};
}

}  // namespace fairlead::ebpf
