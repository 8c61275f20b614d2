// Work inside another network namespace: one setns in and one out for a whole batch.
// Thread: moves the calling thread for the time of the call. If the way back fails the process aborts: a
// thread in the wrong namespace must not go on.
#pragma once

#include <vector>

#include "base/net_types.h"
#include "base/result.h"
#include "base/unique_fd.h"

namespace fairlead::net {

Result<UniqueFd> open_netns(const std::string& path);
Result<UniqueFd> current_netns();

// Inside while alive. Needs CAP_SYS_ADMIN.
class NetnsScope {
 public:
  static Result<NetnsScope> enter(BorrowedFd netns, BorrowedFd home);
  NetnsScope(NetnsScope&& other) noexcept : home_(std::exchange(other.home_, -1)) {}
  NetnsScope& operator=(NetnsScope&&) = delete;
  ~NetnsScope();

 private:
  explicit NetnsScope(int home) noexcept : home_(home) {}
  int home_;
};

// Every address of the calling thread's network namespace; with `global_only`, those of global scope that are
// not loopback.
Result<std::vector<IpAddress>> interface_addresses(bool global_only);

}  // namespace fairlead::net
