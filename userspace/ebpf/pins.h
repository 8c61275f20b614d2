// Pins in a bpffs directory: names, links, detaching. Internal to ebpf/.
// Errors: kBpf, kSyscall; kUnavailable when the directory is on no bpffs.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace fairlead::ebpf {

struct PinPaths {
  std::string root;

  [[nodiscard]] std::string maps() const { return root + "/maps"; }
  [[nodiscard]] std::string map(std::string_view name) const { return fmt::format("{}/maps/{}", root, name); }
  [[nodiscard]] std::string pods() const { return root + "/pods"; }
  [[nodiscard]] std::string pod(std::string_view uid) const { return fmt::format("{}/pods/{}", root, uid); }
};

// Makes root, maps/ and pods/ (mode 0700). Mounts nothing.
Result<void> make_pin_directories(const PinPaths& paths);
// Names in a directory, sorted; a directory that is not there has none.
Result<std::vector<std::string>> list_directory(const std::string& path);
Result<UniqueFd> open_pin(const std::string& path);
Result<void> pin(BorrowedFd object, const std::string& path);
// Detaches the link pinned at `path` at once (dropping the last reference alone detaches later, from a work
// queue), then unpins it. Not there is success.
Result<void> remove_link_pin(const std::string& path);
Result<void> remove_pin(const std::string& path);
Result<void> remove_directory(const std::string& path);
// Detaches and unpins a pod's links, connect first: from then on nothing new is captured.
Result<void> remove_pod_pins(const std::string& directory);

// Whether the maps pinned are of our FL_ABI_VERSION (false: none, or another version, or half made).
Result<bool> version_matches(const PinPaths& paths);
Result<void> pin_version(const PinPaths& paths);

}  // namespace fairlead::ebpf
