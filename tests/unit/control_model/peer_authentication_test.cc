#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "unit/control_model/objects_for_test.h"

namespace fairlead::model {
namespace {

using testing::ambient_namespace;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using testing::meta;
using testing::pod;
using testing::workload;

constexpr const char* kStrict = "istio-system/istio_converted_static_strict";

PeerAuthentication peer(const char* ns, const char* name, MtlsMode mode, Labels selector = {},
                        const char* created = "") {
  PeerAuthentication result;
  result.meta = meta(ns, name);
  result.meta.created = created;
  result.has_selector = !selector.empty();
  result.selector = std::move(selector);
  result.mode = mode;
  return result;
}

std::vector<std::string> policies_of_web(const Mesh& mesh) {
  const auto& names = workload(mesh, "Kubernetes//Pod/shop/a").authorization_policies();
  return {names.begin(), names.end()};
}

Mesh translated(std::vector<PeerAuthentication> peers) {
  ObjectSet objects;
  objects.namespaces.push_back(ambient_namespace("shop"));
  objects.pods.push_back(pod("shop", "a", {{"app", "web"}}));
  objects.peer_authentications = std::move(peers);
  return translate(objects, {});
}

TEST(PeerAuthentication, NarrowerLevelsOverrideWiderOnes) {
  using M = MtlsMode;
  const Labels web = {{"app", "web"}};
  const Labels db = {{"app", "db"}};
  struct Case {
    const char* sentence;
    std::vector<PeerAuthentication> peers;
    bool strict;
  };
  const Case cases[] = {
      {"nothing is said: permissive", {}, false},
      {"strict for the mesh", {peer("istio-system", "m", M::kStrict)}, true},
      {"strict for the namespace", {peer("shop", "n", M::kStrict)}, true},
      {"strict for another namespace", {peer("other", "n", M::kStrict)}, false},
      {"strict for the workload", {peer("shop", "w", M::kStrict, web)}, true},
      {"strict for another workload", {peer("shop", "w", M::kStrict, db)}, false},
      {"the namespace loosens the mesh",
       {peer("istio-system", "m", M::kStrict), peer("shop", "n", M::kPermissive)},
       false},
      {"the workload tightens the namespace",
       {peer("shop", "n", M::kPermissive), peer("shop", "w", M::kStrict, web)},
       true},
      {"UNSET inherits from the mesh",
       {peer("istio-system", "m", M::kStrict), peer("shop", "n", M::kUnset)},
       true},
      {"UNSET twice inherits from the mesh",
       {peer("istio-system", "m", M::kStrict), peer("shop", "n", M::kUnset),
        peer("shop", "w", M::kUnset, web)},
       true},
      {"DISABLE is ignored: the mesh's holds",
       {peer("istio-system", "m", M::kStrict), peer("shop", "n", M::kDisable)},
       true},
      {"DISABLE of the workload is ignored: the namespace's holds",
       {peer("shop", "n", M::kStrict), peer("shop", "w", M::kDisable, web)},
       true},
      {"DISABLE is ignored: it does not hide what the namespace loosened",
       {peer("istio-system", "m", M::kStrict), peer("shop", "n", M::kPermissive),
        peer("shop", "w", M::kDisable, web)},
       false},
      {"DISABLE for the mesh: nothing is said, permissive", {peer("istio-system", "m", M::kDisable)}, false},
      {"UNSET for the mesh: permissive", {peer("istio-system", "m", M::kUnset)}, false},
      {"the namespace tightens a permissive mesh",
       {peer("istio-system", "m", M::kPermissive), peer("shop", "n", M::kStrict)},
       true},
      {"the workload loosens the mesh past the namespace",
       {peer("istio-system", "m", M::kStrict), peer("shop", "n", M::kStrict),
        peer("shop", "w", M::kPermissive, web)},
       false},
      {"the oldest wins even if it says UNSET",
       {peer("shop", "a", M::kUnset, {}, "2026-01-01T00:00:01Z"),
        peer("shop", "b", M::kStrict, {}, "2026-01-01T00:00:02Z")},
       false},
      {"the oldest of two that select the workload wins",
       {peer("shop", "b", M::kStrict, web, "2026-01-01T00:00:01Z"),
        peer("shop", "a", M::kPermissive, web, "2026-01-01T00:00:02Z")},
       true},
      {"an older one of another level does not count",
       {peer("istio-system", "m", M::kStrict, {}, "2020-01-01T00:00:00Z"),
        peer("shop", "n", M::kPermissive, {}, "2026-01-01T00:00:00Z")},
       false},
      {"of the same age the name decides",
       {peer("shop", "b", M::kPermissive, {}, "2026-01-01T00:00:01Z"),
        peer("shop", "a", M::kStrict, {}, "2026-01-01T00:00:01Z")},
       true},
      {"a selector in the root namespace is not for the mesh",
       {peer("istio-system", "m", M::kStrict, web)},
       false},
      {"the oldest of a level wins",
       {peer("shop", "b", M::kPermissive, {}, "2026-01-01T00:00:02Z"),
        peer("shop", "c", M::kStrict, {}, "2026-01-01T00:00:01Z")},
       true},
      {"one with a date is older than one without",
       {peer("shop", "a", M::kPermissive), peer("shop", "z", M::kStrict, {}, "2026-01-01T00:00:01Z")},
       true},
      {"without dates the name decides",
       {peer("shop", "b", M::kPermissive), peer("shop", "a", M::kStrict)},
       true},
  };
  for (const Case& c : cases) {
    const Mesh mesh = translated(c.peers);
    EXPECT_EQ(mesh.policies.contains(kStrict), c.strict) << c.sentence;
    if (c.strict) {
      EXPECT_THAT(policies_of_web(mesh), ElementsAre(kStrict)) << c.sentence;
    } else {
      EXPECT_THAT(policies_of_web(mesh), IsEmpty()) << c.sentence;
    }
  }
}

TEST(PeerAuthentication, StrictDeniesWhoHasNoPrincipal) {
  const Mesh mesh = translated({peer("istio-system", "m", MtlsMode::kStrict)});
  const auto& policy = mesh.policies.at(kStrict);
  EXPECT_EQ(policy.scope(), istio::security::WORKLOAD_SELECTOR);
  EXPECT_EQ(policy.action(), istio::security::DENY);
  ASSERT_EQ(policy.rules_size(), 1);
  const auto& match = policy.rules(0).clauses(0).matches(0);
  EXPECT_TRUE(match.not_principals(0).has_presence());
  EXPECT_EQ(match.destination_ports_size() + match.not_destination_ports_size(), 0);
}

TEST(PeerAuthentication, PortsOverrideTheWorkload) {
  using M = MtlsMode;
  struct Case {
    const char* sentence;
    M mode;
    std::map<uint16_t, M> ports;
    bool own_policy;
    std::vector<uint32_t> only, except;
    bool static_strict;
  };
  const Case cases[] = {
      {"strict but for two ports",
       M::kStrict,
       {{81, M::kPermissive}, {82, M::kPermissive}},
       true,
       {},
       {81, 82},
       false},
      {"DISABLE of a port is ignored", M::kStrict, {{81, M::kDisable}}, false, {}, {}, true},
      {"DISABLE of the workload, strict for a port", M::kDisable, {{81, M::kStrict}}, true, {81}, {}, false},
      {"permissive but for a port", M::kPermissive, {{81, M::kStrict}}, true, {81}, {}, false},
      {"a port that says the same", M::kStrict, {{81, M::kStrict}}, false, {}, {}, true},
      {"a port that inherits", M::kPermissive, {{81, M::kUnset}}, false, {}, {}, false},
  };
  for (const Case& c : cases) {
    PeerAuthentication ports = peer("shop", "w", c.mode, {{"app", "web"}});
    ports.ports = c.ports;
    const Mesh mesh = translated({ports});
    const std::string name = "shop/converted_peer_authentication_w";
    EXPECT_EQ(mesh.policies.contains(kStrict), c.static_strict) << c.sentence;
    ASSERT_EQ(mesh.policies.contains(name), c.own_policy) << c.sentence;
    if (!c.own_policy) continue;
    EXPECT_THAT(policies_of_web(mesh), ElementsAre(name)) << c.sentence;
    const auto& match = mesh.policies.at(name).rules(0).clauses(0).matches(0);
    EXPECT_TRUE(match.not_principals(0).has_presence()) << c.sentence;
    EXPECT_EQ(std::vector<uint32_t>(match.destination_ports().begin(), match.destination_ports().end()),
              c.only)
        << c.sentence;
    EXPECT_EQ(
        std::vector<uint32_t>(match.not_destination_ports().begin(), match.not_destination_ports().end()),
        c.except)
        << c.sentence;
  }
}

TEST(PeerAuthentication, PortsRefineAModeInheritedFromTheMesh) {
  PeerAuthentication ports = peer("shop", "w", MtlsMode::kUnset, {{"app", "web"}});
  ports.ports = {{81, MtlsMode::kPermissive}};
  const Mesh mesh = translated({peer("istio-system", "m", MtlsMode::kStrict), ports});
  EXPECT_THAT(policies_of_web(mesh), ElementsAre("shop/converted_peer_authentication_w"));
  EXPECT_FALSE(mesh.policies.contains(kStrict)) << "it would close the port again";
}

TEST(PeerAuthentication, WhatIsNotInForceIsReported) {
  using M = MtlsMode;
  const Labels web = {{"app", "web"}};
  const char* const old = "2026-01-01T00:00:01Z";
  PeerAuthentication ports = peer("shop", "w", M::kDisable, web, old);
  ports.ports = {{81, M::kDisable}, {82, M::kStrict}};
  struct Case {
    const char* sentence;
    std::vector<PeerAuthentication> peers;
    std::vector<std::string> wanted;  // "object: field"
  };
  const Case cases[] = {
      {"nothing to say", {peer("shop", "n", M::kStrict), peer("shop", "w", M::kUnset, web)}, {}},
      {"DISABLE", {ports}, {"shop/w: spec.mtls.mode", "shop/w: spec.portLevelMtls[81]"}},
      {"a selector that looks as if it were for the mesh",
       {peer("istio-system", "m", M::kStrict, web)},
       {"istio-system/m: spec.selector"}},
      {"two for a namespace", {peer("shop", "n", M::kStrict), peer("shop", "o", M::kStrict)}, {"shop/o: "}},
      {"two for a pod",
       {peer("shop", "n", M::kStrict, web), peer("shop", "a", M::kStrict, web, old)},
       {"shop/n: "}},
      {"two that no pod has in common",
       {peer("shop", "n", M::kStrict, web), peer("shop", "o", M::kStrict, {{"app", "db"}})},
       {}},
  };
  for (const Case& c : cases) {
    std::vector<std::string> reported;
    for (const Report& report : translated(c.peers).reports) {
      reported.push_back(report.object.substr(sizeof("PeerAuthentication")) + ": " + report.field);
      EXPECT_EQ(report.severity, Report::Severity::kWarning);
    }
    EXPECT_EQ(reported, c.wanted) << c.sentence;
  }
}

TEST(PeerAuthentication, IsNotForPodsOutsideTheMesh) {
  ObjectSet objects;
  objects.pods.push_back(pod("shop", "a"));
  objects.peer_authentications = {peer("istio-system", "m", MtlsMode::kStrict)};
  EXPECT_THAT(policies_of_web(translate(objects, {})), IsEmpty());
}

}  // namespace
}  // namespace fairlead::model
