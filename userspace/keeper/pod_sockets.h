// Sockets made inside a pod's network namespace by a process that lives outside of it: listeners and
// unconnected ones. One setns in and out per call. Thread: the keeper's. Ownership: the caller's.
#pragma once

#include <vector>

#include "base/net_types.h"
#include "base/result.h"
#include "base/unique_fd.h"

namespace fairlead::keeper {

// Where the listeners are bound. Captured connections dial other endpoints (bpf/lib/agent.h) and arrive all
// the same.
constexpr uint16_t kOutboundPort = 15001;
constexpr uint16_t kInboundPort = 15006;
constexpr int kBacklog = 4096;

struct PodListeners {
  UniqueFd outbound4, inbound4;
  UniqueFd outbound6, inbound6;  // not there when the namespace has no IPv6
  [[nodiscard]] bool has_v6() const noexcept { return static_cast<bool>(outbound6); }
};

struct PodNamespace {
  uint64_t cookie = 0;               // SO_NETNS_COOKIE
  std::vector<IpAddress> addresses;  // of global scope
};

Result<PodNamespace> inspect(BorrowedFd netns, BorrowedFd home);
Result<PodListeners> open_listeners(BorrowedFd netns, BorrowedFd home);
Result<std::vector<UniqueFd>> make_sockets(BorrowedFd netns, BorrowedFd home, int family, size_t count);

}  // namespace fairlead::keeper
