#include "proxy/resolve.h"

#include <google/protobuf/wrappers.pb.h>
#include <gtest/gtest.h>

#include "state/snapshot_builder.h"

namespace fairlead::proxy {
namespace {

IpAddress ip(const std::string& text) {
  return *IpAddress::parse(text);
}

class Resolve : public ::testing::Test {
 protected:
  void add(const std::string& name, std::vector<std::string> addresses, bool mesh, bool in_place,
           bool healthy = true, const std::function<void(istio::workload::Workload&)>& change = {}) {
    istio::workload::Address message;
    auto& out = *message.mutable_workload();
    out.set_uid(name);
    out.set_name(name);
    out.set_namespace_("ns");
    for (const auto& address : addresses) out.add_addresses(ip(address).to_octets());
    if (mesh) out.set_tunnel_protocol(istio::workload::HBONE);
    if (in_place) out.add_extensions()->set_name("fairlead.dev/in-place");
    if (!healthy) out.set_status(istio::workload::UNHEALTHY);
    auto& port = *(*out.mutable_services())["ns/svc"].add_ports();
    port.set_service_port(80);
    port.set_target_port(8080);
    if (change) change(out);
    ASSERT_TRUE(builder.set_address(name, message));
  }
  void SetUp() override {
    istio::workload::Address message;
    auto& out = *message.mutable_service();
    out.set_namespace_("ns");
    out.set_hostname("svc");
    out.add_addresses()->set_address(ip("10.96.0.1").to_octets());
    out.add_addresses()->set_address(ip("fd00:96::1").to_octets());
    out.add_ports()->set_service_port(80);
    ASSERT_TRUE(builder.set_address("ns/svc", message));
  }
  Target to(const std::string& address, uint16_t port, std::vector<IpAddress> own = {}, size_t pick = 0) {
    return resolve(*builder.build(), own, {ip(address), port}, [&](size_t count) { return pick % count; });
  }
  state::SnapshotBuilder builder;
};

TEST_F(Resolve, AServiceGoesToAnEndpointOnItsTargetPort) {
  add("a", {"10.0.0.1"}, true, true);
  const Target target = to("10.96.0.1", 80);
  EXPECT_EQ(target.kind, Target::Kind::kTunnelInPlace);
  EXPECT_EQ(target.endpoint.to_string(), "10.0.0.1:8080");
  EXPECT_NE(target.service, nullptr);
}

TEST_F(Resolve, EndpointsThatFailedAreAvoidedUntilNoneIsLeft) {
  add("a", {"10.0.0.1"}, true, true);
  add("b", {"10.0.0.2"}, true, true);
  std::vector<SocketAddress> avoid = {{ip("10.0.0.1"), 8080}, {ip("10.0.0.2"), 9999}};
  const auto again = [&](size_t pick) {
    return resolve(
        *builder.build(), {}, {ip("10.96.0.1"), 80}, [&](size_t count) { return pick % count; }, avoid);
  };
  for (size_t pick : {0, 1, 2}) EXPECT_EQ(again(pick).endpoint.to_string(), "10.0.0.2:8080");
  avoid.emplace_back(ip("10.0.0.2"), 8080);
  EXPECT_EQ(again(0).kind, Target::Kind::kRefused);
}

TEST_F(Resolve, KeepsTheFamilyTheClientAskedFor) {
  add("a", {"10.0.0.1", "fd00::1"}, true, true);
  EXPECT_EQ(to("10.96.0.1", 80).endpoint.to_string(), "10.0.0.1:8080");
  EXPECT_EQ(to("fd00:96::1", 80).endpoint.to_string(), "[fd00::1]:8080");
}

TEST_F(Resolve, TellsPlacementsApart) {
  add("istio", {"10.0.0.1"}, true, false);
  add("plain", {"10.0.0.2"}, false, false);
  EXPECT_EQ(to("10.0.0.1", 9).kind, Target::Kind::kTunnelHbone);
  EXPECT_EQ(to("10.0.0.2", 9).kind, Target::Kind::kPlain);
  EXPECT_EQ(to("10.0.0.1", 9, {ip("10.0.0.1")}).kind, Target::Kind::kSelf);
}

TEST_F(Resolve, AnExcludedPortIsReachedThrough15008) {
  istio::workload::Address message;
  auto& out = *message.mutable_workload();
  out.set_uid("a");
  out.set_namespace_("ns");
  out.add_addresses(ip("10.0.0.1").to_octets());
  out.set_tunnel_protocol(istio::workload::HBONE);
  out.add_extensions()->set_name("fairlead.dev/in-place");
  google::protobuf::StringValue ports;
  ports.set_value("9090, 22");
  auto& excluded = *out.add_extensions();
  excluded.set_name("fairlead.dev/not-in-place");
  excluded.mutable_config()->PackFrom(ports);
  ASSERT_TRUE(builder.set_address("a", message));
  EXPECT_EQ(to("10.0.0.1", 80).kind, Target::Kind::kTunnelInPlace);
  EXPECT_EQ(to("10.0.0.1", 9090).kind, Target::Kind::kTunnelHbone);
  EXPECT_EQ(to("10.0.0.1", 22).kind, Target::Kind::kTunnelHbone);
  ports.set_value("9090,http");
  excluded.mutable_config()->PackFrom(ports);
  ASSERT_TRUE(builder.set_address("a", message));
  EXPECT_EQ(to("10.0.0.1", 80).kind, Target::Kind::kTunnelHbone)
      << "a list that cannot be read: no port in place";
}

TEST_F(Resolve, NeverPicksAnUnhealthyEndpoint) {
  add("sick", {"10.0.0.1"}, true, true, false);
  add("well", {"10.0.0.2"}, true, true);
  for (size_t pick = 0; pick < 4; ++pick)
    EXPECT_EQ(to("10.96.0.1", 80, {}, pick).endpoint.ip, ip("10.0.0.2"));
}

TEST_F(Resolve, SpreadsOverAllEndpoints) {
  add("a", {"10.0.0.1"}, true, true);
  add("b", {"10.0.0.2"}, true, true);
  EXPECT_NE(to("10.96.0.1", 80, {}, 0).endpoint, to("10.96.0.1", 80, {}, 1).endpoint);
}

TEST_F(Resolve, NeverGoesPlainToATunnelThatItDoesNotSpeak) {
  for (const int protocol : {static_cast<int>(istio::workload::LEGACY_ISTIO_MTLS), 99}) {
    add("a", {"10.0.0.1"}, true, true, true, [protocol](auto& w) {
      w.set_tunnel_protocol(static_cast<istio::workload::TunnelProtocol>(protocol));
    });
    for (const char* address : {"10.0.0.1", "10.96.0.1"}) {
      const Target target = to(address, 80);
      EXPECT_EQ(target.kind, Target::Kind::kRefused) << address;
      EXPECT_NE(target.why.find("tunnel protocol"), std::string_view::npos) << target.why;
    }
    EXPECT_EQ(to("10.0.0.1", 80, {ip("10.0.0.1")}).kind, Target::Kind::kSelf) << "nothing leaves the pod";
  }
}

TEST_F(Resolve, NeverDialsAnAddressOfAnotherNetwork) {
  for (const bool mesh : {true, false}) {
    add("a", {"10.0.0.1"}, mesh, true, true, [](auto& w) { w.set_network("n2"); });
    const Target by_service = to("10.96.0.1", 80);
    EXPECT_EQ(by_service.kind, Target::Kind::kRefused);
    EXPECT_NE(by_service.why.find("network"), std::string_view::npos) << by_service.why;
    EXPECT_EQ(to("10.96.0.1", 80, {ip("10.0.0.1")}).kind, Target::Kind::kRefused)
        << "an address of its own network is not this pod";
  }
  add("a", {"10.0.0.1"}, true, true, true, [](auto& w) { w.set_network("n2"); });
  const Target direct = to("10.0.0.1", 80);
  EXPECT_EQ(direct.kind, Target::Kind::kRefused);
  EXPECT_NE(direct.why.find("network"), std::string_view::npos) << direct.why;
}

TEST_F(Resolve, TakesTheEndpointsThatItCanReach) {
  add("far", {"10.0.0.1"}, true, true, true, [](auto& w) { w.set_network("n2"); });
  add("newer", {"10.0.0.2"}, true, true, true,
      [](auto& w) { w.set_tunnel_protocol(static_cast<istio::workload::TunnelProtocol>(99)); });
  add("near", {"10.0.0.3"}, true, true);
  for (size_t pick = 0; pick < 4; ++pick)
    EXPECT_EQ(to("10.96.0.1", 80, {}, pick).endpoint.ip, ip("10.0.0.3"));
}

TEST_F(Resolve, RefusesWhatNobodyServes) {
  EXPECT_EQ(to("10.96.0.1", 80).kind, Target::Kind::kRefused);
  add("a", {"10.0.0.1"}, true, true);
  EXPECT_EQ(to("10.96.0.1", 81).kind, Target::Kind::kRefused);
  EXPECT_EQ(to("192.0.2.1", 80).kind, Target::Kind::kRefused);
}

}  // namespace
}  // namespace fairlead::proxy
