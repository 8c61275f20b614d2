#include <gmock/gmock.h>
#include <google/protobuf/wrappers.pb.h>
#include <gtest/gtest.h>

#include "unit/control_model/objects_for_test.h"

namespace fairlead::model {
namespace {

using istio::security::Authorization;
using istio::security::Match;
using testing::ambient_namespace;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::meta;
using testing::pod;
using ::testing::SizeIs;
using testing::workload;

AuthorizationPolicy policy(const char* action, std::vector<PolicyRule> rules, const char* ns = "shop") {
  AuthorizationPolicy result;
  result.meta = meta(ns, "p");
  result.action = action;
  result.rules = std::move(rules);
  return result;
}

Mesh translated(AuthorizationPolicy one) {
  ObjectSet objects;
  objects.authorization_policies.push_back(std::move(one));
  return translate(objects, {});
}

PolicyRule from(PolicySource source) {
  PolicyRule rule;
  rule.from = {std::move(source)};
  rule.at = {"test.yaml", 9};
  return rule;
}
PolicyRule to(PolicyOperation operation) {
  PolicyRule rule;
  rule.to = {std::move(operation)};
  rule.at = {"test.yaml", 9};
  return rule;
}
PolicyRule when(const char* key, std::vector<std::string> values, std::vector<std::string> not_values = {}) {
  PolicyRule rule;
  rule.when = {{key, std::move(values), std::move(not_values), {}}};
  rule.at = {"test.yaml", 9};
  return rule;
}

// True for every connection, for us and for a stock ztunnel: not empty, and no connection goes to port 0.
bool matches_everything(const Match& match) {
  Match all;
  all.add_not_destination_ports(0);
  return match.SerializeAsString() == all.SerializeAsString();
}

TEST(Scope, FollowsNamespaceAndSelector) {
  const std::tuple<const char*, const char*, bool, istio::security::Scope> cases[] = {
      {"the root namespace is for the mesh", "istio-system", false, istio::security::GLOBAL},
      {"another namespace is for itself", "shop", false, istio::security::NAMESPACE},
      {"a selector is for workloads", "shop", true, istio::security::WORKLOAD_SELECTOR},
      {"a selector in the root namespace too", "istio-system", true, istio::security::WORKLOAD_SELECTOR},
  };
  for (const auto& [sentence, ns, selector, scope] : cases) {
    AuthorizationPolicy one = policy("ALLOW", {}, ns);
    one.has_selector = selector;
    if (selector) one.selector = {{"app", "web"}};
    const Mesh mesh = translated(one);
    EXPECT_EQ(mesh.policies.at(std::string(ns) + "/p").scope(), scope) << sentence;
  }
}

TEST(Scope, SelectorPoliciesAreNamedByTheirWorkloads) {
  ObjectSet objects;
  objects.namespaces.push_back(ambient_namespace("shop"));
  objects.pods = {pod("shop", "a", {{"app", "web"}}), pod("shop", "b", {{"app", "db"}})};
  const char* const places[] = {"shop", "istio-system", "other"};
  for (const char* ns : places) {
    AuthorizationPolicy one = policy("DENY", {}, ns);
    one.has_selector = true;
    one.selector = {{"app", "web"}};
    objects.authorization_policies.push_back(one);
  }
  objects.authorization_policies.push_back(policy("DENY", {}));
  objects.authorization_policies.back().meta.name = "whole-namespace";
  const Mesh mesh = translate(objects, {});
  EXPECT_THAT(workload(mesh, "Kubernetes//Pod/shop/a").authorization_policies(),
              ElementsAre("istio-system/p", "shop/p"));
  EXPECT_THAT(workload(mesh, "Kubernetes//Pod/shop/b").authorization_policies(), IsEmpty());
}

TEST(Rules, AnEmptyAllowAllowsNothingAndAnEmptyRuleEverything) {
  EXPECT_EQ(translated(policy("ALLOW", {})).policies.at("shop/p").rules_size(), 0);
  const Mesh mesh = translated(policy("ALLOW", {PolicyRule{}}));
  ASSERT_EQ(mesh.policies.at("shop/p").rules_size(), 1);
  EXPECT_EQ(mesh.policies.at("shop/p").rules(0).clauses_size(), 0) << "a rule without clauses always holds";
}

TEST(Rules, FromToAndWhenAreClausesOfOneRule) {
  PolicyRule rule = from({.principals = {"cluster.local/ns/a/sa/b"}});
  rule.from.push_back({.namespaces = {"c"}});
  rule.to = {{.ports = {80, 81}}, {.not_ports = {90}}};
  rule.when = {{"source.ip", {"10.0.0.0/8"}, {"10.1.0.0/16"}, {}}, {"destination.port", {"80"}, {}, {}}};
  const Mesh mesh = translated(policy("ALLOW", {rule}));
  const Authorization& sent = mesh.policies.at("shop/p");
  ASSERT_EQ(sent.rules_size(), 1);
  ASSERT_EQ(sent.rules(0).clauses_size(), 4);
  EXPECT_EQ(sent.rules(0).clauses(0).matches_size(), 2) << "sources are alternatives";
  EXPECT_EQ(sent.rules(0).clauses(0).matches(0).principals(0).exact(), "cluster.local/ns/a/sa/b");
  EXPECT_EQ(sent.rules(0).clauses(0).matches(1).namespaces(0).exact(), "c");
  EXPECT_THAT(sent.rules(0).clauses(1).matches(0).destination_ports(), ElementsAre(80, 81));
  EXPECT_THAT(sent.rules(0).clauses(1).matches(1).not_destination_ports(), ElementsAre(90));
  const Match& condition = sent.rules(0).clauses(2).matches(0);
  EXPECT_EQ(condition.source_ips(0).address(), std::string("\x0a\0\0\0", 4));
  EXPECT_EQ(condition.source_ips(0).length(), 8u);
  EXPECT_EQ(condition.not_source_ips(0).length(), 16u);
  EXPECT_THAT(sent.rules(0).clauses(3).matches(0).destination_ports(), ElementsAre(80));
  EXPECT_THAT(mesh.reports, IsEmpty());
}

TEST(Rules, StringForms) {
  const Mesh mesh =
      translated(policy("ALLOW", {from({.principals = {"td/ns/a/sa/b", "td/ns/a/*", "*/sa/b", "*"}})}));
  const auto& strings = mesh.policies.at("shop/p").rules(0).clauses(0).matches(0).principals();
  EXPECT_EQ(strings[0].exact(), "td/ns/a/sa/b");
  EXPECT_EQ(strings[1].prefix(), "td/ns/a/");
  EXPECT_EQ(strings[2].suffix(), "/sa/b");
  EXPECT_TRUE(strings[3].has_presence());
}

TEST(Rules, EveryListOfASourceIsCarried) {
  const Mesh mesh = translated(policy("DENY", {from({.not_principals = {"*"},
                                                     .not_namespaces = {"b"},
                                                     .service_accounts = {"x/y", "z"},
                                                     .not_service_accounts = {"q"},
                                                     .ip_blocks = {"fd00::/8"},
                                                     .not_ip_blocks = {"0.0.0.0/0"}})}));
  const Match& match = mesh.policies.at("shop/p").rules(0).clauses(0).matches(0);
  EXPECT_TRUE(match.not_principals(0).has_presence());
  EXPECT_EQ(match.not_namespaces(0).exact(), "b");
  EXPECT_EQ(match.service_accounts(0).namespace_(), "x");
  EXPECT_EQ(match.service_accounts(0).serviceaccount(), "y");
  EXPECT_EQ(match.service_accounts(1).namespace_(), "shop") << "a bare name is of the policy's namespace";
  EXPECT_EQ(match.not_service_accounts(0).serviceaccount(), "q");
  EXPECT_EQ(match.source_ips(0).address().size(), 16u);
  EXPECT_EQ(match.source_ips(0).length(), 8u);
  EXPECT_EQ(match.not_source_ips(0).address(), std::string(4, '\0'));
  EXPECT_EQ(match.not_source_ips(0).length(), 0u);
}

TEST(Rules, ConditionsOfAConnection) {
  struct Case {
    const char* key;
    const char* value;
    int (Match::*count)() const;
    int (Match::*not_count)() const;
  };
  const Case cases[] = {
      {"source.ip", "10.0.0.1", &Match::source_ips_size, &Match::not_source_ips_size},
      {"destination.ip", "10.0.0.1", &Match::destination_ips_size, &Match::not_destination_ips_size},
      {"source.namespace", "a", &Match::namespaces_size, &Match::not_namespaces_size},
      {"source.principal", "td/ns/a/sa/b", &Match::principals_size, &Match::not_principals_size},
      {"source.serviceAccount", "a/b", &Match::service_accounts_size, &Match::not_service_accounts_size},
      {"destination.port", "80", &Match::destination_ports_size, &Match::not_destination_ports_size},
  };
  for (const Case& c : cases) {
    const Mesh mesh = translated(policy("ALLOW", {when(c.key, {c.value}, {c.value, c.value})}));
    ASSERT_EQ(mesh.policies.at("shop/p").rules_size(), 1) << c.key;
    const Match& match = mesh.policies.at("shop/p").rules(0).clauses(0).matches(0);
    EXPECT_EQ((match.*c.count)(), 1) << c.key;
    EXPECT_EQ((match.*c.not_count)(), 2) << c.key;
  }
}

// ---- what a connection cannot answer ----

struct StricterCase {
  const char* sentence;
  PolicyRule rule;
  const char* field;  // as reported
};

std::vector<StricterCase> undecidable_only() {
  return {
      {"methods", to({.undecidable = {"methods"}}), "rules[0].to[0].operation.methods"},
      {"request principals", from({.undecidable = {"requestPrincipals"}}),
       "rules[0].from[0].source.requestPrincipals"},
      {"a header", when("request.headers[x]", {"y"}), "rules[0].when[0].request.headers[x]"},
      {"the name of the TLS server", when("connection.sni", {"y"}), "rules[0].when[0].connection.sni"},
      {"a client behind a proxy", when("remote.ip", {"10.0.0.1"}), "rules[0].when[0].remote.ip"},
      {"the same as notValues", when("remote.ip", {}, {"10.0.0.1"}), "rules[0].when[0].remote.ip"},
      {"the same as a source", from({.undecidable = {"notRemoteIpBlocks"}}),
       "rules[0].from[0].source.notRemoteIpBlocks"},
      {"an address that is none", from({.ip_blocks = {"10.0.0.0/33"}}), "rules[0].from[0].source.ipBlocks"},
      {"a port that is none", when("destination.port", {"70000"}), "rules[0].when[0].destination.port"},
      {"an empty principal, which plaintext would have", from({.principals = {""}}),
       "rules[0].from[0].source.principals"},
  };
}

TEST(Stricter, AnAllowRuleThatCannotBeDecidedAllowsNothing) {
  for (const StricterCase& c : undecidable_only()) {
    const Mesh mesh = translated(policy("ALLOW", {c.rule, from({.namespaces = {"a"}})}));
    const Authorization& sent = mesh.policies.at("shop/p");
    ASSERT_EQ(sent.rules_size(), 1) << c.sentence;
    EXPECT_EQ(sent.rules(0).clauses(0).matches(0).namespaces_size(), 1)
        << c.sentence << ": the other rule stays";
    ASSERT_THAT(mesh.reports, SizeIs(1)) << c.sentence;
    EXPECT_EQ(mesh.reports[0].field, c.field) << c.sentence;
    EXPECT_EQ(mesh.reports[0].at.line, 9) << c.sentence;
    EXPECT_EQ(mesh.reports[0].object, "AuthorizationPolicy shop/p") << c.sentence;
    EXPECT_THAT(mesh.reports[0].message, HasSubstr("allows nothing")) << c.sentence;
  }
}

TEST(Stricter, AnAllowRuleIsDroppedEvenIfOnlyOneAlternativeIsUndecidable) {
  PolicyRule rule = to({.undecidable = {"paths"}});
  rule.to.push_back({.ports = {80}});
  EXPECT_EQ(translated(policy("ALLOW", {rule})).policies.at("shop/p").rules_size(), 0);
}

TEST(Stricter, ADenyRuleOfOnlySuchFieldsDeniesEverything) {
  for (const StricterCase& c : undecidable_only()) {
    const Mesh mesh = translated(policy("DENY", {c.rule}));
    const Authorization& sent = mesh.policies.at("shop/p");
    ASSERT_EQ(sent.rules_size(), 1) << c.sentence;
    for (const auto& clause : sent.rules(0).clauses()) {
      ASSERT_EQ(clause.matches_size(), 1) << c.sentence;
      EXPECT_TRUE(matches_everything(clause.matches(0))) << c.sentence << ": " << clause.ShortDebugString();
    }
    ASSERT_THAT(mesh.reports, SizeIs(1)) << c.sentence;
    EXPECT_THAT(mesh.reports[0].message, HasSubstr("denies more")) << c.sentence;
  }
}

TEST(Stricter, ADenyRuleKeepsWhatCanBeDecided) {
  PolicyRule rule = from({.namespaces = {"a"}, .undecidable = {"requestPrincipals"}});
  rule.to = {{.ports = {80}, .undecidable = {"methods"}}};
  rule.when = {{"request.headers[x]", {"y"}, {}, {}}, {"source.ip", {"10.0.0.1"}, {}, {}}};
  const Authorization sent = translated(policy("DENY", {rule})).policies.at("shop/p");
  ASSERT_EQ(sent.rules(0).clauses_size(), 3);
  EXPECT_EQ(sent.rules(0).clauses(0).matches(0).namespaces_size(), 1);
  EXPECT_THAT(sent.rules(0).clauses(1).matches(0).destination_ports(), ElementsAre(80));
  EXPECT_EQ(sent.rules(0).clauses(2).matches(0).source_ips_size(), 1);
}

TEST(Stricter, AnUnreadableExceptionOfADenyIsNoException) {
  const Authorization sent =
      translated(policy("DENY", {from({.ip_blocks = {"10.0.0.0/8"}, .not_ip_blocks = {"10.0.0.1", "ten"}})}))
          .policies.at("shop/p");
  const Match& match = sent.rules(0).clauses(0).matches(0);
  EXPECT_EQ(match.source_ips_size(), 1);
  EXPECT_EQ(match.not_source_ips_size(), 0);
}

// The value of an extension; "-": it is not there.
std::string extension_of(const Authorization& message, std::string_view name) {
  for (const auto& extension : message.extensions()) {
    if (extension.name() != name) continue;
    google::protobuf::StringValue value;
    return extension.config().UnpackTo(&value) ? value.value() : "";
  }
  return "-";
}

TEST(Stricter, WhatWasReadOtherwiseIsNotedForTheAgents) {
  const Mesh mesh = translated(policy("DENY", {to({.undecidable = {"methods"}})}));
  EXPECT_THAT(extension_of(mesh.policies.at("shop/p"), kNotesExtension),
              HasSubstr("rules[0].to[0].operation.methods: cannot be decided for a TCP connection"));
  EXPECT_EQ(translated(policy("DENY", {to({.ports = {80}})})).policies.at("shop/p").extensions_size(), 0)
      << "a policy that says what it means is as any ambient control plane sends it";
}

TEST(Stricter, NotesAreBounded) {
  std::vector<PolicyRule> rules(500, to({.undecidable = {"methods"}}));
  const Mesh mesh = translated(policy("DENY", rules));
  EXPECT_EQ(mesh.reports.size(), 500u);
  EXPECT_LT(extension_of(mesh.policies.at("shop/p"), kNotesExtension).size(), 4096u);
}

TEST(Actions, AuditIsMarkedAndDecidesNowhere) {
  const Mesh mesh = translated(policy("AUDIT", {to({.ports = {80}, .undecidable = {"methods"}})}));
  const Authorization& sent = mesh.policies.at("shop/p");
  EXPECT_EQ(extension_of(sent, kAuditExtension), "");
  EXPECT_TRUE(sent.dry_run()) << "for agents that do not know the extension";
  ASSERT_EQ(sent.rules_size(), 1);
  EXPECT_THAT(sent.rules(0).clauses(0).matches(0).destination_ports(), ElementsAre(80));
  ASSERT_THAT(mesh.reports, SizeIs(1));
  EXPECT_THAT(mesh.reports[0].message, HasSubstr("marks more"));
}

TEST(Actions, CustomDeniesWhatItWouldHaveAskedAbout) {
  AuthorizationPolicy custom = policy("CUSTOM", {to({.ports = {80}, .undecidable = {"paths"}})});
  custom.dry_run = true;  // only ALLOW and DENY can be tried
  const Mesh mesh = translated(custom);
  const Authorization& sent = mesh.policies.at("shop/p");
  EXPECT_EQ(sent.action(), istio::security::DENY);
  EXPECT_FALSE(sent.dry_run());
  EXPECT_EQ(extension_of(sent, kAuditExtension), "-");
  EXPECT_THAT(sent.rules(0).clauses(0).matches(0).destination_ports(), ElementsAre(80));
  ASSERT_THAT(mesh.reports, SizeIs(2));
  EXPECT_EQ(mesh.reports[0].field, "spec.action");
  EXPECT_THAT(mesh.reports[0].message, HasSubstr("CUSTOM is not supported"));
  EXPECT_EQ(translated(policy("CUSTOM", {})).policies.at("shop/p").rules_size(), 0) << "no rule, no match";
}

// ---- targetRefs ----

Service service(const char* name, Labels selector, uint16_t target, const char* target_name = "") {
  Service result;
  result.meta = meta("shop", name);
  result.selector = std::move(selector);
  result.ports = {{80, target, target_name}};
  return result;
}

struct Shop {
  explicit Shop(std::vector<TargetRef> refs, const char* ns = "shop") {
    objects.namespaces = {ambient_namespace("shop"), ambient_namespace("other")};
    objects.pods = {pod("shop", "a", {{"app", "web"}}), pod("shop", "b", {{"app", "db"}}),
                    pod("other", "c", {{"app", "web"}})};
    objects.services = {service("web", {{"app", "web"}}, 8080), service("db", {{"app", "db"}}, 0, "sql"),
                        service("bare", {}, 80)};
    objects.authorization_policies.push_back(policy("ALLOW", {}, ns));
    objects.authorization_policies[0].target_refs = std::move(refs);
  }
  Mesh mesh() const { return translate(objects, {}); }
  ObjectSet objects;
};

TEST(Targets, APolicyOfAServiceIsNamedByThePodsBehindIt) {
  const Mesh mesh = Shop({{"", "Service", "web", ""}}).mesh();
  const Authorization& sent = mesh.policies.at("shop/p");
  EXPECT_EQ(sent.scope(), istio::security::WORKLOAD_SELECTOR);
  EXPECT_EQ(extension_of(sent, kTargetsExtension), "service:shop/web.shop.svc.cluster.local");
  EXPECT_THAT(workload(mesh, "Kubernetes//Pod/shop/a").authorization_policies(), ElementsAre("shop/p"));
  EXPECT_THAT(workload(mesh, "Kubernetes//Pod/shop/b").authorization_policies(), IsEmpty());
  EXPECT_THAT(workload(mesh, "Kubernetes//Pod/other/c").authorization_policies(), IsEmpty());
  EXPECT_THAT(mesh.reports, IsEmpty());
}

TEST(Targets, APodWithoutThePortOfTheServiceIsNotBehindIt) {
  Shop shop({{"core", "Service", "db", ""}, {"", "Service", "web", "shop"}});
  const Mesh without = shop.mesh();
  EXPECT_THAT(workload(without, "Kubernetes//Pod/shop/b").authorization_policies(), IsEmpty());
  shop.objects.pods[1].ports = {{"sql", 5432}};
  const Mesh mesh = shop.mesh();
  EXPECT_THAT(workload(mesh, "Kubernetes//Pod/shop/b").authorization_policies(), ElementsAre("shop/p"));
  EXPECT_EQ(extension_of(mesh.policies.at("shop/p"), kTargetsExtension),
            "service:shop/db.shop.svc.cluster.local,service:shop/web.shop.svc.cluster.local");
}

TEST(Targets, AServiceThatDoesNotServeIsReported) {
  for (const char* name : {"nobody", "bare"}) {
    const Mesh mesh = Shop({{"", "Service", name, ""}}).mesh();
    ASSERT_THAT(mesh.reports, SizeIs(1)) << name;
    EXPECT_THAT(mesh.reports[0].message, HasSubstr("binds nobody")) << name;
    EXPECT_THAT(workload(mesh, "Kubernetes//Pod/shop/a").authorization_policies(), IsEmpty()) << name;
  }
}

TEST(Targets, AGatewayIsTakenForEveryPodThatCouldBeBehindIt) {
  struct Case {
    const char* sentence;
    std::vector<TargetRef> refs;
    const char* ns;
    istio::security::Scope scope;
  };
  const char* const group = "gateway.networking.k8s.io";
  const Case cases[] = {
      {"a gateway", {{group, "Gateway", "waypoint", ""}}, "shop", istio::security::NAMESPACE},
      {"beside a Service",
       {{"", "Service", "web", ""}, {group, "Gateway", "waypoint", ""}},
       "shop",
       istio::security::NAMESPACE},
      {"one of the root namespace is not the mesh's",
       {{group, "Gateway", "waypoint", ""}},
       "istio-system",
       istio::security::NAMESPACE},
      {"a class", {{group, "GatewayClass", "istio-waypoint", ""}}, "istio-system", istio::security::GLOBAL},
  };
  for (const Case& c : cases) {
    const Mesh mesh = Shop(c.refs, c.ns).mesh();
    const Authorization& sent = mesh.policies.at(std::string(c.ns) + "/p");
    EXPECT_EQ(sent.scope(), c.scope) << c.sentence;
    EXPECT_EQ(extension_of(sent, kTargetsExtension), "gateway") << c.sentence;
    ASSERT_THAT(mesh.reports, SizeIs(1)) << c.sentence;
    EXPECT_THAT(mesh.reports[0].message, HasSubstr("taken for one of every pod")) << c.sentence;
    EXPECT_THAT(workload(mesh, "Kubernetes//Pod/shop/a").authorization_policies(), IsEmpty()) << c.sentence;
  }
}

TEST(Targets, WhatLeavesTheMeshIsAnError) {
  const Mesh mesh = Shop({{"networking.istio.io", "ServiceEntry", "far", ""}}).mesh();
  EXPECT_THAT(mesh.policies, IsEmpty());
  ASSERT_THAT(mesh.reports, SizeIs(1));
  EXPECT_EQ(mesh.reports[0].severity, Report::Severity::kError);
  EXPECT_EQ(mesh.reports[0].field, "spec.targetRefs[0]");
}

// ---- trust domains ----

TEST(TrustDomains, AreWhatAPrincipalBeginsWith) {
  const Mesh mesh = translated(
      policy("DENY", {from({.trust_domains = {"a.example", "b.*", "*"}, .not_trust_domains = {"c.example"}}),
                      when("source.trustDomain", {"d.example"}, {"e.*"})}));
  const Authorization& sent = mesh.policies.at("shop/p");
  const Match& source = sent.rules(0).clauses(0).matches(0);
  EXPECT_EQ(source.principals(0).prefix(), "a.example/");
  EXPECT_EQ(source.principals(1).prefix(), "b.");
  EXPECT_TRUE(source.principals(2).has_presence());
  EXPECT_EQ(source.not_principals(0).prefix(), "c.example/");
  const Match& condition = sent.rules(1).clauses(0).matches(0);
  EXPECT_EQ(condition.principals(0).prefix(), "d.example/");
  EXPECT_EQ(condition.not_principals(0).prefix(), "e.");
  EXPECT_THAT(mesh.reports, IsEmpty());
}

TEST(TrustDomains, WhatCannotBeAskedForIsReadStrictly) {
  const PolicyRule rules[] = {from({.trust_domains = {"*.example"}}),
                              from({.principals = {"a.example/ns/x/sa/y"}, .trust_domains = {"a.example"}}),
                              when("source.trustDomain", {"*.example"})};
  for (const PolicyRule& rule : rules) {
    EXPECT_EQ(translated(policy("ALLOW", {rule})).policies.at("shop/p").rules_size(), 0);
    const Mesh mesh = translated(policy("DENY", {rule}));
    EXPECT_EQ(mesh.policies.at("shop/p").rules_size(), 1);
    EXPECT_THAT(mesh.reports, SizeIs(1));
  }
}

TEST(DryRun, IsCarried) {
  AuthorizationPolicy one = policy("DENY", {PolicyRule{}});
  one.dry_run = true;
  EXPECT_TRUE(translated(one).policies.at("shop/p").dry_run());
}

}  // namespace
}  // namespace fairlead::model
