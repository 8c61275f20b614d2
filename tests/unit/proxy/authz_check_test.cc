#include "proxy/authz_check.h"

#include <gtest/gtest.h>

#include "proxy/reports_json.h"
#include "state/snapshot_builder.h"
#include "unit/state/mesh_for_test.h"

namespace fairlead::proxy {
namespace {

using state::deny_all;
using state::ip;
using state::join;
using state::service;
using state::service_resource;
using state::workload;

// Service s on port 80 with endpoints a (8080) and b (9090); c stands alone; web is who asks.
struct Mesh {
  Mesh() {
    auto a = workload("a", "10.0.0.1");
    auto b = workload("b", "10.0.0.2");
    a.mutable_workload()->add_addresses(ip("fd00::1").to_octets());
    join(a, "s", 8080);
    join(b, "s", 9090);
    EXPECT_TRUE(builder.set_address("a", a));
    EXPECT_TRUE(builder.set_address("b", b));
    EXPECT_TRUE(builder.set_address("c", workload("c", "10.0.0.3", false)));
    EXPECT_TRUE(builder.set_address("web", workload("web", "10.0.0.9")));
    EXPECT_TRUE(builder.set_address(service_resource("s"), service("s", "10.96.0.1")));
  }
  Result<std::vector<AuthzAnswer>> ask(const AuthzQuestion& question) {
    return check_authz(*builder.build(), question);
  }
  state::SnapshotBuilder builder;
};

AuthzQuestion from_web(std::string name, uint16_t port) {
  AuthzQuestion question;
  question.source_ns = "ns";
  question.source_account = "sa-web";
  question.ns = "ns";
  question.name = std::move(name);
  question.port = port;
  return question;
}

istio::security::Authorization deny_port(uint32_t port) {
  auto message = deny_all("p", istio::security::NAMESPACE);
  message.mutable_rules(0)->add_clauses()->add_matches()->add_destination_ports(port);
  return message;
}

TEST(AuthzCheck, AsksEveryEndpointOnItsOwnPort) {
  Mesh mesh;
  ASSERT_TRUE(mesh.builder.set_policy("ns/p", deny_port(9090)));
  const auto answers = mesh.ask(from_web("s", 80));
  ASSERT_TRUE(answers) << answers.error().text();
  ASSERT_EQ(answers->size(), 2u) << "the source has no IPv6 address";
  for (const AuthzAnswer& answer : *answers) {
    EXPECT_EQ(answer.decision.allowed, answer.endpoint.port == 8080) << answer.endpoint.to_string();
    EXPECT_EQ(answer.principal, "cluster.local/ns/ns/sa/sa-web");
    EXPECT_EQ(answer.source_ip, ip("10.0.0.9"));
  }
}

TEST(AuthzCheck, APodIsAskedOnThePortThatIsNamed) {
  Mesh mesh;
  ASSERT_TRUE(mesh.builder.set_policy("ns/p", deny_port(80)));
  EXPECT_FALSE((*mesh.ask(from_web("b", 80)))[0].decision.allowed);
  EXPECT_EQ((*mesh.ask(from_web("b", 80)))[0].decision.policy(), "ns/p");
  EXPECT_TRUE((*mesh.ask(from_web("b", 81)))[0].decision.allowed);
}

TEST(AuthzCheck, PlaintextHasNoIdentity) {
  Mesh mesh;
  auto strict = deny_all("p", istio::security::NAMESPACE);
  (void)strict.mutable_rules(0)->add_clauses()->add_matches()->add_not_principals()->mutable_presence();
  ASSERT_TRUE(mesh.builder.set_policy("ns/p", strict));
  AuthzQuestion plain = from_web("a", 80);
  EXPECT_TRUE((*mesh.ask(plain))[0].decision.allowed);
  plain.source_ns = plain.source_account = "";
  EXPECT_FALSE((*mesh.ask(plain))[0].decision.allowed);
  EXPECT_EQ((*mesh.ask(plain))[0].principal, "");
}

TEST(AuthzCheck, TheAddressCountsWhereAPolicyAsksForIt) {
  Mesh mesh;
  auto by_address = deny_all("p", istio::security::NAMESPACE);
  auto& range = *by_address.mutable_rules(0)->add_clauses()->add_matches()->add_source_ips();
  range.set_address(ip("10.0.0.9").to_octets());
  range.set_length(32);
  ASSERT_TRUE(mesh.builder.set_policy("ns/p", by_address));
  EXPECT_FALSE((*mesh.ask(from_web("b", 80)))[0].decision.allowed) << "the address of web's pod";
  AuthzQuestion elsewhere = from_web("b", 80);
  elsewhere.source_ip = ip("10.0.0.8");
  EXPECT_TRUE((*mesh.ask(elsewhere))[0].decision.allowed);
  AuthzQuestion stranger = from_web("b", 80);
  stranger.source_account = "unheard-of";
  const auto unanswered = mesh.ask(stranger);
  ASSERT_FALSE(unanswered) << "guessing an address would be guessing the answer";
  EXPECT_NE(unanswered.error().text().find("ns/p"), std::string::npos) << unanswered.error().text();
  stranger.source_ip = ip("fd00::9");
  EXPECT_FALSE(mesh.ask(stranger)) << "b has no IPv6 address";
}

TEST(AuthzCheck, SaysWhatItCannotAnswer) {
  Mesh mesh;
  EXPECT_FALSE(mesh.ask(from_web("nobody", 80)));
  EXPECT_FALSE(mesh.ask(from_web("s", 81))) << "no such port";
  ASSERT_TRUE(mesh.builder.set_address("s", workload("s", "10.0.0.5")));
  EXPECT_FALSE(mesh.ask(from_web("s", 80))) << "a pod and a Service";
  AuthzQuestion either = from_web("s", 80);
  either.kind = AuthzQuestion::Kind::kPod;
  EXPECT_EQ((*mesh.ask(either))[0].endpoint.to_string(), "10.0.0.5:80");
  either.kind = AuthzQuestion::Kind::kService;
  EXPECT_EQ(mesh.ask(either)->size(), 2u);
}

TEST(AuthzCheck, OutsideOfTheMeshNothingIsEnforced) {
  Mesh mesh;
  ASSERT_TRUE(mesh.builder.set_policy("ns/p", deny_all("p", istio::security::NAMESPACE)));
  const auto answers = mesh.ask(from_web("c", 80));
  ASSERT_TRUE(answers);
  EXPECT_TRUE((*answers)[0].decision.allowed);
  EXPECT_NE((*answers)[0].decision.reason.find("not in the mesh"), std::string_view::npos);
}

TEST(AuthzCheck, AMissingPolicyDenies) {
  Mesh mesh;
  auto b = workload("b", "10.0.0.2");
  b.mutable_workload()->add_authorization_policies("ns/missing");
  ASSERT_TRUE(mesh.builder.set_address("b", b));
  EXPECT_FALSE((*mesh.ask(from_web("b", 80)))[0].decision.allowed);
}

TEST(AuthzCheck, TellsDryRunBesideTheDecision) {
  Mesh mesh;
  auto dry = deny_all("p", istio::security::NAMESPACE);
  dry.set_dry_run(true);
  ASSERT_TRUE(mesh.builder.set_policy("ns/p", dry));
  const auto answers = mesh.ask(from_web("b", 80));
  EXPECT_TRUE((*answers)[0].decision.allowed);
  ASSERT_TRUE((*answers)[0].remarks.dry_run);
  EXPECT_FALSE((*answers)[0].remarks.dry_run->allowed);
  EXPECT_NE(authz_json(*answers).find("\"dryRun\":{\"allowed\":false"), std::string::npos);
}

TEST(AuthzQuestionJson, IsReadStrictly) {
  const auto good = authz_question(
      R"({"sourceNamespace":"a","sourceServiceAccount":"b","sourceAddress":"10.0.0.1","kind":"pod","namespace":"n","name":"p","port":80})");
  ASSERT_TRUE(good) << good.error().text();
  EXPECT_EQ(good->source_account, "b");
  EXPECT_EQ(*good->source_ip, ip("10.0.0.1"));
  EXPECT_EQ(good->kind, AuthzQuestion::Kind::kPod);
  EXPECT_TRUE(authz_question(R"({"namespace":"n","name":"p","port":80})")) << "plaintext";
  const char* const broken[] = {
      "",
      "[]",
      "{",
      R"({"namespace":"n","name":"p"})",
      R"({"namespace":"n","name":"p","port":0})",
      R"({"namespace":"n","name":"p","port":65536})",
      R"({"namespace":"n","name":"p","port":"80"})",
      R"({"namespace":"n","port":80})",
      R"({"namespace":"n","name":"p","port":80,"sourceAddress":"ten"})",
      R"({"namespace":"n","name":"p","port":80,"sourceNamespace":"a"})",
  };
  for (const char* text : broken) EXPECT_FALSE(authz_question(text)) << text;
}

TEST(PoliciesJson, CountsTheWorkloadsOfThisNode) {
  Mesh mesh;
  for (const char* name : {"d", "e"}) {
    auto message = workload(name, std::string("10.0.1.") + (name[0] == 'd' ? "1" : "2"));
    message.mutable_workload()->set_node(name[0] == 'd' ? "here" : "there");
    ASSERT_TRUE(mesh.builder.set_address(name, message));
  }
  ASSERT_TRUE(mesh.builder.set_policy("ns/p", deny_port(80)));
  const std::string text = policies_json(*mesh.builder.build(), "here");
  EXPECT_NE(text.find("\"localWorkloads\":1"), std::string::npos) << text;
}

}  // namespace
}  // namespace fairlead::proxy
