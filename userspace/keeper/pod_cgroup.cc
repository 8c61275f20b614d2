#include "keeper/pod_cgroup.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "base/file.h"

namespace fairlead::keeper {

Result<UniqueFd> open_pod_cgroup(const std::string& path) {
  FL_TRY_ASSIGN(UniqueFd fd, open_file(path, O_RDONLY | O_DIRECTORY));
  struct statfs filesystem{};
  if (::fstatfs(fd.get(), &filesystem) != 0) return Error::from_errno(fmt::format("statfs {}", path));
  constexpr long kCgroup2Magic = 0x63677270;
  if (filesystem.f_type != kCgroup2Magic)
    return Error(ErrorKind::kInvalidArgument, fmt::format("{} is no cgroup v2", path));
  struct stat here{};
  struct stat parent{};
  if (::fstat(fd.get(), &here) != 0 || ::stat((path + "/..").c_str(), &parent) != 0)
    return Error::from_errno("stat cgroup");
  if (here.st_dev != parent.st_dev)
    return Error(ErrorKind::kInvalidArgument, fmt::format("{} is the root cgroup", path));
  return fd;
}

}  // namespace fairlead::keeper
