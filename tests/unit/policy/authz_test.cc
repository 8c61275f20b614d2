#include "policy/authz.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace fairlead::policy {
namespace {

using Kind = StringMatch::Kind;

std::shared_ptr<const Policy> make(Action action, std::vector<Rule> rules, std::string name = "p") {
  auto policy = std::make_shared<Policy>();
  policy->ns = "ns";
  policy->name = std::move(name);
  policy->action = action;
  policy->rules = std::move(rules);
  return policy;
}
Rule rule(std::vector<Match> matches) {
  return {{Clause{std::move(matches)}}};
}
Match principal(Kind kind, std::string text) {
  Match match;
  match.principals.push_back({kind, std::move(text)});
  return match;
}
Match port(uint16_t number) {
  Match match;
  match.destination_ports.push_back(number);
  return match;
}
Match plaintext() {
  Match match;
  match.not_principals.push_back({Kind::kPresence, {}});
  return match;
}
Match undecidable() {
  Match match;
  match.undecidable = true;
  return match;
}

const SpiffeId kWeb{"cluster.local", "frontend", "web"};

bool allowed(const PolicySet& policies, const SpiffeId* source = &kWeb, uint16_t to_port = 80) {
  return evaluate(policies, {source, *IpAddress::parse("10.0.0.1"), *IpAddress::parse("10.0.0.2"), to_port})
      .allowed;
}

struct Case {
  const char* sentence;
  PolicySet policies;
  bool web;
  bool plain;
};

TEST(Authorisation, TableOfCases) {
  Match negated;
  negated.not_namespaces.push_back({Kind::kExact, "frontend"});
  Match accounts;
  accounts.service_accounts.push_back({"frontend", "web"});
  Match addresses;
  addresses.source_ips.push_back(*Cidr::parse("10.0.0.0/24"));
  Match web_on_81 = principal(Kind::kExact, "cluster.local/ns/frontend/sa/web");
  web_on_81.destination_ports.push_back(81);
  const std::vector<Case> cases = {
      {"no policy lets everybody in", {}, true, true},
      {"an ALLOW policy without rules denies everybody", {make(Action::kAllow, {})}, false, false},
      {"a DENY policy without rules denies nobody", {make(Action::kDeny, {})}, true, true},
      {"a rule without clauses matches everybody", {make(Action::kAllow, {Rule{}})}, true, true},
      {"a clause without matches is true", {make(Action::kDeny, {Rule{{Clause{}}}})}, false, false},
      {"an empty match is skipped", {make(Action::kDeny, {rule({Match{}})})}, true, true},
      {"exact principal",
       {make(Action::kAllow, {rule({principal(Kind::kExact, "cluster.local/ns/frontend/sa/web")})})},
       true,
       false},
      {"another principal",
       {make(Action::kAllow, {rule({principal(Kind::kExact, "cluster.local/ns/frontend/sa/other")})})},
       false,
       false},
      {"prefix of the principal",
       {make(Action::kAllow, {rule({principal(Kind::kPrefix, "cluster.local/ns/frontend/")})})},
       true,
       false},
      {"suffix of the principal",
       {make(Action::kAllow, {rule({principal(Kind::kSuffix, "/sa/web")})})},
       true,
       false},
      {"presence is any identity, and none is none",
       {make(Action::kAllow, {rule({principal(Kind::kPresence, "")})})},
       true,
       false},
      {"STRICT: deny who shows no identity", {make(Action::kDeny, {rule({plaintext()})})}, true, false},
      {"not_namespaces excludes the namespace, plaintext has none",
       {make(Action::kAllow, {rule({negated})})},
       false,
       true},
      {"service account", {make(Action::kAllow, {rule({accounts})})}, true, false},
      {"source address", {make(Action::kAllow, {rule({addresses})})}, true, true},
      {"port that is not this one", {make(Action::kAllow, {rule({port(81)})})}, false, false},
      {"fields of a match are ANDed", {make(Action::kAllow, {rule({web_on_81})})}, false, false},
      {"matches of a clause are ORed", {make(Action::kAllow, {rule({port(81), port(80)})})}, true, true},
      {"clauses of a rule are ANDed",
       {make(Action::kAllow, {Rule{{Clause{{port(80)}}, Clause{{port(81)}}}}})},
       false,
       false},
      {"DENY wins over ALLOW",
       {make(Action::kAllow, {Rule{}}), make(Action::kDeny, {rule({port(80)})})},
       false,
       false},
      {"one ALLOW of several is enough",
       {make(Action::kAllow, {rule({port(81)})}), make(Action::kAllow, {rule({port(80)})})},
       true,
       true},
      {"undecidable: ALLOW does not match", {make(Action::kAllow, {rule({undecidable()})})}, false, false},
      {"undecidable: DENY matches", {make(Action::kDeny, {rule({undecidable()})})}, false, false},
      {"undecidable beside one that matches: ALLOW matches",
       {make(Action::kAllow, {rule({undecidable(), port(80)})})},
       true,
       true},
  };
  for (const Case& c : cases) {
    EXPECT_EQ(allowed(c.policies), c.web) << c.sentence;
    EXPECT_EQ(allowed(c.policies, nullptr), c.plain) << c.sentence << " (plaintext)";
  }
}

TEST(Authorisation, UndecidableMatchThatCannotApplyDeniesNobody) {
  Match other_port = port(81);
  other_port.undecidable = true;
  EXPECT_TRUE(allowed({make(Action::kDeny, {rule({other_port})})}));
  EXPECT_FALSE(allowed({make(Action::kDeny, {rule({other_port})})}, &kWeb, 81));
}

TEST(Authorisation, PatternsThatMatchTheEmptyNameStillNeedAnIdentity) {
  for (const Kind kind : {Kind::kExact, Kind::kPrefix, Kind::kSuffix}) {
    Match by_namespace;
    by_namespace.namespaces.push_back({kind, ""});
    EXPECT_FALSE(allowed({make(Action::kAllow, {rule({principal(kind, "")})})}, nullptr));
    EXPECT_FALSE(allowed({make(Action::kAllow, {rule({by_namespace})})}, nullptr));
  }
  EXPECT_TRUE(allowed({make(Action::kAllow, {rule({principal(Kind::kPrefix, "")})})}));
}

TEST(Authorisation, EveryNegativeListExcludes) {
  struct Negative {
    const char* sentence;
    void (*fill)(Match&);
    bool web;
    bool plain;
  };
  const Negative negatives[] = {
      {"not_principals: exact",
       [](Match& m) { m.not_principals = {{Kind::kExact, "cluster.local/ns/frontend/sa/web"}}; }, false,
       true},
      {"not_principals: suffix of another",
       [](Match& m) { m.not_principals = {{Kind::kSuffix, "/sa/other"}}; }, true, true},
      {"not_namespaces: prefix", [](Match& m) { m.not_namespaces = {{Kind::kPrefix, "front"}}; }, false,
       true},
      {"not_service_accounts", [](Match& m) { m.not_service_accounts = {{"frontend", "web"}}; }, false, true},
      {"not_service_accounts of another namespace",
       [](Match& m) { m.not_service_accounts = {{"backend", "web"}}; }, true, true},
      {"not_source_ips", [](Match& m) { m.not_source_ips = {*Cidr::parse("10.0.0.1")}; }, false, false},
      {"not_destination_ips", [](Match& m) { m.not_destination_ips = {*Cidr::parse("10.0.0.0/30")}; }, false,
       false},
      {"not_destination_ips elsewhere",
       [](Match& m) { m.not_destination_ips = {*Cidr::parse("10.1.0.0/16")}; }, true, true},
      {"not_destination_ports", [](Match& m) { m.not_destination_ports = {79, 80}; }, false, false},
      {"a value in both lists is excluded",
       [](Match& m) {
         m.destination_ports = {80};
         m.not_destination_ports = {80};
       },
       false, false},
  };
  for (const Negative& negative : negatives) {
    Match match;
    negative.fill(match);
    const PolicySet policies = {make(Action::kAllow, {rule({match})})};
    EXPECT_EQ(allowed(policies), negative.web) << negative.sentence;
    EXPECT_EQ(allowed(policies, nullptr), negative.plain) << negative.sentence << " (plaintext)";
  }
}

TEST(Authorisation, RangesHoldAddressesOfTheirFamilyOnly) {
  Match all_v6, all_v4, destination;
  all_v6.source_ips.push_back(*Cidr::parse("::/0"));
  all_v4.source_ips.push_back(*Cidr::parse("0.0.0.0/0"));
  destination.destination_ips.push_back(*Cidr::parse("10.0.0.2/32"));
  EXPECT_FALSE(allowed({make(Action::kAllow, {rule({all_v6})})}));
  EXPECT_TRUE(allowed({make(Action::kAllow, {rule({all_v4})})}));
  EXPECT_TRUE(allowed({make(Action::kAllow, {rule({destination})})}));
  const ConnectionFacts v6{&kWeb, *IpAddress::parse("fd00::1"), *IpAddress::parse("fd00::2"), 80};
  EXPECT_TRUE(evaluate({make(Action::kAllow, {rule({all_v6})})}, v6).allowed);
  EXPECT_FALSE(evaluate({make(Action::kAllow, {rule({all_v4})})}, v6).allowed);
}

TEST(Authorisation, AServiceAccountCountsInItsNamespaceOnlyWhateverItsTrustDomain) {
  Match account;
  account.service_accounts.push_back({"frontend", "web"});
  const PolicySet policies = {make(Action::kAllow, {rule({account})})};
  const SpiffeId elsewhere{"cluster.local", "backend", "web"};
  const SpiffeId federated{"other.example", "frontend", "web"};
  EXPECT_FALSE(allowed(policies, &elsewhere));
  EXPECT_TRUE(allowed(policies, &federated));
}

TEST(Authorisation, AClauseThatCannotBeDecidedMakesItsRuleSo) {
  const Rule half{{Clause{{undecidable()}}, Clause{{port(80)}}}};
  EXPECT_FALSE(allowed({make(Action::kAllow, {half})}));
  EXPECT_FALSE(allowed({make(Action::kDeny, {half})}));
  EXPECT_TRUE(allowed({make(Action::kDeny, {half})}, &kWeb, 81));
  const Rule fails_elsewhere{{Clause{{undecidable()}}, Clause{{port(81)}}}};
  EXPECT_TRUE(allowed({make(Action::kDeny, {fails_elsewhere})}));
}

TEST(Authorisation, TheOrderOfPoliciesDoesNotMatter) {
  std::vector<std::shared_ptr<const Policy>> order = {make(Action::kDeny, {rule({port(80)})}, "deny"),
                                                      make(Action::kAllow, {Rule{}}, "allow"),
                                                      make(Action::kAllow, {}, "nobody")};
  std::sort(order.begin(), order.end());
  do {
    const PolicySet policies(order.begin(), order.end());
    EXPECT_FALSE(allowed(policies));
    EXPECT_TRUE(allowed(policies, &kWeb, 81));
  } while (std::next_permutation(order.begin(), order.end()));
}

TEST(Authorisation, SaysWhyItDecided) {
  EXPECT_EQ(evaluate({}, {&kWeb, {}, {}, 80}).reason, "no policy");
  EXPECT_EQ(evaluate({make(Action::kAllow, {})}, {&kWeb, {}, {}, 80}).reason, "no ALLOW policy matches");
  EXPECT_EQ(evaluate({make(Action::kAllow, {Rule{}})}, {&kWeb, {}, {}, 80}).reason, "allowed by rule");
  EXPECT_EQ(describe({&kWeb, *IpAddress::parse("10.0.0.1"), *IpAddress::parse("10.0.0.2"), 80}),
            "principal cluster.local/ns/frontend/sa/web from 10.0.0.1 to 10.0.0.2:80");
  EXPECT_EQ(describe({nullptr, *IpAddress::parse("fd00::1"), *IpAddress::parse("fd00::2"), 443}),
            "plaintext from fd00::1 to [fd00::2]:443");
}

TEST(Authorisation, DryRunAllowDoesNotTurnTheDefaultToDeny) {
  auto policy = std::make_shared<Policy>(*make(Action::kAllow, {}));
  policy->dry_run = true;
  EXPECT_TRUE(allowed({policy}));
}

TEST(Authorisation, DryRunIsNotEnforced) {
  auto policy = std::make_shared<Policy>(*make(Action::kDeny, {Rule{}}));
  policy->dry_run = true;
  EXPECT_TRUE(allowed({policy}));
}

TEST(Authorisation, NamesThePolicyAndTheRuleThatDecided) {
  const PolicySet policies = {make(Action::kDeny, {rule({port(81)}), rule({port(80)})}, "deny-80")};
  const Decision decision = evaluate(policies, {&kWeb, {}, {}, 80});
  EXPECT_FALSE(decision.allowed);
  EXPECT_EQ(decision.policy_name, "deny-80");
  EXPECT_EQ(decision.policy_ns, "ns");
  EXPECT_EQ(decision.rule, 1);
}

}  // namespace
}  // namespace fairlead::policy
