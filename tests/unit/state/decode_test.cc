#include "state/decode.h"

#include <google/protobuf/unknown_field_set.h>
#include <google/protobuf/wrappers.pb.h>
#include <gtest/gtest.h>

#include <functional>

#include "unit/state/mesh_for_test.h"

namespace fairlead::state {
namespace {

const SpiffeId kWeb{"cluster.local", "frontend", "web"};

template <class Message>
void add_unknown_field(Message& message) {
  message.GetReflection()->MutableUnknownFields(&message)->AddVarint(900, 1);
}

bool allows(const istio::security::Authorization& message, const SpiffeId* source = &kWeb) {
  const auto decoded = decode_policy(message);
  if (!decoded) return false;
  const policy::PolicySet set = {std::make_shared<const policy::Policy>(*decoded)};
  return policy::evaluate(set, {source, ip("10.0.0.1"), ip("10.0.0.2"), 80}).allowed;
}

istio::security::Authorization one_match(istio::security::Action action,
                                         const std::function<void(istio::security::Match&)>& fill) {
  istio::security::Authorization message;
  message.set_namespace_("ns");
  message.set_name("p");
  message.set_scope(istio::security::NAMESPACE);
  message.set_action(action);
  fill(*message.add_rules()->add_clauses()->add_matches());
  return message;
}

TEST(DecodePolicy, APartThatCannotBeReadOpensNothing) {
  struct Case {
    const char* sentence;
    std::function<void(istio::security::Match&)> fill;
  };
  // Beside the unreadable element, each list has one that does not match this connection: a DENY may not
  // take the list for one that does not match, nor an ALLOW of negative lists for one that does.
  const std::vector<Case> cases = {
      {"principal of no kind",
       [](auto& m) {
         m.add_principals();
         m.add_principals()->set_exact("other");
       }},
      {"namespace of no kind",
       [](auto& m) {
         m.add_namespaces()->set_exact("other");
         m.add_namespaces();
       }},
      {"principal of a newer kind", [](auto& m) { add_unknown_field(*m.add_principals()); }},
      {"principal with a field beside its kind",
       [](auto& m) {
         m.add_principals()->set_exact("other");
         add_unknown_field(*m.mutable_principals(0));
       }},
      {"negative principal of no kind",
       [](auto& m) {
         m.add_not_principals();
         m.add_not_principals()->set_exact("other");
       }},
      {"source of three octets",
       [](auto& m) {
         m.add_source_ips()->set_address("abc");
         m.add_source_ips()->set_address(std::string("\xac\x10\x00\x00", 4));
       }},
      {"IPv4 range of 33 bits",
       [](auto& m) {
         m.add_source_ips()->set_address(std::string("\x0a\x00\x00\x00", 4));
         m.mutable_source_ips(0)->set_length(33);
       }},
      {"IPv6 range of 129 bits",
       [](auto& m) {
         m.add_not_destination_ips()->set_address(std::string(16, 'a'));
         m.mutable_not_destination_ips(0)->set_length(129);
       }},
      {"port beyond 65535",
       [](auto& m) {
         m.add_destination_ports(65536 + 80);
         m.add_destination_ports(81);
       }},
      {"negative port beyond 65535", [](auto& m) { m.add_not_destination_ports(70000); }},
      {"service account with a newer field",
       [](auto& m) {
         m.add_service_accounts()->set_namespace_("other");
         add_unknown_field(*m.mutable_service_accounts(0));
       }},
      {"extension", [](auto& m) { m.add_extensions()->set_name("newer"); }},
      {"newer field of the match", [](auto& m) { add_unknown_field(m); }},
  };
  for (const Case& c : cases) {
    EXPECT_FALSE(allows(one_match(istio::security::ALLOW, c.fill))) << "ALLOW: " << c.sentence;
    EXPECT_FALSE(allows(one_match(istio::security::DENY, c.fill))) << "DENY: " << c.sentence;
  }
}

TEST(DecodePolicy, WhatTheReadablePartExcludesStaysExcluded) {
  const auto other_port = one_match(istio::security::DENY, [](auto& m) {
    m.add_destination_ports(81);
    m.add_extensions()->set_name("newer");
  });
  EXPECT_TRUE(allows(other_port));
  const auto not_web = one_match(istio::security::DENY, [](auto& m) {
    m.add_not_principals();
    m.add_not_principals()->set_suffix("/sa/web");
  });
  EXPECT_TRUE(allows(not_web));
}

TEST(DecodePolicy, NewerFieldsAtAnyLevelOpenNothing) {
  for (const auto action : {istio::security::ALLOW, istio::security::DENY}) {
    const auto good = one_match(action, [](auto& m) { m.add_destination_ports(80); });
    ASSERT_EQ(allows(good), action == istio::security::ALLOW);
    auto changed = good;
    add_unknown_field(changed);
    EXPECT_FALSE(allows(changed)) << "policy";
    changed = good;
    changed.add_extensions()->set_name("newer");
    EXPECT_FALSE(allows(changed)) << "extension of the policy";
    changed = good;
    add_unknown_field(*changed.mutable_rules(0));
    EXPECT_FALSE(allows(changed)) << "rule";
    changed = good;
    add_unknown_field(*changed.mutable_rules(0)->mutable_clauses(0));
    EXPECT_FALSE(allows(changed)) << "clause";
  }
  auto without_rules = deny_all("p", istio::security::NAMESPACE);
  without_rules.clear_rules();
  EXPECT_TRUE(allows(without_rules));
  add_unknown_field(without_rules);
  EXPECT_FALSE(allows(without_rules)) << "a DENY whose rules may be in the newer field";
}

TEST(DecodePolicy, NewerEnumValuesAreTheStricterOnes) {
  auto message = one_match(istio::security::ALLOW, [](auto& m) { m.add_destination_ports(80); });
  message.set_action(static_cast<istio::security::Action>(9));
  EXPECT_FALSE(allows(message));
  message.set_action(istio::security::ALLOW);
  message.set_scope(static_cast<istio::security::Scope>(9));
  EXPECT_EQ(decode_policy(message)->scope, policy::Scope::kGlobal);
  EXPECT_FALSE(allows(message));
}

TEST(DecodePolicy, RefusesWhatHasNoName) {
  istio::security::Authorization message;
  EXPECT_FALSE(decode_policy(message));
  message.set_name("p");
  EXPECT_TRUE(decode_policy(message)) << "a policy of the mesh may have no namespace";
  message.set_scope(istio::security::NAMESPACE);
  EXPECT_FALSE(decode_policy(message));
}

TEST(DecodePolicy, ReadsEveryKindOfMatch) {
  const auto message = one_match(istio::security::ALLOW, [](auto& m) {
    m.add_principals()->set_prefix("cluster.local/");
    m.add_namespaces()->set_exact("frontend");
    m.add_not_namespaces()->set_suffix("-test");
    (void)m.add_principals()->mutable_presence();
    auto& range = *m.add_source_ips();
    range.set_address(std::string("\x0a\x00\x00\x00", 4));
    range.set_length(8);
    auto& every_v6 = *m.add_not_destination_ips();
    every_v6.set_address(std::string(16, '\0'));
    m.add_destination_ports(80);
    auto& account = *m.add_service_accounts();
    account.set_namespace_("frontend");
    account.set_serviceaccount("web");
  });
  const auto decoded = decode_policy(message);
  ASSERT_TRUE(decoded);
  const policy::Match& match = decoded->rules[0].clauses[0].matches[0];
  EXPECT_FALSE(match.undecidable);
  EXPECT_EQ(match.principals[0].kind, policy::StringMatch::Kind::kPrefix);
  EXPECT_EQ(match.principals[1].kind, policy::StringMatch::Kind::kPresence);
  EXPECT_EQ(match.not_namespaces[0].kind, policy::StringMatch::Kind::kSuffix);
  EXPECT_EQ(match.source_ips[0].to_string(), "10.0.0.0/8");
  EXPECT_EQ(match.not_destination_ips[0].length, 0);
  EXPECT_TRUE(allows(message));
  EXPECT_FALSE(allows(message, nullptr));
}

void extend(istio::security::Authorization& message, const char* name, const char* value = nullptr) {
  auto& extension = *message.add_extensions();
  extension.set_name(name);
  if (value == nullptr) return;
  google::protobuf::StringValue text;
  text.set_value(value);
  extension.mutable_config()->PackFrom(text);
}

TEST(DecodePolicy, ReadsItsExtensions) {
  auto message = one_match(istio::security::DENY, [](auto& m) { m.add_not_destination_ports(0); });
  message.set_dry_run(true);
  extend(message, "fairlead.dev/audit");
  extend(message, "fairlead.dev/targets", "service:ns/a.ns.svc.cluster.local,gateway,service:ns/b");
  extend(message, "fairlead.dev/notes", "one\ntwo, with a comma\n");
  const auto decoded = decode_policy(message);
  ASSERT_TRUE(decoded);
  EXPECT_EQ(decoded->action, policy::Action::kAudit);
  EXPECT_FALSE(decoded->dry_run) << "that is for agents that do not know AUDIT";
  EXPECT_EQ(decoded->services, (std::vector<std::string>{"ns/a.ns.svc.cluster.local", "ns/b"}));
  EXPECT_TRUE(decoded->gateway);
  EXPECT_EQ(decoded->notes, (std::vector<std::string>{"one", "two, with a comma"}));
  EXPECT_FALSE(policy::is_undecidable(*decoded));
  EXPECT_TRUE(allows(message));
}

TEST(DecodePolicy, ExtensionsThatAreNotUnderstoodAreReadStrictly) {
  const std::pair<const char*, const char*> broken[] = {{"someone.else/extension", "x"},
                                                        {"fairlead.dev/targets", nullptr},
                                                        {"fairlead.dev/targets", ""},
                                                        {"fairlead.dev/targets", "service:"},
                                                        {"fairlead.dev/targets", "waypoint"}};
  for (const auto& [name, value] : broken) {
    auto message = one_match(istio::security::ALLOW, [](auto& m) { m.add_destination_ports(80); });
    ASSERT_TRUE(allows(message));
    extend(message, name, value);
    EXPECT_FALSE(allows(message)) << name << " of an ALLOW";
    message.set_action(istio::security::DENY);
    EXPECT_FALSE(allows(message)) << name << " of a DENY";
    extend(message, "fairlead.dev/audit");
    EXPECT_FALSE(allows(message)) << name << " beside AUDIT: who knows what it says";
  }
}

TEST(DecodePolicy, NotesChangeNothing) {
  for (const char* value : {static_cast<const char*>(nullptr), "", "a note"}) {
    auto message = one_match(istio::security::ALLOW, [](auto& m) { m.add_destination_ports(80); });
    extend(message, "fairlead.dev/notes", value);
    EXPECT_TRUE(allows(message));
  }
}

TEST(DecodeWorkload, DefaultsOfEmptyFields) {
  istio::workload::Workload message;
  message.set_uid("u");
  message.set_namespace_("ns");
  const auto decoded = decode_workload(message);
  ASSERT_TRUE(decoded);
  EXPECT_EQ(decoded->identity.uri(), "spiffe://cluster.local/ns/ns/sa/default");
  EXPECT_EQ(decoded->cluster, "Kubernetes");
  EXPECT_EQ(decoded->tunnel, Tunnel::kNone);
  EXPECT_FALSE(decoded->in_place);
  EXPECT_FALSE(decoded->host_network);
  EXPECT_TRUE(decoded->healthy);
}

TEST(DecodeWorkload, ReadsItsFlags) {
  auto message = workload("a", "fd00::1").workload();
  message.set_trust_domain("other.example");
  message.set_status(istio::workload::UNHEALTHY);
  message.set_network_mode(istio::workload::HOST_NETWORK);
  message.add_extensions()->set_name("someone.else/extension");
  EXPECT_FALSE(decode_workload(message)->in_place);
  message.add_extensions()->set_name("fairlead.dev/in-place");
  const auto decoded = decode_workload(message);
  EXPECT_TRUE(decoded->in_place);
  EXPECT_TRUE(decoded->host_network);
  EXPECT_FALSE(decoded->healthy);
  EXPECT_EQ(decoded->identity.uri(), "spiffe://other.example/ns/ns/sa/sa-a");
  EXPECT_EQ(decoded->addresses[0], ip("fd00::1"));
  message.set_status(static_cast<istio::workload::WorkloadStatus>(7));
  EXPECT_FALSE(decode_workload(message)->healthy) << "a health that we do not know is none";
}

TEST(DecodeWorkload, ATunnelThatWeDoNotSpeakIsNotNone) {
  auto message = workload("a", "10.0.0.1").workload();
  const auto tunnel = [&](int protocol) {
    message.set_tunnel_protocol(static_cast<istio::workload::TunnelProtocol>(protocol));
    return decode_workload(message)->tunnel;
  };
  EXPECT_EQ(tunnel(istio::workload::NONE), Tunnel::kNone);
  EXPECT_EQ(tunnel(istio::workload::HBONE), Tunnel::kHbone);
  EXPECT_EQ(tunnel(istio::workload::LEGACY_ISTIO_MTLS), Tunnel::kUnsupported);
  EXPECT_EQ(tunnel(3), Tunnel::kUnsupported);
  EXPECT_EQ(tunnel(-1), Tunnel::kUnsupported);
}

TEST(DecodeWorkload, TellsItsOwnNetworkFromOthers) {
  auto message = workload("a", "10.0.0.1").workload();
  EXPECT_FALSE(decode_workload(message)->foreign);
  EXPECT_TRUE(decode_workload(message, "n1")->foreign) << "no name is a name";
  message.set_network("n1");
  EXPECT_TRUE(decode_workload(message)->foreign);
  EXPECT_TRUE(decode_workload(message, "n2")->foreign);
  EXPECT_FALSE(decode_workload(message, "n1")->foreign);
  EXPECT_EQ(decode_workload(message)->network, "n1");
}

TEST(DecodeWorkload, RefusesAndNamesWhatIsBroken) {
  struct Case {
    const char* sentence;
    std::function<void(istio::workload::Workload&)> spoil;
  };
  const std::vector<Case> cases = {
      {"address of no octets", [](auto& w) { w.add_addresses(""); }},
      {"address of five octets", [](auto& w) { w.add_addresses("abcde"); }},
      {"no namespace", [](auto& w) { w.clear_namespace_(); }},
      {"namespace that leaves its place", [](auto& w) { w.set_namespace_("../ns/other"); }},
      {"service account with a slash", [](auto& w) { w.set_service_account("a/b"); }},
      {"trust domain in upper case", [](auto& w) { w.set_trust_domain("Cluster.Local"); }},
      {"service port beyond 65535",
       [](auto& w) { (*w.mutable_services())["ns/s"].add_ports()->set_service_port(65536); }},
      {"target port beyond 65535",
       [](auto& w) { (*w.mutable_services())["ns/s"].add_ports()->set_target_port(1u << 31); }},
  };
  for (const Case& c : cases) {
    auto message = workload("a", "10.0.0.1").workload();
    c.spoil(message);
    const auto decoded = decode_workload(message);
    ASSERT_FALSE(decoded) << c.sentence;
    EXPECT_NE(decoded.error().text().find("Kubernetes//Pod/ns/a"), std::string::npos)
        << c.sentence << ": " << decoded.error().text();
  }
  auto nameless = workload("a", "10.0.0.1").workload();
  nameless.clear_uid();
  EXPECT_FALSE(decode_workload(nameless));
}

TEST(DecodeService, KeepsAddressesOfOtherNetworksApart) {
  auto message = service("s", "10.96.0.1").service();
  auto& other = *message.add_addresses();
  other.set_network("n1");
  other.set_address(ip("10.97.0.1").to_octets());
  auto decoded = decode_service(message);
  EXPECT_EQ(decoded->addresses, std::vector{ip("10.96.0.1")});
  EXPECT_EQ(decoded->foreign_addresses, std::vector{ip("10.97.0.1")});
  decoded = decode_service(message, "n1");
  EXPECT_EQ(decoded->addresses, std::vector{ip("10.97.0.1")});
  EXPECT_EQ(decoded->foreign_addresses, std::vector{ip("10.96.0.1")});
}

TEST(DecodeService, RefusesWhatIsBrokenAndSkipsRanges) {
  auto message = service("s", "10.96.0.1").service();
  message.mutable_addresses(0)->set_length(24);
  EXPECT_TRUE(decode_service(message)->addresses.empty());
  message.mutable_addresses(0)->clear_length();
  message.mutable_addresses(0)->set_address("abc");
  EXPECT_FALSE(decode_service(message));
  message = service("s", "10.96.0.1").service();
  message.mutable_ports(0)->set_target_port(65536);
  EXPECT_FALSE(decode_service(message));
  message = service("s", "10.96.0.1").service();
  message.clear_hostname();
  EXPECT_FALSE(decode_service(message));
}

}  // namespace
}  // namespace fairlead::state
