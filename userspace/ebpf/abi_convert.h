// Between the value types of base/ and the structs of bpf/abi/types.h.
#pragma once

#include <arpa/inet.h>

#include <algorithm>
#include <cstring>

#include "base/net_types.h"
#include "bpf/abi/types.h"

namespace fairlead::ebpf {

inline abi::fl_address to_abi(const IpAddress& address) {
  abi::fl_address result{};
  std::copy(address.octets().begin(), address.octets().end(), result.octets);
  return result;
}

inline IpAddress from_abi(const abi::fl_address& address) {
  in6_addr octets{};
  static_assert(sizeof octets == sizeof address.octets);
  std::memcpy(&octets, address.octets, sizeof octets);
  return IpAddress::v6(octets);  // v4-mapped stays v4-mapped: IpAddress keeps the same form
}

inline abi::fl_flow to_flow(uint64_t cookie, const SocketAddress& local) {
  abi::fl_flow flow{};
  flow.netns_cookie = cookie;
  flow.address = to_abi(local.ip);
  flow.port = htons(local.port);
  return flow;
}

inline abi::fl_connection to_connection(uint64_t cookie, const SocketAddress& local,
                                        const SocketAddress& agent) {
  abi::fl_connection connection{};
  connection.netns_cookie = cookie;
  connection.address = to_abi(local.ip);
  connection.port = htons(local.port);
  connection.agent_address = to_abi(agent.ip);
  connection.agent_port = htons(agent.port);
  return connection;
}

}  // namespace fairlead::ebpf
