// AF_UNIX sockets with names in the file system. Close-on-exec and non-blocking. Thread: any, but a listener
// is made while no other thread makes files: the umask is narrowed for a moment.
#pragma once

#include <sys/types.h>

#include <string>

#include "base/result.h"
#include "base/unique_fd.h"

namespace fairlead::net {

// Replaces what is at `path`. `type`: SOCK_STREAM or SOCK_SEQPACKET.
Result<UniqueFd> unix_listener(const std::string& path, int type, unsigned mode);
// kUnavailable when nobody listens there.
Result<UniqueFd> unix_connect(const std::string& path, int type);

struct UnixPeer {
  pid_t pid = 0;
  uid_t uid = 0;
};
Result<UnixPeer> unix_peer(BorrowedFd socket);  // SO_PEERCRED

}  // namespace fairlead::net
