// What the programs tell a tracer, on the real hooks: for each end of a program one event, and the right one.
#include "bpf/abi/trace.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include "ebpf/map.h"
#include "ebpf/pins.h"
#include "ebpf/tracer.h"
#include "pod_bed.h"

namespace fairlead::ebpf::test {
namespace {

std::string text(const SocketAddress& address) {
  return address.port == 0 && address.ip.is_unspecified() ? "-" : address.to_string();
}

class Trace : public PodBed {
 protected:
  void SetUp() override {
    PodBed::SetUp();
    if (HasFatalFailure()) return;
    attach();
    start();
  }
  void TearDown() override {
    tracer_.reset();
    PodBed::TearDown();
  }
  void start(const TraceWish& wish = {}) {
    auto tracer = Tracer::open(directory_);
    ASSERT_TRUE(tracer) << tracer.error().text();
    tracer_ = std::move(*tracer);
    tracer_->wish(wish);
  }
  std::vector<TraceEvent> events() {
    std::vector<TraceEvent> found;
    for (bool more = true; more;) {
      const auto read = tracer_->read([&](const TraceEvent& event) {
        found.push_back(event);
        return true;
      });
      EXPECT_TRUE(read) << read.error().text();
      more = read && *read;
    }
    return found;
  }
  // "hook verdict reason" of every event of the hook since the last call; all must be of this pod.
  std::vector<std::string> told(std::string_view hook) {
    last_.clear();
    std::vector<std::string> lines;
    for (TraceEvent& event : events()) {
      if (event.hook != hook) continue;
      lines.push_back(fmt::format("{} {} {}", event.hook, event.verdict, event.reason));
      last_.push_back(std::move(event));
    }
    return lines;
  }
  // Exactly one event of the hook, which is left in last_[0].
  void expect_one(std::string_view hook, std::string_view verdict, std::string_view reason) {
    const std::vector<std::string> one = {fmt::format("{} {} {}", hook, verdict, reason)};
    ASSERT_EQ(told(hook), one);
    EXPECT_EQ(last_[0].netns_cookie, cookie_);
    EXPECT_GT(last_[0].time_ns, 0u);
  }
  void expect_ends(const char* source, const std::string& destination) {
    ASSERT_FALSE(last_.empty());
    EXPECT_EQ(text(last_[0].source), source);
    EXPECT_EQ(text(last_[0].destination), destination);
  }
  // An application that connects and closes; its pid and source port, or the errno.
  static std::string dial(const SocketAddress& to, int family, int type = SOCK_STREAM) {
    const UniqueFd fd(::socket(family, type | SOCK_CLOEXEC, 0));
    if (connect_to(fd.get(), to, family) != 0) return std::strerror(errno);
    return fmt::format("{} {}", ::getpid(), endpoint_of(fd.get()).port);
  }
  uint64_t cgroup_id() const {
    struct stat status{};
    EXPECT_EQ(::fstat(cgroup_.get(), &status), 0);
    return status.st_ino;
  }
  UniqueFd server(const SocketAddress& where) const {
    UniqueFd fd;
    in_netns(pod_netns_, [&] { fd = listen_on(where); });
    EXPECT_TRUE(fd) << where.to_string();
    return fd;
  }
  std::string from_neighbour(const SocketAddress& to) const {
    std::string answer;
    in_netns(neighbour_netns_, [&] {
      const UniqueFd fd = tcp_socket(to.family());
      answer = connect_to(fd.get(), to, to.family()) == 0 ? endpoint_of(fd.get()).to_string()
                                                          : std::strerror(errno);
    });
    return answer;
  }

  std::unique_ptr<Tracer> tracer_;
  std::vector<TraceEvent> last_;
};

TEST_F(Trace, CapturedConnect) {
  for (const auto& [vip, family] : {std::pair(kVip4, AF_INET), {kVip6, AF_INET6}, {kVip4, AF_INET6}}) {
    const std::string done = in_pod([&] { return dial(at(vip, 8080), family); });
    expect_one("connect", "captured", "mesh_destination");
    expect_ends("-", at(vip, 8080).to_string());
    EXPECT_TRUE(last_[0].loopback.ip.is_loopback());
    EXPECT_EQ(std::to_string(last_[0].pid), done.substr(0, done.find(' ')));
    EXPECT_EQ(last_[0].process, "test_bpf");
    EXPECT_EQ(last_[0].cgroup_id, cgroup_id());
    EXPECT_EQ(last_[0].protocol, IPPROTO_TCP);
    EXPECT_NE(last_[0].socket_cookie, 0u);
  }
}

// The whole way of one connection, joined by the socket's cookie.
TEST_F(Trace, OneConnectionFromConnectToAgent) {
  const std::string done = in_pod([] {
    const UniqueFd fd = tcp_socket(AF_INET);
    if (connect_to(fd.get(), at(kVip4, 8080), AF_INET) != 0) return std::string(std::strerror(errno));
    return peer_of(fd.get()) + " " + local_of(fd.get());
  });
  const std::vector<TraceEvent> way = events();
  std::vector<std::string> lines;
  for (const TraceEvent& event : way) {
    lines.push_back(fmt::format("{} {} {}", event.hook, event.verdict, event.reason));
    EXPECT_EQ(event.socket_cookie, way[0].socket_cookie) << lines.back();
    if (event.hook == "getsockname") continue;
    EXPECT_EQ(text(event.destination), at(kVip4, 8080).to_string()) << lines.back();
    EXPECT_EQ(event.loopback, way[0].loopback) << lines.back();
  }
  const std::vector<std::string> expected = {
      "connect captured mesh_destination", "sockops published captured_flow", "lookup captured captured_flow",
      "getpeername named original_destination", "getsockname named pod_address"};
  ASSERT_EQ(lines, expected);
  EXPECT_EQ(text(way[1].source), text(way[2].source));
  EXPECT_EQ(way[3].pid, way[0].pid);
  EXPECT_EQ(text(way[4].source), done.substr(done.find(' ') + 1)) << "what getsockname() said";
  EXPECT_EQ(text(way[4].loopback), text(way[1].source)) << "what it is in truth";
}

TEST_F(Trace, ConnectThatIsLeftAlone) {
  const UniqueFd application = server(at("127.0.0.1", 9100));
  const struct {
    SocketAddress to;
    int family, type;
    const char* reason;
  } cases[] = {
      {at(kNeighbour4, 9000), AF_INET, SOCK_STREAM, "not_in_mesh"},
      {at(kNeighbour6, 9000), AF_INET6, SOCK_STREAM, "not_in_mesh"},
      {at(kNeighbour4, 9000), AF_INET6, SOCK_STREAM, "not_in_mesh"},
      {at(kVip4, 53), AF_INET, SOCK_DGRAM, "not_tcp"},
      {at(kVip6, 53), AF_INET6, SOCK_DGRAM, "not_tcp"},
      {at("127.0.0.1", 9100), AF_INET, SOCK_STREAM, "loopback"},
      {at("127.0.0.1", kOutboundPort), AF_INET, SOCK_STREAM, "loopback"},
      {at("0.0.0.0", 9100), AF_INET, SOCK_STREAM, "loopback"},
      {at("::1", 9100), AF_INET6, SOCK_STREAM, "loopback"},
  };
  for (const auto& c : cases) {
    in_pod([&] { return dial(c.to, c.family, c.type); });
    expect_one("connect", "passed", c.reason);
    expect_ends("-", c.to.to_string());
    EXPECT_EQ(text(last_[0].loopback), "-");
    EXPECT_EQ(last_[0].protocol, c.type == SOCK_DGRAM ? IPPROTO_UDP : IPPROTO_TCP);
  }
}

TEST_F(Trace, ExcludedByPortAndByRange) {
  PodAttachment excluding = attachment();
  excluding.excluded_outbound = {3306};
  excluding.excluded_ranges = {*Cidr::parse("10.199.1.0/24")};
  ASSERT_TRUE(datapath_->attach_pod(excluding));
  ASSERT_TRUE(set_destinations({{kVip4, FL_DEST_CAPTURE}, {kNeighbour4, FL_DEST_CAPTURE}}));
  in_pod([] { return dial(at(kNeighbour4, 9000), AF_INET); });
  expect_one("connect", "passed", "excluded_range");
  in_pod([] { return dial(at(kNeighbour4, 3306), AF_INET); });
  expect_one("connect", "passed", "excluded_port");
}

TEST_F(Trace, RefusedAndDenied) {
  ASSERT_TRUE(set_destinations({{kVip4, FL_DEST_REFUSE}, {kVip6, 0x80}}));
  in_pod([] { return dial(at(kVip4, 80), AF_INET); });
  expect_one("connect", "refused", "no_endpoints");
  expect_ends("-", fmt::format("{}:80", kVip4));
  in_pod([] { return dial(at(kVip6, 80), AF_INET6); });
  expect_one("connect", "denied", "unknown_destination");

  in_pod_cgroup_only([] { return dial(at(kVip4, 80), AF_INET); });
  ASSERT_EQ(told("connect"), std::vector<std::string>{"connect denied foreign_namespace"});
  EXPECT_NE(last_[0].netns_cookie, cookie_) << "the namespace is another's";
  EXPECT_EQ(last_[0].cgroup_id, cgroup_id()) << "the cgroup is what tells whose process it is";
}

TEST_F(Trace, SourceThatIsBoundBefore) {
  in_pod([] {
    const UniqueFd fd = tcp_socket(AF_INET6);
    sockaddr_storage storage{};
    const socklen_t length = at(kPod6, 7654).to(storage, AF_INET6);
    if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&storage), length) != 0) return std::string("bind");
    return std::to_string(connect_to(fd.get(), at(kNeighbour6, 80), AF_INET6));
  });
  expect_one("connect", "passed", "not_in_mesh");
  expect_ends("[fd99::2]:7654", at(kNeighbour6, 80).to_string());
}

TEST_F(Trace, FlowThatIsWithdrawn) {
  stop_outbound();
  in_pod([] { return dial(at(kVip4, 80), AF_INET); });
  EXPECT_EQ(told("sockops"), (std::vector<std::string>{"sockops published captured_flow",
                                                       "sockops withdrawn not_established"}));
  EXPECT_EQ(text(last_[1].destination), at(kVip4, 80).to_string());
}

// Published, never taken by an agent; then the port is used for something else on loopback.
TEST_F(Trace, StaleFlowIsSwept) {
  in_pod([] { return dial(at(kVip4, 80), AF_INET); });
  ASSERT_EQ(told("sockops").size(), 1u);
  const SocketAddress loopback = last_[0].loopback;
  const UniqueFd application = server(at(loopback.ip.to_string(), 9200));
  Map<abi::fl_connection, abi::fl_original> flows(datapath_->original_destinations());
  const auto held = flows.entries(FL_MAX_ORIGDST);
  ASSERT_TRUE(held && held->size() == 1);
  auto [key, value] = held->front();
  key.agent_port = htons(9200);
  key.port = htons(7655);
  key.address = {};
  key.address.octets[10] = key.address.octets[11] = 0xff;
  key.address.octets[12] = 127;
  key.address.octets[15] = 1;
  ASSERT_TRUE(flows.put(key, value));
  in_pod([&] {
    const UniqueFd fd = tcp_socket(AF_INET);
    sockaddr_storage storage{};
    const socklen_t length = at("127.0.0.1", 7655).to(storage, AF_INET);
    if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&storage), length) != 0) return std::string("bind");
    return std::to_string(connect_to(fd.get(), at(loopback.ip.to_string(), 9200), AF_INET));
  });
  expect_one("sockops", "withdrawn", "stale_flow");
  EXPECT_EQ(text(last_[0].source), "127.0.0.1:7655");
}

// A map that takes no entry: frozen against programs it cannot be, but an LRU never refuses. So the only way
// there is one of the kernel's allocation failures; the event is held by the ABI table alone.
TEST_F(Trace, LookupsFromOutside) {
  const UniqueFd application = server(at(kPod4, 8080));
  const std::string client = from_neighbour(at(kPod4, 8080));
  expect_one("lookup", "captured", "from_outside");
  expect_ends(client.c_str(), fmt::format("{}:8080", kPod4));
  EXPECT_EQ(last_[0].pid, 0u);
  const std::string client6 = from_neighbour(at(kPod6, 8080));
  expect_one("lookup", "captured", "from_outside");
  expect_ends(client6.c_str(), fmt::format("[{}]:8080", kPod6));

  ASSERT_TRUE(datapath_->set_node_addresses({*IpAddress::parse(kNeighbour4)}));
  from_neighbour(at(kPod4, 8080));
  expect_one("lookup", "passed", "from_node");
  ASSERT_TRUE(datapath_->set_node_addresses({}));

  PodAttachment excluding = attachment();
  excluding.excluded_inbound = {8080};
  ASSERT_TRUE(datapath_->attach_pod(excluding));
  from_neighbour(at(kPod4, 8080));
  expect_one("lookup", "passed", "excluded_port");
  ASSERT_TRUE(datapath_->attach_pod(attachment()));

  inbound4_.reset();
  EXPECT_EQ(from_neighbour(at(kPod4, 8080)), std::strerror(ECONNREFUSED));
  expect_one("lookup", "dropped", "no_listener");
}

TEST_F(Trace, LookupsFromWithin) {
  const UniqueFd own = server(at(kPod4, 8080));
  const UniqueFd local = server(at("127.0.0.1", 9100));
  in_netns(pod_netns_,
           [&] { EXPECT_EQ(connect_to(tcp_socket(AF_INET).get(), at(kPod4, 8080), AF_INET), 0); });
  expect_one("lookup", "passed", "own_address");
  in_netns(pod_netns_,
           [&] { EXPECT_EQ(connect_to(tcp_socket(AF_INET).get(), at("127.0.0.1", 9100), AF_INET), 0); });
  expect_one("lookup", "passed", "loopback");
}

TEST_F(Trace, ListenerThatCannotBeAssigned) {
  // Of the other family: the kernel refuses it for the packet.
  ASSERT_TRUE(datapath_->set_listener(cookie_, Direction::kInbound, AF_INET, inbound6_));
  from_neighbour(at(kPod4, 8080));
  expect_one("lookup", "dropped", "not_assigned");
}

TEST_F(Trace, NamesOfAServer) {
  const ClientNames names(UniqueFd(::dup(datapath_->clients().get())));
  const auto serve = [&](const SocketAddress& client) {
    UniqueFd agent;
    SocketAddress local;
    in_netns(pod_netns_, [&] {
      agent = tcp_socket(AF_INET);
      sockaddr_storage storage{};
      const socklen_t length = at("127.0.0.1", 0).to(storage, AF_INET);
      ASSERT_EQ(::bind(agent.get(), reinterpret_cast<sockaddr*>(&storage), length), 0);
      local = endpoint_of(agent.get());
    });
    EXPECT_TRUE(names.publish(cookie_, local, client));
    const std::string done = in_pod([&] {
      const UniqueFd listener = listen_on(at("127.0.0.1", 8080));
      if (connect_to(agent.get(), at("127.0.0.1", 8080), AF_INET) != 0) return std::string("connect");
      const UniqueFd accepted(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
      return peer_of(accepted.get());
    });
    EXPECT_TRUE(names.forget(cookie_, local));
    return std::pair(done, local);
  };
  const auto [shown, local] = serve(at("10.1.2.3", 4444));
  EXPECT_EQ(shown, "10.1.2.3:4444");
  expect_one("getpeername", "named", "true_client");
  EXPECT_EQ(text(last_[0].source), "10.1.2.3:4444");
  EXPECT_EQ(last_[0].loopback, local);

  const auto [kept, real] = serve(at("2001:db8::7", 4444));
  EXPECT_EQ(kept, real.to_string());
  expect_one("getpeername", "passed", "client_of_other_family");
}

TEST_F(Trace, NameOfAConnectionThatWasResetBefore) {
  const std::string shown = in_pod([] {
    const UniqueFd listener = listen_on(at(kPod4, 8080)), fd = tcp_socket(AF_INET);
    if (connect_to(fd.get(), at(kPod4, 8080), AF_INET) != 0) return std::string(std::strerror(errno));
    const linger at_once{1, 0};
    ::setsockopt(fd.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    sockaddr nowhere{};
    nowhere.sa_family = AF_UNSPEC;
    ::connect(fd.get(), &nowhere, sizeof nowhere);
    SocketAddress peer;
    const UniqueFd accepted = accept_one(listener.get(), &peer);
    return peer.to_string();
  });
  EXPECT_EQ(shown, "0.0.0.0:0");
  expect_one("getpeername", "named", "reset_before_accept");
}

TEST_F(Trace, UdpLookupsAreNotToldOf) {
  in_netns(neighbour_netns_, [&] {
    const UniqueFd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    ASSERT_EQ(connect_to(fd.get(), at(kPod4, 5353), AF_INET), 0);
    ASSERT_EQ(::write(fd.get(), "x", 1), 1);
  });
  EXPECT_TRUE(told("lookup").empty());
}

// ---- the tracer
// ----------------------------------------------------------------------------------------------

TEST_F(Trace, OnlyWhatIsWished) {
  tracer_->wish({.netns_cookie = cookie_, .verdicts = verdict_bit("published") | verdict_bit("passed")});
  in_pod([] { return dial(at(kVip4, 80), AF_INET) + dial(at(kNeighbour4, 9), AF_INET); });
  std::vector<std::string_view> verdicts;
  for (const TraceEvent& event : events()) verdicts.push_back(event.verdict);
  EXPECT_EQ(verdicts, (std::vector<std::string_view>{"published", "passed"}));
  tracer_->wish({.netns_cookie = cookie_ + 1});
  in_pod([] { return dial(at(kVip4, 80), AF_INET); });
  EXPECT_TRUE(events().empty()) << "of a pod that nobody asked for";
  EXPECT_EQ(verdict_bit("nonsense"), 0u);
}

TEST_F(Trace, NobodyTracesNothingIsTold) {
  tracer_.reset();
  in_pod([] { return dial(at(kVip4, 80), AF_INET); });
  start();
  EXPECT_TRUE(events().empty());
  in_pod([] { return dial(at(kVip4, 80), AF_INET); });
  EXPECT_FALSE(events().empty());
}

TEST_F(Trace, SecondTracerIsToldWhoTheFirstIs) {
  const auto second = Tracer::open(directory_);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().kind(), ErrorKind::kExhausted);
  EXPECT_NE(second.error().text().find(fmt::format("process {} traces", ::getpid())), std::string::npos);
  tracer_.reset();
  start();
}

// A tracer that never renews, as a killed one: the next program that runs clears the flag.
TEST_F(Trace, LeaseEndsByItself) {
  const auto map = open_pin(PinPaths{directory_}.map(FL_MAP_TRACER));
  ASSERT_TRUE(map);
  const Map<uint32_t, abi::fl_tracer> state(*map);
  auto value = state.get(0);
  ASSERT_TRUE(value && *value);
  EXPECT_NE((*value)->until, 0u);
  (*value)->until = 1;  // long ago
  ASSERT_TRUE(state.put(0, **value));
  in_pod([] { return dial(at(kVip4, 80), AF_INET); });
  EXPECT_TRUE(events().empty());
  value = state.get(0);
  ASSERT_TRUE(value && *value);
  EXPECT_EQ((*value)->until, 0u) << "cleared by the program that met it";
  EXPECT_FALSE(tracer_->renew()) << "what happened meanwhile is missing, and the tracer is told";
  EXPECT_TRUE(tracer_->renew());
  in_pod([] { return dial(at(kVip4, 80), AF_INET); });
  EXPECT_FALSE(events().empty());
}

// Nobody reads: the ring fills, connections go on, and every event is either there or counted.
TEST_F(Trace, WhatDoesNotFitIsCounted) {
  constexpr uint64_t kMost = FL_EVENTS_BYTES / (sizeof(abi::fl_event) + 8 /* BPF_RINGBUF_HDR_SZ */);
  tracer_->wish({.verdicts = verdict_bit("passed")});
  const std::string done = in_pod([] {
    for (int i = 0; i < static_cast<int>(kMost) + 500; ++i) {
      const UniqueFd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
      if (connect_to(fd.get(), at(kNeighbour4, 53), AF_INET) != 0) return std::string(std::strerror(errno));
    }
    return std::string("done");
  });
  ASSERT_EQ(done, "done") << "a full ring holds nobody up";
  const size_t read = events().size();
  EXPECT_EQ(read + tracer_->lost(), kMost + 500);
  EXPECT_LE(read, kMost);
  EXPECT_GT(read, kMost * 9 / 10);
  in_pod([] { return dial(at(kNeighbour4, 53), AF_INET, SOCK_DGRAM); });
  EXPECT_EQ(events().size(), 1u) << "there is room again";
}

TEST_F(Trace, NextAgentTellsTheSameTracer) {
  datapath_.reset();
  EXPECT_TRUE(tracer_->is_current());
  auto next = Datapath::open(directory_);
  ASSERT_TRUE(next) << next.error().text();
  datapath_ = std::move(*next);
  stop_outbound();
  listen_outbound();
  ASSERT_TRUE(datapath_->attach_pod(attachment()));
  EXPECT_TRUE(tracer_->is_current());
  in_pod([] { return dial(at(kVip4, 80), AF_INET); });
  expect_one("connect", "captured", "mesh_destination");

  datapath_.reset();
  ASSERT_TRUE(Datapath::remove_all(directory_));
  EXPECT_FALSE(tracer_->is_current()) << "those maps are nobody's any more";
}

TEST_F(Trace, WithoutAgentThereIsNothingToTrace) {
  const auto tracer = Tracer::open(directory_ + "nowhere");
  ASSERT_FALSE(tracer);
  EXPECT_EQ(tracer.error().kind(), ErrorKind::kNotFound);
}

}  // namespace
}  // namespace fairlead::ebpf::test
