#include "policy/authz.h"

#include <gtest/gtest.h>

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
      {"an empty suffix needs no identity only by presence",
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
