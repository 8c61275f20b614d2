#include "ebpf/features.h"

#include <sys/statfs.h>

#include <linux/magic.h>

namespace fairlead::ebpf {

bool on_bpffs(const std::string& path) {
  std::string nearest = path;
  struct statfs status {};
  while (::statfs(nearest.c_str(), &status) != 0) {
    const size_t slash = nearest.rfind('/');
    if (errno != ENOENT || slash == std::string::npos) return false;
    nearest = slash == 0 ? "/" : nearest.substr(0, slash);
  }
  return static_cast<uint64_t>(status.f_type) == BPF_FS_MAGIC;
}

}  // namespace fairlead::ebpf
