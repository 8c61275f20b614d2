#include "ebpf/pins.h"

#include <bpf/bpf.h>
#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

#include "bpf/abi/maps.h"
#include "ebpf/features.h"
#include "ebpf/hooks.h"
#include "ebpf/map.h"

namespace fairlead::ebpf {
namespace {

Result<void> make_directory(const std::string& path) {
  if (::mkdir(path.c_str(), 0700) == 0 || errno == EEXIST) return {};
  return Error::from_errno(fmt::format("make {}", path));
}

}  // namespace

Result<void> make_pin_directories(const PinPaths& paths) {
  if (!on_bpffs(paths.root)) {
    return Error(ErrorKind::kUnavailable,
                 fmt::format("{} is on no BPF file system: mount -t bpf bpf /sys/fs/bpf", paths.root));
  }
  // Parents, too: an agent may have a directory of its own below ours.
  for (size_t slash = paths.root.find('/', 1); slash != std::string::npos;
       slash = paths.root.find('/', slash + 1)) {
    FL_TRY(make_directory(paths.root.substr(0, slash)));
  }
  FL_TRY(make_directory(paths.root));
  FL_TRY(make_directory(paths.maps()));
  return make_directory(paths.pods());
}

Result<std::vector<std::string>> list_directory(const std::string& path) {
  std::vector<std::string> names;
  const std::unique_ptr<DIR, decltype(&::closedir)> directory(::opendir(path.c_str()), &::closedir);
  if (!directory) {
    if (errno == ENOENT) return names;
    return Error::from_errno(fmt::format("open {}", path));
  }
  errno = 0;
  while (const dirent* entry = ::readdir(directory.get())) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") names.push_back(name);
    errno = 0;
  }
  if (errno != 0) return Error::from_errno(fmt::format("read {}", path));
  std::sort(names.begin(), names.end());
  return names;
}

Result<UniqueFd> open_pin(const std::string& path) {
  UniqueFd fd(::bpf_obj_get(path.c_str()));
  if (!fd) return bpf_error(fmt::format("open pin {}", path), errno);
  return fd;
}

Result<void> pin(BorrowedFd object, const std::string& path) {
  if (::bpf_obj_pin(object.get(), path.c_str()) != 0) return bpf_error(fmt::format("pin {}", path), errno);
  return {};
}

Result<void> remove_pin(const std::string& path) {
  if (::unlink(path.c_str()) == 0 || errno == ENOENT) return {};
  return Error::from_errno(fmt::format("unpin {}", path));
}

Result<void> remove_directory(const std::string& path) {
  if (::rmdir(path.c_str()) == 0 || errno == ENOENT) return {};
  return Error::from_errno(fmt::format("remove {}", path));
}

Result<void> remove_link_pin(const std::string& path) {
  if (auto link = open_pin(path)) {
    // A link whose cgroup or netns is gone is detached already; what else fails is told by the unpinning.
    (void)::bpf_link_detach(link->get());
  }
  return remove_pin(path);
}

Result<void> remove_pod_pins(const std::string& directory) {
  for (const Hook& hook : kDetachOrder) FL_TRY(remove_link_pin(fmt::format("{}/{}", directory, hook.name)));
  FL_TRY_ASSIGN(const auto rest, list_directory(directory));
  for (const std::string& name : rest) FL_TRY(remove_link_pin(fmt::format("{}/{}", directory, name)));
  return remove_directory(directory);
}

Result<bool> version_matches(const PinPaths& paths) {
  auto fd = open_pin(paths.map(FL_MAP_VERSION));
  if (!fd && fd.error().code() == ENOENT) return false;
  if (!fd) return std::move(fd).error();
  bpf_map_info info{};
  uint32_t size = sizeof info;
  if (::bpf_obj_get_info_by_fd(fd->get(), &info, &size) != 0) return bpf_error("read fl_version", errno);
  if (info.key_size != sizeof(uint32_t) || info.value_size != sizeof(uint32_t)) return false;
  FL_TRY_ASSIGN(const auto version, (Map<uint32_t, uint32_t>(*fd).get(0)));
  return version == std::optional<uint32_t>(FL_ABI_VERSION);
}

Result<void> pin_version(const PinPaths& paths) {
  const UniqueFd map(
      ::bpf_map_create(BPF_MAP_TYPE_ARRAY, FL_MAP_VERSION, sizeof(uint32_t), sizeof(uint32_t), 1, nullptr));
  if (!map) return bpf_error("create fl_version", errno);
  FL_TRY((Map<uint32_t, uint32_t>(map).put(0, FL_ABI_VERSION)));
  return pin(map, paths.map(FL_MAP_VERSION));
}

}  // namespace fairlead::ebpf
