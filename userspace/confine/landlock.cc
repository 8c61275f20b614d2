#include "confine/landlock.h"

#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <set>

#include "base/file.h"
#include "base/unique_fd.h"

namespace fairlead::confine {
namespace {

// The kernel's contract, here because the headers of a build machine may be older than the kernel of a node
// (include/uapi/linux/landlock.h).
struct RulesetAttributes {
  uint64_t files = 0;
  uint64_t network = 0;
  uint64_t scoped = 0;
};
struct [[gnu::packed]] PathBeneath {
  uint64_t allowed = 0;
  int32_t parent = -1;
};
constexpr unsigned kAskVersion = 1;
constexpr int kPathBeneath = 1;
constexpr uint64_t kReadFile = 1u << 2;
constexpr uint64_t kRemoveFile = 1u << 5;
constexpr uint64_t kScopes = 3;  // abstract Unix sockets, signals: version 6
constexpr int kScopesVersion = 6;
// How many rights on files a version knows: refer, truncate, ioctl on devices came later.
constexpr std::array<int, 6> kRightsByVersion = {0, 13, 14, 15, 15, 16};

uint64_t rights_of(int version) {
  const auto known = std::min<size_t>(static_cast<size_t>(version), kRightsByVersion.size() - 1);
  return (uint64_t{1} << kRightsByVersion[known]) - 1;
}

// A file that is gone is none that could be read.
Result<void> allow(BorrowedFd ruleset, const std::string& path, uint64_t rights) {
  const UniqueFd fd(::open(path.c_str(), O_PATH | O_CLOEXEC));
  if (!fd && (errno == ENOENT || errno == EACCES || errno == ENOTDIR)) return {};
  if (!fd) return Error::from_errno(fmt::format("open {}", path));
  const PathBeneath rule{rights, fd.get()};
  if (::syscall(SYS_landlock_add_rule, ruleset.get(), kPathBeneath, &rule, 0) != 0)
    return Error::from_errno(fmt::format("landlock rule for {}", path));
  return {};
}

std::string resolved(const std::string& path) {
  std::array<char, PATH_MAX> name{};
  return ::realpath(path.c_str(), name.data()) != nullptr ? std::string(name.data()) : path;
}

// Its directory, unless that is so near the root that it holds a host's other files, too: then the file
// alone.
std::string place_of(const std::string& path) {
  const std::string directory = path.substr(0, path.rfind('/'));
  return std::count(directory.begin(), directory.end(), '/') < 2 ? path : directory;
}

}  // namespace

Result<int> close_files(const FileRules& rules) {
  const long version = ::syscall(SYS_landlock_create_ruleset, nullptr, 0, kAskVersion);
  if (version <= 0) return 0;
  RulesetAttributes attributes;
  attributes.files = rights_of(static_cast<int>(version));
  if (version >= kScopesVersion) attributes.scoped = kScopes;
  // The kernel takes a longer struct as long as what it does not know is zero.
  const UniqueFd ruleset(
      static_cast<int>(::syscall(SYS_landlock_create_ruleset, &attributes, sizeof attributes, 0)));
  if (!ruleset) return Error::from_errno("landlock_create_ruleset");
  std::set<std::string> readable;
  for (const std::string& file : rules.readable) {
    readable.insert(place_of(file));
    readable.insert(place_of(resolved(file)));
  }
  for (const std::string& path : readable) FL_TRY(allow(ruleset, path, kReadFile));
  if (!rules.sockets.empty()) FL_TRY(allow(ruleset, rules.sockets, kRemoveFile));
  if (::syscall(SYS_landlock_restrict_self, ruleset.get(), 0) != 0)
    return Error::from_errno("landlock_restrict_self");
  return static_cast<int>(version);
}

}  // namespace fairlead::confine
