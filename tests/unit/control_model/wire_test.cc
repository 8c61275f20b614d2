// The numbers on the wire are the contract with every other ambient mesh: read here by hand, without the
// generated code.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <vector>

#include "unit/control_model/objects_for_test.h"

namespace fairlead::model {
namespace {

using ::testing::ElementsAre;
using testing::meta;
using testing::pod;

struct Field {
  uint64_t number = 0;
  uint64_t varint = 0;  // wire type 0
  std::string bytes;    // wire type 2
};

uint64_t varint(const std::string& bytes, size_t& at) {
  uint64_t value = 0;
  for (int shift = 0; at < bytes.size(); shift += 7) {
    const auto byte = static_cast<unsigned char>(bytes[at++]);
    value |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if (byte < 0x80) break;
  }
  return value;
}

std::vector<Field> fields(const std::string& bytes) {
  std::vector<Field> list;
  for (size_t at = 0; at < bytes.size();) {
    const uint64_t key = varint(bytes, at);
    Field field{key >> 3, 0, {}};
    const uint64_t value = varint(bytes, at);
    if ((key & 7) == 2) {
      field.bytes = bytes.substr(at, value);
      at += value;
    } else {
      EXPECT_EQ(key & 7, 0u) << "only varints and bytes are expected";
      field.varint = value;
    }
    list.push_back(field);
  }
  return list;
}

Field only(const std::string& bytes, uint64_t number) {
  std::vector<Field> found;
  for (const Field& field : fields(bytes)) {
    if (field.number == number) found.push_back(field);
  }
  EXPECT_EQ(found.size(), 1u) << "field " << number;
  return found.empty() ? Field{} : found[0];
}

TEST(Wire, Workload) {
  ObjectSet objects;
  objects.pods = {pod("shop", "a", {{"istio.io/dataplane-mode", "ambient"}, {"app", "web"}})};
  objects.pods[0].service_account = "seller";
  objects.pods[0].ready = false;
  objects.services.push_back({});
  objects.services[0].meta = meta("shop", "web");
  objects.services[0].selector = {{"app", "web"}};
  objects.services[0].ports = {{80, 8080, ""}};
  objects.authorization_policies.push_back({});
  objects.authorization_policies[0].meta = meta("shop", "p");
  objects.authorization_policies[0].has_selector = true;
  objects.authorization_policies[0].selector = {{"app", "web"}};
  MeshSettings settings;
  settings.trust_domain = "example.org";
  settings.cluster_id = "west";
  const Mesh mesh = translate(objects, settings);
  const std::string address = mesh.addresses.at("west//Pod/shop/a").SerializeAsString();
  const std::string workload = only(address, 1).bytes;
  EXPECT_EQ(only(workload, 20).bytes, "west//Pod/shop/a");
  EXPECT_EQ(only(workload, 1).bytes, "a");
  EXPECT_EQ(only(workload, 2).bytes, "shop");
  EXPECT_EQ(only(workload, 3).bytes, std::string("\x0a\xf4\x01\x02", 4));
  EXPECT_EQ(only(workload, 5).varint, 1u) << "HBONE";
  EXPECT_EQ(only(workload, 6).bytes, "example.org");
  EXPECT_EQ(only(workload, 7).bytes, "seller");
  EXPECT_EQ(only(workload, 9).bytes, "node1");
  EXPECT_EQ(only(workload, 10).bytes, "web");
  EXPECT_EQ(only(workload, 12).varint, 2u) << "POD";
  EXPECT_EQ(only(workload, 16).bytes, "shop/p");
  EXPECT_EQ(only(workload, 17).varint, 1u) << "UNHEALTHY";
  EXPECT_EQ(only(workload, 18).bytes, "west");
  EXPECT_EQ(only(only(workload, 26).bytes, 1).bytes, "fairlead.dev/in-place");
  const std::string entry = only(workload, 22).bytes;
  EXPECT_EQ(only(entry, 1).bytes, "shop/web.shop.svc.cluster.local");
  const std::string port = only(only(entry, 2).bytes, 1).bytes;
  EXPECT_EQ(only(port, 1).varint, 80u);
  EXPECT_EQ(only(port, 2).varint, 8080u);
}

TEST(Wire, Service) {
  ObjectSet objects;
  objects.services.push_back({});
  objects.services[0].meta = meta("shop", "web");
  objects.services[0].selector = {{"app", "web"}};
  objects.services[0].cluster_addresses = {"10.96.0.10"};
  objects.services[0].ports = {{80, 8080, ""}};
  const std::string address =
      translate(objects, {}).addresses.at("shop/web.shop.svc.cluster.local").SerializeAsString();
  const std::string service = only(address, 2).bytes;
  EXPECT_EQ(only(service, 1).bytes, "web");
  EXPECT_EQ(only(service, 2).bytes, "shop");
  EXPECT_EQ(only(service, 3).bytes, "web.shop.svc.cluster.local");
  EXPECT_EQ(only(only(service, 4).bytes, 2).bytes, std::string("\x0a\x60\x00\x0a", 4));
  EXPECT_EQ(only(only(service, 5).bytes, 1).varint, 80u);
  EXPECT_EQ(only(only(service, 5).bytes, 2).varint, 8080u);
}

TEST(Wire, Authorization) {
  AuthorizationPolicy policy;
  policy.meta = meta("shop", "p");
  policy.action = "DENY";
  policy.has_selector = true;
  policy.selector = {{"app", "web"}};
  policy.dry_run = true;
  PolicyRule rule;
  rule.from = {{.principals = {"e", "p*", "*s", "*"},
                .not_principals = {"x"},
                .namespaces = {"n"},
                .not_namespaces = {"m"},
                .service_accounts = {"a/b"},
                .not_service_accounts = {"c/d"},
                .ip_blocks = {"10.0.0.0/8"},
                .not_ip_blocks = {"10.1.0.0/16"}}};
  rule.to = {{.ports = {80}, .not_ports = {81}}};
  rule.when = {{"destination.ip", {"10.0.0.1"}, {"10.0.0.2"}, {}}};
  policy.rules = {rule};
  ObjectSet objects;
  objects.authorization_policies = {policy};
  const std::string bytes = translate(objects, {}).policies.at("shop/p").SerializeAsString();
  EXPECT_EQ(only(bytes, 1).bytes, "p");
  EXPECT_EQ(only(bytes, 2).bytes, "shop");
  EXPECT_EQ(only(bytes, 3).varint, 2u) << "WORKLOAD_SELECTOR";
  EXPECT_EQ(only(bytes, 4).varint, 1u) << "DENY";
  EXPECT_EQ(only(bytes, 6).varint, 1u) << "dry run";
  const auto clauses = fields(only(bytes, 5).bytes);
  ASSERT_EQ(clauses.size(), 3u);
  for (const Field& clause : clauses) EXPECT_EQ(clause.number, 1u);
  const std::string source = only(clauses[0].bytes, 2).bytes;
  std::vector<uint64_t> forms;
  for (const Field& field : fields(source)) {
    if (field.number == 3) forms.push_back(fields(field.bytes).at(0).number);
  }
  EXPECT_THAT(forms, ElementsAre(1, 2, 3, 4)) << "exact, prefix, suffix, presence";
  EXPECT_EQ(only(only(source, 1).bytes, 1).bytes, "n");
  EXPECT_EQ(only(only(source, 2).bytes, 1).bytes, "m");
  EXPECT_EQ(only(only(source, 4).bytes, 1).bytes, "x");
  EXPECT_EQ(only(only(source, 5).bytes, 1).bytes, std::string("\x0a\0\0\0", 4));
  EXPECT_EQ(only(only(source, 5).bytes, 2).varint, 8u);
  EXPECT_EQ(only(only(source, 6).bytes, 2).varint, 16u);
  EXPECT_EQ(only(only(source, 11).bytes, 1).bytes, "a");
  EXPECT_EQ(only(only(source, 11).bytes, 2).bytes, "b");
  EXPECT_EQ(only(only(source, 12).bytes, 2).bytes, "d");
  // proto3 packs repeated numbers: the bytes of one length-delimited field.
  const std::string operation = only(clauses[1].bytes, 2).bytes;
  EXPECT_EQ(only(operation, 9).bytes, "\x50");
  EXPECT_EQ(only(operation, 10).bytes, "\x51");
  const std::string condition = only(clauses[2].bytes, 2).bytes;
  EXPECT_EQ(only(only(condition, 7).bytes, 2).varint, 32u);
  EXPECT_EQ(only(only(condition, 8).bytes, 1).bytes, std::string("\x0a\0\0\x02", 4));
}

}  // namespace
}  // namespace fairlead::model
