// What connect() of a pod's application does, on the real hooks.
#include <fcntl.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <unistd.h>

#include <map>

#include "pod_bed.h"

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

namespace fairlead::ebpf::test {
namespace {

class Capture : public PodBed {
 protected:
  void SetUp() override {
    PodBed::SetUp();
    if (HasFatalFailure()) return;
    attach();
  }

  // An application that connects, says "hi" and closes; its answer is "peer local" as it sees them, or the
  // errno.
  static std::string say_hi(const SocketAddress& to, int family, int protocol = IPPROTO_TCP) {
    const UniqueFd fd = tcp_socket(family, protocol);
    if (!fd) return fmt::format("socket: {}", std::strerror(errno));
    if (connect_to(fd.get(), to, family) != 0) return std::strerror(errno);
    const std::string names = peer_of(fd.get()) + " " + local_of(fd.get());
    return ::write(fd.get(), "hi", 2) == 2 ? names : "write failed";
  }

  // The agent's side of one captured connection.
  struct Arrival {
    SocketAddress peer, agent;
    std::optional<SocketAddress> original;
    std::string data;
  };
  Arrival arrive(const UniqueFd& listener) {
    Arrival arrival;
    const UniqueFd fd = accept_one(listener.get(), &arrival.peer);
    EXPECT_TRUE(fd) << "nobody connected";
    if (!fd) return arrival;
    arrival.agent = endpoint_of(fd.get());
    arrival.original = take(arrival.peer, arrival.agent);
    arrival.data = read_all(fd.get());
    return arrival;
  }
};

// The application has written and closed before the agent accepts: nothing may be lost.
TEST_F(Capture, Ipv4WrittenAndClosedBeforeAccept) {
  const std::string names = in_pod([] { return say_hi(at(kVip4, 8080), AF_INET); });
  EXPECT_EQ(originals(), 1u);
  const Arrival arrival = arrive(outbound4_);
  EXPECT_EQ(arrival.original, at(kVip4, 8080));
  EXPECT_EQ(arrival.data, "hi");
  EXPECT_EQ(names, fmt::format("{}:8080 {}:{}", kVip4, kPod4, arrival.peer.port));
  EXPECT_EQ(take(arrival.peer, arrival.agent), std::nullopt) << "taken once";
  EXPECT_EQ(counter("connect_captured"), 1u);
  EXPECT_EQ(counter("original_published"), 1u);
}

TEST_F(Capture, Ipv6) {
  const std::string names = in_pod([] { return say_hi(at(kVip6, 443), AF_INET6); });
  const Arrival arrival = arrive(outbound6_);
  EXPECT_EQ(arrival.original, at(kVip6, 443));
  EXPECT_EQ(arrival.data, "hi");
  EXPECT_EQ(names, fmt::format("[{}]:443 [{}]:{}", kVip6, kPod6, arrival.peer.port));
}

TEST_F(Capture, MappedIpv4OnIpv6Socket) {
  const std::string names = in_pod([] { return say_hi(at(kVip4, 80), AF_INET6); });
  const Arrival arrival = arrive(outbound4_);
  EXPECT_EQ(arrival.original, at(kVip4, 80));
  EXPECT_EQ(names, fmt::format("{}:80 {}:{}", kVip4, kPod4, arrival.peer.port));
}

TEST_F(Capture, Mptcp) {
  for (const int family : {AF_INET, AF_INET6}) {
    const char* vip = family == AF_INET ? kVip4 : kVip6;
    const std::string names = in_pod([&] { return say_hi(at(vip, 81), family, IPPROTO_MPTCP); });
    const Arrival arrival = arrive(family == AF_INET ? outbound4_ : outbound6_);
    EXPECT_EQ(arrival.original, at(vip, 81)) << names;
    EXPECT_EQ(arrival.data, "hi");
    EXPECT_EQ(names, at(vip, 81).to_string() + " " +
                         at(family == AF_INET ? kPod4 : kPod6, arrival.peer.port).to_string());
  }
}

TEST_F(Capture, BoundToThePodsAddress) {
  const std::string names = in_pod([] {
    const UniqueFd fd = tcp_socket(AF_INET);
    sockaddr_storage storage{};
    const socklen_t length = at(kPod4, 0).to(storage, AF_INET);
    if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&storage), length) != 0) return std::string("bind");
    if (connect_to(fd.get(), at(kVip4, 8080), AF_INET) != 0) return std::string(std::strerror(errno));
    return peer_of(fd.get()) + " " + local_of(fd.get());
  });
  const Arrival arrival = arrive(outbound4_);
  EXPECT_EQ(arrival.original, at(kVip4, 8080));
  EXPECT_EQ(names, fmt::format("{}:8080 {}:{}", kVip4, kPod4, arrival.peer.port));
}

TEST_F(Capture, NonBlocking) {
  const std::string names = in_pod([] {
    const UniqueFd fd = tcp_socket(AF_INET, IPPROTO_TCP, SOCK_NONBLOCK);
    if (connect_to(fd.get(), at(kVip4, 8080), AF_INET) != 0 && errno != EINPROGRESS)
      return std::string("connect");
    if (!wait_for(fd.get(), POLLOUT)) return std::string("never writable");
    int error = -1;
    socklen_t length = sizeof error;
    ::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &length);
    return fmt::format("{} {}", error, peer_of(fd.get()));
  });
  EXPECT_EQ(names, fmt::format("0 {}:8080", kVip4));
  EXPECT_EQ(arrive(outbound4_).original, at(kVip4, 8080));
}

TEST_F(Capture, FastOpenBySendto) {
  const std::string names = in_pod([] {
    const UniqueFd fd = tcp_socket(AF_INET);
    sockaddr_storage storage{};
    const socklen_t length = at(kVip4, 8080).to(storage, AF_INET);
    if (::sendto(fd.get(), "hi", 2, MSG_FASTOPEN, reinterpret_cast<sockaddr*>(&storage), length) != 2) {
      return std::string(std::strerror(errno));
    }
    return peer_of(fd.get());
  });
  EXPECT_EQ(names, fmt::format("{}:8080", kVip4));
  const Arrival arrival = arrive(outbound4_);
  EXPECT_EQ(arrival.original, at(kVip4, 8080));
  EXPECT_EQ(arrival.data, "hi");
}

TEST_F(Capture, FastOpenByConnect) {
  const std::string names = in_pod([] {
    const UniqueFd fd = tcp_socket(AF_INET);
    const int one = 1;
    ::setsockopt(fd.get(), IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &one, sizeof one);
    if (connect_to(fd.get(), at(kVip4, 8080), AF_INET) != 0) return std::string(std::strerror(errno));
    if (::write(fd.get(), "hi", 2) != 2) return std::string("write");
    return peer_of(fd.get());
  });
  EXPECT_EQ(names, fmt::format("{}:8080", kVip4));
  const Arrival arrival = arrive(outbound4_);
  EXPECT_EQ(arrival.original, at(kVip4, 8080));
  EXPECT_EQ(arrival.data, "hi");
}

TEST_F(Capture, UdpIsUntouched) {
  const std::string peer = in_pod([] {
    const UniqueFd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (connect_to(fd.get(), at(kVip4, 53), AF_INET) != 0) return std::string(std::strerror(errno));
    return peer_of(fd.get()) + " " + local_of(fd.get()).substr(0, 10);
  });
  EXPECT_EQ(peer, fmt::format("{}:53 {}", kVip4, kPod4));
  EXPECT_EQ(counter("connect_seen"), 0u);
}

TEST_F(Capture, DestinationsOutsideTheMeshAreUntouched) {
  UniqueFd server;
  in_netns(neighbour_netns_, [&] { server = listen_on(at(kNeighbour4, 9000)); });
  const std::string names = in_pod([] { return say_hi(at(kNeighbour4, 9000), AF_INET); });
  SocketAddress peer;
  EXPECT_TRUE(accept_one(server.get(), &peer));
  EXPECT_EQ(peer.ip.to_string(), kPod4);
  EXPECT_EQ(names, fmt::format("{}:9000 {}", kNeighbour4, peer.to_string()));
  EXPECT_TRUE(nothing_to_accept(outbound4_.get()));
  EXPECT_EQ(counter("connect_seen"), 0u);
}

TEST_F(Capture, LoopbackIsNeverCaptured) {
  ASSERT_TRUE(set_destinations(
      {{"127.0.0.1", FL_DEST_CAPTURE}, {"0.0.0.0", FL_DEST_CAPTURE}, {"::1", FL_DEST_CAPTURE}}));
  UniqueFd server;
  in_netns(pod_netns_, [&] { server = listen_on(at("127.0.0.1", 9000)); });
  EXPECT_EQ(in_pod([] { return say_hi(at("127.0.0.1", 9000), AF_INET).substr(0, 14); }), "127.0.0.1:9000");
  EXPECT_EQ(in_pod([] { return say_hi(at("0.0.0.0", 9000), AF_INET).substr(0, 14); }), "127.0.0.1:9000");
  EXPECT_TRUE(nothing_to_accept(outbound4_.get()));
}

TEST_F(Capture, ExcludedPortAndRange) {
  PodAttachment excluded = attachment();
  excluded.excluded_outbound = {9000};
  excluded.excluded_ranges = {*Cidr::parse("10.199.1.0/24"), *Cidr::parse("2001:db8:1::/48")};
  ASSERT_TRUE(datapath_->attach_pod(excluded));
  ASSERT_TRUE(
      set_destinations({{kNeighbour4, FL_DEST_CAPTURE}, {kVip4, FL_DEST_CAPTURE}, {kVip6, FL_DEST_CAPTURE}}));
  UniqueFd server;
  in_netns(neighbour_netns_, [&] { server = listen_on(at(kNeighbour4, 80)); });
  EXPECT_EQ(in_pod([] { return say_hi(at(kNeighbour4, 80), AF_INET).substr(0, 13); }), "10.199.1.1:80");
  EXPECT_TRUE(accept_one(server.get())) << "the range is excluded";
  // The port is: the SYN leaves towards a neighbour that knows no such address and says so.
  EXPECT_EQ(in_pod([] { return say_hi(at(kVip4, 8080), AF_INET).substr(0, 13); }), kVip4);
  EXPECT_EQ(arrive(outbound4_).original, at(kVip4, 8080));
  in_pod([] {
    const UniqueFd fd = tcp_socket(AF_INET, IPPROTO_TCP, SOCK_NONBLOCK);
    connect_to(fd.get(), at(kVip4, 9000), AF_INET);
    return std::string();
  });
  EXPECT_TRUE(nothing_to_accept(outbound4_.get()));
  EXPECT_EQ(in_pod([] { return say_hi(at(kVip6, 443), AF_INET6).substr(0, 14); }), "[2001:db8::10]");
  EXPECT_EQ(arrive(outbound6_).original, at(kVip6, 443)) << "outside the IPv6 range";
  EXPECT_EQ(counter("connect_excluded"), 2u);

  // The exclusions go with the next attachment that does not name them.
  ASSERT_TRUE(datapath_->attach_pod(attachment()));
  in_pod([] { return say_hi(at(kNeighbour4, 9000), AF_INET); });
  EXPECT_EQ(arrive(outbound4_).original, at(kNeighbour4, 9000));
}

TEST_F(Capture, ServiceWithoutEndpointsIsRefusedAtOnce) {
  ASSERT_TRUE(set_destinations({{kVip4, FL_DEST_REFUSE}, {kVip6, FL_DEST_REFUSE}}));
  EXPECT_EQ(in_pod([] { return say_hi(at(kVip4, 80), AF_INET); }), std::strerror(ECONNREFUSED));
  EXPECT_EQ(in_pod([] { return say_hi(at(kVip6, 80), AF_INET6); }), std::strerror(ECONNREFUSED));
  EXPECT_EQ(in_pod([] { return say_hi(at(kVip4, 80), AF_INET6); }), std::strerror(ECONNREFUSED));
  EXPECT_EQ(counter("connect_refused"), 3u);
}

TEST_F(Capture, ForeignNamespaceIsDenied) {
  EXPECT_EQ(in_pod_cgroup_only([] { return say_hi(at(kVip4, 80), AF_INET); }), std::strerror(ECONNREFUSED));
  EXPECT_EQ(counter("connect_denied"), 1u);
}

TEST_F(Capture, FailedConnectLeavesNothingAndTheSocketCanTryAgain) {
  stop_outbound();
  for (const int protocol : {IPPROTO_TCP, IPPROTO_MPTCP}) {
    EXPECT_EQ(in_pod([&] { return say_hi(at(kVip4, 80), AF_INET, protocol); }), std::strerror(ECONNREFUSED));
    EXPECT_EQ(originals(), 0u);
  }
  EXPECT_EQ(in_pod([] { return say_hi(at(kVip6, 80), AF_INET6); }), std::strerror(ECONNREFUSED));
  EXPECT_EQ(in_pod([] { return say_hi(at(kVip4, 80), AF_INET6); }), std::strerror(ECONNREFUSED));
  EXPECT_EQ(originals(), 0u);

  const std::string names = in_pod([&] {
    const UniqueFd fd = tcp_socket(AF_INET);
    if (connect_to(fd.get(), at(kVip4, 80), AF_INET) == 0) return std::string("connected to nobody");
    // The agent comes back meanwhile: this process is root, and in the right netns.
    const UniqueFd listener = listen_on(at("127.0.0.1", kOutboundPort));
    if (!set_outbound(listener, AF_INET)) return std::string("set listener");
    if (connect_to(fd.get(), at(kVip4, 81), AF_INET) != 0) return std::string(std::strerror(errno));
    return peer_of(fd.get());
  });
  EXPECT_EQ(names, fmt::format("{}:81", kVip4));
  EXPECT_EQ(originals(), 1u) << "of the second connect()";
}

TEST_F(Capture, NothingStaleWhenTheSocketIsUsedAgain) {
  for (const char* direct : {"127.0.0.1", "0.0.0.0"}) {
    const std::string names = in_pod([&] {
      const UniqueFd fd = tcp_socket(AF_INET);
      if (connect_to(fd.get(), at(kVip4, 80), AF_INET) != 0) return std::string("first connect");
      sockaddr nowhere{};
      nowhere.sa_family = AF_UNSPEC;
      if (::connect(fd.get(), &nowhere, sizeof nowhere) != 0) return std::string("disconnect");
      if (connect_to(fd.get(), at(direct, kOutboundPort), AF_INET) != 0) return std::string("second connect");
      return peer_of(fd.get()) + " " + local_of(fd.get()).substr(0, 9);
    });
    EXPECT_EQ(names, "127.0.0.1:15001 127.0.0.1");
    EXPECT_EQ(arrive(outbound4_).original, at(kVip4, 80));
    EXPECT_EQ(arrive(outbound4_).original, std::nullopt) << "went straight to the agent";
  }
}

TEST_F(Capture, DisconnectedSocketMadeListenerShowsItsOwnName) {
  const std::string names = in_pod([] {
    const UniqueFd fd = tcp_socket(AF_INET);
    if (connect_to(fd.get(), at(kVip4, 80), AF_INET) != 0) return std::string("connect");
    sockaddr nowhere{};
    nowhere.sa_family = AF_UNSPEC;
    ::connect(fd.get(), &nowhere, sizeof nowhere);
    sockaddr_storage storage{};
    const socklen_t length = at("127.0.0.1", 9001).to(storage, AF_INET);
    if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&storage), length) != 0) return std::string("bind");
    if (::listen(fd.get(), 1) != 0) return std::string("listen");
    return local_of(fd.get());
  });
  EXPECT_EQ(names, "127.0.0.1:9001");
}

TEST_F(Capture, ManyConnectionsFindTheirOwnDestinations) {
  constexpr int kConnections = 64;
  const std::string done = in_pod([] {
    std::vector<UniqueFd> fds;
    for (int i = 0; i < kConnections; ++i) {
      fds.push_back(tcp_socket(AF_INET, IPPROTO_TCP, SOCK_NONBLOCK));
      connect_to(fds.back().get(), at(kVip4, static_cast<uint16_t>(1000 + i)), AF_INET);
    }
    for (int i = 0; i < kConnections; ++i) {
      // Only those that the backlog has room for are established by now; the others are still knocking.
      if (i < 8 && !wait_for(fds[static_cast<size_t>(i)].get(), POLLOUT)) return std::string("not connected");
      if (i < 8 && ::write(fds[static_cast<size_t>(i)].get(), &i, sizeof i) != sizeof i)
        return std::string("write");
    }
    return std::string("done");
  });
  ASSERT_EQ(done, "done");
  std::map<uint16_t, std::string> seen;
  for (int i = 0; i < 8; ++i) {
    const Arrival arrival = arrive(outbound4_);
    ASSERT_TRUE(arrival.original);
    seen[arrival.original->port] = arrival.data;
  }
  for (const auto& [port, data] : seen) {
    int number = -1;
    if (data.size() == sizeof number) std::memcpy(&number, data.data(), sizeof number);
    if (number >= 0) EXPECT_EQ(1000 + number, port);
  }
  EXPECT_EQ(seen.size(), 8u);
}

}  // namespace
}  // namespace fairlead::ebpf::test
