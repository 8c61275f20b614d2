#include "net/unix_socket.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

namespace fairlead::net {
namespace {

constexpr int kBacklog = 64;

Result<sockaddr_un> unix_address(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    return Error(ErrorKind::kInvalidArgument,
                 fmt::format("socket path {} is longer than {}", path, sizeof address.sun_path - 1));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

Result<UniqueFd> unix_socket(int type) {
  UniqueFd fd(::socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return Error::from_errno("socket AF_UNIX");
  return fd;
}

}  // namespace

Result<UniqueFd> unix_listener(const std::string& path, int type, unsigned mode) {
  FL_TRY_ASSIGN(const sockaddr_un address, unix_address(path));
  FL_TRY_ASSIGN(UniqueFd fd, unix_socket(type));
  if (::unlink(path.c_str()) != 0 && errno != ENOENT)
    return Error::from_errno(fmt::format("unlink {}", path));
  const mode_t old_mask = ::umask(0177);  // never wider than asked, not even for a moment
  const int bound = ::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
  const int code = errno;
  ::umask(old_mask);
  if (bound != 0) return Error::from_code(fmt::format("bind {}", path), code);
  if (::chmod(path.c_str(), mode) != 0) return Error::from_errno(fmt::format("chmod {}", path));
  if (::listen(fd.get(), kBacklog) != 0) return Error::from_errno(fmt::format("listen {}", path));
  return fd;
}

Result<UniqueFd> unix_connect(const std::string& path, int type) {
  FL_TRY_ASSIGN(const sockaddr_un address, unix_address(path));
  FL_TRY_ASSIGN(UniqueFd fd, unix_socket(type));
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) return fd;
  const int code = errno;
  return Error(ErrorKind::kUnavailable, fmt::format("connect {}: {}", path, std::strerror(code)), code);
}

Result<UnixPeer> unix_peer(BorrowedFd socket) {
  ucred credentials{};
  socklen_t length = sizeof credentials;
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &credentials, &length) != 0)
    return Error::from_errno("SO_PEERCRED");
  return UnixPeer{credentials.pid, credentials.uid};
}

}  // namespace fairlead::net
