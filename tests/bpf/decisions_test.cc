// bpf/lib, decision by decision, run in the kernel by SEC("syscall") programs.
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <gtest/gtest.h>
#include <netinet/in.h>

#include <cstring>
#include <map>
#include <memory>
#include <set>

#include "base/net_types.h"
#include "bpf/abi/trace.h"
#include "bpf/abi/types.h"
#include "decisions_bpf.skel.h"
#include "ebpf/abi_convert.h"

namespace fairlead::ebpf {
namespace {

// The argument structs of decisions.bpf.c.
struct AddressArgs {
  abi::fl_address address{};
  uint32_t mapped = 9, loopback = 9, unspecified = 9, stays_here = 9;
};
struct EndpointArgs {
  abi::fl_endpoint original{}, agent{};
  uint32_t port4 = 0, bound = 0;
};
struct DecideArgs {
  abi::fl_pod pod{};
  uint32_t flags = 0, has_pod = 1, excluded = 0, verdict = 99;
};
struct Captured {
  abi::fl_endpoint original{}, agent{};
  uint64_t netns_cookie = 0, socket_cookie = 0;
  uint32_t flags = 0;
  uint8_t pad[4] = {};
};
struct CapturedArgs {
  Captured captured{};
  abi::fl_address address{};
  uint32_t port = 0, answer = 9;
};
struct NumberArgs {
  uint32_t a = 0, b = 0, answer = 9;
};
struct OwnArgs {
  abi::fl_address remote{}, local{};
  uint32_t answer = 9;
};
struct RangeArgs {
  uint64_t cookie = 0;
  abi::fl_address address{};
  abi::fl_excluded_range key{};
};

class Decisions : public testing::Test {
 protected:
  void SetUp() override {
    skeleton_ = decisions_bpf::open_and_load();
    ASSERT_NE(skeleton_, nullptr) << std::strerror(errno);
  }
  void TearDown() override { decisions_bpf::destroy(skeleton_); }

  template <class Args>
  Args run(const bpf_program* program, Args args) {
    bpf_test_run_opts options{};
    options.sz = sizeof options;
    options.ctx_in = &args;
    options.ctx_size_in = sizeof args;
    EXPECT_EQ(bpf_prog_test_run_opts(bpf_program__fd(program), &options), 0) << std::strerror(errno);
    return args;
  }

  decisions_bpf* skeleton_ = nullptr;
};

TEST_F(Decisions, AddressesAreTheKindTheyAre) {
  const struct {
    const char* text;
    bool loopback, unspecified;
  } cases[] = {
      {"127.0.0.1", true, false},    {"127.255.255.254", true, false},
      {"126.0.0.1", false, false},   {"128.0.0.0", false, false},
      {"0.0.0.0", false, true},      {"0.0.0.1", false, false},
      {"10.0.0.127", false, false},  {"255.255.255.255", false, false},
      {"::1", true, false},          {"::", false, true},
      {"::2", false, false},         {"1::1", false, false},
      {"::1:0:0:1", false, false},   {"::127.0.0.1", false, false},
      {"2001:db8::1", false, false}, {"::ffff:0:127.0.0.1", false, false},
  };
  for (const auto& c : cases) {
    const IpAddress address = *IpAddress::parse(c.text);
    const AddressArgs out = run(skeleton_->progs.test_address, AddressArgs{to_abi(address)});
    EXPECT_EQ(out.mapped, address.is_v4() ? 1u : 0u) << c.text;
    EXPECT_EQ(out.loopback, c.loopback ? 1u : 0u) << c.text;
    EXPECT_EQ(out.unspecified, c.unspecified ? 1u : 0u) << c.text;
    EXPECT_EQ(out.stays_here, c.loopback || c.unspecified ? 1u : 0u) << c.text;
  }
}

class Endpoint : public Decisions {
 protected:
  SocketAddress agent_of(const IpAddress& ip, uint16_t port, uint32_t bound = 0) {
    EndpointArgs args;
    args.original.address = to_abi(ip);
    args.original.port = htons(port);
    args.port4 = htons(15001);
    args.bound = bound;
    const EndpointArgs out = run(skeleton_->progs.test_agent_endpoint, args);
    return {from_abi(out.agent.address), ntohs(out.agent.port)};
  }
};

// Destinations as clusters have them: neighbouring addresses, few ports.
TEST_F(Endpoint, Ipv4DestinationsHaveAddressesOfTheirOwn) {
  std::set<IpAddress> seen;
  for (uint32_t host = 0; host < 1024; ++host) {
    for (const uint16_t port : {80, 443, 8080, 9090}) {
      const SocketAddress agent = agent_of(IpAddress::v4({htonl(0x0a600000 + host)}), port);
      const auto octets = agent.ip.octets();
      EXPECT_EQ(agent.port, 15001);
      EXPECT_TRUE(agent.ip.is_v4() && octets[12] == 127) << agent.to_string();
      EXPECT_NE(octets[13], 0) << agent.to_string();
      EXPECT_TRUE(octets[15] != 0 && octets[15] != 255) << agent.to_string();
      seen.insert(agent.ip);
    }
  }
  // 4096 draws out of 16 million meet half a time on average.
  EXPECT_GE(seen.size(), 4096u - 5);
}

TEST_F(Endpoint, Ipv6DestinationsSpreadOverThePorts) {
  std::map<uint16_t, int> seen;
  for (uint32_t host = 0; host < 1024; ++host) {
    for (const uint16_t port : {80, 443, 8080, 9090}) {
      const SocketAddress agent = agent_of(*IpAddress::parse(fmt::format("fd00:10:96::{:x}", host)), port);
      EXPECT_EQ(agent.ip.to_string(), "::1");
      ++seen[agent.port];
    }
  }
  EXPECT_EQ(seen.size(), FL_OUTBOUND6_PORTS);
  EXPECT_GE(seen.begin()->first, FL_OUTBOUND6_FIRST);
  EXPECT_LT(seen.rbegin()->first, FL_OUTBOUND6_FIRST + FL_OUTBOUND6_PORTS);
  for (const auto& [port, times] : seen) EXPECT_LT(times, 2 * 4096 / int{FL_OUTBOUND6_PORTS}) << port;
}

TEST_F(Endpoint, EveryPartOfTheDestinationCounts) {
  std::set<IpAddress> seen;
  for (const char* ip : {"10.0.0.1", "10.0.0.2", "10.0.1.1", "10.1.0.1", "11.0.0.1", "138.0.0.1"}) {
    seen.insert(agent_of(*IpAddress::parse(ip), 80).ip);
  }
  for (const uint16_t port : {81, 336, 32848}) seen.insert(agent_of(*IpAddress::parse("10.0.0.1"), port).ip);
  EXPECT_EQ(seen.size(), 9u);
  EXPECT_EQ(agent_of(*IpAddress::parse("10.0.0.1"), 80), agent_of(*IpAddress::parse("10.0.0.1"), 80));
}

// ::1 is source and destination: from the same port, a socket would be connected with itself.
TEST_F(Endpoint, Ipv6NeverDialsThePortItIsBoundTo) {
  std::set<uint16_t> wrapped;
  for (uint16_t port = 1; port <= 2000; ++port) {
    const IpAddress ip = *IpAddress::parse("2001:db8::1");
    const uint16_t usual = agent_of(ip, port).port;
    const uint16_t other = agent_of(ip, port, usual).port;
    EXPECT_NE(other, usual);
    EXPECT_GE(other, FL_OUTBOUND6_FIRST);
    EXPECT_LT(other, FL_OUTBOUND6_FIRST + FL_OUTBOUND6_PORTS);
    EXPECT_EQ(agent_of(ip, port, usual + 1).port, usual) << "another port is no obstacle";
    if (other < usual) wrapped.insert(other);
  }
  EXPECT_EQ(wrapped, std::set<uint16_t>{FL_OUTBOUND6_FIRST}) << "behind the last comes the first";
}

TEST_F(Decisions, WhatCannotBeDecidedIsDenied) {
  const struct {
    const char* what;
    uint32_t flags, has_pod;
    uint16_t outbound_port;
    uint32_t excluded;
    uint32_t verdict;
  } cases[] = {
      {"a mesh destination", FL_DEST_CAPTURE, 1, 15001, 0, abi::FL_END_MESH},
      {"a service without endpoints", FL_DEST_REFUSE, 1, 15001, 0, abi::FL_END_NO_ENDPOINTS},
      {"refusal wins over capture", FL_DEST_REFUSE | FL_DEST_CAPTURE, 1, 15001, 0, abi::FL_END_NO_ENDPOINTS},
      {"an excluded destination", FL_DEST_CAPTURE, 1, 15001, abi::FL_END_EXCLUDED_PORT,
       abi::FL_END_EXCLUDED_PORT},
      {"an excluded service without endpoints", FL_DEST_REFUSE, 1, 15001, abi::FL_END_EXCLUDED_PORT,
       abi::FL_END_EXCLUDED_PORT},
      {"no pod of ours", FL_DEST_CAPTURE, 0, 15001, 0, abi::FL_END_FOREIGN_NETNS},
      {"a pod without listener", FL_DEST_CAPTURE, 1, 0, 0, abi::FL_END_FOREIGN_NETNS},
      {"no flags", 0, 1, 15001, 0, abi::FL_END_UNKNOWN_DEST},
      {"a flag of the future", 0x80, 1, 15001, 0, abi::FL_END_UNKNOWN_DEST},
  };
  for (const auto& c : cases) {
    DecideArgs args;
    args.pod.outbound_port = htons(c.outbound_port);
    args.flags = c.flags;
    args.has_pod = c.has_pod;
    args.excluded = c.excluded;
    EXPECT_EQ(run(skeleton_->progs.test_decide, args).verdict, c.verdict) << c.what;
  }
}

TEST_F(Decisions, StorageSpeaksOnlyForTheConnectionItWasWrittenFor) {
  const struct {
    const char* what;
    const char* peer;
    uint16_t port;
    uint32_t flags;
    bool answer;
  } cases[] = {
      {"the agent", "127.7.8.9", 15001, 1, true},
      {"another port", "127.7.8.9", 15002, 1, false},
      {"another destination's address", "127.7.8.10", 15001, 1, false},
      {"the listener's own address", "127.0.0.1", 15001, 1, false},
      {"IPv6", "::1", 15001, 1, false},
      {"the same octets in another place", "::127.7.8.9", 15001, 1, false},
      {"connected elsewhere since", "198.51.100.1", 15001, 1, false},
      {"forgotten", "127.7.8.9", 15001, 0, false},
  };
  for (const auto& c : cases) {
    CapturedArgs args;
    args.captured.agent.address = to_abi(*IpAddress::parse("127.7.8.9"));
    args.captured.agent.port = htons(15001);
    args.captured.flags = c.flags;
    args.address = to_abi(*IpAddress::parse(c.peer));
    args.port = htons(c.port);
    EXPECT_EQ(run(skeleton_->progs.test_captured, args).answer, c.answer ? 1u : 0u) << c.what;
  }
}

TEST_F(Decisions, OnlyTcpIsOurs) {
  const struct {
    uint32_t type, protocol, answer;
  } cases[] = {{SOCK_STREAM, IPPROTO_TCP, 1},    {SOCK_STREAM, 262, 1},
               {SOCK_DGRAM, IPPROTO_UDP, 0},     {SOCK_STREAM, 132, 0},
               {SOCK_SEQPACKET, IPPROTO_TCP, 0}, {SOCK_RAW, IPPROTO_TCP, 0}};
  for (const auto& c : cases) {
    EXPECT_EQ(run(skeleton_->progs.test_is_tcp, NumberArgs{c.type, c.protocol}).answer, c.answer)
        << c.type << "/" << c.protocol;
  }
}

TEST_F(Decisions, LookupConcernsTcpPackets) {
  const struct {
    uint32_t protocol, ifindex, answer;
  } cases[] = {{IPPROTO_TCP, 2, 1}, {IPPROTO_TCP, 1, 1}, {IPPROTO_TCP, 0, 0}, {IPPROTO_UDP, 2, 0}};
  for (const auto& c : cases) {
    EXPECT_EQ(run(skeleton_->progs.test_lookup_concerns, NumberArgs{c.protocol, c.ifindex}).answer, c.answer)
        << c.protocol << "/" << c.ifindex;
  }
}

TEST_F(Decisions, OwnTrafficIsKnownByItsAddresses) {
  const struct {
    const char *remote, *local;
    uint32_t answer;
  } cases[] = {
      {"127.0.0.1", "10.0.0.2", 1},      {"10.0.0.2", "10.0.0.2", 1},
      {"10.0.0.1", "10.0.0.2", 0},       {"::1", "2001:db8::2", 1},
      {"2001:db8::2", "2001:db8::2", 1}, {"2001:db8:0:1::2", "2001:db8::2", 0},
      {"2001:db9::2", "2001:db8::2", 0}, {"2001:db8::1:0:2", "2001:db8::2", 0},
      {"11.0.0.2", "10.0.0.2", 0},
  };
  for (const auto& c : cases) {
    const OwnArgs args{to_abi(*IpAddress::parse(c.remote)), to_abi(*IpAddress::parse(c.local))};
    EXPECT_EQ(run(skeleton_->progs.test_lookup_is_own, args).answer, c.answer)
        << c.remote << " to " << c.local;
  }
}

TEST_F(Decisions, RangeKeyHoldsTheCookieMostSignificantFirst) {
  RangeArgs args;
  args.cookie = 0x0102030405060708;
  args.address = to_abi(*IpAddress::parse("10.1.2.3"));
  const RangeArgs out = run(skeleton_->progs.test_range_key, args);
  EXPECT_EQ(out.key.prefix_length, 192u);
  for (uint8_t i = 0; i < 8; ++i) EXPECT_EQ(out.key.netns_cookie[i], i + 1);
  EXPECT_EQ(std::memcmp(out.key.address, args.address.octets, 16), 0);
}

}  // namespace
}  // namespace fairlead::ebpf
