// The node's own addresses, kept up to date: connections from them (kubelet probes) are not captured.
// Thread: the keeper's reactor.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "base/net_types.h"
#include "event/reactor.h"

namespace fairlead::keeper {

class NodeAddresses final : private IoHandler {
 public:
  using Changed = std::function<void(std::vector<IpAddress>)>;
  // Calls `changed` at once and whenever rtnetlink(7) reports an address that came or went.
  static Result<std::unique_ptr<NodeAddresses>> watch(Reactor& reactor, Changed changed);
  ~NodeAddresses();

 private:
  NodeAddresses(Reactor& reactor, UniqueFd netlink, Changed changed);
  void on_io(uint32_t events) noexcept override;
  void report();

  Reactor& reactor_;
  UniqueFd netlink_;
  Changed changed_;
};

}  // namespace fairlead::keeper
