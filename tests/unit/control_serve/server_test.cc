// The services through a real gRPC client over TLS on loopback.
#include "control/serve/server.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <condition_variable>
#include <filesystem>
#include <mutex>
#include <optional>

#include "certificate.grpc.pb.h"
#include "control/ca/issuer.h"
#include "control/ca/roots.h"
#include "control/serve/published.h"
#include "discovery.grpc.pb.h"
#include "unit/control_serve/mesh_for_test.h"

namespace fairlead::serve {
namespace {

namespace xds = envoy::service::discovery::v3;
namespace auth = istio::v1::auth;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;
using namespace testing;

constexpr std::chrono::seconds kDeadline{10};
const std::string kAddress(kAddressType);
const std::string kPolicy(kPolicyType);

std::vector<std::string> names(const xds::DeltaDiscoveryResponse& response) {
  std::vector<std::string> list;
  for (const auto& resource : response.resources()) list.push_back(resource.name());
  return list;
}
std::vector<std::string> removed(const xds::DeltaDiscoveryResponse& response) {
  return {response.removed_resources().begin(), response.removed_resources().end()};
}

class ServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/fairlead-serve-XXXXXX";
    directory_ = ::mkdtemp(pattern);
    auto ca = ca::DevelopmentCa::open(directory_);
    ASSERT_TRUE(ca) << ca.error().text();
    ca_ = std::move(*ca);
    auto own = ca_->server_certificate({"localhost"}, {"127.0.0.1"});
    ASSERT_TRUE(own);
    auto server = Server::start("127.0.0.1:0", {own->chain_pem, own->key_pem}, backend());
    ASSERT_TRUE(server) << server.error().text();
    server_ = std::move(*server);
    add_workload(mesh_, "a", 1);
    add_policy(mesh_, "p");
    mesh_.identities_by_node["node1"].insert({"cluster.local", "shop", "seller"});
    mesh_.identities_by_node["node2"].insert({"cluster.local", "shop", "owner"});
  }
  void TearDown() override {
    server_->stop();
    std::filesystem::remove_all(directory_);
  }

  Backend backend() {
    Backend backend;
    // The token of a node is "token-of-" and its name.
    backend.node_of = [](std::string_view token) -> Result<std::string> {
      constexpr std::string_view kPrefix = "token-of-";
      if (!token.starts_with(kPrefix)) return Error(ErrorKind::kDenied, "not a token");
      return std::string(token.substr(kPrefix.size()));
    };
    backend.sign = [this](const std::string& csr, const SpiffeId& id,
                          std::chrono::seconds ttl) -> Result<Backend::Certificate> {
      if (csr != "good") return Error(ErrorKind::kDenied, "CSR: the reason");
      return Backend::Certificate{fmt::format("leaf of {} for {}", id.uri(), ttl.count()), ca_->roots_pem()};
    };
    backend.notice = [this](log::Level, const std::string& text) {
      const std::lock_guard lock(mutex_);
      notices_.push_back(text);
    };
    backend.agents_changed = [this] {
      const std::lock_guard lock(mutex_);
      ++changes_;
      wake_.notify_all();
    };
    return backend;
  }

  // Until the agents are as wanted: looks again after every change that is told.
  template <class Wanted>
  bool agents_become(Wanted wanted) {
    const auto latest = std::chrono::steady_clock::now() + kDeadline;
    for (;;) {
      uint64_t seen = 0;
      {
        const std::lock_guard lock(mutex_);
        seen = changes_;
      }
      if (wanted(server_->agents())) return true;
      std::unique_lock lock(mutex_);
      if (!wake_.wait_until(lock, latest, [&] { return changes_ != seen; })) return false;
    }
  }
  std::vector<std::string> notices() {
    const std::lock_guard lock(mutex_);
    return notices_;
  }

  std::shared_ptr<grpc::Channel> channel() {
    grpc::SslCredentialsOptions options;
    options.pem_root_certs = ca_->roots_pem();
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    return grpc::CreateCustomChannel(fmt::format("127.0.0.1:{}", server_->port()),
                                     grpc::SslCredentials(options), arguments);
  }
  static void prepare(grpc::ClientContext& context, const std::string& authorization) {
    context.set_deadline(std::chrono::system_clock::now() + kDeadline);
    if (!authorization.empty()) context.AddMetadata("authorization", authorization);
  }
  grpc::Status certificate(const std::string& authorization, const std::optional<std::string>& identity,
                           auth::IstioCertificateResponse& response, const std::string& csr = "good") {
    const auto stub = auth::IstioCertificateService::NewStub(channel());
    grpc::ClientContext context;
    prepare(context, authorization);
    auth::IstioCertificateRequest request;
    request.set_csr(csr);
    request.set_validity_duration(3600);
    if (identity)
      (*request.mutable_metadata()->mutable_fields())["ImpersonatedIdentity"].set_string_value(*identity);
    return stub->CreateCertificate(&context, request, &response);
  }

  std::string directory_;
  std::unique_ptr<ca::DevelopmentCa> ca_;
  std::unique_ptr<Server> server_;
  model::Mesh mesh_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::string> notices_;
  uint64_t changes_ = 0;
};

// An agent's end of a discovery stream.
class Agent {
 public:
  explicit Agent(const std::shared_ptr<grpc::Channel>& channel,
                 const std::string& authorization = "Bearer token-of-node1")
      : stub_(xds::AggregatedDiscoveryService::NewStub(channel)) {
    context_.set_deadline(std::chrono::system_clock::now() + kDeadline);
    if (!authorization.empty()) context_.AddMetadata("authorization", authorization);
    stream_ = stub_->DeltaAggregatedResources(&context_);
  }
  void subscribe(const std::string& type, const std::map<std::string, std::string>& versions = {}) {
    xds::DeltaDiscoveryRequest request;
    request.set_type_url(type);
    request.mutable_initial_resource_versions()->insert(versions.begin(), versions.end());
    EXPECT_TRUE(stream_->Write(request));
  }
  // An empty one when the stream ends or nothing comes.
  xds::DeltaDiscoveryResponse read() {
    xds::DeltaDiscoveryResponse response;
    if (!stream_->Read(&response)) response.Clear();
    return response;
  }
  void answer(const xds::DeltaDiscoveryResponse& response, const std::string& error = {}) {
    xds::DeltaDiscoveryRequest request;
    request.set_type_url(response.type_url());
    request.set_response_nonce(response.nonce());
    if (!error.empty()) request.mutable_error_detail()->set_message(error);
    EXPECT_TRUE(stream_->Write(request));
  }
  xds::DeltaDiscoveryResponse read_and_acknowledge() {
    xds::DeltaDiscoveryResponse response = read();
    if (!response.nonce().empty()) answer(response);
    return response;
  }
  grpc::Status end() {
    stream_->WritesDone();
    return finish();
  }
  grpc::Status finish() {
    xds::DeltaDiscoveryResponse rest;
    while (stream_->Read(&rest)) {
    }
    return stream_->Finish();
  }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<xds::AggregatedDiscoveryService::Stub> stub_;
  std::unique_ptr<grpc::ClientReaderWriter<xds::DeltaDiscoveryRequest, xds::DeltaDiscoveryResponse>> stream_;
};

// ---- discovery ----

TEST_F(ServerTest, WildcardThenUpdatesThenRemoval) {
  server_->publish(mesh_);
  Agent agent(channel());
  agent.subscribe(kAddress);
  const auto first = agent.read_and_acknowledge();
  EXPECT_EQ(first.type_url(), kAddress);
  ASSERT_THAT(names(first), ElementsAre(uid("a")));
  istio::workload::Address address;
  ASSERT_TRUE(first.resources(0).resource().UnpackTo(&address));
  EXPECT_EQ(address.workload().name(), "a");
  add_workload(mesh_, "b", 2);
  server_->publish(mesh_);
  EXPECT_THAT(names(agent.read_and_acknowledge()), ElementsAre(uid("b")));
  mesh_.addresses.erase(uid("a"));
  server_->publish(mesh_);
  const auto removal = agent.read_and_acknowledge();
  EXPECT_THAT(names(removal), IsEmpty());
  EXPECT_THAT(removed(removal), ElementsAre(uid("a")));
  EXPECT_TRUE(agent.end().ok());
}

TEST_F(ServerTest, WaitsForTheFirstState) {
  Agent agent(channel());
  agent.subscribe(kAddress);
  ASSERT_TRUE(agents_become([](const auto& agents) { return agents.size() == 1; }));
  EXPECT_EQ(server_->agents()[0].types[0].pushes, 0u) << "an empty mesh would be wrong";
  server_->publish(mesh_);
  EXPECT_THAT(names(agent.read()), ElementsAre(uid("a")));
}

TEST_F(ServerTest, InitialVersionsAreHonoured) {
  server_->publish(mesh_);
  Agent agent(channel());
  const PublishedPtr same = encode(mesh_);
  const auto& resources = same->of(kAddress).resources;
  agent.subscribe(kAddress, {{uid("a"), resources.at(uid("a")).version}, {uid("gone"), "x"}});
  const auto first = agent.read();
  EXPECT_THAT(names(first), IsEmpty());
  EXPECT_THAT(removed(first), ElementsAre(uid("gone")));
}

TEST_F(ServerTest, ASlowAgentGetsTheNewestStateAndNoQueue) {
  server_->publish(mesh_);
  Agent agent(channel());
  agent.subscribe(kAddress);
  const auto first = agent.read();  // not acknowledged yet
  for (char i = 2; i < 100; ++i) {
    add_workload(mesh_, "b", i);
    server_->publish(mesh_);
  }
  agent.answer(first);
  const auto second = agent.read_and_acknowledge();
  ASSERT_THAT(names(second), ElementsAre(uid("b")));
  istio::workload::Address address;
  ASSERT_TRUE(second.resources(0).resource().UnpackTo(&address));
  EXPECT_EQ(address.workload().addresses(0).back(), 99) << "the newest, not the first of 98";
  ASSERT_TRUE(agents_become(
      [](const auto& agents) { return !agents.empty() && agents[0].types[0].acknowledged == 2; }));
  EXPECT_EQ(server_->agents()[0].types[0].pushes, 2u);
}

TEST_F(ServerTest, ARejectionIsCountedAndNotSentAgain) {
  server_->publish(mesh_);
  Agent agent(channel());
  agent.subscribe(kAddress);
  agent.answer(agent.read(), "do not\nlike it");
  ASSERT_TRUE(
      agents_become([](const auto& agents) { return !agents.empty() && agents[0].types[0].rejected == 1; }));
  EXPECT_EQ(server_->agents()[0].types[0].last_rejection, "do not?like it") << "fit for a log";
  EXPECT_THAT(notices(), Contains(HasSubstr("node node1 rejects istio.workload.Address: do not?like it")));
  server_->publish(mesh_);
  add_workload(mesh_, "b", 2);
  server_->publish(mesh_);
  EXPECT_THAT(names(agent.read_and_acknowledge()), ElementsAre(uid("b"))) << "only what is new";
  EXPECT_EQ(server_->agents()[0].types[0].pushes, 2u);
}

TEST_F(ServerTest, AStaleAnswerIsNone) {
  server_->publish(mesh_);
  Agent agent(channel());
  agent.subscribe(kAddress);
  const auto first = agent.read();
  xds::DeltaDiscoveryResponse other = first;
  other.set_nonce("of another stream");
  agent.answer(other);
  add_workload(mesh_, "b", 2);
  server_->publish(mesh_);
  agent.answer(first);
  EXPECT_THAT(names(agent.read_and_acknowledge()), ElementsAre(uid("b")));
  ASSERT_TRUE(agents_become(
      [](const auto& agents) { return !agents.empty() && agents[0].types[0].acknowledged == 2; }));
}

TEST_F(ServerTest, PoliciesComeBeforeTheirWorkloadsAndGoAfterThem) {
  server_->publish(mesh_);
  Agent agent(channel());
  agent.subscribe(kAddress);
  agent.subscribe(kPolicy);
  for (int i = 0; i < 2; ++i) agent.read_and_acknowledge();
  add_policy(mesh_, "q", true);
  mesh_.addresses[uid("a")].mutable_workload()->add_authorization_policies("shop/q");
  server_->publish(mesh_);
  EXPECT_THAT(names(agent.read_and_acknowledge()), ElementsAre("shop/q"));
  EXPECT_THAT(names(agent.read_and_acknowledge()), ElementsAre(uid("a")));
  mesh_.policies.erase("shop/q");
  mesh_.addresses[uid("a")].mutable_workload()->clear_authorization_policies();
  server_->publish(mesh_);
  const auto workload = agent.read();
  EXPECT_THAT(names(workload), ElementsAre(uid("a")));
  EXPECT_THAT(removed(workload), IsEmpty());
  agent.answer(workload);
  EXPECT_THAT(removed(agent.read_and_acknowledge()), ElementsAre("shop/q"));
}

TEST_F(ServerTest, OtherTypesAreNotAnsweredAndDoNoHarm) {
  server_->publish(mesh_);
  Agent agent(channel());
  agent.subscribe("type.googleapis.com/envoy.config.cluster.v3.Cluster");
  agent.subscribe(kPolicy);
  EXPECT_EQ(agent.read().type_url(), kPolicy);
}

TEST_F(ServerTest, StrangersGetNothing) {
  server_->publish(mesh_);
  for (const char* authorization :
       {"", "Bearer ", "Bearer wrong", "token-of-node1", "bearer token-of-node1"}) {
    Agent agent(channel(), authorization);
    const grpc::Status status = agent.finish();
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAUTHENTICATED) << authorization;
    EXPECT_EQ(status.error_message(), "request authenticate failure") << "no hint";
  }
  EXPECT_THAT(server_->agents(), IsEmpty());
  EXPECT_THAT(notices(), Contains(HasSubstr("not a token")));
}

TEST_F(ServerTest, TheOldSchemeOfTokensWorks) {
  server_->publish(mesh_);
  Agent agent(channel(), "Istio token-of-node1");
  agent.subscribe(kAddress);
  EXPECT_THAT(names(agent.read()), ElementsAre(uid("a")));
}

TEST_F(ServerTest, StreamsOfOneNodeAreBounded) {
  server_->publish(mesh_);
  std::vector<std::unique_ptr<Agent>> agents;
  for (int i = 0; i < 8; ++i) agents.push_back(std::make_unique<Agent>(channel()));
  ASSERT_TRUE(agents_become([](const auto& list) { return list.size() == 8; }));
  Agent ninth(channel());
  EXPECT_EQ(ninth.finish().error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  Agent of_another(channel(), "Bearer token-of-node2");
  of_another.subscribe(kAddress);
  EXPECT_THAT(names(of_another.read()), ElementsAre(uid("a"))) << "others are not disturbed";
  EXPECT_TRUE(agents[0]->end().ok());
  ASSERT_TRUE(agents_become([](const auto& list) { return list.size() == 8; }));
  Agent tenth(channel());
  tenth.subscribe(kAddress);
  EXPECT_THAT(names(tenth.read()), ElementsAre(uid("a"))) << "there is room again";
}

TEST_F(ServerTest, ManyAgentsAllHearOfEveryState) {
  server_->publish(mesh_);
  std::vector<std::unique_ptr<Agent>> agents;
  for (int i = 0; i < 40; ++i) {
    agents.push_back(std::make_unique<Agent>(channel(), fmt::format("Bearer token-of-n{}", i)));
    agents.back()->subscribe(kAddress);
  }
  for (auto& agent : agents) EXPECT_THAT(names(agent->read_and_acknowledge()), ElementsAre(uid("a")));
  add_workload(mesh_, "b", 2);
  server_->publish(mesh_);
  for (auto& agent : agents) EXPECT_THAT(names(agent->read_and_acknowledge()), ElementsAre(uid("b")));
}

TEST_F(ServerTest, StopEndsStreams) {
  server_->publish(mesh_);
  Agent agent(channel());
  agent.subscribe(kAddress);
  (void)agent.read();
  server_->stop();
  EXPECT_FALSE(agent.finish().ok());
}

TEST_F(ServerTest, StateOfTheWorldIsNotServed) {
  const auto stub = xds::AggregatedDiscoveryService::NewStub(channel());
  grpc::ClientContext context;
  prepare(context, "Bearer token-of-node1");
  const auto stream = stub->StreamAggregatedResources(&context);
  stream->WritesDone();
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::UNIMPLEMENTED);
}

TEST_F(ServerTest, AnAddressInUseIsAnError) {
  const auto own = ca_->server_certificate({"localhost"}, {"127.0.0.1"});
  const auto second =
      Server::start(fmt::format("127.0.0.1:{}", server_->port()), {own->chain_pem, own->key_pem}, backend());
  ASSERT_FALSE(second) << "two controllers must not share the agents of one address";
  EXPECT_EQ(second.error().kind(), ErrorKind::kUnavailable);
}

TEST_F(ServerTest, ServesOnWithAnotherCertificate) {
  server_->publish(mesh_);
  const int port = server_->port();
  Agent before(channel());
  before.subscribe(kAddress);
  EXPECT_THAT(names(before.read_and_acknowledge()), ElementsAre(uid("a")));
  ASSERT_TRUE(ca::add_root(directory_, ca::kDefaultTtl));
  ASSERT_TRUE(ca::use_root(directory_, ca::kDefaultTtl, true));
  ASSERT_TRUE(ca::retire_root(directory_, ca::kDefaultTtl, true));
  ASSERT_TRUE(ca_->refresh());
  const auto own = ca_->server_certificate({"localhost"}, {"127.0.0.1"});
  ASSERT_TRUE(own);
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(server_->change_certificate({own->chain_pem, own->key_pem}));
  EXPECT_FALSE(before.finish().ok()) << "streams end and come back";
  EXPECT_EQ(server_->port(), port);
  Agent after(channel());  // which trusts the new root alone
  after.subscribe(kAddress);
  EXPECT_THAT(names(after.read_and_acknowledge()), ElementsAre(uid("a"))) << "what was published is there";
  EXPECT_TRUE(agents_become([](const auto& agents) { return agents.size() == 1; }))
      << "the old stream is gone";
}

// ---- certificates ----

TEST_F(ServerTest, CertificateOfAnIdentityOnTheNode) {
  server_->publish(mesh_);
  auth::IstioCertificateResponse response;
  const auto status =
      certificate("Bearer token-of-node1", "spiffe://cluster.local/ns/shop/sa/seller", response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_THAT(response.cert_chain(), SizeIs(2));
  EXPECT_EQ(response.cert_chain(0), "leaf of spiffe://cluster.local/ns/shop/sa/seller for 3600");
  EXPECT_EQ(response.cert_chain(1), ca_->roots_pem());
}

TEST_F(ServerTest, NoCertificateOfWhatDoesNotRunThere) {
  server_->publish(mesh_);
  const std::pair<const char*, std::optional<std::string>> cases[] = {
      {"an identity of another node", "spiffe://cluster.local/ns/shop/sa/owner"},
      {"an identity that runs nowhere", "spiffe://cluster.local/ns/shop/sa/ghost"},
      {"another trust domain", "spiffe://example.org/ns/shop/sa/seller"},
      {"another spelling", "SPIFFE://cluster.local/ns/shop/sa/seller"},
      {"with more behind it", "spiffe://cluster.local/ns/shop/sa/seller/"},
      {"with a NUL behind it", std::string("spiffe://cluster.local/ns/shop/sa/seller\0", 41)},
      {"without its scheme", "cluster.local/ns/shop/sa/seller"},
      {"empty", ""},
      {"none", std::nullopt},
  };
  for (const auto& [sentence, identity] : cases) {
    auth::IstioCertificateResponse response;
    const auto status = certificate("Bearer token-of-node1", identity, response);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAUTHENTICATED) << sentence;
    EXPECT_EQ(status.error_message(), "request impersonation authentication failure") << sentence;
    EXPECT_THAT(response.cert_chain(), IsEmpty()) << sentence;
  }
  EXPECT_THAT(
      notices(),
      Contains(HasSubstr("node node1: 'spiffe://cluster.local/ns/shop/sa/owner' does not run there")));
}

TEST_F(ServerTest, NoCertificateForStrangersNorBeforeTheFirstState) {
  auth::IstioCertificateResponse response;
  const std::string identity = "spiffe://cluster.local/ns/shop/sa/seller";
  EXPECT_EQ(certificate("Bearer token-of-node1", identity, response).error_code(),
            grpc::StatusCode::UNAUTHENTICATED);
  server_->publish(mesh_);
  EXPECT_EQ(certificate("", identity, response).error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(certificate("Bearer x", identity, response).error_code(), grpc::StatusCode::UNAUTHENTICATED);
}

TEST_F(ServerTest, AnIdentityThatLeavesTheNodeIsRefusedFromThenOn) {
  server_->publish(mesh_);
  auth::IstioCertificateResponse response;
  const std::string identity = "spiffe://cluster.local/ns/shop/sa/seller";
  EXPECT_TRUE(certificate("Bearer token-of-node1", identity, response).ok());
  mesh_.identities_by_node.erase("node1");
  server_->publish(mesh_);
  EXPECT_FALSE(certificate("Bearer token-of-node1", identity, response).ok());
}

TEST_F(ServerTest, ARefusedRequestSaysNothingOfWhy) {
  server_->publish(mesh_);
  auth::IstioCertificateResponse response;
  const auto status =
      certificate("Bearer token-of-node1", "spiffe://cluster.local/ns/shop/sa/seller", response, "bad");
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(status.error_message(), "CSR signing error");
  EXPECT_THAT(notices(), Contains(HasSubstr("CSR: the reason")));
}

}  // namespace
}  // namespace fairlead::serve
