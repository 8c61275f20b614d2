#include <gtest/gtest.h>
#include <time.h>

#include <chrono>
#include <functional>

#include "bpf/abi/types.h"
#include "state/decode.h"
#include "state/snapshot_builder.h"
#include "unit/state/mesh_for_test.h"

namespace fairlead::state {
namespace {

TEST(Snapshot, FindsWorkloadsByAddressWithDefaults) {
  SnapshotBuilder builder;
  auto message = workload("a", "10.0.0.1");
  message.mutable_workload()->clear_service_account();
  ASSERT_TRUE(builder.set_address("a", message));
  const auto snapshot = builder.build();
  const auto found = snapshot->workload(ip("10.0.0.1"));
  ASSERT_NE(found, nullptr);
  EXPECT_EQ(found->identity.uri(), "spiffe://cluster.local/ns/ns/sa/default");
  EXPECT_FALSE(found->in_place);
  EXPECT_EQ(snapshot->workload(ip("10.0.0.2")), nullptr);
}

TEST(Snapshot, CapturesMeshWorkloadsAndTheirServicesAndRefusesEmptyOnes) {
  SnapshotBuilder builder;
  auto member = workload("a", "10.0.0.1");
  join(member, "svc");
  auto outsider = workload("b", "10.0.0.2", false);
  join(outsider, "legacy");
  ASSERT_TRUE(builder.set_address("a", member));
  ASSERT_TRUE(builder.set_address("b", outsider));
  for (const auto& [name, vip] :
       {std::pair("svc", "10.96.0.1"), std::pair("legacy", "10.96.0.2"), std::pair("empty", "10.96.0.3")}) {
    ASSERT_TRUE(builder.set_address("ns/" + std::string(name) + ".ns.svc.cluster.local", service(name, vip)));
  }
  const auto wanted = builder.build()->destinations();
  EXPECT_EQ(wanted.size(), 3u);
  EXPECT_EQ(wanted.at(ip("10.0.0.1")), FL_DEST_CAPTURE);
  EXPECT_EQ(wanted.at(ip("10.96.0.1")), FL_DEST_CAPTURE);
  EXPECT_EQ(wanted.at(ip("10.96.0.3")), FL_DEST_REFUSE);
}

TEST(Snapshot, RemovalTakesEffectOnServicesToo) {
  SnapshotBuilder builder;
  auto member = workload("a", "10.0.0.1");
  join(member, "svc");
  ASSERT_TRUE(builder.set_address("a", member));
  ASSERT_TRUE(builder.set_address("ns/svc.ns.svc.cluster.local", service("svc", "10.96.0.1")));
  ASSERT_EQ(builder.build()->service(ip("10.96.0.1"))->endpoints.size(), 1u);
  builder.remove_address("a");
  const auto after = builder.build();
  EXPECT_TRUE(after->service(ip("10.96.0.1"))->endpoints.empty());
  EXPECT_EQ(after->workload(ip("10.0.0.1")), nullptr);
}

TEST(Snapshot, SharesWhatDidNotChange) {
  SnapshotBuilder builder;
  ASSERT_TRUE(builder.set_address("a", workload("a", "10.0.0.1")));
  ASSERT_TRUE(builder.set_address("b", workload("b", "10.0.0.2")));
  const auto before = builder.build();
  ASSERT_TRUE(builder.set_address("b", workload("b", "10.0.0.3")));
  const auto after = builder.build();
  EXPECT_EQ(before->workload(ip("10.0.0.1")), after->workload(ip("10.0.0.1")));
  EXPECT_GT(after->version(), before->version());
}

TEST(Snapshot, BindsGlobalNamespaceAndNamedPolicies) {
  SnapshotBuilder builder;
  auto message = workload("a", "10.0.0.1");
  message.mutable_workload()->add_authorization_policies("ns/named");
  ASSERT_TRUE(builder.set_address("a", message));
  ASSERT_TRUE(builder.set_policy("ns/named", deny_all("named", istio::security::WORKLOAD_SELECTOR)));
  ASSERT_TRUE(builder.set_policy("ns/unrelated", deny_all("unrelated", istio::security::WORKLOAD_SELECTOR)));
  ASSERT_TRUE(builder.set_policy("ns/whole", deny_all("whole", istio::security::NAMESPACE)));
  ASSERT_TRUE(builder.set_policy("ns/mesh", deny_all("mesh", istio::security::GLOBAL)));
  const auto found = builder.build()->workload(ip("10.0.0.1"));
  EXPECT_EQ(found->policies.size(), 3u);
  EXPECT_FALSE(found->policy_missing);
}

TEST(Snapshot, AMissingNamedPolicyIsNotForgotten) {
  SnapshotBuilder builder;
  auto message = workload("a", "10.0.0.1");
  message.mutable_workload()->add_authorization_policies("ns/named");
  ASSERT_TRUE(builder.set_address("a", message));
  EXPECT_TRUE(builder.build()->workload(ip("10.0.0.1"))->policy_missing);
  ASSERT_TRUE(builder.set_policy("ns/named", deny_all("named", istio::security::WORKLOAD_SELECTOR)));
  EXPECT_FALSE(builder.build()->workload(ip("10.0.0.1"))->policy_missing);
}

TEST(Snapshot, StaticStrictIsBuiltIn) {
  SnapshotBuilder builder;
  auto message = workload("a", "10.0.0.1");
  message.mutable_workload()->add_authorization_policies("istio-system/istio_converted_static_strict");
  ASSERT_TRUE(builder.set_address("a", message));
  const auto found = builder.build()->workload(ip("10.0.0.1"));
  EXPECT_FALSE(found->policy_missing);
  EXPECT_FALSE(policy::evaluate(found->policies, {nullptr, {}, {}, 80}).allowed);
  EXPECT_TRUE(policy::evaluate(found->policies, {&found->identity, {}, {}, 80}).allowed);
}

TEST(Snapshot, BrokenResourcesAreRefusedAndTheOldOnesStay) {
  SnapshotBuilder builder;
  ASSERT_TRUE(builder.set_address("a", workload("a", "10.0.0.1")));
  auto broken = workload("a", "10.0.0.1");
  broken.mutable_workload()->add_addresses("xyz");
  EXPECT_FALSE(builder.set_address("a", broken));
  broken = workload("a", "10.0.0.1");
  broken.mutable_workload()->set_service_account("No/Good");
  EXPECT_FALSE(builder.set_address("a", broken));
  EXPECT_FALSE(builder.set_address("a", {}));
  EXPECT_NE(builder.build()->workload(ip("10.0.0.1")), nullptr);
}

TEST(Snapshot, AnUnreadablePolicyNeverOpensAnything) {
  SnapshotBuilder builder;
  ASSERT_TRUE(builder.set_address("a", workload("a", "10.0.0.1")));
  builder.deny_unreadable_policy("ns/broken");
  const auto found = builder.build()->workload(ip("10.0.0.1"));
  EXPECT_FALSE(policy::evaluate(found->policies, {&found->identity, {}, {}, 80}).allowed);
}

TEST(Decode, UnknownMatchesAreUndecidable) {
  istio::security::Authorization message = deny_all("p", istio::security::WORKLOAD_SELECTOR);
  auto& match = *message.mutable_rules(0)->add_clauses()->add_matches();
  match.add_principals();  // no match type
  EXPECT_TRUE(decode_policy(message)->rules[0].clauses[0].matches[0].undecidable);
  match.Clear();
  match.add_source_ips()->set_address("abc");
  EXPECT_TRUE(decode_policy(message)->rules[0].clauses[0].matches[0].undecidable);
  match.Clear();
  match.add_destination_ports(70000);
  EXPECT_TRUE(decode_policy(message)->rules[0].clauses[0].matches[0].undecidable);
  match.Clear();
  match.add_extensions()->set_name("newer");
  EXPECT_TRUE(decode_policy(message)->rules[0].clauses[0].matches[0].undecidable);
}

TEST(Snapshot, TwoWorkloadsOnOneAddressPreferTheMesh) {
  SnapshotBuilder builder;
  ASSERT_TRUE(builder.set_address("1", workload("outside", "10.0.0.1", false)));
  ASSERT_TRUE(builder.set_address("2", workload("inside", "10.0.0.1")));
  EXPECT_EQ(builder.build()->workload(ip("10.0.0.1"))->name, "inside");
}

// Of this thread's own processor time: others may keep the machine busy.
double milliseconds_of(const std::function<void()>& work) {
  const auto now = [] {
    timespec time{};
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) * 1e3 + static_cast<double>(time.tv_nsec) / 1e6;
  };
  const double start = now();
  work();
  return now() - start;
}

// 50,000 workloads of 500 namespaces in 5,000 services, 10,000 policies: 20 of each namespace, of which half
// are named by workloads. Every step takes well under a second; the bound tells it from quadratic, also under
// sanitizers.
TEST(Snapshot, ALargeMeshIsBuiltInBoundedTime) {
  constexpr int kWorkloads = 50000;
  constexpr int kNamespaces = 500;
  constexpr int kPoliciesOfEach = 20;
  const auto ns = [](int i) { return "ns" + std::to_string(i % kNamespaces); };
  const auto member = [&](int i, int generation) {
    auto message = workload(std::to_string(i),
                            fmt::format("10.{}.{}.{}", i >> 16 | generation << 4, i >> 8 & 255, i & 255));
    auto& out = *message.mutable_workload();
    out.set_namespace_(ns(i));
    for (int p = 0; p < 2; ++p) {
      out.add_authorization_policies(ns(i) + "/p" +
                                     std::to_string((i / kNamespaces * 2 + p) % kPoliciesOfEach));
    }
    join(message, "s" + std::to_string(i % 5000));
    return message;
  };
  SnapshotBuilder builder;
  const double services = milliseconds_of([&] {
    for (int i = 0; i < 5000; ++i) {
      const std::string name = "s" + std::to_string(i);
      (void)builder.set_address(service_resource(name),
                                service(name, fmt::format("10.240.{}.{}", i >> 8, i & 255)));
    }
  });
  const double workloads = milliseconds_of([&] {
    for (int i = 0; i < kWorkloads; ++i) (void)builder.set_address(std::to_string(i), member(i, 0));
  });
  const double policies = milliseconds_of([&] {
    for (int i = 0; i < kNamespaces * kPoliciesOfEach; ++i) {
      const int number = i / kNamespaces;
      auto message =
          deny_all("p" + std::to_string(number),
                   number % 2 == 0 ? istio::security::NAMESPACE : istio::security::WORKLOAD_SELECTOR);
      message.set_namespace_(ns(i));
      (void)builder.set_policy(ns(i) + "/p" + std::to_string(number), message);
    }
  });
  SnapshotPtr snapshot;
  const double first = milliseconds_of([&] { snapshot = builder.build(); });
  ASSERT_TRUE(builder.set_address("7", member(7, 1)));
  const double again = milliseconds_of([&] { snapshot = builder.build(); });
  ASSERT_TRUE(builder.set_policy("ns7/p0", deny_all("other", istio::security::NAMESPACE)));
  const double after_policy = milliseconds_of([&] { snapshot = builder.build(); });
  ASSERT_TRUE(builder.set_policy("root/all", deny_all("all", istio::security::GLOBAL)));
  const double after_global = milliseconds_of([&] { snapshot = builder.build(); });
  const double destinations = milliseconds_of([&] { EXPECT_EQ(snapshot->destinations().size(), 55000u); });
  std::printf(
      "50,000 workloads, 10,000 policies [ms]: set services %.0f, workloads %.0f, policies %.0f; build %.0f, "
      "after one workload %.0f, one policy %.0f, a global one %.0f; destinations %.0f\n",
      services, workloads, policies, first, again, after_policy, after_global, destinations);
  const auto found = snapshot->workload(ip("10.0.1.44"));
  ASSERT_NE(found, nullptr);
  EXPECT_EQ(found->policies.size(), 1u + 10 + 2);
  EXPECT_FALSE(found->policy_missing);
  for (const double step :
       {services, workloads, policies, first, again, after_policy, after_global, destinations})
    EXPECT_LT(step, 20000);
}

TEST(Snapshot, LookUpsDoNotGrowWithTheMesh) {
  SnapshotBuilder builder;
  for (int i = 0; i < 50000; ++i) {
    const std::string name = std::to_string(i);
    ASSERT_TRUE(builder.set_address(
        name, workload(name, fmt::format("10.{}.{}.{}", i >> 16, i >> 8 & 255, i & 255))));
  }
  const auto start = std::chrono::steady_clock::now();
  const auto snapshot = builder.build();
  const auto built = std::chrono::steady_clock::now();
  ASSERT_TRUE(builder.set_address("7", workload("7", "10.200.0.1")));
  const auto again = builder.build();
  const auto rebuilt = std::chrono::steady_clock::now();
  using Ms = std::chrono::duration<double, std::milli>;
  std::printf("50,000 workloads: first build %.0f ms, after one change %.0f ms\n", Ms(built - start).count(),
              Ms(rebuilt - built).count());
  EXPECT_EQ(again->workload(ip("10.0.100.7")), snapshot->workload(ip("10.0.100.7")));
}

}  // namespace
}  // namespace fairlead::state
