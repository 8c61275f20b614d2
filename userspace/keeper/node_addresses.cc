#include "keeper/node_addresses.h"

#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <array>

#include "base/log.h"
#include "net/netns.h"

namespace fairlead::keeper {

NodeAddresses::NodeAddresses(Reactor& reactor, UniqueFd netlink, Changed changed)
    : reactor_(reactor), netlink_(std::move(netlink)), changed_(std::move(changed)) {}

NodeAddresses::~NodeAddresses() {
  reactor_.unwatch(netlink_);
}

Result<std::unique_ptr<NodeAddresses>> NodeAddresses::watch(Reactor& reactor, Changed changed) {
  UniqueFd netlink(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE));
  if (!netlink) return Error::from_errno("socket AF_NETLINK");
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK;
  address.nl_groups = RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR;
  if (::bind(netlink.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return Error::from_errno("bind AF_NETLINK");
  }
  std::unique_ptr<NodeAddresses> watcher(new NodeAddresses(reactor, std::move(netlink), std::move(changed)));
  FL_TRY(reactor.watch_level(watcher->netlink_, *watcher));
  watcher->report();
  return watcher;
}

// The messages only say that something changed; an overrun (ENOBUFS) says the same.
void NodeAddresses::on_io(uint32_t) noexcept {
  std::array<char, 8192> ignored;
  while (::recv(netlink_.get(), ignored.data(), ignored.size(), 0) > 0 || errno == ENOBUFS) {
    if (errno == ENOBUFS) errno = 0;
  }
  report();
}

void NodeAddresses::report() {
  auto addresses = net::interface_addresses(false);
  if (addresses) {
    changed_(std::move(*addresses));
  } else {
    log::error("keeper", "node addresses: {}, keeping the old ones", addresses.error().text());
  }
}

}  // namespace fairlead::keeper
