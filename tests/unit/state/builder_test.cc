#include <gtest/gtest.h>

#include "bpf/abi/types.h"
#include "state/decode.h"
#include "state/snapshot_builder.h"
#include "unit/state/mesh_for_test.h"

namespace fairlead::state {
namespace {

bool open_to_all(const SnapshotPtr& snapshot, const std::string& address) {
  const auto found = snapshot->workload(ip(address));
  return found != nullptr && !found->policy_missing &&
         policy::evaluate(found->policies, {&found->identity, {}, {}, 80}).allowed;
}

void must(const Result<void>& result) {
  ASSERT_TRUE(result) << result.error().text();
}

TEST(Builder, AnAddressThatMovesLeavesTheOldOne) {
  SnapshotBuilder builder;
  must(builder.set_address("a", workload("a", "10.0.0.1")));
  must(builder.set_address("a", workload("a", "10.0.0.2")));
  const auto snapshot = builder.build();
  EXPECT_EQ(snapshot->workload(ip("10.0.0.1")), nullptr);
  EXPECT_NE(snapshot->workload(ip("10.0.0.2")), nullptr);
  EXPECT_EQ(snapshot->workloads().size(), 1u);
}

TEST(Builder, AWorkloadThatLeavesAServiceIsNoEndpointAnyMore) {
  SnapshotBuilder builder;
  auto member = workload("a", "10.0.0.1");
  join(member, "one");
  must(builder.set_address(service_resource("one"), service("one", "10.96.0.1")));
  must(builder.set_address(service_resource("two"), service("two", "10.96.0.2")));
  must(builder.set_address("a", member));
  ASSERT_EQ(builder.build()->service(ip("10.96.0.1"))->endpoints.size(), 1u);
  auto moved = workload("a", "10.0.0.1");
  join(moved, "two");
  must(builder.set_address("a", moved));
  const auto snapshot = builder.build();
  EXPECT_TRUE(snapshot->service(ip("10.96.0.1"))->endpoints.empty());
  EXPECT_FALSE(snapshot->service(ip("10.96.0.1"))->has_mesh_endpoint);
  EXPECT_EQ(snapshot->service(ip("10.96.0.2"))->endpoints.size(), 1u);
}

TEST(Builder, EndpointsAreThoseOfTheSameSnapshot) {
  SnapshotBuilder builder;
  auto member = workload("a", "10.0.0.1");
  join(member, "s");
  must(builder.set_address("a", member));
  must(builder.set_address(service_resource("s"), service("s", "10.96.0.1")));
  (void)builder.build();
  must(builder.set_policy("ns/p", deny_all("p", istio::security::NAMESPACE)));
  const auto snapshot = builder.build();
  EXPECT_EQ(snapshot->service(ip("10.96.0.1"))->endpoints[0].workload, snapshot->workload(ip("10.0.0.1")));
}

TEST(Builder, AServiceThatComesAfterItsWorkloadsHasThem) {
  SnapshotBuilder builder;
  auto member = workload("a", "10.0.0.1");
  join(member, "s");
  must(builder.set_address("a", member));
  (void)builder.build();
  must(builder.set_address(service_resource("s"), service("s", "10.96.0.1")));
  EXPECT_EQ(builder.build()->service(ip("10.96.0.1"))->endpoints.size(), 1u);
  builder.remove_address(service_resource("s"));
  EXPECT_EQ(builder.build()->service(ip("10.96.0.1")), nullptr);
  must(builder.set_address(service_resource("s"), service("s", "10.96.0.1")));
  EXPECT_EQ(builder.build()->service(ip("10.96.0.1"))->endpoints.size(), 1u);
}

TEST(Builder, PortsOfTheEndpointReplaceThoseOfTheService) {
  SnapshotBuilder builder;
  auto usual = workload("a", "10.0.0.1");
  join(usual, "s", 8080);
  auto own = workload("b", "10.0.0.2");
  join(own, "s", 9090);
  auto without = workload("c", "10.0.0.3");
  (*without.mutable_workload()->mutable_services())[service_resource("s")];
  must(builder.set_address("a", usual));
  must(builder.set_address("b", own));
  must(builder.set_address("c", without));
  must(builder.set_address(service_resource("s"), service("s", "10.96.0.1")));
  const auto found = builder.build()->service(ip("10.96.0.1"));
  ASSERT_EQ(found->endpoints.size(), 3u);
  std::map<std::string, uint16_t> ports;
  for (const auto& endpoint : found->endpoints) {
    ports[endpoint.workload->name] = found->target_port(endpoint, 80);
    EXPECT_EQ(found->target_port(endpoint, 81), 0);
  }
  EXPECT_EQ(ports, (std::map<std::string, uint16_t>{{"a", 8080}, {"b", 9090}, {"c", 8080}}));
}

TEST(Builder, WorkloadsOfTheHostNetworkAreNotFoundByAddress) {
  SnapshotBuilder builder;
  auto message = workload("a", "10.0.0.1");
  message.mutable_workload()->set_network_mode(istio::workload::HOST_NETWORK);
  must(builder.set_address("a", message));
  const auto snapshot = builder.build();
  EXPECT_EQ(snapshot->workload(ip("10.0.0.1")), nullptr);
  EXPECT_EQ(snapshot->workloads().size(), 1u);
  EXPECT_TRUE(snapshot->destinations().empty());
}

TEST(Builder, OfTwoOnOneAddressOutsideTheMeshThePodIsFound) {
  for (const bool pod_first : {true, false}) {
    SnapshotBuilder builder;
    auto entry = workload("entry", "10.0.0.1", false);
    entry.mutable_workload()->set_uid("Kubernetes/networking.istio.io/WorkloadEntry/ns/entry");
    must(builder.set_address(pod_first ? "2" : "1", entry));
    must(builder.set_address(pod_first ? "1" : "2", workload("pod", "10.0.0.1", false)));
    EXPECT_EQ(builder.build()->workload(ip("10.0.0.1"))->name, "pod");
  }
}

TEST(Builder, WhenTheBetterOfTwoGoesTheOtherIsFound) {
  SnapshotBuilder builder;
  must(builder.set_address("1", workload("inside", "10.0.0.1")));
  must(builder.set_address("2", workload("outside", "10.0.0.1", false)));
  ASSERT_EQ(builder.build()->workload(ip("10.0.0.1"))->name, "inside");
  builder.remove_address("1");
  EXPECT_EQ(builder.build()->workload(ip("10.0.0.1"))->name, "outside");
}

istio::workload::Address on_network(istio::workload::Address message, const std::string& network) {
  if (message.has_workload()) message.mutable_workload()->set_network(network);
  if (message.has_service()) message.mutable_service()->mutable_addresses(0)->set_network(network);
  return message;
}

istio::workload::Address speaking(istio::workload::Address message, int protocol) {
  message.mutable_workload()->set_tunnel_protocol(static_cast<istio::workload::TunnelProtocol>(protocol));
  return message;
}

TEST(Builder, WhatIsNotPlainIsCapturedWhateverItSpeaks) {
  SnapshotBuilder builder;
  auto legacy = speaking(workload("a", "10.0.0.1"), istio::workload::LEGACY_ISTIO_MTLS);
  join(legacy, "s");
  must(builder.set_address("a", legacy));
  must(builder.set_address("b", speaking(workload("b", "10.0.0.2"), 99)));
  must(builder.set_address(service_resource("s"), service("s", "10.96.0.1")));
  const auto wanted = builder.build()->destinations();
  for (const char* address : {"10.0.0.1", "10.0.0.2", "10.96.0.1"}) {
    ASSERT_TRUE(wanted.contains(ip(address))) << address;
    EXPECT_EQ(wanted.at(ip(address)), FL_DEST_CAPTURE) << address;
  }
}

TEST(Builder, OfTwoOnOneAddressThePlainOneComesLast) {
  for (const bool plain_first : {true, false}) {
    SnapshotBuilder builder;
    must(builder.set_address(plain_first ? "1" : "2", workload("plain", "10.0.0.1", false)));
    must(builder.set_address(plain_first ? "2" : "1", speaking(workload("newer", "10.0.0.1"), 99)));
    EXPECT_EQ(builder.build()->workload(ip("10.0.0.1"))->name, "newer");
    must(builder.set_address("3", workload("hbone", "10.0.0.1")));
    EXPECT_EQ(builder.build()->workload(ip("10.0.0.1"))->name, "hbone");
  }
}

TEST(Builder, AWorkloadOfAnotherNetworkTakesNobodysAddress) {
  for (const bool foreign_first : {true, false}) {
    SnapshotBuilder builder("n1");
    const char* foreign = foreign_first ? "1" : "2";
    const char* ours = foreign_first ? "2" : "1";
    must(builder.set_address(foreign, on_network(workload("foreign", "10.0.0.1"), "n2")));
    must(builder.set_address(ours, on_network(workload("ours", "10.0.0.1", false), "n1")));
    const auto snapshot = builder.build();
    ASSERT_NE(snapshot->workload(ip("10.0.0.1")), nullptr);
    EXPECT_EQ(snapshot->workload(ip("10.0.0.1"))->name, "ours");
    EXPECT_FALSE(snapshot->elsewhere(ip("10.0.0.1")));
    EXPECT_TRUE(snapshot->destinations().empty()) << "ours is outside the mesh";
    EXPECT_EQ(snapshot->workloads().size(), 2u);
  }
}

TEST(Builder, AMeshAddressThatOnlyAnotherNetworkHasIsCaptured) {
  SnapshotBuilder builder;
  must(builder.set_address("a", on_network(workload("a", "10.0.0.1"), "n2")));
  must(builder.set_address("b", on_network(workload("b", "10.0.0.2", false), "n2")));
  auto on_node = on_network(workload("c", "10.0.0.3"), "n2");
  on_node.mutable_workload()->set_network_mode(istio::workload::HOST_NETWORK);
  must(builder.set_address("c", on_node));
  auto snapshot = builder.build();
  EXPECT_EQ(snapshot->workload(ip("10.0.0.1")), nullptr);
  EXPECT_TRUE(snapshot->elsewhere(ip("10.0.0.1")));
  EXPECT_FALSE(snapshot->elsewhere(ip("10.0.0.2"))) << "plain there, somebody else's here";
  EXPECT_EQ(snapshot->destinations(),
            (std::unordered_map<IpAddress, uint32_t>{{ip("10.0.0.1"), FL_DEST_CAPTURE}}));
  // A node's own address on our network is ours, though no workload is found by it.
  auto ours = workload("d", "10.0.0.1", false);
  ours.mutable_workload()->set_network_mode(istio::workload::HOST_NETWORK);
  must(builder.set_address("d", ours));
  snapshot = builder.build();
  EXPECT_FALSE(snapshot->elsewhere(ip("10.0.0.1")));
  EXPECT_TRUE(snapshot->destinations().empty());
}

TEST(Builder, AServiceAddressOfAnotherNetworkTakesNobodysAddress) {
  SnapshotBuilder builder;
  auto member = workload("a", "10.0.0.1");
  join(member, "there");
  must(builder.set_address("a", member));
  must(builder.set_address(service_resource("there"), on_network(service("there", "10.96.0.1"), "n2")));
  auto snapshot = builder.build();
  EXPECT_EQ(snapshot->service(ip("10.96.0.1")), nullptr);
  EXPECT_TRUE(snapshot->elsewhere(ip("10.96.0.1")));
  EXPECT_EQ(snapshot->destinations().at(ip("10.96.0.1")), FL_DEST_CAPTURE);
  must(builder.set_address("b", workload("b", "10.96.0.1")));
  EXPECT_FALSE(builder.build()->elsewhere(ip("10.96.0.1")));
  builder.remove_address("b");
  auto plain = workload("c", "10.0.0.3", false);
  join(plain, "here");
  must(builder.set_address("c", plain));
  must(builder.set_address(service_resource("here"), service("here", "10.96.0.1")));
  snapshot = builder.build();
  EXPECT_EQ(snapshot->service(ip("10.96.0.1"))->name, "here");
  EXPECT_FALSE(snapshot->destinations().contains(ip("10.96.0.1"))) << "a service outside the mesh";
}

TEST(Builder, AServiceWhoseMembersAreAllElsewhereIsCaptured) {
  SnapshotBuilder builder;
  auto member = on_network(workload("a", "10.0.0.1"), "n2");
  join(member, "s");
  must(builder.set_address("a", member));
  must(builder.set_address(service_resource("s"), service("s", "10.96.0.1")));
  EXPECT_EQ(builder.build()->destinations().at(ip("10.96.0.1")), FL_DEST_CAPTURE);
}

TEST(Builder, APolicyAppliesWithinItsScopeAndOnlyThere) {
  SnapshotBuilder builder;
  auto other = workload("b", "10.0.0.2");
  other.mutable_workload()->set_namespace_("other");
  must(builder.set_address("a", workload("a", "10.0.0.1")));
  must(builder.set_address("b", other));
  must(builder.set_policy("ns/p", deny_all("p", istio::security::NAMESPACE)));
  EXPECT_FALSE(open_to_all(builder.build(), "10.0.0.1"));
  EXPECT_TRUE(open_to_all(builder.build(), "10.0.0.2"));
  must(builder.set_policy("ns/p", deny_all("p", istio::security::WORKLOAD_SELECTOR)));
  EXPECT_TRUE(open_to_all(builder.build(), "10.0.0.1")) << "nobody names it";
  must(builder.set_policy("ns/p", deny_all("p", istio::security::GLOBAL)));
  EXPECT_FALSE(open_to_all(builder.build(), "10.0.0.1"));
  EXPECT_FALSE(open_to_all(builder.build(), "10.0.0.2"));
  builder.remove_policy("ns/p");
  EXPECT_TRUE(open_to_all(builder.build(), "10.0.0.1"));
  EXPECT_TRUE(open_to_all(builder.build(), "10.0.0.2"));
}

TEST(Builder, ANamedPolicyThatGoesIsMissed) {
  SnapshotBuilder builder;
  auto message = workload("a", "10.0.0.1");
  message.mutable_workload()->add_authorization_policies("ns/p");
  must(builder.set_address("a", message));
  auto harmless = deny_all("p", istio::security::WORKLOAD_SELECTOR);
  harmless.clear_rules();
  must(builder.set_policy("ns/p", harmless));
  EXPECT_TRUE(open_to_all(builder.build(), "10.0.0.1"));
  builder.remove_policy("ns/p");
  EXPECT_TRUE(builder.build()->workload(ip("10.0.0.1"))->policy_missing);
}

TEST(Builder, APolicyThatIsNoLongerNamedTouchesNobody) {
  SnapshotBuilder builder;
  auto message = workload("a", "10.0.0.1");
  message.mutable_workload()->add_authorization_policies("ns/p");
  must(builder.set_address("a", message));
  must(builder.set_address("b", message));
  must(builder.set_policy("ns/p", deny_all("p", istio::security::WORKLOAD_SELECTOR)));
  EXPECT_FALSE(open_to_all(builder.build(), "10.0.0.1"));
  builder.remove_address("b");
  must(builder.set_address("a", workload("a", "10.0.0.1")));
  const auto before = builder.build();
  EXPECT_TRUE(open_to_all(before, "10.0.0.1"));
  must(builder.set_policy("ns/p", deny_all("p", istio::security::WORKLOAD_SELECTOR)));
  EXPECT_EQ(builder.build()->workload(ip("10.0.0.1")), before->workload(ip("10.0.0.1")));
  must(builder.set_address("a", message));
  EXPECT_FALSE(open_to_all(builder.build(), "10.0.0.1"));
}

TEST(Builder, AStrictThatIsSentReplacesTheBuiltInOne) {
  const std::string name = "istio-system/istio_converted_static_strict";
  SnapshotBuilder builder;
  auto message = workload("a", "10.0.0.1");
  message.mutable_workload()->add_authorization_policies(name);
  must(builder.set_address("a", message));
  auto sent = deny_all("istio_converted_static_strict", istio::security::WORKLOAD_SELECTOR);
  sent.set_namespace_("istio-system");
  must(builder.set_policy(name, sent));
  EXPECT_FALSE(open_to_all(builder.build(), "10.0.0.1"));
  builder.remove_policy(name);
  const auto built_in = builder.build();
  EXPECT_TRUE(open_to_all(built_in, "10.0.0.1"));
  EXPECT_FALSE(policy::evaluate(built_in->workload(ip("10.0.0.1"))->policies, {nullptr, {}, {}, 80}).allowed);
}

TEST(Builder, ARefusedPolicyKeepsTheReadableOneInForce) {
  SnapshotBuilder builder;
  must(builder.set_address("a", workload("a", "10.0.0.1")));
  must(builder.set_policy("ns/p", deny_all("p", istio::security::NAMESPACE)));
  auto nameless = deny_all("", istio::security::NAMESPACE);
  nameless.clear_rules();
  const auto refused = builder.set_policy("ns/p", nameless);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().text().find("ns/p"), std::string::npos);
  builder.deny_unreadable_policy("ns/p");
  EXPECT_FALSE(open_to_all(builder.build(), "10.0.0.1"));
  EXPECT_EQ(builder.build()->policies().size(), 1u);
}

TEST(Builder, ARefusedPolicyThatIsNewDeniesItsScopeUntilItGoes) {
  SnapshotBuilder builder;
  auto other = workload("b", "10.0.0.2");
  other.mutable_workload()->set_namespace_("other");
  auto named = workload("c", "10.0.0.3");
  named.mutable_workload()->set_namespace_("third");
  named.mutable_workload()->add_authorization_policies("ns/p");
  must(builder.set_address("a", workload("a", "10.0.0.1")));
  must(builder.set_address("b", other));
  must(builder.set_address("c", named));
  const auto open = [&] {
    const auto snapshot = builder.build();
    return std::vector{open_to_all(snapshot, "10.0.0.1"), open_to_all(snapshot, "10.0.0.2"),
                       open_to_all(snapshot, "10.0.0.3")};
  };
  EXPECT_FALSE(builder.set_policy("ns/p", deny_all("", istio::security::NAMESPACE)));
  EXPECT_EQ(open(), (std::vector{false, true, false}));
  builder.remove_policy("ns/p");
  EXPECT_FALSE(builder.set_policy("ns/p", deny_all("", istio::security::WORKLOAD_SELECTOR)));
  EXPECT_EQ(open(), (std::vector{true, true, false}));
  builder.remove_policy("ns/p");
  builder.deny_unreadable_policy("ns/p");
  EXPECT_EQ(open(), (std::vector{false, false, false})) << "its scope cannot be known";
  auto readable = deny_all("p", istio::security::NAMESPACE);
  readable.clear_rules();
  must(builder.set_policy("ns/p", readable));
  EXPECT_EQ(open(), (std::vector{true, true, true}));
}

TEST(Builder, AResourceThatTurnsIntoAnotherKindIsNotBoth) {
  SnapshotBuilder builder;
  const std::string name = service_resource("s");
  must(builder.set_address(name, workload("a", "10.0.0.1")));
  must(builder.set_address(name, service("s", "10.96.0.1")));
  auto snapshot = builder.build();
  EXPECT_TRUE(snapshot->workloads().empty());
  EXPECT_EQ(snapshot->services().size(), 1u);
  must(builder.set_address(name, workload("a", "10.0.0.1")));
  snapshot = builder.build();
  EXPECT_EQ(snapshot->workloads().size(), 1u);
  EXPECT_TRUE(snapshot->services().empty());
}

TEST(Builder, AServiceUnderAnotherNameIsRefused) {
  SnapshotBuilder builder;
  EXPECT_FALSE(builder.set_address("ns/other", service("s", "10.96.0.1")));
  EXPECT_EQ(builder.build()->service(ip("10.96.0.1")), nullptr);
}

TEST(Builder, KeepsOnlyWhatItIsTold) {
  SnapshotBuilder builder;
  must(builder.set_address("a", workload("a", "10.0.0.1")));
  must(builder.set_address("b", workload("b", "10.0.0.2")));
  must(builder.set_address(service_resource("s"), service("s", "10.96.0.1")));
  must(builder.set_policy("ns/p", deny_all("p", istio::security::NAMESPACE)));
  must(builder.set_policy("ns/q", deny_all("q", istio::security::NAMESPACE)));
  builder.keep_only_addresses({"b"});
  builder.keep_only_policies({"ns/q"});
  const auto snapshot = builder.build();
  EXPECT_EQ(snapshot->workload(ip("10.0.0.1")), nullptr);
  EXPECT_NE(snapshot->workload(ip("10.0.0.2")), nullptr);
  EXPECT_TRUE(snapshot->services().empty());
  ASSERT_EQ(snapshot->policies().size(), 1u);
  EXPECT_EQ(snapshot->policies()[0]->name, "q");
}

TEST(Builder, APolicyTouchesOnlyThoseUnderIt) {
  SnapshotBuilder builder;
  auto other = workload("b", "10.0.0.2");
  other.mutable_workload()->set_namespace_("other");
  join(other, "s");
  auto named = workload("c", "10.0.0.3");
  named.mutable_workload()->set_namespace_("other");
  named.mutable_workload()->add_authorization_policies("ns/p");
  must(builder.set_address("a", workload("a", "10.0.0.1")));
  must(builder.set_address("b", other));
  must(builder.set_address("c", named));
  must(builder.set_address(service_resource("s"), service("s", "10.96.0.1")));
  const auto before = builder.build();
  must(builder.set_policy("ns/p", deny_all("p", istio::security::NAMESPACE)));
  const auto after = builder.build();
  EXPECT_NE(before->workload(ip("10.0.0.1")), after->workload(ip("10.0.0.1")));
  EXPECT_EQ(before->workload(ip("10.0.0.2")), after->workload(ip("10.0.0.2")));
  EXPECT_NE(before->workload(ip("10.0.0.3")), after->workload(ip("10.0.0.3")));
  EXPECT_EQ(before->service(ip("10.96.0.1")), after->service(ip("10.96.0.1")));
  EXPECT_TRUE(open_to_all(before, "10.0.0.1")) << "a snapshot that is out does not change";
}

}  // namespace
}  // namespace fairlead::state
