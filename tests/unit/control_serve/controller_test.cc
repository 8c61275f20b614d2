// The controller as a whole: manifests in, discovery, certificates and status out.
#include "control/controller/controller.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/file.h"
#include "base/unique_fd.h"
#include "certificate.grpc.pb.h"
#include "discovery.grpc.pb.h"
#include "unit/control_ca/keys.h"

namespace fairlead::controller {
namespace {

namespace xds = envoy::service::discovery::v3;
using nlohmann::json;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr std::chrono::seconds kDeadline{10};
constexpr const char* kPod = R"(kind: Pod
metadata: {name: a, namespace: shop, labels: {istio.io/dataplane-mode: ambient}}
spec: {nodeName: node1}
status: {phase: Running, podIPs: [{ip: 10.244.1.2}]}
)";

class ControllerTest : public ::testing::Test {
 protected:
  ControllerTest() {
    char pattern[] = "/tmp/fairlead-controller-XXXXXX";
    root_ = ::mkdtemp(pattern);
    std::filesystem::create_directories(root_ + "/manifests");
    std::filesystem::create_directories(root_ + "/state");
    write("config.yaml", "listen: 127.0.0.1:0\nsource: {directory: " + root_ +
                             "/manifests}\nstateDirectory: " + root_ + "/state\n");
    watch_.reset(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
    ::inotify_add_watch(watch_.get(), (root_ + "/state").c_str(), IN_MOVED_TO);
  }
  ~ControllerTest() override {
    stop();
    std::filesystem::remove_all(root_);
  }
  void write(const std::string& name, const std::string& content) {
    EXPECT_TRUE(write_file_atomically(root_ + "/" + name, content));
  }
  ControllerConfig config() {
    auto loaded = load_config(root_ + "/config.yaml");
    EXPECT_TRUE(loaded) << loaded.error().text();
    return std::move(*loaded);
  }
  void start() {
    // As main() has it: the signal is for the thread that waits for it.
    sigset_t signals;
    ::sigemptyset(&signals);
    ::sigaddset(&signals, SIGTERM);
    ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
    thread_ = std::thread([this, c = config()] { result_ = Controller(c).run(); });
  }
  void stop() {
    if (!thread_.joinable()) return;
    ::pthread_kill(thread_.native_handle(), SIGTERM);
    thread_.join();
  }
  // The first status that is as wanted; null when none comes.
  template <class Wanted>
  json status_when(Wanted wanted) {
    const auto latest = std::chrono::steady_clock::now() + kDeadline;
    for (;;) {
      char events[4096];
      while (::read(watch_.get(), events, sizeof events) > 0) {
      }
      const auto content = read_file(root_ + "/state/status.json");
      if (content) {
        json status = json::parse(*content);
        if (wanted(status)) return status;
      }
      const auto left =
          std::chrono::duration_cast<std::chrono::milliseconds>(latest - std::chrono::steady_clock::now());
      pollfd fd{watch_.get(), POLLIN, 0};
      if (left.count() <= 0 || ::poll(&fd, 1, static_cast<int>(left.count())) <= 0) return nullptr;
    }
  }

  std::string root_;
  UniqueFd watch_;
  std::thread thread_;
  Result<void> result_;
};

TEST_F(ControllerTest, AppliesRefusesAndRecovers) {
  write("manifests/a.yaml", kPod);
  start();
  const json first = status_when([](const json& s) { return s["version"] == 1; });
  ASSERT_FALSE(first.is_null());
  EXPECT_EQ(first["good"], true);
  EXPECT_EQ(first["workloads"], 1);
  EXPECT_EQ(first["identities"], 1);
  EXPECT_THAT(first["problems"], IsEmpty());

  write("manifests/b.yaml",
        "kind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}\nspec: {rulez: []}\n");
  const json refused = status_when([](const json& s) { return s["good"] == false; });
  ASSERT_FALSE(refused.is_null());
  EXPECT_EQ(refused["version"], 1) << "the last good state stays in force";
  EXPECT_EQ(refused["workloads"], 1);
  EXPECT_THAT(refused["problems"][0].get<std::string>(), HasSubstr("/b.yaml:3: spec: unknown field 'rulez'"));

  write("manifests/b.yaml",
        "kind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}\nspec: {rules: [{from: [{source: "
        "{principals: ['']}}]}]}\n");
  const json invalid =
      status_when([](const json& s) { return s["problems"].dump().find("principals") != std::string::npos; });
  ASSERT_FALSE(invalid.is_null());
  EXPECT_EQ(invalid["good"], false) << "what the schema allows but nobody can mean";

  std::filesystem::remove(root_ + "/manifests/b.yaml");
  const json mended = status_when([](const json& s) { return s["good"] == true; });
  ASSERT_FALSE(mended.is_null());
  EXPECT_EQ(mended["version"], 2);
  EXPECT_THAT(mended["problems"], IsEmpty());

  stop();
  EXPECT_TRUE(result_) << result_.error().text();
}

TEST_F(ControllerTest, ReportsAreStructured) {
  write("manifests/a.yaml",
        "kind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}\nspec: {action: CUSTOM}\n---\nkind: "
        "Gateway\nmetadata: {name: g}\n");
  start();
  const json status = status_when([](const json& s) { return s["version"] == 1; });
  ASSERT_FALSE(status.is_null());
  ASSERT_EQ(status["reports"].size(), 2u);
  EXPECT_EQ(status["reports"][0]["severity"], "info");
  EXPECT_EQ(status["reports"][1]["object"], "AuthorizationPolicy shop/p");
  EXPECT_EQ(status["reports"][1]["field"], "spec.action");
  EXPECT_EQ(status["reports"][1]["line"], 1);
  EXPECT_EQ(status["problems"].size(), 1u) << "what is merely worth knowing is no problem";
}

TEST_F(ControllerTest, WritesTheTrustRootAndLeavesKeysPrivate) {
  start();
  ASSERT_FALSE(status_when([](const json& s) { return s["version"] == 1; }).is_null());
  EXPECT_THAT(read_file(root_ + "/state/root-cert.pem").value(), HasSubstr("BEGIN CERTIFICATE"));
  const auto tokens = ca::NodeTokens::open(root_ + "/state");
  ASSERT_TRUE(tokens);
  EXPECT_TRUE((*tokens)->authenticate((*tokens)->issue("node1", std::chrono::hours(1)).value()));
}

// A port that was free a moment ago.
uint16_t free_port() {
  const UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  EXPECT_EQ(::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), length), 0);
  EXPECT_EQ(::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&address), &length), 0);
  return ntohs(address.sin_port);
}

TEST_F(ControllerTest, ServesAnAgentFromTokenToCertificate) {
  const std::string listen = fmt::format("127.0.0.1:{}", free_port());
  write("config.yaml", "listen: " + listen + "\nsource: {directory: " + root_ +
                           "/manifests}\nstateDirectory: " + root_ + "/state\n");
  write("manifests/a.yaml", kPod);
  start();
  ASSERT_FALSE(status_when([](const json& s) { return s["version"] == 1; }).is_null());
  const std::string token =
      (*ca::NodeTokens::open(root_ + "/state"))->issue("node1", std::chrono::hours(1)).value();
  grpc::SslCredentialsOptions options;
  options.pem_root_certs = read_file(root_ + "/state/root-cert.pem").value();
  grpc::ChannelArguments arguments;
  arguments.SetSslTargetNameOverride("fairlead-controller.fairlead-system.svc");
  const auto channel = grpc::CreateCustomChannel(listen, grpc::SslCredentials(options), arguments);

  grpc::ClientContext discovery;
  discovery.set_deadline(std::chrono::system_clock::now() + kDeadline);
  discovery.AddMetadata("authorization", "Bearer " + token);
  const auto stub = xds::AggregatedDiscoveryService::NewStub(channel);
  const auto stream = stub->DeltaAggregatedResources(&discovery);
  xds::DeltaDiscoveryRequest request;
  request.set_type_url("type.googleapis.com/istio.workload.Address");
  ASSERT_TRUE(stream->Write(request));
  xds::DeltaDiscoveryResponse response;
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.resources(0).name(), "Kubernetes//Pod/shop/a");
  request.set_response_nonce(response.nonce());
  ASSERT_TRUE(stream->Write(request));
  const json status = status_when([](const json& s) {
    return s["agents"].size() == 1 && s["agents"][0]["types"][0]["acknowledged"] == 1;
  });
  ASSERT_FALSE(status.is_null());
  EXPECT_EQ(status["agents"][0]["node"], "node1");

  grpc::ClientContext call;
  call.set_deadline(std::chrono::system_clock::now() + kDeadline);
  call.AddMetadata("authorization", "Bearer " + token);
  istio::v1::auth::IstioCertificateRequest wanted;
  istio::v1::auth::IstioCertificateResponse issued;
  wanted.set_csr(ca::testing::csr({}));
  (*wanted.mutable_metadata()->mutable_fields())["ImpersonatedIdentity"].set_string_value(
      "spiffe://cluster.local/ns/shop/sa/default");
  const auto result =
      istio::v1::auth::IstioCertificateService::NewStub(channel)->CreateCertificate(&call, wanted, &issued);
  ASSERT_TRUE(result.ok()) << result.error_message();
  ASSERT_EQ(issued.cert_chain_size(), 2);
  const auto leaf = ca::testing::certificate_of(issued.cert_chain(0));
  const auto root = ca::testing::certificate_of(issued.cert_chain(1));
  EXPECT_EQ(X509_verify(leaf.get(), X509_get0_pubkey(root.get())), 1);
  discovery.TryCancel();
  EXPECT_FALSE(stream->Finish().ok());
  EXPECT_FALSE(status_when([](const json& s) { return s["agents"].empty(); }).is_null()) << "it has gone";
}

TEST(StatusFileTest, TellsWhoIsConnectedAndWhatTheyHold) {
  serve::AgentStatus agent{"node1", "ipv4:10.0.0.1:1", {{"istio.workload.Address", 3, 2, 1, true, "no"}}};
  const json status = json::parse(StatusFile::render({7, true, {}, {}, 1, 2, 3, 4}, {agent}));
  EXPECT_EQ(status["version"], 7);
  EXPECT_EQ(status["services"], 2);
  EXPECT_EQ(status["agents"][0]["node"], "node1");
  const json& type = status["agents"][0]["types"][0];
  EXPECT_EQ(type["type"], "istio.workload.Address");
  EXPECT_EQ(type["pushes"], 3);
  EXPECT_EQ(type["acknowledged"], 2);
  EXPECT_EQ(type["rejected"], 1);
  EXPECT_EQ(type["inFlight"], true);
  EXPECT_EQ(type["lastRejection"], "no");
}

TEST(StatusFileTest, BytesThatAreNoTextDoNoHarm) {
  SetStatus status;
  status.refusals = {"\xff\xfe"};
  EXPECT_FALSE(json::parse(StatusFile::render(status, {})).is_discarded());
}

TEST_F(ControllerTest, ConfigurationErrorsSayWhere) {
  const std::tuple<const char*, std::string, const char*> cases[] = {
      {"an unknown key", "listen: 127.0.0.1:1\nlistne: x\n", "config.yaml:2: unknown key 'listne'"},
      {"an unknown key of a section", "source: {directory: /x, dir: y}\n",
       "config.yaml:1: unknown key 'source.dir'"},
      {"no manifests", "listen: 127.0.0.1:1\n", "'source.directory' is required"},
      {"an address without a port", "listen: 127.0.0.1\nsource: {directory: /x}\n",
       "listen: got '127.0.0.1'"},
      {"certificates of a second", "certificates: {maxTtl: 1s}\nsource: {directory: /x}\n",
       "certificates.maxTtl: got 1s, want 10s to 24h"},
      {"certificates of a week", "certificates: {maxTtl: 7d}\nsource: {directory: /x}\n",
       "certificates.maxTtl: "},
      {"a trust domain that is none", "trustDomain: A_B/c\nsource: {directory: /x}\n", "trustDomain: "},
      {"broken YAML", "listen: [\n", "config.yaml:"},
  };
  for (const auto& [sentence, content, message] : cases) {
    write("config.yaml", content);
    const auto loaded = load_config(root_ + "/config.yaml");
    ASSERT_FALSE(loaded) << sentence;
    EXPECT_THAT(loaded.error().text(), HasSubstr(message)) << sentence;
  }
}

TEST_F(ControllerTest, ManifestsCanBeCheckedBeforehand) {
  write("manifests/a.yaml", kPod);
  EXPECT_THAT(check_manifests(config()).value(), IsEmpty());
  write("manifests/b.yaml", "kind: Gateway\nmetadata: {name: g}\n");
  EXPECT_THAT(check_manifests(config()).value(),
              Contains(HasSubstr("Gateway: objects of this kind are not read")));
  write("manifests/c.yaml", kPod);
  const auto twice = check_manifests(config());
  ASSERT_FALSE(twice);
  EXPECT_THAT(twice.error().text(), HasSubstr("/c.yaml:1: Pod shop/a: is there twice, first at "));
}

}  // namespace
}  // namespace fairlead::controller
