#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "unit/control_model/objects_for_test.h"

namespace fairlead::model {
namespace {

using testing::ambient_namespace;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::meta;
using testing::pod;
using ::testing::SizeIs;
using testing::workload;

constexpr const char* kUid = "Kubernetes//Pod/shop/a";

struct EnrolmentCase {
  const char* sentence;
  std::function<void(Pod&)> change;
  bool namespace_is_ambient;
  bool enrolled;
};

TEST(Enrolment, FollowsLabelsOfPodAndNamespace) {
  const auto label = [](const char* value) {
    return [value](Pod& p) { p.meta.labels["istio.io/dataplane-mode"] = value; };
  };
  const auto nothing = [](Pod&) {};
  const EnrolmentCase cases[] = {
      {"a pod of an ambient namespace is enrolled", nothing, true, true},
      {"a pod of another namespace is not", nothing, false, false},
      {"a pod may opt out", label("none"), true, false},
      {"a pod may opt in by itself", label("ambient"), false, true},
      {"an unknown mode of the pod says nothing", label("sidecar"), true, true},
      {"an unknown mode does not enrol", label("sidecar"), false, false},
      {"a pod on the host's network is the host's", [](Pod& p) { p.host_network = true; }, true, false},
      {"a pod with a sidecar speaks for itself",
       [](Pod& p) { p.meta.annotations["sidecar.istio.io/status"] = "{}"; }, true, false},
  };
  for (const EnrolmentCase& c : cases) {
    ObjectSet objects;
    if (c.namespace_is_ambient) objects.namespaces.push_back(ambient_namespace("shop"));
    objects.pods.push_back(pod("shop", "a"));
    c.change(objects.pods.back());
    const Mesh mesh = translate(objects, {});
    const auto& found = workload(mesh, kUid);
    EXPECT_EQ(found.tunnel_protocol(), c.enrolled ? istio::workload::HBONE : istio::workload::NONE)
        << c.sentence;
    EXPECT_EQ(mesh.identities_by_node.contains("node1"), c.enrolled) << c.sentence;
    EXPECT_EQ(found.extensions_size(), c.enrolled ? 1 : 0) << c.sentence;
  }
}

TEST(Enrolment, NeverInKubeSystem) {
  ObjectSet objects;
  objects.namespaces.push_back(ambient_namespace("kube-system"));
  objects.pods.push_back(pod("kube-system", "dns", {{"istio.io/dataplane-mode", "ambient"}}));
  const Mesh mesh = translate(objects, {});
  EXPECT_EQ(workload(mesh, "Kubernetes//Pod/kube-system/dns").tunnel_protocol(), istio::workload::NONE);
  EXPECT_THAT(mesh.identities_by_node, IsEmpty());
}

TEST(Workload, TunnelIsInPlaceUnlessThePodAsksFor15008) {
  ObjectSet objects;
  objects.namespaces.push_back(ambient_namespace("shop"));
  objects.pods = {pod("shop", "a"), pod("shop", "b")};
  objects.pods[1].meta.annotations["fairlead.dev/tunnel"] = "15008";
  const Mesh mesh = translate(objects, {});
  ASSERT_THAT(workload(mesh, kUid).extensions(), SizeIs(1));
  EXPECT_EQ(workload(mesh, kUid).extensions(0).name(), "fairlead.dev/in-place");
  EXPECT_EQ(workload(mesh, "Kubernetes//Pod/shop/b").tunnel_protocol(), istio::workload::HBONE);
  EXPECT_THAT(workload(mesh, "Kubernetes//Pod/shop/b").extensions(), IsEmpty());
}

TEST(Workload, CarriesWhatThePodSays) {
  ObjectSet objects;
  objects.pods.push_back(pod("shop", "a", {{"app", "web"}, {"version", "v2"}}));
  objects.pods[0].service_account = "seller";
  objects.pods[0].addresses = {"10.244.1.2", "fd00::2"};
  const Mesh mesh = translate(objects, {});
  const auto& found = workload(mesh, kUid);
  EXPECT_EQ(found.uid(), kUid);
  EXPECT_EQ(found.node(), "node1");
  EXPECT_EQ(found.service_account(), "seller");
  EXPECT_EQ(found.canonical_name(), "web");
  EXPECT_EQ(found.canonical_revision(), "v2");
  EXPECT_THAT(found.addresses(), ElementsAre(std::string("\x0a\xf4\x01\x02", 4), SizeIs(16)));
  EXPECT_EQ(found.status(), istio::workload::HEALTHY);
}

TEST(Workload, CanonicalNameLabelWinsOverApp) {
  ObjectSet objects;
  objects.pods.push_back(pod("shop", "a", {{"app", "web"}, {"service.istio.io/canonical-name", "front"}}));
  EXPECT_EQ(workload(translate(objects, {}), kUid).canonical_name(), "front");
}

TEST(Workload, OtherTrustDomainAndClusterAreSaid) {
  MeshSettings settings;
  settings.trust_domain = "example.org";
  settings.cluster_id = "west";
  ObjectSet objects;
  objects.pods.push_back(pod("shop", "a", {{"istio.io/dataplane-mode", "ambient"}}));
  const Mesh mesh = translate(objects, settings);
  const auto& found = workload(mesh, "west//Pod/shop/a");
  EXPECT_EQ(found.trust_domain(), "example.org");
  EXPECT_EQ(found.cluster_id(), "west");
  EXPECT_EQ(mesh.identities_by_node.at("node1").begin()->uri(), "spiffe://example.org/ns/shop/sa/default");
}

TEST(Workload, PodsThatServeNobodyAreLeftOut) {
  const std::pair<const char*, std::function<void(Pod&)>> cases[] = {
      {"a pod that has succeeded", [](Pod& p) { p.phase = "Succeeded"; }},
      {"a pod that has failed", [](Pod& p) { p.phase = "Failed"; }},
      {"a pod without an address", [](Pod& p) { p.addresses.clear(); }},
  };
  for (const auto& [sentence, change] : cases) {
    ObjectSet objects;
    objects.pods.push_back(pod("shop", "a", {{"istio.io/dataplane-mode", "ambient"}}));
    change(objects.pods[0]);
    const Mesh mesh = translate(objects, {});
    EXPECT_THAT(mesh.addresses, IsEmpty()) << sentence;
    EXPECT_THAT(mesh.identities_by_node, IsEmpty()) << sentence << ": its identity must not be given out";
  }
}

TEST(Workload, ReadinessBecomesHealth) {
  const std::tuple<const char*, const char*, std::optional<bool>, istio::workload::WorkloadStatus> cases[] = {
      {"a ready pod", "Running", true, istio::workload::HEALTHY},
      {"a pod that fails its probe", "Running", false, istio::workload::UNHEALTHY},
      {"a running pod of which nobody says", "Running", std::nullopt, istio::workload::HEALTHY},
      {"a pod that is being started", "Pending", std::nullopt, istio::workload::UNHEALTHY},
  };
  for (const auto& [sentence, phase, ready, status] : cases) {
    ObjectSet objects;
    objects.pods.push_back(pod("shop", "a"));
    objects.pods[0].phase = phase;
    objects.pods[0].ready = ready;
    EXPECT_EQ(workload(translate(objects, {}), kUid).status(), status) << sentence;
  }
}

TEST(Workload, UnreadableOnesAreLeftOutWithAnError) {
  ObjectSet objects;
  objects.pods = {pod("shop", "a", {}, "10.244.1.300"), pod("shop", "b")};
  objects.pods[1].service_account = "no/slash";
  const Mesh mesh = translate(objects, {});
  EXPECT_THAT(mesh.addresses, IsEmpty());
  ASSERT_THAT(mesh.reports, SizeIs(2));
  EXPECT_EQ(mesh.reports[0].severity, Report::Severity::kError);
  EXPECT_EQ(mesh.reports[0].field, "status.podIPs");
  EXPECT_THAT(to_string(mesh.reports[0]), HasSubstr("test.yaml:7: Pod shop/a: status.podIPs: "));
  EXPECT_EQ(mesh.reports[1].field, "spec.serviceAccountName");
}

// ---- services ----

Service service(const char* name, std::vector<ServicePort> ports, Labels selector = {{"app", "web"}}) {
  Service result;
  result.meta = meta("shop", name);
  result.selector = std::move(selector);
  result.cluster_addresses = {"10.96.0.10"};
  result.ports = std::move(ports);
  return result;
}

TEST(Services, PortsAreResolvedForEachWorkload) {
  ObjectSet objects;
  objects.pods = {pod("shop", "a", {{"app", "web"}}), pod("shop", "b", {{"app", "web"}}),
                  pod("shop", "c", {{"app", "db"}})};
  objects.pods[0].ports = {{"http", 8080}};
  objects.pods[1].ports = {{"http", 9090}};
  objects.services.push_back(service("web", {{80, 0, "http"}, {81, 8081, ""}}));
  const Mesh mesh = translate(objects, {});
  const std::string key = "shop/web.shop.svc.cluster.local";
  const auto targets = [&](const char* uid) {
    std::vector<uint32_t> found;
    const auto& services = workload(mesh, uid).services();
    if (!services.contains(key)) return found;
    for (const auto& port : services.at(key).ports())
      found.insert(found.end(), {port.service_port(), port.target_port()});
    return found;
  };
  EXPECT_THAT(targets("Kubernetes//Pod/shop/a"), ElementsAre(80, 8080, 81, 8081));
  EXPECT_THAT(targets("Kubernetes//Pod/shop/b"), ElementsAre(80, 9090, 81, 8081));
  EXPECT_THAT(targets("Kubernetes//Pod/shop/c"), IsEmpty()) << "its labels do not fit";
  const auto& sent = mesh.addresses.at(key).service();
  EXPECT_EQ(sent.hostname(), "web.shop.svc.cluster.local");
  EXPECT_EQ(sent.ports(0).target_port(), 0u) << "a name is each workload's to resolve";
  EXPECT_EQ(sent.addresses(0).address(), std::string("\x0a\x60\x00\x0a", 4));
}

TEST(Services, APortNameThatThePodLacksIsLeftOut) {
  ObjectSet objects;
  objects.pods = {pod("shop", "a", {{"app", "web"}})};
  objects.services.push_back(service("web", {{80, 0, "http"}}));
  const Mesh mesh = translate(objects, {});
  EXPECT_THAT(workload(mesh, kUid).services().at("shop/web.shop.svc.cluster.local").ports(), IsEmpty());
}

TEST(Services, SelectOnlyInTheirOwnNamespace) {
  ObjectSet objects;
  objects.pods = {pod("other", "a", {{"app", "web"}})};
  objects.services.push_back(service("web", {{80, 8080, ""}}));
  EXPECT_THAT(workload(translate(objects, {}), "Kubernetes//Pod/other/a").services(), IsEmpty());
}

TEST(Services, WhichAreSent) {
  const std::tuple<const char*, std::function<void(Service&)>, bool> cases[] = {
      {"a service with a selector", [](Service&) {}, true},
      {"a headless service", [](Service& s) { s.cluster_addresses.clear(); }, true},
      {"a service without a selector", [](Service& s) { s.selector.clear(); }, false},
      {"an ExternalName", [](Service& s) { s.type = "ExternalName"; }, false},
      {"a service without TCP ports", [](Service& s) { s.ports.clear(); }, false},
      {"a service whose address cannot be read", [](Service& s) { s.cluster_addresses = {"ten"}; }, false},
  };
  for (const auto& [sentence, change, sent] : cases) {
    ObjectSet objects;
    objects.services.push_back(service("web", {{80, 8080, ""}}));
    change(objects.services[0]);
    EXPECT_EQ(translate(objects, {}).addresses.contains("shop/web.shop.svc.cluster.local"), sent) << sentence;
  }
}

TEST(Translation, SameObjectsGiveSameMesh) {
  ObjectSet objects;
  objects.namespaces.push_back(ambient_namespace("shop"));
  objects.pods = {pod("shop", "a", {{"app", "web"}})};
  objects.services = {service("web", {{80, 8080, ""}}), service("web2", {{80, 8080, ""}})};
  EXPECT_EQ(workload(translate(objects, {}), kUid).DebugString(),
            workload(translate(objects, {}), kUid).DebugString());
}

}  // namespace
}  // namespace fairlead::model
