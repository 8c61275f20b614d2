// What reaches a pod from outside (sk_lookup), and what its servers see of a client (getpeername, accept).
#include <netinet/in.h>
#include <poll.h>
#include <unistd.h>

#include <thread>

#include "pod_bed.h"

namespace fairlead::ebpf::test {
namespace {

class Inbound : public PodBed {
 protected:
  void SetUp() override {
    PodBed::SetUp();
    if (HasFatalFailure()) return;
    attach();
  }

  // Connects from the neighbour; the answer is the errno or "connected".
  std::string from_neighbour(const SocketAddress& to, UniqueFd* keep = nullptr) const {
    std::string answer;
    in_netns(neighbour_netns_, [&] {
      UniqueFd fd = tcp_socket(to.family());
      answer = connect_to(fd.get(), to, to.family()) == 0 ? "connected" : std::strerror(errno);
      if (keep != nullptr) *keep = std::move(fd);
    });
    return answer;
  }
  UniqueFd server(const SocketAddress& where) const {
    UniqueFd fd;
    in_netns(pod_netns_, [&] { fd = listen_on(where); });
    EXPECT_TRUE(fd) << where.to_string();
    return fd;
  }
};

TEST_F(Inbound, AnyPortReachesTheAgentWithItsTrueDestination) {
  UniqueFd client;
  EXPECT_EQ(from_neighbour(at(kPod4, 7777), &client), "connected") << "nobody listens there but the agent";
  SocketAddress peer;
  const UniqueFd accepted = accept_one(inbound4_.get(), &peer);
  ASSERT_TRUE(accepted);
  EXPECT_EQ(local_of(accepted.get()), fmt::format("{}:7777", kPod4));
  EXPECT_EQ(peer.ip.to_string(), kNeighbour4);
  EXPECT_EQ(counter("lookup_captured"), 1u);
}

TEST_F(Inbound, Ipv6GoesToTheIpv6Listener) {
  EXPECT_EQ(from_neighbour(at(kPod6, 8080)), "connected");
  const UniqueFd accepted = accept_one(inbound6_.get());
  ASSERT_TRUE(accepted);
  EXPECT_EQ(local_of(accepted.get()), fmt::format("[{}]:8080", kPod6));
  EXPECT_TRUE(nothing_to_accept(inbound4_.get()));
}

TEST_F(Inbound, TheApplicationsListenerIsPassedOver) {
  const UniqueFd application = server(at(kPod4, 8080));
  EXPECT_EQ(from_neighbour(at(kPod4, 8080)), "connected");
  EXPECT_TRUE(accept_one(inbound4_.get()));
  EXPECT_TRUE(nothing_to_accept(application.get()));
}

// Over lo, but the context names eth0: the pod to its own address, and the agent (from loopback) to the
// application.
TEST_F(Inbound, WhatThePodSendsToItselfPasses) {
  const UniqueFd application4 = server(at(kPod4, 8080));
  const UniqueFd application6 = server(at(kPod6, 8080));
  const auto from = [&](const char* source, const SocketAddress& to) {
    in_netns(pod_netns_, [&] {
      const UniqueFd fd = tcp_socket(to.family());
      sockaddr_storage storage{};
      const socklen_t length = at(source, 0).to(storage, to.family());
      ASSERT_EQ(::bind(fd.get(), reinterpret_cast<sockaddr*>(&storage), length), 0);
      EXPECT_EQ(connect_to(fd.get(), to, to.family()), 0) << source << ": " << std::strerror(errno);
    });
  };
  for (const char* source : {"0.0.0.0", "127.0.0.1", kPod4}) {
    from(source, at(kPod4, 8080));
    EXPECT_TRUE(accept_one(application4.get())) << source;
  }
  for (const char* source : {"::", "::1", kPod6}) {
    from(source, at(kPod6, 8080));
    EXPECT_TRUE(accept_one(application6.get())) << source;
  }
  EXPECT_EQ(counter("lookup_captured"), 0u);
}

TEST_F(Inbound, TheNodesOwnAddressesPass) {
  ASSERT_TRUE(
      datapath_->set_node_addresses({*IpAddress::parse(kNeighbour4), *IpAddress::parse(kNeighbour6)}));
  const UniqueFd application4 = server(at(kPod4, 8080));
  const UniqueFd application6 = server(at(kPod6, 8080));
  EXPECT_EQ(from_neighbour(at(kPod4, 8080)), "connected");
  EXPECT_EQ(from_neighbour(at(kPod6, 8080)), "connected");
  EXPECT_TRUE(accept_one(application4.get()));
  EXPECT_TRUE(accept_one(application6.get()));
  EXPECT_EQ(counter("lookup_passed"), 2u);

  ASSERT_TRUE(datapath_->set_node_addresses({*IpAddress::parse(kNeighbour6)}));
  EXPECT_EQ(from_neighbour(at(kPod4, 8080)), "connected");
  EXPECT_TRUE(accept_one(inbound4_.get())) << "no node address any more";
}

TEST_F(Inbound, ExcludedPortPasses) {
  PodAttachment excluded = attachment();
  excluded.excluded_inbound = {8080};
  ASSERT_TRUE(datapath_->attach_pod(excluded));
  const UniqueFd application = server(at(kPod4, 8080));
  EXPECT_EQ(from_neighbour(at(kPod4, 8080)), "connected");
  EXPECT_TRUE(accept_one(application.get()));
  EXPECT_EQ(from_neighbour(at(kPod4, 8081)), "connected");
  EXPECT_TRUE(accept_one(inbound4_.get()));
}

TEST_F(Inbound, WithoutListenerDropped) {
  const UniqueFd application = server(at(kPod4, 8080));
  inbound4_.reset();
  EXPECT_EQ(from_neighbour(at(kPod4, 8080)), std::strerror(ECONNREFUSED));
  EXPECT_TRUE(nothing_to_accept(application.get()));
  EXPECT_EQ(counter("lookup_dropped"), 1u);
  EXPECT_EQ(from_neighbour(at(kPod6, 8080)), "connected") << "the other family has its own";
}

TEST_F(Inbound, UdpPasses) {
  UniqueFd receiver;
  in_netns(pod_netns_, [&] {
    receiver.reset(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    sockaddr_storage storage{};
    const socklen_t length = at(kPod4, 5353).to(storage, AF_INET);
    ASSERT_EQ(::bind(receiver.get(), reinterpret_cast<sockaddr*>(&storage), length), 0);
  });
  in_netns(neighbour_netns_, [&] {
    const UniqueFd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    ASSERT_EQ(connect_to(fd.get(), at(kPod4, 5353), AF_INET), 0);
    ASSERT_EQ(::write(fd.get(), "x", 1), 1);
  });
  EXPECT_TRUE(wait_for(receiver.get(), POLLIN));
}

// A listener may be replaced by a successor's while connections go on.
TEST_F(Inbound, ListenerIsReplaced) {
  UniqueFd successor;
  in_netns(pod_netns_, [&] { successor = listen_on(at("127.0.0.1", kInboundPort + 1)); });
  ASSERT_TRUE(datapath_->set_listener(cookie_, Direction::kInbound, AF_INET, successor));
  EXPECT_EQ(from_neighbour(at(kPod4, 8080)), "connected");
  EXPECT_TRUE(accept_one(successor.get()));
  EXPECT_TRUE(nothing_to_accept(inbound4_.get()));
}

// The server's side: the agent connects from loopback for a client elsewhere.
class ServerNames : public Inbound {
 protected:
  // An application accepts once on `where` (socket of `family`); the agent connects from `from` for `client`.
  // Answer: "peer by accept() peer by getpeername() own name".
  std::string serve(const SocketAddress& where, int family, const char* from,
                    const std::optional<SocketAddress>& client, int protocol = IPPROTO_TCP) {
    std::string answer;
    UniqueFd agent;
    SocketAddress local;
    in_netns(pod_netns_, [&] {
      agent = tcp_socket(at(from, 0).family());
      sockaddr_storage storage{};
      socklen_t length = at(from, 0).to(storage, at(from, 0).family());
      ASSERT_EQ(::bind(agent.get(), reinterpret_cast<sockaddr*>(&storage), length), 0)
          << std::strerror(errno);
      ASSERT_EQ(::getsockname(agent.get(), reinterpret_cast<sockaddr*>(&storage), &length), 0);
      local = SocketAddress::from(storage);
    });
    const ClientNames names(UniqueFd(::dup(datapath_->clients().get())));
    if (client) EXPECT_TRUE(names.publish(cookie_, local, *client));
    int ready[2];
    EXPECT_EQ(::pipe(ready), 0);
    std::thread connector([&] {
      char byte = 0;
      EXPECT_EQ(::read(ready[0], &byte, 1), 1);
      EXPECT_EQ(connect_to(agent.get(), where, where.family()), 0) << std::strerror(errno);
    });
    answer = in_pod([&] {
      const UniqueFd listener = tcp_socket(family, protocol);
      sockaddr_storage storage{};
      socklen_t length = family == AF_INET6 && where.ip.is_v4() ? at("::", where.port).to(storage, family)
                                                                : where.to(storage, family);
      if (::bind(listener.get(), reinterpret_cast<sockaddr*>(&storage), length) != 0)
        return std::string("bind");
      if (::listen(listener.get(), 1) != 0) return std::string("listen");
      if (::write(ready[1], "x", 1) != 1) return std::string("tell");
      SocketAddress peer;
      const UniqueFd accepted = accept_one(listener.get(), &peer);
      return fmt::format("{} {} {}", peer.to_string(), peer_of(accepted.get()), local_of(accepted.get()));
    });
    connector.join();
    ::close(ready[0]);
    ::close(ready[1]);
    if (client) EXPECT_TRUE(names.forget(cookie_, local));
    real_ = local.to_string();
    return answer;
  }
  std::string real_;
};

TEST_F(ServerNames, ClientIsShownByAcceptAndGetpeername) {
  EXPECT_EQ(serve(at(kPod4, 8080), AF_INET, "127.0.0.1", at("10.1.2.3", 4444)),
            "10.1.2.3:4444 10.1.2.3:4444 10.199.1.2:8080");
}

TEST_F(ServerNames, Ipv6Client) {
  EXPECT_EQ(serve(at(kPod6, 8080), AF_INET6, "::1", at("2001:db8::7", 4444)),
            "[2001:db8::7]:4444 [2001:db8::7]:4444 [fd99::2]:8080");
}

TEST_F(ServerNames, MappedClientOnDualStackSocket) {
  EXPECT_EQ(serve(at(kPod4, 8080), AF_INET6, "127.0.0.1", at("10.1.2.3", 4444)),
            "10.1.2.3:4444 10.1.2.3:4444 10.199.1.2:8080");
}

// The default of some runtimes; the agent's plain connection makes it fall back to TCP.
TEST_F(ServerNames, MptcpListener) {
  constexpr int kMptcp = 262;
  EXPECT_EQ(serve(at(kPod4, 8080), AF_INET, "127.0.0.1", at("10.1.2.3", 4444), kMptcp),
            "10.1.2.3:4444 10.1.2.3:4444 10.199.1.2:8080");
  EXPECT_EQ(serve(at(kPod6, 8080), AF_INET6, "::1", at("2001:db8::7", 4444), kMptcp),
            "[2001:db8::7]:4444 [2001:db8::7]:4444 [fd99::2]:8080");
}

// A connection that was reset in the backlog of a slow application, and the agent's next one from the same
// port, for somebody else: what the first client wrote must not be shown as the second one's.
TEST_F(ServerNames, ResetConnectionIsNotShownAsTheNextOnes) {
  const ClientNames names(UniqueFd(::dup(datapath_->clients().get())));
  for (const auto& [ip, family] : {std::pair(kPod4, AF_INET), {kPod6, AF_INET6}}) {
    const char* first = family == AF_INET ? "10.1.1.1" : "2001:db8::1";
    const char* second = family == AF_INET ? "10.2.2.2" : "2001:db8::2";
    UniqueFd dead, alive;
    const SocketAddress local = at(ip, 7700);
    in_netns(pod_netns_, [&] {
      for (UniqueFd* fd : {&dead, &alive}) {
        const int one = 1;
        *fd = tcp_socket(family);
        ::setsockopt(fd->get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        sockaddr_storage storage{};
        const socklen_t length = local.to(storage, family);
        ASSERT_EQ(::bind(fd->get(), reinterpret_cast<sockaddr*>(&storage), length), 0)
            << std::strerror(errno);
      }
    });
    const std::string shown = in_pod([&] {
      const UniqueFd listener = listen_on(at(ip, 8080));
      if (!names.publish(cookie_, local, at(first, 1111))) return std::string("publish");
      if (connect_to(dead.get(), at(ip, 8080), family) != 0) return std::string(std::strerror(errno));
      const linger at_once{1, 0};
      ::setsockopt(dead.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
      sockaddr nowhere{};
      nowhere.sa_family = AF_UNSPEC;
      if (::write(dead.get(), "x", 1) != 1 || ::connect(dead.get(), &nowhere, sizeof nowhere) != 0)
        return std::string("reset");
      if (!names.publish(cookie_, local, at(second, 2222))) return std::string("publish again");
      if (connect_to(alive.get(), at(ip, 8080), family) != 0) return std::string(std::strerror(errno));
      SocketAddress of_dead, of_alive;
      const UniqueFd one = accept_one(listener.get(), &of_dead), two = accept_one(listener.get(), &of_alive);
      return fmt::format("{} {}", of_dead.to_string(), of_alive.to_string());
    });
    const SocketAddress nobody = at(family == AF_INET ? "0.0.0.0" : "::", 0);
    EXPECT_EQ(shown, fmt::format("{} {}", nobody.to_string(), at(second, 2222).to_string()));
    EXPECT_TRUE(names.forget(cookie_, local));
  }
}

TEST_F(ServerNames, WhatIsNotPublishedIsUntouched) {
  const std::string answer = serve(at(kPod4, 8080), AF_INET, "127.0.0.1", std::nullopt);
  EXPECT_EQ(answer, fmt::format("{} {} 10.199.1.2:8080", real_, real_));
}

TEST_F(ServerNames, Ipv6ClientCannotBeShownOnIpv4Socket) {
  const std::string answer = serve(at(kPod4, 8080), AF_INET, "127.0.0.1", at("2001:db8::7", 4444));
  EXPECT_EQ(answer, fmt::format("{} {} 10.199.1.2:8080", real_, real_));
}

}  // namespace
}  // namespace fairlead::ebpf::test
