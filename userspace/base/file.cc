#include "base/file.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "base/scope.h"

namespace fairlead {

Result<UniqueFd> open_file(const std::string& path, int flags, unsigned mode) {
  UniqueFd fd(::open(path.c_str(), flags | O_CLOEXEC, mode));
  if (!fd) return Error::from_errno(fmt::format("open {}", path));
  return fd;
}

Result<std::string> read_file(const std::string& path, size_t maximum) {
  FL_TRY_ASSIGN(const UniqueFd fd, open_file(path, O_RDONLY));
  std::string content;
  char chunk[16384];
  for (;;) {
    const ssize_t count = ::read(fd.get(), chunk, sizeof chunk);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return Error::from_errno(fmt::format("read {}", path));
    if (count == 0) return content;
    content.append(chunk, static_cast<size_t>(count));
    if (content.size() > maximum)
      return Error(ErrorKind::kExhausted, fmt::format("read {}: larger than {} bytes", path, maximum));
  }
}

Result<void> write_file_atomically(const std::string& path, std::string_view content, unsigned mode) {
  const std::string temporary = fmt::format("{}.{}.tmp", path, ::getpid());
  ScopeExit cleanup([&] { ::unlink(temporary.c_str()); });
  {
    FL_TRY_ASSIGN(const UniqueFd fd, open_file(temporary, O_WRONLY | O_CREAT | O_TRUNC, mode));
    while (!content.empty()) {
      const ssize_t count = ::write(fd.get(), content.data(), content.size());
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return Error::from_errno(fmt::format("write {}", temporary));
      content.remove_prefix(static_cast<size_t>(count));
    }
  }
  if (::rename(temporary.c_str(), path.c_str()) != 0)
    return Error::from_errno(fmt::format("rename to {}", path));
  cleanup.dismiss();
  return {};
}

Result<UniqueFd> duplicate(BorrowedFd fd) {
  UniqueFd copy(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));
  if (!copy) return Error::from_errno("dup");
  return copy;
}

Result<void> make_directories(const std::string& path, unsigned mode) {
  for (size_t slash = path.find('/', 1);; slash = path.find('/', slash + 1)) {
    const std::string part = path.substr(0, slash);
    if (::mkdir(part.c_str(), mode) != 0 && errno != EEXIST)
      return Error::from_errno(fmt::format("mkdir {}", part));
    if (slash == std::string::npos) return {};
  }
}

}  // namespace fairlead
