// Every attribute of a connection × wanted or excluded × every form of text × with and without identity,
// under every action; and how the actions and stages weigh against each other.
#include <gtest/gtest.h>

#include "policy/authz.h"

namespace fairlead::policy {
namespace {

using Kind = StringMatch::Kind;

const SpiffeId kWeb{"cluster.local", "frontend", "web"};
const SpiffeId kJob{"other.example", "batch", "job"};
constexpr const char* kWebName = "cluster.local/ns/frontend/sa/web";

// 10.0.0.1 → 10.0.0.2:80, as web, as job and in plaintext; and fd00::1 → fd00::2:80 as web.
struct Connections {
  ConnectionFacts web{&kWeb, *IpAddress::parse("10.0.0.1"), *IpAddress::parse("10.0.0.2"), 80};
  ConnectionFacts job{&kJob, *IpAddress::parse("10.0.0.1"), *IpAddress::parse("10.0.0.2"), 80};
  ConnectionFacts plain{nullptr, *IpAddress::parse("10.0.0.1"), *IpAddress::parse("10.0.0.2"), 80};
  ConnectionFacts v6{&kWeb, *IpAddress::parse("fd00::1"), *IpAddress::parse("fd00::2"), 80};
};

std::shared_ptr<Policy> make(Action action, std::vector<Rule> rules, const char* name = "p") {
  auto policy = std::make_shared<Policy>();
  policy->ns = "ns";
  policy->name = name;
  policy->action = action;
  policy->rules = std::move(rules);
  return policy;
}
Rule rule(Match match) {
  return {{Clause{{std::move(match)}}}};
}
Rule to_port(uint16_t port) {
  Match match;
  match.destination_ports.push_back(port);
  return rule(match);
}
Rule from_principal(const char* name) {
  Match match;
  match.principals.push_back({Kind::kExact, name});
  return rule(match);
}

struct Case {
  const char* sentence;
  void (*fill)(Match&);
  bool web, job, plain, v6;  // whom the match is true for
};

const Case kCases[] = {
    // -- principals
    {"principals: exact", [](Match& m) { m.principals = {{Kind::kExact, kWebName}}; }, true, false, false,
     true},
    {"principals: exact, in another case",
     [](Match& m) { m.principals = {{Kind::kExact, "cluster.local/ns/frontend/sa/WEB"}}; }, false, false,
     false, false},
    {"principals: exact is all of it",
     [](Match& m) { m.principals = {{Kind::kExact, "cluster.local/ns/frontend/sa/we"}}; }, false, false,
     false, false},
    {"principals: a dot is a dot, not any letter",
     [](Match& m) { m.principals = {{Kind::kExact, "clusterxlocal/ns/frontend/sa/web"}}; }, false, false,
     false, false},
    {"principals: prefix", [](Match& m) { m.principals = {{Kind::kPrefix, "cluster.local/ns/front"}}; }, true,
     false, false, true},
    {"principals: suffix", [](Match& m) { m.principals = {{Kind::kSuffix, "/sa/job"}}; }, false, true, false,
     false},
    {"principals: presence", [](Match& m) { m.principals = {{Kind::kPresence, {}}}; }, true, true, false,
     true},
    {"principals: values are alternatives",
     [](Match& m) { m.principals = {{Kind::kExact, "no/ns/no/sa/no"}, {Kind::kSuffix, "/sa/job"}}; }, false,
     true, false, false},
    {"notPrincipals: exact", [](Match& m) { m.not_principals = {{Kind::kExact, kWebName}}; }, false, true,
     true, false},
    {"notPrincipals: prefix", [](Match& m) { m.not_principals = {{Kind::kPrefix, "cluster.local/"}}; }, false,
     true, true, false},
    {"notPrincipals: suffix", [](Match& m) { m.not_principals = {{Kind::kSuffix, "/sa/job"}}; }, true, false,
     true, true},
    {"notPrincipals: presence is plaintext only",
     [](Match& m) { m.not_principals = {{Kind::kPresence, {}}}; }, false, false, true, false},
    {"notPrincipals: each value excludes",
     [](Match& m) { m.not_principals = {{Kind::kExact, kWebName}, {Kind::kSuffix, "/sa/job"}}; }, false,
     false, true, false},
    {"principals but not one of them",
     [](Match& m) {
       m.principals = {{Kind::kPresence, {}}};
       m.not_principals = {{Kind::kExact, kWebName}};
     },
     false, true, false, false},
    // -- namespaces
    {"namespaces: exact", [](Match& m) { m.namespaces = {{Kind::kExact, "frontend"}}; }, true, false, false,
     true},
    {"namespaces: prefix", [](Match& m) { m.namespaces = {{Kind::kPrefix, "ba"}}; }, false, true, false,
     false},
    {"namespaces: suffix", [](Match& m) { m.namespaces = {{Kind::kSuffix, "end"}}; }, true, false, false,
     true},
    {"namespaces: presence", [](Match& m) { m.namespaces = {{Kind::kPresence, {}}}; }, true, true, false,
     true},
    {"notNamespaces: exact", [](Match& m) { m.not_namespaces = {{Kind::kExact, "frontend"}}; }, false, true,
     true, false},
    {"notNamespaces: prefix", [](Match& m) { m.not_namespaces = {{Kind::kPrefix, "ba"}}; }, true, false, true,
     true},
    {"notNamespaces: suffix", [](Match& m) { m.not_namespaces = {{Kind::kSuffix, "end"}}; }, false, true,
     true, false},
    {"notNamespaces: presence", [](Match& m) { m.not_namespaces = {{Kind::kPresence, {}}}; }, false, false,
     true, false},
    // -- service accounts
    {"serviceAccounts", [](Match& m) { m.service_accounts = {{"frontend", "web"}}; }, true, false, false,
     true},
    {"serviceAccounts: of the namespace only", [](Match& m) { m.service_accounts = {{"batch", "web"}}; },
     false, false, false, false},
    {"serviceAccounts: whatever the trust domain", [](Match& m) { m.service_accounts = {{"batch", "job"}}; },
     false, true, false, false},
    {"serviceAccounts: no wildcards", [](Match& m) { m.service_accounts = {{"frontend", "*"}}; }, false,
     false, false, false},
    {"notServiceAccounts", [](Match& m) { m.not_service_accounts = {{"frontend", "web"}}; }, false, true,
     true, false},
    {"notServiceAccounts: of another namespace",
     [](Match& m) { m.not_service_accounts = {{"batch", "web"}}; }, true, true, true, true},
    // -- addresses
    {"ipBlocks", [](Match& m) { m.source_ips = {*Cidr::parse("10.0.0.0/24")}; }, true, true, true, false},
    {"ipBlocks: one address", [](Match& m) { m.source_ips = {*Cidr::parse("10.0.0.1")}; }, true, true, true,
     false},
    {"ipBlocks: its neighbour", [](Match& m) { m.source_ips = {*Cidr::parse("10.0.0.0/32")}; }, false, false,
     false, false},
    {"ipBlocks: all of IPv4", [](Match& m) { m.source_ips = {*Cidr::parse("0.0.0.0/0")}; }, true, true, true,
     false},
    {"ipBlocks: IPv6", [](Match& m) { m.source_ips = {*Cidr::parse("fd00::/8")}; }, false, false, false,
     true},
    {"ipBlocks: all of IPv6 is no IPv4", [](Match& m) { m.source_ips = {*Cidr::parse("::/0")}; }, false,
     false, false, true},
    {"ipBlocks: of both families",
     [](Match& m) { m.source_ips = {*Cidr::parse("10.0.0.0/8"), *Cidr::parse("fd00::1")}; }, true, true, true,
     true},
    {"notIpBlocks", [](Match& m) { m.not_source_ips = {*Cidr::parse("10.0.0.0/24")}; }, false, false, false,
     true},
    {"notIpBlocks: IPv6", [](Match& m) { m.not_source_ips = {*Cidr::parse("fd00::/64")}; }, true, true, true,
     false},
    {"destination.ip", [](Match& m) { m.destination_ips = {*Cidr::parse("10.0.0.2/31")}; }, true, true, true,
     false},
    {"destination.ip is not the source's", [](Match& m) { m.destination_ips = {*Cidr::parse("10.0.0.1")}; },
     false, false, false, false},
    {"destination.ip: notValues", [](Match& m) { m.not_destination_ips = {*Cidr::parse("fd00::2")}; }, true,
     true, true, false},
    // -- ports
    {"ports", [](Match& m) { m.destination_ports = {79, 80}; }, true, true, true, true},
    {"ports: another", [](Match& m) { m.destination_ports = {8080}; }, false, false, false, false},
    {"notPorts", [](Match& m) { m.not_destination_ports = {80}; }, false, false, false, false},
    {"notPorts: another", [](Match& m) { m.not_destination_ports = {8080}; }, true, true, true, true},
    // -- together
    {"fields are ANDed",
     [](Match& m) {
       m.namespaces = {{Kind::kExact, "frontend"}};
       m.source_ips = {*Cidr::parse("10.0.0.0/8")};
     },
     true, false, false, false},
    {"one field that fails is enough",
     [](Match& m) {
       m.principals = {{Kind::kPresence, {}}};
       m.destination_ports = {81};
     },
     false, false, false, false},
    {"nothing at all is skipped", [](Match&) {}, false, false, false, false},
};

TEST(Matrix, EveryAttributeUnderEveryAction) {
  const Connections c;
  for (const Case& test : kCases) {
    Match match;
    test.fill(match);
    const std::pair<const ConnectionFacts*, bool> sides[] = {
        {&c.web, test.web}, {&c.job, test.job}, {&c.plain, test.plain}, {&c.v6, test.v6}};
    for (const auto& [facts, wanted] : sides) {
      const std::string where = std::string(test.sentence) + " / " + describe(*facts);
      EXPECT_EQ(evaluate({make(Action::kAllow, {rule(match)})}, *facts).allowed, wanted) << where;
      EXPECT_EQ(evaluate({make(Action::kDeny, {rule(match)})}, *facts).allowed, !wanted) << where;
      const PolicySet watching = {make(Action::kAudit, {rule(match)})};
      EXPECT_TRUE(evaluate(watching, *facts).allowed) << where;
      EXPECT_EQ(audit(watching, *facts).size(), wanted ? 1u : 0u) << where;
      auto dry = make(Action::kDeny, {rule(match)});
      dry->dry_run = true;
      EXPECT_TRUE(evaluate({dry}, *facts).allowed) << where;
      EXPECT_EQ(evaluate({dry}, *facts, DryRun::kAsIfEnforced).allowed, !wanted) << where;
    }
  }
}

TEST(Matrix, WhatIsNotUnderstoodIsReadStrictlyUnderEveryAttribute) {
  const Connections c;
  for (const Case& test : kCases) {
    Match match;
    test.fill(match);
    match.undecidable = true;
    const bool says_nothing = std::string(test.sentence) == "nothing at all is skipped";
    const std::pair<const ConnectionFacts*, bool> sides[] = {
        {&c.web, test.web}, {&c.job, test.job}, {&c.plain, test.plain}, {&c.v6, test.v6}};
    for (const auto& [facts, wanted] : sides) {
      EXPECT_FALSE(evaluate({make(Action::kAllow, {rule(match)})}, *facts).allowed) << test.sentence;
      const bool denies = wanted || says_nothing;
      EXPECT_EQ(evaluate({make(Action::kDeny, {rule(match)})}, *facts).allowed, !denies) << test.sentence;
      EXPECT_EQ(audit({make(Action::kAudit, {rule(match)})}, *facts).empty(), !denies) << test.sentence;
    }
  }
}

// ---- the order of evaluation

struct Order {
  const char* sentence;
  PolicySet policies;
  bool allowed;
  const char* decided_by;
  const char* reason;
};

TEST(Order, DenyThenAllowAndNothingElseDecides) {
  const Connections c;
  const auto dry = [](std::shared_ptr<Policy> policy) {
    policy->dry_run = true;
    return policy;
  };
  const auto allow = [](Rule r) { return make(Action::kAllow, {std::move(r)}, "allow"); };
  const auto deny = [](Rule r) { return make(Action::kDeny, {std::move(r)}, "deny"); };
  const auto mark = [](Rule r) { return make(Action::kAudit, {std::move(r)}, "audit"); };
  const Order orders[] = {
      {"nothing is said: allowed", {}, true, "", "no policy"},
      {"a DENY that does not match leaves it open", {deny(to_port(81))}, true, "", "no policy"},
      {"an ALLOW that does not match closes it", {allow(to_port(81))}, false, "", "no ALLOW policy matches"},
      {"an ALLOW that matches", {allow(to_port(80))}, true, "ns/allow", "allowed by rule"},
      {"DENY before ALLOW", {allow(to_port(80)), deny(to_port(80))}, false, "ns/deny", "denied by rule"},
      {"a DENY without rules denies nobody", {make(Action::kDeny, {})}, true, "", "no policy"},
      {"an ALLOW without rules allows nobody",
       {make(Action::kAllow, {})},
       false,
       "",
       "no ALLOW policy matches"},
      {"an ALLOW without rules beside one that matches",
       {make(Action::kAllow, {}), allow(to_port(80))},
       true,
       "ns/allow",
       "allowed by rule"},
      {"AUDIT alone closes nothing", {mark(to_port(81))}, true, "", "no policy"},
      {"AUDIT lets nobody in", {mark(to_port(80)), allow(to_port(81))}, false, "", "no ALLOW policy matches"},
      {"AUDIT does not hide a DENY", {mark(to_port(80)), deny(Rule{})}, false, "ns/deny", "denied by rule"},
      {"a dry-run DENY denies nobody", {dry(deny(Rule{}))}, true, "", "no policy"},
      {"a dry-run ALLOW closes nothing", {dry(allow(to_port(81)))}, true, "", "no policy"},
      {"a dry-run ALLOW lets nobody in",
       {dry(allow(to_port(80))), allow(to_port(81))},
       false,
       "",
       "no ALLOW policy matches"},
  };
  for (const Order& order : orders) {
    const Decision decision = evaluate(order.policies, c.web);
    EXPECT_EQ(decision.allowed, order.allowed) << order.sentence;
    EXPECT_EQ(decision.policy(), order.decided_by) << order.sentence;
    EXPECT_EQ(decision.reason, order.reason) << order.sentence;
  }
}

TEST(Order, DryRunSaysWhatWouldBe) {
  const Connections c;
  auto deny = make(Action::kDeny, {to_port(80)}, "deny");
  deny->dry_run = true;
  const PolicySet policies = {deny, make(Action::kAllow, {Rule{}}, "allow")};
  EXPECT_TRUE(has_dry_run(policies, 80));
  EXPECT_FALSE(has_dry_run({make(Action::kDeny, {})}, 80));
  EXPECT_EQ(evaluate(policies, c.web).policy(), "ns/allow");
  const Decision would_be = evaluate(policies, c.web, DryRun::kAsIfEnforced);
  EXPECT_FALSE(would_be.allowed);
  EXPECT_EQ(would_be.policy(), "ns/deny");
  auto allow = make(Action::kAllow, {to_port(81)}, "narrow");
  allow->dry_run = true;
  EXPECT_FALSE(evaluate({allow}, c.web, DryRun::kAsIfEnforced).allowed);
  // It would let in whom the enforced ones keep out.
  allow->rules = {Rule{}};
  EXPECT_TRUE(evaluate({allow, make(Action::kAllow, {})}, c.web, DryRun::kAsIfEnforced).allowed);
}

TEST(Audit, NamesEachPolicyOnceAndItsFirstRule) {
  const Connections c;
  const auto both = make(Action::kAudit, {to_port(81), to_port(80), Rule{}}, "both");
  const PolicySet policies = {Binding(both, {80}, 1), make(Action::kAudit, {Rule{}}, "all"),
                              Binding(both, {80}, 2)};
  const auto hits = audit(policies, c.web);
  ASSERT_EQ(hits.size(), 2u);
  EXPECT_EQ(hits[0].policy->name, "both");
  EXPECT_EQ(hits[0].rule, 1);
  EXPECT_EQ(hits[1].policy->name, "all");
}

// ---- policies of Services

TEST(Stages, APolicyOfAServiceIsAboutItsPortsOnly) {
  const Connections c;
  const auto nobody = make(Action::kAllow, {});
  const auto everybody = make(Action::kDeny, {Rule{}});
  for (const auto& policy : {nobody, everybody}) {
    EXPECT_FALSE(evaluate({Binding(policy, {80}, 1)}, c.web).allowed);
    EXPECT_TRUE(evaluate({Binding(policy, {81, 82}, 1)}, c.web).allowed);
    EXPECT_FALSE(evaluate({Binding(policy, {}, 1)}, c.web).allowed) << "no port is named: all";
  }
  EXPECT_FALSE(has_dry_run({Binding(nobody, {81}, 1)}, 80));
  EXPECT_TRUE(audit({Binding(make(Action::kAudit, {Rule{}}), {81}, 1)}, c.web).empty());
}

TEST(Stages, EveryStageThatHasAnAllowMustAllow) {
  const Connections c;
  const auto web = make(Action::kAllow, {from_principal(kWebName)}, "web");
  const auto any = make(Action::kAllow, {Rule{}}, "any");
  struct Stages {
    const char* sentence;
    PolicySet policies;
    bool web, job;
  };
  const Stages cases[] = {
      {"alternatives within the workload's", {web, any}, true, true},
      {"alternatives within a Service's", {Binding(web, {80}, 1), Binding(any, {80}, 1)}, true, true},
      {"a Service's ALLOW does not open what the workload's closes",
       {web, Binding(any, {80}, 1)},
       true,
       false},
      {"the workload's ALLOW does not open what a Service's closes",
       {any, Binding(web, {80}, 1)},
       true,
       false},
      {"nor one Service's what another's closes",
       {Binding(web, {80}, 1), Binding(any, {80}, 2)},
       true,
       false},
      {"a Service of other ports has no say", {any, Binding(web, {81}, 1)}, true, true},
      {"a stage without ALLOW closes nothing", {any, Binding(make(Action::kDeny, {}), {80}, 1)}, true, true},
  };
  for (const Stages& test : cases) {
    EXPECT_EQ(evaluate(test.policies, c.web).allowed, test.web) << test.sentence;
    EXPECT_EQ(evaluate(test.policies, c.job).allowed, test.job) << test.sentence;
  }
  EXPECT_EQ(evaluate({any, Binding(web, {80}, 1)}, c.job).reason, "no ALLOW policy of its Service matches");
  EXPECT_FALSE(evaluate({any, Binding(make(Action::kDeny, {Rule{}}), {80}, 1)}, c.web).allowed);
}

TEST(Questions, TellWhatAPolicyDependsOn) {
  Match by_address;
  by_address.not_source_ips = {*Cidr::parse("10.0.0.0/8")};
  EXPECT_TRUE(asks_for_source_address(*make(Action::kDeny, {to_port(80), rule(by_address)})));
  EXPECT_FALSE(asks_for_source_address(*make(Action::kDeny, {to_port(80)})));
  Match unknown;
  unknown.undecidable = true;
  EXPECT_TRUE(is_undecidable(*make(Action::kDeny, {to_port(80), rule(unknown)})));
  EXPECT_FALSE(is_undecidable(*make(Action::kDeny, {to_port(80)})));
}

}  // namespace
}  // namespace fairlead::policy
