#include "keeper/pod_sockets.h"

#include "net/netns.h"
#include "net/socket.h"

namespace fairlead::keeper {
namespace {

// What it accepts is an application's: it is reset when the proxy dies, which must not look like the end of
// the data.
Result<UniqueFd> outbound_listener(const IpAddress& loopback) {
  FL_TRY_ASSIGN(UniqueFd listener, net::tcp_listener({loopback, kOutboundPort}, kBacklog));
  net::set_reset_on_close(listener);
  net::set_nodelay(listener);
  return listener;
}

}  // namespace

Result<PodNamespace> inspect(BorrowedFd netns, BorrowedFd home) {
  FL_TRY_ASSIGN(const auto inside, net::NetnsScope::enter(netns, home));
  FL_TRY_ASSIGN(const UniqueFd socket, net::tcp_socket(AF_INET));
  PodNamespace found;
  FL_TRY_ASSIGN(found.cookie, net::netns_cookie(socket));
  FL_TRY_ASSIGN(found.addresses, net::interface_addresses(true));
  return found;
}

Result<PodListeners> open_listeners(BorrowedFd netns, BorrowedFd home) {
  FL_TRY_ASSIGN(const auto inside, net::NetnsScope::enter(netns, home));
  FL_TRY_ASSIGN(const IpAddress loopback4, IpAddress::parse("127.0.0.1"));
  FL_TRY_ASSIGN(const IpAddress loopback6, IpAddress::parse("::1"));
  PodListeners listeners;
  FL_TRY_ASSIGN(listeners.outbound4, outbound_listener(loopback4));
  FL_TRY_ASSIGN(listeners.inbound4, net::tcp_listener({loopback4, kInboundPort}, kBacklog));
  auto outbound6 = outbound_listener(loopback6);
  const bool no_v6 =
      !outbound6 && (outbound6.error().code() == EADDRNOTAVAIL || outbound6.error().code() == EAFNOSUPPORT);
  if (no_v6) return listeners;
  if (!outbound6) return Error(std::move(outbound6).error());
  FL_TRY_ASSIGN(listeners.inbound6, net::tcp_listener({loopback6, kInboundPort}, kBacklog));
  listeners.outbound6 = std::move(*outbound6);
  return listeners;
}

Result<std::vector<UniqueFd>> make_sockets(BorrowedFd netns, BorrowedFd home, int family, size_t count) {
  FL_TRY_ASSIGN(const auto inside, net::NetnsScope::enter(netns, home));
  std::vector<UniqueFd> sockets;
  while (sockets.size() < count) {
    FL_TRY_ASSIGN(UniqueFd socket, net::tcp_socket(family));
    net::set_nodelay(socket);
    sockets.push_back(std::move(socket));
  }
  return sockets;
}

}  // namespace fairlead::keeper
