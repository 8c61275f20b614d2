#include "net/netns.h"

#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <sched.h>

#include <cstdlib>
#include <memory>

#include "base/file.h"

namespace fairlead::net {

Result<UniqueFd> open_netns(const std::string& path) {
  return open_file(path, O_RDONLY);
}
Result<UniqueFd> current_netns() {
  return open_netns("/proc/thread-self/ns/net");
}

Result<NetnsScope> NetnsScope::enter(BorrowedFd netns, BorrowedFd home) {
  if (::setns(netns.get(), CLONE_NEWNET) != 0) {
    const int code = errno;
    return Error::from_code(code == EINVAL ? "setns: this is no network namespace" : "setns", code);
  }
  return NetnsScope(home.get());
}

NetnsScope::~NetnsScope() {
  if (home_ >= 0 && ::setns(home_, CLONE_NEWNET) != 0) std::abort();
}

Result<std::vector<IpAddress>> interface_addresses(bool global_only) {
  ifaddrs* head = nullptr;
  if (::getifaddrs(&head) != 0) return Error::from_errno("getifaddrs");
  const std::unique_ptr<ifaddrs, decltype(&::freeifaddrs)> list(head, &::freeifaddrs);
  std::vector<IpAddress> addresses;
  for (const ifaddrs* entry = head; entry != nullptr; entry = entry->ifa_next) {
    if (entry->ifa_addr == nullptr) continue;
    const int family = entry->ifa_addr->sa_family;
    if (family != AF_INET && family != AF_INET6) continue;
    sockaddr_storage storage{};
    std::memcpy(&storage, entry->ifa_addr, family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6));
    const IpAddress address = SocketAddress::from(storage).ip;
    const in6_addr raw = address.to_v6();
    const bool link_local = family == AF_INET6 && IN6_IS_ADDR_LINKLOCAL(&raw);
    if (global_only && (address.is_loopback() || link_local || (entry->ifa_flags & IFF_LOOPBACK) != 0))
      continue;
    addresses.push_back(address);
  }
  return addresses;
}

}  // namespace fairlead::net
