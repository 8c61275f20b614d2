// The many endpoints of loopback that captured connections dial (bpf/lib/agent.h), and who else may be there.
#include <fcntl.h>
#include <netinet/in.h>
#include <unistd.h>

#include <map>
#include <set>
#include <vector>

#include "pod_bed.h"

namespace fairlead::ebpf::test {
namespace {

constexpr int kMptcp = 262;

struct Family {
  int number;
  const char *vip, *any, *loopback;
};
constexpr Family kFamilies[] = {{AF_INET, kVip4, "0.0.0.0", "127.0.0.1"}, {AF_INET6, kVip6, "::", "::1"}};

int bind_to(int fd, const SocketAddress& where, int family) {
  const int one = 1;
  ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  sockaddr_storage storage{};
  const socklen_t length = where.to(storage, family);
  return ::bind(fd, reinterpret_cast<const sockaddr*>(&storage), length);
}

// Closed like this, a connection leaves no TIME_WAIT: its addresses are free at once.
void reset_on_close(int fd) {
  const linger at_once{1, 0};
  ::setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
}

class Endpoints : public PodBed {
 protected:
  void SetUp() override {
    PodBed::SetUp();
    if (HasFatalFailure()) return;
    attach();
    for (const int listener : {outbound4_.get(), outbound6_.get()}) ASSERT_EQ(::listen(listener, 1024), 0);
  }
  UniqueFd& listener(const Family& family) { return family.number == AF_INET ? outbound4_ : outbound6_; }

  // An application that connects to each destination, one after the other, from `port` (0: any), and holds
  // the connections until the last; its answer is empty or "<destination>: <why it failed>".
  std::string connect_all(const Family& family, const std::vector<SocketAddress>& destinations,
                          uint16_t port = 0) {
    return in_pod([&] {
      std::vector<UniqueFd> held;
      for (const SocketAddress& to : destinations) {
        held.push_back(tcp_socket(family.number));
        reset_on_close(held.back().get());
        if (port != 0 && bind_to(held.back().get(), at(family.any, port), family.number) != 0)
          return fmt::format("bind: {}", std::strerror(errno));
        if (connect_to(held.back().get(), to, family.number) != 0)
          return fmt::format("{}: {}", to.to_string(), std::strerror(errno));
        if (peer_of(held.back().get()) != to.to_string())
          return fmt::format("shows {}", peer_of(held.back().get()));
      }
      return std::string();
    });
  }
  struct Arrival {
    SocketAddress peer, agent;
    std::optional<SocketAddress> original;
  };
  Arrival arrive(const Family& family, bool take_it = true) {
    Arrival arrival;
    const UniqueFd fd = accept_one(listener(family).get(), &arrival.peer);
    EXPECT_TRUE(fd) << "nobody connected";
    if (!fd) return arrival;
    reset_on_close(fd.get());
    arrival.agent = endpoint_of(fd.get());
    if (take_it) arrival.original = take(arrival.peer, arrival.agent);
    return arrival;
  }
  // Where a connection to the destination finds the agent.
  SocketAddress agent_for(const Family& family, const SocketAddress& to) {
    EXPECT_EQ(connect_all(family, {to}), "");
    return arrive(family).agent;
  }
  void set_sysctl(const std::string& name, const std::string& value) {
    in_netns(pod_netns_, [&] {
      const UniqueFd fd(::open(("/proc/sys/net/ipv4/" + name).c_str(), O_WRONLY | O_CLOEXEC));
      ASSERT_EQ(::write(fd.get(), value.data(), value.size()), static_cast<ssize_t>(value.size()))
          << name << ": " << std::strerror(errno);
    });
  }
};

std::vector<SocketAddress> ports_of(const char* ip, uint16_t first, uint16_t count) {
  std::vector<SocketAddress> destinations;
  for (uint16_t i = 0; i < count; ++i) destinations.push_back(at(ip, static_cast<uint16_t>(first + i)));
  return destinations;
}

TEST_F(Endpoints, OnePortReachesManyIpv4Destinations) {
  const auto destinations = ports_of(kVip4, 1000, 40);
  for (const Family& family :
       {kFamilies[0], Family{AF_INET6, kVip4, "::", "::1"}}) {  // the second: v4-mapped
    ASSERT_EQ(connect_all(family, destinations, 5980), "");
    for (const SocketAddress& destination : destinations) {
      const Arrival arrival = arrive(kFamilies[0]);
      EXPECT_EQ(arrival.original, destination);
      EXPECT_EQ(arrival.peer.port, 5980);
    }
  }
}

// IPv6 has one loopback address, and so FL_OUTBOUND6_PORTS endpoints: destinations that meet in one cannot be
// reached from one port at a time. That is the limit that remains.
TEST_F(Endpoints, OnePortReachesIpv6DestinationsThatHashApart) {
  const Family& v6 = kFamilies[1];
  std::map<uint16_t, SocketAddress> first;  // by the agent's port
  std::vector<SocketAddress> apart, together;
  const auto destinations = ports_of(kVip6, 1000, FL_OUTBOUND6_PORTS + 1);
  ASSERT_EQ(connect_all(v6, destinations), "");
  for (const SocketAddress& destination : destinations) {
    const Arrival arrival = arrive(v6);
    EXPECT_EQ(arrival.original, destination);
    EXPECT_GE(arrival.agent.port, FL_OUTBOUND6_FIRST);
    EXPECT_LT(arrival.agent.port, FL_OUTBOUND6_FIRST + FL_OUTBOUND6_PORTS);
    const auto [known, is_new] = first.emplace(arrival.agent.port, destination);
    if (is_new) apart.push_back(destination);
    if (!is_new && together.empty()) together = {known->second, destination};
  }
  EXPECT_GT(apart.size(), FL_OUTBOUND6_PORTS / 3);
  ASSERT_EQ(connect_all(v6, apart, 5980), "");
  for (const SocketAddress& destination : apart) EXPECT_EQ(arrive(v6).original, destination);
  ASSERT_EQ(together.size(), 2u);
  EXPECT_EQ(connect_all(v6, together, 5980),
            fmt::format("{}: {}", together[1].to_string(), std::strerror(EADDRNOTAVAIL)));
  EXPECT_EQ(arrive(v6).original, together[0]);
}

// A connection that was reset while it waits for the agent, and the next one between the same endpoints, to
// another destination. What the first one wrote must not arrive where the second one goes.
TEST_F(Endpoints, WhatWasWrittenBeforeAResetGoesNowhereElse) {
  const Family& v6 = kFamilies[1];
  std::map<uint16_t, SocketAddress> first;  // by the agent's port
  std::vector<SocketAddress> together;
  const auto destinations = ports_of(kVip6, 1000, FL_OUTBOUND6_PORTS + 1);
  ASSERT_EQ(connect_all(v6, destinations), "");
  for (const SocketAddress& destination : destinations) {
    const auto [known, is_new] = first.emplace(arrive(v6).agent.port, destination);
    if (!is_new && together.empty()) together = {known->second, destination};
  }
  ASSERT_EQ(together.size(), 2u);
  const std::string done = in_pod([&] {
    std::string answer;
    for (const SocketAddress& destination : together) {
      const UniqueFd fd = tcp_socket(AF_INET6);
      if (bind_to(fd.get(), at("::", 5982), AF_INET6) != 0) return std::string("bind");
      reset_on_close(fd.get());
      const int failed = connect_to(fd.get(), destination, AF_INET6) == 0 ? 0 : errno;
      answer += failed == 0 ? "connected " : fmt::format("{} ", std::strerror(failed));
      if (failed == 0 && ::write(fd.get(), "x", 1) != 1) return std::string("write");
    }
    return answer;
  });
  ASSERT_TRUE(done.starts_with("connected ")) << done;
  std::vector<std::optional<SocketAddress>> originals;
  std::string data;
  while (!nothing_to_accept(outbound6_.get())) {
    const UniqueFd fd = accept_one(outbound6_.get());
    originals.push_back(take(at("::1", 5982), endpoint_of(fd.get())));
    data += read_all(fd.get());
  }
  ASSERT_FALSE(originals.empty());
  EXPECT_EQ(data, "xx") << "a reset leaves in the agent's backlog what was written before";
  EXPECT_NE(originals[0], std::optional(together[1]))
      << "the first one's data goes to the second one's destination";
  if (originals.size() > 1) EXPECT_NE(originals[1], std::optional(together[0]));
  EXPECT_EQ(this->originals(), 0u);
}

TEST_F(Endpoints, MoreConnectionsThanLocalPorts) {
  constexpr uint16_t kPorts = 50, kConnections = 200;
  set_sysctl("ip_local_port_range", fmt::format("40000 {}", 40000 + kPorts - 1));
  for (const Family& family : kFamilies) {
    const auto destinations = ports_of(family.vip, 1000, kConnections);
    ASSERT_EQ(connect_all(family, destinations), "");
    std::set<uint16_t> ports;
    for (const SocketAddress& destination : destinations) {
      const Arrival arrival = arrive(family);
      EXPECT_EQ(arrival.original, destination);
      ports.insert(arrival.peer.port);
    }
    EXPECT_LE(ports.size(), kPorts);
    // To one destination, the range is the limit, as it is without a mesh.
    const std::vector<SocketAddress> same(kPorts + 1, at(family.vip, 80));
    EXPECT_EQ(connect_all(family, same),
              fmt::format("{}: {}", same[0].to_string(), std::strerror(EADDRNOTAVAIL)));
    for (int i = 0; i < kPorts; ++i) EXPECT_EQ(arrive(family).original, same[0]);
  }
  EXPECT_EQ(originals(), 0u);
}

TEST_F(Endpoints, AnApplicationOnTheSameEndpointIsLeftAlone) {
  for (const Family& family : kFamilies) {
    const SocketAddress endpoint = agent_for(family, at(family.vip, 80));
    UniqueFd application;
    in_netns(pod_netns_, [&] { application = listen_on(endpoint); });
    ASSERT_TRUE(application) << endpoint.to_string() << ": " << std::strerror(errno);
    EXPECT_EQ(connect_all(family, {endpoint}), "") << "the pod's own";
    EXPECT_TRUE(accept_one(application.get()));
    in_netns(pod_netns_, [&] {
      EXPECT_EQ(connect_to(tcp_socket(family.number).get(), endpoint, family.number), 0)
          << "of another cgroup";
    });
    EXPECT_TRUE(accept_one(application.get()));
    EXPECT_EQ(connect_all(family, {at(family.vip, 80)}), "");
    const Arrival arrival = arrive(family);
    EXPECT_EQ(arrival.original, at(family.vip, 80));
    EXPECT_EQ(arrival.agent, endpoint);
    EXPECT_TRUE(nothing_to_accept(application.get())) << "captured: the agent's, whoever listens";
    EXPECT_TRUE(nothing_to_accept(listener(family).get()));
  }
}

TEST_F(Endpoints, WhoDialsTheAgentHimselfIsRefused) {
  for (const Family& family : kFamilies) {
    const SocketAddress endpoint = agent_for(family, at(family.vip, 80));
    const std::string refused = fmt::format("{}: {}", endpoint.to_string(), std::strerror(ECONNREFUSED));
    EXPECT_EQ(connect_all(family, {endpoint}), refused);
    EXPECT_EQ(connect_all(family, {endpoint}, 5980), refused);
    EXPECT_TRUE(nothing_to_accept(listener(family).get()));
    // The listener's own address lets him in, and knows nothing of him.
    const SocketAddress own = at(family.loopback, kOutboundPort);
    EXPECT_EQ(connect_all(family, {own}), "");
    EXPECT_EQ(arrive(family).original, std::nullopt);
  }
}

// An agent that dies leaves entries that nobody takes. The next connection from that port to that endpoint is
// not the one they speak of.
TEST_F(Endpoints, WhatNobodyTookIsNotTheNextOnes) {
  for (const Family& family : kFamilies) {
    for (const int protocol : {int{IPPROTO_TCP}, kMptcp}) {
      ASSERT_EQ(connect_all(family, {at(family.vip, 80)}, 5980), "");
      const Arrival left = arrive(family, false);
      ASSERT_EQ(originals(), 1u) << "nobody took it";
      const std::string answer = in_pod([&] {
        const UniqueFd fd = tcp_socket(family.number, protocol);
        if (bind_to(fd.get(), at(family.any, 5980), family.number) != 0) return std::string("bind");
        if (connect_to(fd.get(), left.agent, family.number) == 0) return std::string("connected");
        return std::string(std::strerror(errno));
      });
      EXPECT_EQ(answer, std::strerror(ECONNREFUSED));
      EXPECT_EQ(originals(), 0u);
      EXPECT_TRUE(nothing_to_accept(listener(family).get()));
    }
  }
}

TEST_F(Endpoints, WhatNobodyTookGivesWayToTheNextCapture) {
  for (const Family& family : kFamilies) {
    for (const char* round : {"left", "taken"}) {
      ASSERT_EQ(connect_all(family, {at(family.vip, 80)}, 5980), "");
      const bool take_it = std::string(round) == "taken";
      const Arrival arrival = arrive(family, take_it);
      if (take_it) EXPECT_EQ(arrival.original, at(family.vip, 80));
    }
    EXPECT_EQ(originals(), 0u);
  }
}

// Nobody steps into the agent's place while it is away: neither on its own address nor on the endpoint.
TEST_F(Endpoints, WithoutListenerRefusedWhoeverElseListens) {
  for (const Family& family : kFamilies) {
    const SocketAddress endpoint = agent_for(family, at(family.vip, 80));
    listener(family).reset();
    UniqueFd impostors[2];
    in_netns(pod_netns_, [&] {
      impostors[0] = listen_on(at(family.loopback, kOutboundPort));
      impostors[1] = listen_on(endpoint);
    });
    ASSERT_TRUE(impostors[0] && impostors[1]) << std::strerror(errno);
    const uint64_t before = counter("lookup_dropped");
    EXPECT_EQ(connect_all(family, {at(family.vip, 80)}),
              fmt::format("{}: {}", at(family.vip, 80).to_string(), std::strerror(ECONNREFUSED)));
    EXPECT_EQ(counter("lookup_dropped"), before + 1);
    EXPECT_TRUE(nothing_to_accept(impostors[0].get()) && nothing_to_accept(impostors[1].get()));
    EXPECT_EQ(originals(), 0u);
  }
}

TEST_F(Endpoints, Ipv6SocketBoundToThePortItWouldDialDoesNotMeetItself) {
  const Family& v6 = kFamilies[1];
  const SocketAddress endpoint = agent_for(v6, at(kVip6, 443));
  ASSERT_EQ(connect_all(v6, {at(kVip6, 443)}, endpoint.port), "");
  const Arrival arrival = arrive(v6);
  EXPECT_EQ(arrival.original, at(kVip6, 443));
  EXPECT_EQ(arrival.peer.port, endpoint.port);
  EXPECT_NE(arrival.agent.port, endpoint.port);
}

TEST_F(Endpoints, BoundToThePodsIpv6Address) {
  const std::string names = in_pod([] {
    const UniqueFd fd = tcp_socket(AF_INET6);
    if (bind_to(fd.get(), at(kPod6, 0), AF_INET6) != 0) return std::string("bind");
    if (connect_to(fd.get(), at(kVip6, 443), AF_INET6) != 0) return std::string(std::strerror(errno));
    return peer_of(fd.get()) + " " + local_of(fd.get());
  });
  const Arrival arrival = arrive(kFamilies[1]);
  EXPECT_EQ(arrival.original, at(kVip6, 443));
  EXPECT_EQ(names, fmt::format("[{}]:443 [{}]:{}", kVip6, kPod6, arrival.peer.port));
}

// With SYN cookies nothing of the SYN is kept: the listener is looked for again when the ACK comes.
TEST_F(Endpoints, SynCookies) {
  set_sysctl("tcp_syncookies", "2");
  for (const Family& family : kFamilies) {
    ASSERT_EQ(connect_all(family, {at(family.vip, 80), at(family.vip, 81)}, 5980), "");
    EXPECT_EQ(arrive(family).original, at(family.vip, 80));
    EXPECT_EQ(arrive(family).original, at(family.vip, 81));
  }
}

TEST_F(Endpoints, SocketConnectedAgainIsKnownByItsLastEndpoint) {
  for (const Family& family : kFamilies) {
    const std::string names = in_pod([&] {
      const UniqueFd fd = tcp_socket(family.number);
      if (connect_to(fd.get(), at(family.vip, 80), family.number) != 0) return std::string("first connect");
      sockaddr nowhere{};
      nowhere.sa_family = AF_UNSPEC;
      if (::connect(fd.get(), &nowhere, sizeof nowhere) != 0) return std::string("disconnect");
      if (connect_to(fd.get(), at(family.vip, 81), family.number) != 0)
        return std::string(std::strerror(errno));
      return peer_of(fd.get());
    });
    EXPECT_EQ(names, at(family.vip, 81).to_string());
    const Arrival first = arrive(family), second = arrive(family);
    EXPECT_EQ(first.original, at(family.vip, 80));
    EXPECT_EQ(second.original, at(family.vip, 81));
    EXPECT_NE(first.agent, second.agent);
  }
}

}  // namespace
}  // namespace fairlead::ebpf::test
