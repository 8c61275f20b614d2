#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "unit/control_model/objects_for_test.h"

namespace fairlead::model {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::meta;
using testing::pod;
using ::testing::SizeIs;

AuthorizationPolicy allow(PolicyRule rule) {
  AuthorizationPolicy policy;
  policy.meta = meta("shop", "p");
  policy.rules = {std::move(rule)};
  return policy;
}
ObjectSet with_source(PolicySource source) {
  ObjectSet objects;
  PolicyRule rule;
  rule.from = {std::move(source)};
  objects.authorization_policies = {allow(rule)};
  return objects;
}
ObjectSet with_condition(const char* key, std::vector<std::string> values) {
  ObjectSet objects;
  PolicyRule rule;
  rule.when = {{key, std::move(values), {}, {"test.yaml", 12}}};
  objects.authorization_policies = {allow(rule)};
  return objects;
}
ObjectSet with_pod(const std::function<void(Pod&)>& change) {
  ObjectSet objects;
  objects.pods = {pod("shop", "a")};
  change(objects.pods[0]);
  return objects;
}

ObjectSet with_target(TargetRef ref) {
  ObjectSet objects;
  objects.authorization_policies.push_back({});
  objects.authorization_policies[0].meta = meta("shop", "p");
  objects.authorization_policies[0].target_refs = {std::move(ref)};
  return objects;
}
ObjectSet aged(const char* created) {
  ObjectSet objects;
  objects.peer_authentications.push_back({});
  objects.peer_authentications[0].meta = meta("shop", "p");
  objects.peer_authentications[0].meta.created = created;
  return objects;
}

TEST(Validate, RefusesWhatWouldNotMeanWhatItsAuthorMeant) {
  ObjectSet twice = with_pod([](Pod&) {});
  twice.pods.push_back(twice.pods[0]);
  ObjectSet both = with_source({.namespaces = {"a"}});
  both.authorization_policies[0].has_selector = true;
  both.authorization_policies[0].target_refs = {{"", "Service", "s", ""}};
  ObjectSet ports;
  ports.peer_authentications.push_back({});
  ports.peer_authentications[0].meta = meta("shop", "p");
  ports.peer_authentications[0].ports = {{80, MtlsMode::kStrict}};
  struct Case {
    const char* sentence;
    ObjectSet objects;
    const char* message;
  };
  const Case cases[] = {
      {"a name that is none", with_pod([](Pod& p) { p.meta.name = "A_b"; }), "metadata.name: got 'A_b'"},
      {"a name that would leave its namespace", with_pod([](Pod& p) { p.meta.name = "../x"; }),
       "metadata.name"},
      {"a namespace with a slash", with_pod([](Pod& p) { p.meta.ns = "a/b"; }), "metadata.namespace"},
      {"a service account with a slash", with_pod([](Pod& p) { p.service_account = "a/b"; }),
       "spec.serviceAccountName"},
      {"an object that is there twice", twice, "is there twice, first at test.yaml:7"},
      {"ports without a selector", ports, "spec.portLevelMtls"},
      {"selector and targetRefs", both, "both selector and targetRefs"},
      {"a target of an unknown kind", with_target({"", "Deployment", "a", ""}), "got '/Deployment'"},
      {"a target without its group", with_target({"", "Gateway", "a", ""}), "got '/Gateway'"},
      {"a target without a name", with_target({"", "Service", "", ""}), "targetRefs.name: got ''"},
      {"a target elsewhere", with_target({"", "Service", "a", "other"}), "namespace: got 'other'"},
      {"a class outside the root namespace",
       with_target({"gateway.networking.k8s.io", "GatewayClass", "a", ""}), "only for policies of the root"},
      {"too many targets",
       [] {
         ObjectSet objects = with_target({"", "Service", "a", ""});
         objects.authorization_policies[0].target_refs.resize(17, {"", "Service", "a", ""});
         return objects;
       }(),
       "got 17 items, want at most 16"},
      {"an age that does not sort", aged("2026-01-31T12:00:00+02:00"), "creationTimestamp: got"},
      {"a trust domain with two stars", with_source({.trust_domains = {"*a*"}}), "trustDomains: got '*a*'"},
      {"an empty principal", with_source({.principals = {""}}), "rules[0].from[0].source.principals: got ''"},
      {"two stars", with_source({.namespaces = {"*a*"}}), "source.namespaces: got '*a*'"},
      {"a star in the middle", with_source({.not_principals = {"a*b"}}), "notPrincipals: got 'a*b'"},
      {"a principal with its scheme", with_source({.principals = {"spiffe://cluster.local/ns/a/sa/b"}}),
       "without spiffe://"},
      {"a wildcard account", with_source({.service_accounts = {"a/*"}}), "serviceAccounts: got 'a/*'"},
      {"an account of three parts", with_source({.not_service_accounts = {"a/b/c"}}), "notServiceAccounts"},
      {"too many accounts", with_source({.service_accounts = std::vector<std::string>(17, "a/b")}),
       "at most 16"},
      {"accounts beside namespaces", with_source({.namespaces = {"a"}, .service_accounts = {"a/b"}}),
       "want either"},
      {"a range that is none", with_source({.ip_blocks = {"10.0.0.0/40"}}), "ipBlocks: got '10.0.0.0/40'"},
      {"an unknown condition", with_condition("source.mood", {"good"}), "when.key: got 'source.mood'"},
      {"a condition without values", with_condition("source.ip", {}), "neither values nor notValues"},
      {"a port of a condition", with_condition("destination.port", {"http"}),
       "destination.port]: got 'http'"},
      {"port 0", with_condition("destination.port", {"0"}), "a port from 1"},
      {"an address of a condition", with_condition("destination.ip", {"x"}), "destination.ip]: got 'x'"},
      {"an empty namespace of a condition", with_condition("source.namespace", {""}),
       "source.namespace]: got ''"},
      {"too many rules",
       [] {
         ObjectSet objects = with_source({.namespaces = {"a"}});
         objects.authorization_policies[0].rules.resize(513);
         return objects;
       }(),
       "got 513 items, want at most 512"},
  };
  for (const Case& c : cases) {
    const std::vector<Report> reports = validate(c.objects, {});
    ASSERT_THAT(reports, SizeIs(1)) << c.sentence;
    EXPECT_EQ(reports[0].severity, Report::Severity::kError) << c.sentence;
    EXPECT_THAT(to_string(reports[0]), HasSubstr(c.message)) << c.sentence;
  }
}

TEST(Validate, AcceptsWhatIsRight) {
  ObjectSet objects =
      with_source({.principals = {"cluster.local/ns/a/sa/b", "*", "*/sa/b", "cluster.local/*"},
                   .namespaces = {"a", "a-*"},
                   .ip_blocks = {"10.0.0.0/8", "::1"}});
  objects.pods = {pod("shop", "a"), pod("other", "a")};
  objects.namespaces = {testing::ambient_namespace("shop")};
  EXPECT_THAT(validate(objects, {}), IsEmpty());
  EXPECT_THAT(validate(aged("2026-01-31T12:00:00Z"), {}), IsEmpty());
  for (const char* group : {"", "core"}) {
    EXPECT_THAT(validate(with_target({group, "Service", "a", "shop"}), {}), IsEmpty());
  }
  EXPECT_THAT(validate(with_target({"gateway.networking.k8s.io", "Gateway", "a", ""}), {}), IsEmpty());
  for (const char* key : {"request.headers[x-y]", "request.auth.claims[a][b]", "remote.ip", "connection.sni",
                          "source.serviceAccount"}) {
    EXPECT_THAT(validate(with_condition(key, {key == std::string("remote.ip") ? "10.0.0.1" : "a/b"}), {}),
                IsEmpty())
        << key;
  }
}

TEST(Validate, WarnsOfAPrincipalThatNobodyHas) {
  MeshSettings settings;
  settings.trust_domain = "example.org";
  const auto reports =
      validate(with_source({.principals = {"cluster.local/ns/a/sa/b", "example.org/ns/a/sa/b"}}), settings);
  ASSERT_THAT(reports, SizeIs(1)) << "cluster.local is no alias";
  EXPECT_EQ(reports[0].severity, Report::Severity::kWarning);
  EXPECT_THAT(reports[0].message, HasSubstr("'cluster.local/ns/a/sa/b' is not of this mesh's trust domain"));
}

}  // namespace
}  // namespace fairlead::model
