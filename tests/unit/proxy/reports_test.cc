// What the proxy answers is what `fairlead -o json` prints: a stable API, held by tests/golden/agent. The
// same files are what the command line's own golden tests are fed with.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "proxy/pages_json.h"
#include "proxy/reports_json.h"
#include "state/snapshot_builder.h"
#include "support/golden.h"

namespace fairlead::proxy {
namespace {

using nlohmann::json;

SocketAddress at(const std::string& text) {
  return *SocketAddress::parse(text);
}

std::chrono::system_clock::time_point day(int number) {
  return std::chrono::system_clock::from_time_t(4102444800 + 86400 * number);  // from 2100-01-01 on
}

state::SnapshotPtr mesh() {
  state::SnapshotBuilder builder;
  istio::workload::Address message;
  auto& api = *message.mutable_workload();
  api.set_uid("Kubernetes//Pod/backend/api");
  api.set_name("api");
  api.set_namespace_("backend");
  api.set_service_account("api");
  api.set_node("node2");
  for (const char* address : {"10.244.2.10", "fd00:10:244:2::a"})
    api.add_addresses(IpAddress::parse(address)->to_octets());
  api.set_tunnel_protocol(istio::workload::HBONE);
  api.add_extensions()->set_name("fairlead.dev/in-place");
  api.add_authorization_policies("backend/only-web");
  (*api.mutable_services())["backend/api.backend.svc.cluster.local"].add_ports()->set_service_port(80);
  EXPECT_TRUE(builder.set_address("api", message));
  message.Clear();
  auto& plain = *message.mutable_workload();
  plain.set_uid("Kubernetes//Pod/legacy/visitor");
  plain.set_name("visitor");
  plain.set_namespace_("legacy");
  plain.add_addresses(IpAddress::parse("10.244.1.12")->to_octets());
  EXPECT_TRUE(builder.set_address("visitor", message));
  message.Clear();
  auto& service = *message.mutable_service();
  service.set_name("api");
  service.set_namespace_("backend");
  service.set_hostname("api.backend.svc.cluster.local");
  service.add_addresses()->set_address(IpAddress::parse("10.96.0.10")->to_octets());
  auto& http = *service.add_ports();
  http.set_service_port(80);
  http.set_target_port(8080);
  service.add_ports()->set_service_port(443);  // its target is a name
  EXPECT_TRUE(builder.set_address("backend/api.backend.svc.cluster.local", message));
  istio::security::Authorization policy;
  policy.set_namespace_("backend");
  policy.set_name("only-web");
  policy.set_scope(istio::security::WORKLOAD_SELECTOR);
  policy.set_action(istio::security::ALLOW);
  policy.add_rules();
  EXPECT_TRUE(builder.set_policy("backend/only-web", policy));
  return builder.build();
}

WorkerReport report() {
  WorkerReport report;
  report.inbound = 1;
  report.outbound = 1;
  report.tunnels = 2;
  uint64_t number = 0;
  report.counters.outbound_accepted = 7;
  report.counters.bytes_to_applications = 123456;
  const SpiffeId web = *SpiffeId::make("cluster.local", "frontend", "web");
  ConnectionRecord inbound;
  inbound.id = ++number;
  inbound.inbound = true;
  inbound.tunnel = TunnelKind::kInPlace;
  inbound.source = at("10.244.1.10:40000");
  inbound.destination = inbound.endpoint = at("10.244.2.10:8080");
  inbound.peer = std::make_shared<const SpiffeId>(web);
  inbound.sent = 1500;
  inbound.received = 20;
  inbound.since = Clock::now() - std::chrono::seconds(61);
  inbound.state = "open";
  ConnectionRecord outbound;
  outbound.id = ++number;
  outbound.source = at("[fd00:10:244:2::a]:41000");
  outbound.destination = at("[fd00:10:96::a]:80");
  outbound.endpoint = at("[fd00:10:244:2::a]:8080");
  outbound.service = mesh()->services()[0];
  outbound.since = Clock::now() - std::chrono::seconds(61);
  report.connections = {{"backend/api", inbound}, {"backend/api", outbound}};
  DecisionRecord allowed{day(0),
                         true,
                         "backend/api",
                         inbound.source,
                         web.principal(),
                         inbound.destination,
                         true,
                         "backend/only-web",
                         0,
                         "allowed by rule"};
  DecisionRecord denied{day(1),
                        true,
                        "backend/api",
                        at("10.244.1.12:40001"),
                        "",
                        inbound.destination,
                        false,
                        "",
                        -1,
                        "no ALLOW policy matches"};
  DecisionRecord failed{day(2),
                        false,
                        "backend/api",
                        at("10.244.2.10:41002"),
                        "cluster.local/ns/backend/sa/api",
                        at("10.96.0.10:80"),
                        false,
                        "",
                        -1,
                        "no tunnel to the endpoint"};
  failed.endpoint = at("10.244.2.11:8080");
  failed.service = "backend/api.backend.svc.cluster.local";
  failed.detail = "connect: Connection refused";
  allowed.endpoint = denied.endpoint = inbound.endpoint;
  denied.number = 1;
  failed.number = 2;
  report.decisions = {allowed, denied, failed};
  report.decisions_end = 3;
  return report;
}

void expect_document(const std::string& name, json document) {
  test::expect_golden("agent/" + name + ".json", document.dump(2) + "\n");
}

TEST(Reports, StatusIsStable) {
  ProxyStatus status;
  status.node = "node2";
  status.uptime = std::chrono::seconds(192);
  status.workers = 2;
  status.ready = true;
  status.controller_address = "172.30.0.1:15012";
  status.controller = {true, true, 12, 1, "backend/bad: unknown action"};
  json document = json::parse(status_json(status, *mesh(), {report()}));
  EXPECT_EQ(document["pid"], ::getpid());
  document["pid"] = 4711;
  document["snapshot"]["version"] = 1;
  expect_document("proxy-status", document);
}

// The files of secrets are named, and not opened: neither is there.
TEST(Reports, ConfigurationIsStable) {
  ProxyConfig config;
  config.node = "node2";
  config.query_socket = "/run/fairlead/proxy/proxy.sock";
  config.workers = 2;
  config.controller.address = "172.30.0.1:15012";
  config.controller.server_name = "fairlead-controller";
  config.controller.roots_file = "/etc/fairlead/root-cert.pem";
  config.controller.token_file = "/var/run/secrets/fairlead/token";
  config.controller.network = "n1";
  expect_document("proxy-config", json::parse(config_json(config, true)));
}

TEST(Reports, ListsAreStable) {
  expect_document("proxy-workloads", json::parse(workloads_json(*mesh())));
  expect_document("proxy-services", json::parse(services_json(*mesh())));
  expect_document("proxy-policies", json::parse(policies_json(*mesh(), "node2")));
  expect_document("proxy-decisions", json::parse(decisions_json({report()})));
  expect_document("proxy-decisions-page", json::parse(decisions_page_json({"1267-18f", 1}, {}, {report()})));
}

TEST(Reports, ConnectionsAreStable) {
  WorkerReport more = report();
  more.worker = 1;
  more.connections_left_below = 1;
  json page = json::parse(connections_page_json({"1267-18f", 3}, {report(), more}));
  EXPECT_EQ(page["rows"].size(), 4u);
  EXPECT_EQ(page["rows"][2]["id"], "1-1");
  EXPECT_EQ(page["rows"][3]["id"], "1-2");
  EXPECT_EQ(page["cursor"], (std::vector<int>{0, 1, 0}));
  EXPECT_EQ(page["more"], true);
  EXPECT_EQ(page["total"], 4);
  EXPECT_EQ(page["silentWorkers"], 1) << "one of three said nothing";
  page = json::parse(connections_page_json({"1267-18f", 1}, {report()}));
  for (json& row : page["rows"]) {
    EXPECT_GE(row["ageMs"], 61000);
    row["ageMs"] = 61000;
  }
  expect_document("proxy-connections", page);
  EXPECT_EQ(json::parse(connections_json({report()})).size(), 2u);
}

TEST(Pages, QuestionsAreReadWholeOrNotAtAll) {
  const Answerer self{"i", 2};
  EXPECT_TRUE(page_question("", self)->cursor.empty());
  EXPECT_TRUE(page_question("{}", self)->cursor.empty());
  const auto question = page_question(R"({"instance":"i","cursor":[7,18446744073709551615]})", self);
  ASSERT_TRUE(question);
  EXPECT_FALSE(question->of_another);
  EXPECT_EQ(question->cursor, (std::vector<uint64_t>{7, UINT64_MAX}));
  for (const char* bad :
       {"x", "[]", "3", R"({"cursor":[1,2]})", R"({"instance":"i"})", R"({"instance":7,"cursor":[1,2]})",
        R"({"instance":"i","cursor":[1]})", R"({"instance":"i","cursor":[1,2,3]})",
        R"({"instance":"i","cursor":[1,-2]})", R"({"instance":"i","cursor":[1,"2"]})",
        R"({"instance":"i","cursor":[1,18446744073709551616]})", R"({"instance":"i","cursor":3})"}) {
    EXPECT_FALSE(page_question(bad, self)) << bad;
  }
  const auto foreign = page_question(R"({"instance":"before","cursor":[7]})", self);
  ASSERT_TRUE(foreign) << "it may have had another number of workers";
  EXPECT_TRUE(foreign->of_another);
  EXPECT_TRUE(foreign->cursor.empty());
}

TEST(Pages, OfDecisionsTellWhatIsMissed) {
  WorkerReport first = report();
  first.decisions_end = 700;
  first.decisions_missed = 3;
  WorkerReport third = report();
  third.worker = 2;
  third.decisions_end = 9;
  third.decisions_missed = 1;
  PageQuestion question;
  question.cursor = {600, 55, 2};
  const json page = json::parse(decisions_page_json({"i", 3}, question, {first, third}));
  EXPECT_EQ(page["missed"], 4);
  EXPECT_EQ(page["silentWorkers"], 1);
  EXPECT_EQ(page["cursor"], (std::vector<int>{700, 55, 9})) << "a silent worker is asked for the same again";
  ASSERT_EQ(page["rows"].size(), 6u);
  EXPECT_TRUE(std::is_sorted(page["rows"].begin(), page["rows"].end(), [](const json& a, const json& b) {
    return a["time"].get<std::string>() < b["time"].get<std::string>();
  }));
}

TEST(Reports, CertificatesAreStable) {
  const SpiffeId api = *SpiffeId::make("cluster.local", "backend", "api");
  const SpiffeId waiting = *SpiffeId::make("cluster.local", "backend", "catalog");
  expect_document("proxy-certs",
                  json::parse(certificates_json(
                      {{api, true, "7CE57CA9D49F2ED1", day(0), day(1), day(1), ""},
                       {waiting, false, "", {}, {}, day(0), "the controller does not answer"}})));
}

TEST(Reports, EmptyIsAnEmptyList) {
  for (const std::string& text : {connections_json({}), decisions_json({}), certificates_json({})})
    EXPECT_EQ(text, "[]");
}

TEST(Reports, WorkloadsThatCannotBeReachedSayWhy) {
  const auto shown = [](int protocol, const char* network) {
    istio::workload::Address message;
    auto& workload = *message.mutable_workload();
    workload.set_uid("a");
    workload.set_namespace_("ns");
    workload.set_network(network);
    workload.set_tunnel_protocol(static_cast<istio::workload::TunnelProtocol>(protocol));
    state::SnapshotBuilder builder;
    EXPECT_TRUE(builder.set_address("a", message));
    return workloads_json(*builder.build());
  };
  EXPECT_NE(shown(istio::workload::HBONE, "").find(R"("tunnel":"hbone")"), std::string::npos);
  EXPECT_NE(shown(99, "").find(R"("tunnel":"unsupported")"), std::string::npos);
  const std::string elsewhere = shown(istio::workload::HBONE, "n2");
  EXPECT_NE(elsewhere.find(R"("tunnel":"other-network")"), std::string::npos) << elsewhere;
  EXPECT_NE(elsewhere.find(R"("network":"n2")"), std::string::npos) << elsewhere;
}

}  // namespace
}  // namespace fairlead::proxy
