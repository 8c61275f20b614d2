#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "control/source/source.h"

namespace fairlead::source {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using ::testing::StartsWith;

struct Read {
  model::ObjectSet objects;
  std::string errors;
};

Read read(const std::string& content) {
  Read result;
  read_manifests("m.yaml", content, result.objects, result.errors);
  return result;
}

TEST(Manifests, PodAsAServerWritesIt) {
  const Read result = read(R"(apiVersion: v1
kind: Pod
metadata:
  name: a
  namespace: shop
  uid: 1-2
  creationTimestamp: "2026-01-01T00:00:01Z"
  labels: {app: web, version: 1}
  annotations: {fairlead.dev/tunnel: "15008"}
  managedFields: [{manager: kubelet}]
spec:
  nodeName: node1
  serviceAccountName: seller
  hostNetwork: true
  containers:
  - name: c
    ports: [{name: http, containerPort: 8080, protocol: TCP}, {name: dns, containerPort: 53, protocol: UDP}]
  - name: without-ports
  initContainers:
  - {name: stays, restartPolicy: Always, ports: [{name: side, containerPort: 9000}]}
  - {name: goes, ports: [{name: gone, containerPort: 9001}]}
status:
  phase: Running
  podIP: 10.244.1.2
  podIPs: [{ip: 10.244.1.2}, {ip: "fd00::2"}]
  conditions: [{type: Initialized, status: "True"}, {type: Ready, status: "False"}]
)");
  ASSERT_EQ(result.errors, "");
  ASSERT_THAT(result.objects.pods, SizeIs(1));
  const model::Pod& pod = result.objects.pods[0];
  EXPECT_EQ(pod.meta.ns, "shop");
  EXPECT_EQ(pod.meta.created, "2026-01-01T00:00:01Z");
  EXPECT_EQ(pod.meta.labels.at("version"), "1");
  EXPECT_EQ(pod.meta.annotations.at("fairlead.dev/tunnel"), "15008");
  EXPECT_EQ(pod.node, "node1");
  EXPECT_EQ(pod.service_account, "seller");
  EXPECT_TRUE(pod.host_network);
  EXPECT_THAT(pod.addresses, ElementsAre("10.244.1.2", "fd00::2"));
  EXPECT_EQ(pod.ready, false);
  ASSERT_THAT(pod.ports, SizeIs(2));
  EXPECT_EQ(pod.ports[0].port, 8080);
  EXPECT_EQ(pod.ports[1].name, "side");
}

TEST(Manifests, DefaultsAndOldFields) {
  const Read result = read("kind: Pod\nmetadata: {name: a}\nstatus: {podIP: 10.0.0.1}\n");
  ASSERT_EQ(result.errors, "");
  EXPECT_EQ(result.objects.pods.at(0).meta.ns, "default");
  EXPECT_EQ(result.objects.pods.at(0).service_account, "default");
  EXPECT_THAT(result.objects.pods.at(0).addresses, ElementsAre("10.0.0.1"));
  EXPECT_EQ(result.objects.pods.at(0).ready, std::nullopt);
}

TEST(Manifests, Services) {
  const Read result = read(R"(kind: Service
metadata: {name: web, namespace: shop}
spec:
  selector: {app: web}
  clusterIP: 10.96.0.1
  clusterIPs: [10.96.0.1, "fd00::1"]
  ports: [{port: 80, targetPort: http}, {port: 81, targetPort: 8081}, {port: 82}, {port: 53, protocol: UDP}]
---
kind: Service
metadata: {name: headless, namespace: shop}
spec: {clusterIP: None, selector: {app: web}, ports: [{port: 80}]}
)");
  ASSERT_EQ(result.errors, "");
  ASSERT_THAT(result.objects.services, SizeIs(2));
  const auto& ports = result.objects.services[0].ports;
  ASSERT_THAT(ports, SizeIs(3));
  EXPECT_EQ(ports[0].target_name, "http");
  EXPECT_EQ(ports[0].target, 0);
  EXPECT_EQ(ports[1].target, 8081);
  EXPECT_EQ(ports[2].target, 82);
  EXPECT_THAT(result.objects.services[0].cluster_addresses, ElementsAre("10.96.0.1", "fd00::1"));
  EXPECT_THAT(result.objects.services[1].cluster_addresses, IsEmpty());
}

TEST(Manifests, ManyDocumentsAndLists) {
  const Read result = read(R"(---
---
kind: List
items:
- {kind: Namespace, metadata: {name: a}}
- {kind: Namespace, metadata: {name: b}}
---
kind: Namespace
metadata: {name: c}
)");
  EXPECT_EQ(result.errors, "");
  EXPECT_THAT(result.objects.namespaces, SizeIs(3));
  EXPECT_EQ(result.objects.namespaces[1].meta.at.line, 6);
  EXPECT_EQ(result.objects.namespaces[2].meta.at.file, "m.yaml");
}

TEST(Manifests, OtherKindsAreReportedOncePerKind) {
  const Read result = read(R"(apiVersion: apps/v1
kind: Deployment
metadata: {name: a}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: b}
---
apiVersion: policy.linkerd.io/v1alpha1
kind: AuthorizationPolicy
metadata: {name: not-istio}
spec: {targetRef: {kind: Server}, requiredAuthenticationRefs: []}
---
apiVersion: serving.knative.dev/v1
kind: Service
metadata: {name: not-core}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: known-and-not-needed}
)");
  EXPECT_EQ(result.errors, "");
  ASSERT_THAT(result.objects.reports, SizeIs(3));
  EXPECT_EQ(result.objects.reports[0].severity, model::Report::Severity::kInfo);
  EXPECT_EQ(result.objects.reports[0].object, "Deployment (apps/v1)");
  EXPECT_EQ(result.objects.reports[0].at.line, 1);
  EXPECT_THAT(result.objects.authorization_policies, IsEmpty());
  EXPECT_THAT(result.objects.services, IsEmpty());
}

TEST(Manifests, PeerAuthentication) {
  const Read result = read(R"(kind: PeerAuthentication
metadata: {name: p, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  mtls: {mode: STRICT}
  portLevelMtls: {"8080": {mode: PERMISSIVE}, 9090: {mode: DISABLE}, 9091: {}}
---
kind: PeerAuthentication
metadata: {name: q}
---
kind: PeerAuthentication
metadata: {name: r}
spec: {selector: {}, mtls: {mode: UNSET}}
)");
  ASSERT_EQ(result.errors, "");
  ASSERT_THAT(result.objects.peer_authentications, SizeIs(3));
  const auto& first = result.objects.peer_authentications[0];
  EXPECT_TRUE(first.has_selector);
  EXPECT_EQ(first.mode, model::MtlsMode::kStrict);
  EXPECT_EQ(first.ports.at(8080), model::MtlsMode::kPermissive);
  EXPECT_EQ(first.ports.at(9090), model::MtlsMode::kDisable);
  EXPECT_EQ(first.ports.at(9091), model::MtlsMode::kUnset);
  EXPECT_FALSE(result.objects.peer_authentications[2].has_selector) << "an empty selector selects all";
}

TEST(Manifests, AuthorizationPolicy) {
  const Read result = read(R"(apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: shop, annotations: {istio.io/dry-run: "true"}}
spec:
  selector: {matchLabels: {app: web}}
  action: DENY
  rules:
  - from:
    - source: {principals: [a], notPrincipals: [b], namespaces: [c], notNamespaces: [d], ipBlocks: [10.0.0.0/8], notIpBlocks: [10.1.0.0/16]}
    - source: {serviceAccounts: [e/f], notServiceAccounts: [g], requestPrincipals: [h]}
    to:
    - operation: {ports: ["80", 81], notPorts: ["82"], methods: [GET], paths: [/x]}
    when:
    - {key: source.ip, values: [10.0.0.1], notValues: [10.0.0.2]}
  - {}
status: {conditions: []}
)");
  ASSERT_EQ(result.errors, "");
  ASSERT_THAT(result.objects.authorization_policies, SizeIs(1));
  const auto& policy = result.objects.authorization_policies[0];
  EXPECT_TRUE(policy.dry_run);
  EXPECT_TRUE(policy.has_selector);
  EXPECT_EQ(policy.action, "DENY");
  ASSERT_THAT(policy.rules, SizeIs(2));
  const auto& rule = policy.rules[0];
  EXPECT_EQ(rule.at.line, 8);
  ASSERT_THAT(rule.from, SizeIs(2));
  EXPECT_THAT(rule.from[0].not_ip_blocks, ElementsAre("10.1.0.0/16"));
  EXPECT_THAT(rule.from[0].undecidable, IsEmpty());
  EXPECT_THAT(rule.from[1].service_accounts, ElementsAre("e/f"));
  EXPECT_THAT(rule.from[1].undecidable, ElementsAre("requestPrincipals"));
  EXPECT_THAT(rule.to[0].ports, ElementsAre(80, 81));
  EXPECT_THAT(rule.to[0].undecidable, ElementsAre("methods", "paths"));
  EXPECT_THAT(rule.when[0].not_values, ElementsAre("10.0.0.2"));
}

TEST(Manifests, TargetsOfAnAuthorizationPolicy) {
  const Read result = read(R"(kind: AuthorizationPolicy
metadata: {name: p}
spec:
  targetRefs:
  - {kind: Service, name: web}
  - {group: gateway.networking.k8s.io, kind: Gateway, name: waypoint, namespace: default}
  targetRef: {group: "", kind: Service, name: old}
  rules: [{from: [{source: {trustDomains: [a.example], notTrustDomains: [b.example]}}]}]
)");
  ASSERT_EQ(result.errors, "");
  const auto& policy = result.objects.authorization_policies[0];
  ASSERT_THAT(policy.target_refs, SizeIs(3));
  EXPECT_EQ(policy.target_refs[0].kind, "Service");
  EXPECT_EQ(policy.target_refs[0].group, "");
  EXPECT_EQ(policy.target_refs[1].group, "gateway.networking.k8s.io");
  EXPECT_EQ(policy.target_refs[1].ns, "default");
  EXPECT_EQ(policy.target_refs[2].name, "old");
  EXPECT_FALSE(policy.has_selector);
  EXPECT_THAT(policy.rules[0].from[0].trust_domains, ElementsAre("a.example"));
  EXPECT_THAT(policy.rules[0].from[0].not_trust_domains, ElementsAre("b.example"));
  EXPECT_THAT(policy.rules[0].from[0].undecidable, IsEmpty());
}

TEST(Manifests, DryRunIsTheWordTrueAndNothingElse) {
  for (const auto& [value, dry_run, reports] :
       {std::tuple("true", true, 0u), {"false", false, 0u}, {"True", false, 1u}, {"yes", false, 1u}}) {
    const Read result = read(
        std::string("kind: AuthorizationPolicy\nmetadata: {name: p, annotations: {istio.io/dry-run: \"") +
        value + "\"}}\n");
    ASSERT_EQ(result.errors, "") << value;
    EXPECT_EQ(result.objects.authorization_policies[0].dry_run, dry_run) << value;
    EXPECT_EQ(result.objects.reports.size(), reports) << value;
  }
}

// ---- errors ----

struct ErrorCase {
  const char* sentence;
  const char* content;
  const char* start;  // file and line
  const char* part;
};

void expect_error(const ErrorCase& c) {
  const Read result = read(c.content);
  EXPECT_THAT(result.errors, StartsWith(c.start)) << c.sentence;
  EXPECT_THAT(result.errors, HasSubstr(c.part)) << c.sentence;
}

TEST(ManifestErrors, SayWhereAndWhat) {
  const ErrorCase cases[] = {
      {"broken YAML", "kind: Pod\nmetadata: {name: a\n", "m.yaml:", ":"},
      {"a tab", "kind: Pod\nmetadata:\n\tname: a\n", "m.yaml:3: ", ""},
      {"a document that is no object", "- a\n", "m.yaml:1: ", "want a Kubernetes object"},
      {"no kind", "\nmetadata: {name: a}\n", "m.yaml:2: ", "without 'kind'"},
      {"no name", "kind: Pod\nmetadata: {}\n", "m.yaml:1: ", "metadata.name is missing"},
      {"metadata of a wrong shape", "kind: Pod\nmetadata: [a]\n",
       "m.yaml:2: ", "metadata: got a list, want a mapping"},
      {"labels of a wrong shape", "kind: Pod\nmetadata:\n  name: a\n  labels: [x]\n",
       "m.yaml:4: ", "metadata.labels: got a list"},
      {"a port that is none", "kind: Service\nmetadata: {name: a}\nspec:\n  ports:\n  - port: 99999\n",
       "m.yaml:5: ", "spec.ports.port: got '99999', want a port from 1 to 65535"},
      {"containers of a wrong shape", "kind: Pod\nmetadata: {name: a}\nspec:\n  containers: {a: b}\n",
       "m.yaml:4: ", "spec.containers: got a mapping, want a list"},
      {"a container of a wrong shape", "kind: Pod\nmetadata: {name: a}\nspec:\n  containers: [text]\n",
       "m.yaml:4: ", "want a mapping"},
      {"a boolean that is none", "kind: Pod\nmetadata: {name: a}\nspec: {hostNetwork: maybe}\n",
       "m.yaml:3: ", "got 'maybe', want true or false"},
      {"a List in a List", "kind: List\nitems:\n- kind: List\n  items: []\n", "m.yaml:3: ", "List in a List"},
  };
  for (const ErrorCase& c : cases) expect_error(c);
}

TEST(ManifestErrors, PoliciesAreStrict) {
  const std::string head = "kind: AuthorizationPolicy\nmetadata: {name: p}\nspec:\n";
  const std::tuple<const char*, const char*, int, const char*> cases[] = {
      {"a field of another spelling", "  rule: []\n", 4,
       "spec: unknown field 'rule', want one of: selector, "},
      {"an unknown field of a source", "  rules:\n  - from:\n    - source: {principal: [a]}\n", 6,
       "source: unknown field 'principal'"},
      {"an unknown field of an operation", "  rules:\n  - to:\n    - operation: {port: [80]}\n", 6,
       "operation: unknown field 'port'"},
      {"an unknown field of a rule", "  rules:\n  - form: []\n", 5, "rule: unknown field 'form'"},
      {"an unknown field of a selector", "  selector: {matchExpressions: []}\n", 4,
       "spec.selector: unknown field"},
      {"a doubled key, of which one would be lost",
       "  rules:\n  - from: [{source: {namespaces: [a]}}]\n    from: [{source: {namespaces: [b]}}]\n", 6,
       "rule: 'from' is there twice"},
      {"'from' with nothing in it, which would mean anybody",
       "  rules:\n  - from:\n    to: [{operation: {ports: [80]}}]\n", 5, "'from': got nothing"},
      {"an empty list of sources, which would mean anybody", "  rules:\n  - from: []\n", 5,
       "from: got an empty list"},
      {"an empty list of principals, which would mean anybody",
       "  rules:\n  - from:\n    - source: {principals: []}\n", 6, "principals: got an empty list"},
      {"an empty source, which would mean anybody", "  rules:\n  - from:\n    - source: {}\n", 6,
       "source: got no field"},
      {"no source at all", "  rules:\n  - from:\n    - {}\n", 6, "from: got no 'source'"},
      {"no operation at all", "  rules:\n  - to:\n    - {}\n", 6, "to: got no 'operation'"},
      {"a rule that is nothing, which would match all", "  rules:\n  - null\n", 5,
       "rule: got nothing, want a mapping"},
      {"rules of a wrong shape", "  rules: {from: []}\n", 4, "spec.rules: got a mapping, want a list"},
      {"sources of a wrong shape", "  rules:\n  - from: {source: {namespaces: [a]}}\n", 5,
       "from: got a mapping, want a list"},
      {"one principal without a list", "  rules:\n  - from:\n    - source: {principals: a}\n", 6,
       "principals: got 'a', want a list"},
      {"a principal of a wrong shape", "  rules:\n  - from:\n    - source: {principals: [{a: b}]}\n", 6,
       "principals: got a mapping, want a string"},
      {"a port of a range", "  rules:\n  - to:\n    - operation: {ports: [80-90]}\n", 6,
       "ports: got '80-90'"},
      {"an unknown field of a target", "  targetRefs: [{kind: Service, name: a, sectionName: b}]\n", 4,
       "spec.targetRefs: unknown field 'sectionName'"},
      {"an empty list of targets, which would mean the namespace", "  targetRefs: []\n", 4,
       "spec.targetRefs: got an empty list"},
      {"a target of a wrong shape", "  targetRef: [a]\n", 4, "spec.targetRef: got"},
      {"an action in lower case", "  action: deny\n", 4, "spec.action: got 'deny', want ALLOW, DENY"},
      {"a condition of a wrong field", "  rules:\n  - when:\n    - {key: a, value: [b]}\n", 6,
       "when: unknown field 'value'"},
      {"an empty list of values", "  rules:\n  - when:\n    - {key: source.ip, values: []}\n", 6,
       "when.values: got an empty list"},
  };
  for (const auto& [sentence, body, line, part] : cases) {
    const std::string content = head + body;
    const std::string start = "m.yaml:" + std::to_string(line) + ": ";
    expect_error({sentence, content.c_str(), start.c_str(), part});
  }
}

TEST(ManifestErrors, PeerAuthenticationIsStrict) {
  const ErrorCase cases[] = {
      {"a mode in lower case",
       "kind: PeerAuthentication\nmetadata: {name: p}\nspec: {mtls: {mode: strict}}\n",
       "m.yaml:3: ", "spec.mtls.mode: got 'strict', want STRICT"},
      {"a mode without its mapping", "kind: PeerAuthentication\nmetadata: {name: p}\nspec: {mtls: STRICT}\n",
       "m.yaml:3: ", "spec.mtls: got 'STRICT', want a mapping"},
      {"spec misspelt", "kind: PeerAuthentication\nmetadata: {name: p}\nsepc: {mtls: {mode: STRICT}}\n",
       "m.yaml:3: ", "unknown field 'sepc'"},
      {"a port that is none",
       "kind: PeerAuthentication\nmetadata: {name: p}\nspec: {portLevelMtls: {http: {mode: STRICT}}}\n",
       "m.yaml:3: ", "got 'http', want a port"},
      {"a port twice",
       "kind: PeerAuthentication\nmetadata: {name: p}\nspec:\n  portLevelMtls:\n    80: {mode: STRICT}\n    "
       "\"80\": {}\n",
       "m.yaml:6: ", "port 80 is there twice"},
  };
  for (const ErrorCase& c : cases) expect_error(c);
}

TEST(ManifestErrors, AllAreTold) {
  const Read result = read("kind: Pod\nmetadata: {}\n---\nkind: Service\nmetadata: {}\n");
  EXPECT_THAT(result.errors, HasSubstr("m.yaml:1: "));
  EXPECT_THAT(result.errors, HasSubstr("\nm.yaml:4: "));
}

TEST(ManifestErrors, AreBounded) {
  std::string content = "kind: List\nitems:\n";
  for (int i = 0; i < 20000; ++i) content += "- {kind: Pod}\n";
  EXPECT_LT(read(content).errors.size(), 128u * 1024);
}

TEST(ManifestErrors, HostileYamlDoesNotHang) {
  // Aliases of aliases: a billion strings, were they ever expanded.
  std::string bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n";
  for (char c = 'b'; c <= 'i'; ++c) {
    const std::string before(1, static_cast<char>(c - 1));
    bomb += std::string(1, c) + ": &" + c + " [";
    for (int i = 0; i < 9; ++i) bomb += (i == 0 ? "*" : ",*") + before;
    bomb += "]\n";
  }
  EXPECT_THAT(read("kind: Pod\nmetadata: {name: a}\n" + bomb + "spec: {containers: *i}\n").errors,
              HasSubstr("want a mapping"));
  EXPECT_NE(read(std::string(100000, '[')).errors, "");
}

// yaml-cpp makes empty documents of these without end.
TEST(Manifests, ATokenThatBeginsNoDocumentIsAnError) {
  for (const char* content :
       {",", "]", "}", "\n,piVersion \nkind: Namespace\n", "apiVersion: v1\n---\n,\n"}) {
    const Read result = read(content);
    EXPECT_THAT(result.errors, StartsWith("m.yaml:")) << content;
    EXPECT_THAT(result.objects.namespaces, IsEmpty());
  }
}

TEST(Manifests, EmptyDocumentsAreNone) {
  EXPECT_EQ(read("---\n---\n# nothing\n---\n").errors, "");
}

}  // namespace
}  // namespace fairlead::source
