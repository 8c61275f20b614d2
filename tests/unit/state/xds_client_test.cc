#include <gmock/gmock.h>

#include "unit/state/agent_for_test.h"
#include "unit/state/mesh_for_test.h"

namespace fairlead::state {
namespace {

using ::testing::HasSubstr;

constexpr const char* kAddresses = "type.googleapis.com/istio.workload.Address";
constexpr const char* kPolicies = "type.googleapis.com/istio.security.Authorization";

xds::DeltaDiscoveryResponse response(const char* type, const std::string& nonce) {
  xds::DeltaDiscoveryResponse message;
  message.set_type_url(type);
  message.set_nonce(nonce);
  return message;
}

template <class Message>
void add(xds::DeltaDiscoveryResponse& to, const std::string& name, const std::string& version,
         const Message& message) {
  auto& resource = *to.add_resources();
  resource.set_name(name);
  resource.set_version(version);
  resource.mutable_resource()->PackFrom(message);
}

class Discovery : public ClientTest {
 protected:
  void start() {
    client_ =
        std::make_unique<XdsClient>(endpoint(), [this](SnapshotPtr snapshot) { snapshots_.put(snapshot); });
    client_->start();
  }
  // The first two requests of a stream, addresses first.
  std::vector<xds::DeltaDiscoveryRequest> subscriptions() {
    std::vector<xds::DeltaDiscoveryRequest> list;
    for (int i = 0; i < 2; ++i) {
      auto request = controller_.requests.take();
      if (request) list.push_back(*request);
    }
    EXPECT_EQ(list.size(), 2u);
    list.resize(2);
    return list;
  }
  // Pushes, and gives the answer.
  xds::DeltaDiscoveryRequest exchange(const xds::DeltaDiscoveryResponse& message) {
    EXPECT_TRUE(controller_.push(message));
    auto answer = controller_.requests.take();
    EXPECT_TRUE(answer);
    if (!answer) return {};
    EXPECT_EQ(answer->response_nonce(), message.nonce());
    EXPECT_EQ(answer->type_url(), message.type_url());
    return *answer;
  }
  SnapshotPtr snapshot() {
    auto taken = snapshots_.take();
    EXPECT_TRUE(taken);
    return taken ? *taken : std::make_shared<Snapshot>();
  }
  // One workload "a" and one policy "ns/p" that denies nobody, versions "1".
  void sync() {
    (void)subscriptions();
    auto addresses = response(kAddresses, "n1");
    add(addresses, "a", "1", workload("a", "10.0.0.1"));
    exchange(addresses);
    auto policies = response(kPolicies, "n2");
    auto harmless = deny_all("p", istio::security::NAMESPACE);
    harmless.clear_rules();
    add(policies, "ns/p", "1", harmless);
    exchange(policies);
    EXPECT_NE(snapshot()->workload(ip("10.0.0.1")), nullptr);
  }

  Events<SnapshotPtr> snapshots_;
  std::unique_ptr<XdsClient> client_;
};

std::map<std::string, std::string> told(const xds::DeltaDiscoveryRequest& request) {
  return {request.initial_resource_versions().begin(), request.initial_resource_versions().end()};
}

bool open_to_all(const SnapshotPtr& snapshot, const std::string& address) {
  const auto found = snapshot->workload(ip(address));
  return found != nullptr && policy::evaluate(found->policies, {&found->identity, {}, {}, 80}).allowed;
}

TEST_F(Discovery, IntroducesItselfAsTheProxyOfItsNode) {
  start_controller();
  start();
  const auto headers = controller_.streams.take();
  ASSERT_TRUE(headers);
  EXPECT_EQ(headers->find("authorization")->second, "Bearer secret-1");
  EXPECT_EQ(headers->find("clusterid")->second, "Kubernetes");
  const auto requests = subscriptions();
  EXPECT_EQ(requests[0].type_url(), kAddresses);
  EXPECT_EQ(requests[1].type_url(), kPolicies);
  for (const auto& request : requests) {
    EXPECT_EQ(request.resource_names_subscribe_size(), 0) << "everything";
    EXPECT_EQ(request.initial_resource_versions_size(), 0);
  }
  const auto& node = requests[0].node();
  EXPECT_EQ(node.id(), "ztunnel~192.0.2.1~fairlead-agent.node1~fairlead-system.svc.cluster.local");
  const auto& metadata = node.metadata().fields();
  EXPECT_EQ(metadata.at("NAME").string_value(), "fairlead-agent.node1");
  EXPECT_EQ(metadata.at("NAMESPACE").string_value(), "fairlead-system");
  EXPECT_EQ(metadata.at("NODE_NAME").string_value(), "node1");
}

TEST_F(Discovery, ShowsNothingBeforeEveryTypeHasCome) {
  start_controller();
  start();
  (void)subscriptions();
  auto addresses = response(kAddresses, "n1");
  add(addresses, "a", "1", workload("a", "10.0.0.1"));
  EXPECT_FALSE(exchange(addresses).has_error_detail());
  EXPECT_FALSE(client_->status().synced);
  EXPECT_FALSE(exchange(response(kPolicies, "n2")).has_error_detail()) << "no policy is an answer, too";
  EXPECT_NE(snapshot()->workload(ip("10.0.0.1")), nullptr);
  EXPECT_FALSE(snapshots_.take(std::chrono::milliseconds(0))) << "none came of the first push";
  const XdsStatus status = client_->status();
  EXPECT_TRUE(status.connected);
  EXPECT_TRUE(status.synced);
  EXPECT_EQ(status.pushes, 2u);
  EXPECT_EQ(status.last_error, "");
}

TEST_F(Discovery, MakesFewSnapshotsOfManyResponses) {
  start_controller();
  start();
  sync();
  constexpr int kMany = 500;
  for (int i = 0; i < kMany; ++i) {
    auto push = response(kAddresses, "m" + std::to_string(i));
    const std::string name = "w" + std::to_string(i);
    add(push, name, "1", workload(name, fmt::format("10.1.{}.{}", i >> 8, i & 255)));
    ASSERT_TRUE(controller_.push(push));
  }
  int made = 0;
  for (SnapshotPtr last; last == nullptr || last->workloads().size() != kMany + 1; ++made) {
    last = snapshot();
    ASSERT_FALSE(HasFailure());
  }
  EXPECT_LE(made, kMany / 4);  // on a busy machine there are moments in between
  EXPECT_FALSE(snapshots_.take(std::chrono::milliseconds(100))) << "nothing is made of nothing new";
}

TEST_F(Discovery, ABusyStreamDoesNotHoldSnapshotsBack) {
  start_controller();
  start();
  sync();
  const auto start = std::chrono::steady_clock::now();
  const auto patience = start + kPatience;
  std::optional<SnapshotPtr> made;
  for (int i = 0; !made && std::chrono::steady_clock::now() < patience; ++i) {
    auto push = response(kAddresses, "m" + std::to_string(i));
    add(push, "b", std::to_string(i), workload("b", "10.0.0.2"));
    exchange(push);  // one after the other, without a moment in between
    made = snapshots_.take(std::chrono::milliseconds(0));
  }
  ASSERT_TRUE(made);
  EXPECT_NE((*made)->workload(ip("10.0.0.2")), nullptr);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(3));
}

TEST_F(Discovery, WhatCameBeforeTheStreamBrokeIsShown) {
  start_controller();
  start();
  sync();
  auto push = response(kAddresses, "n3");
  add(push, "b", "1", workload("b", "10.0.0.2"));
  ASSERT_TRUE(controller_.push(push));
  ASSERT_TRUE(controller_.requests.take());
  controller_.break_stream();
  EXPECT_NE(snapshot()->workload(ip("10.0.0.2")), nullptr);
}

TEST_F(Discovery, TakesALargeMeshInManyResponses) {
  start_controller();
  start();
  (void)subscriptions();
  exchange(response(kPolicies, "p"));
  constexpr int kResponses = 500;
  constexpr int kOfEach = 100;
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < kResponses; ++i) {
    auto push = response(kAddresses, "m" + std::to_string(i));
    for (int k = 0; k < kOfEach; ++k) {
      const int number = i * kOfEach + k;
      const std::string name = "w" + std::to_string(number);
      add(push, name, "1",
          workload(name, fmt::format("10.{}.{}.{}", number >> 16, number >> 8 & 255, number & 255)));
    }
    ASSERT_TRUE(controller_.push(push));
  }
  int made = 0;
  for (SnapshotPtr last; last == nullptr || last->workloads().size() != size_t{kResponses} * kOfEach;
       ++made) {
    last = snapshot();
    ASSERT_FALSE(HasFailure());
  }
  const auto took = std::chrono::steady_clock::now() - begin;
  std::printf("50,000 workloads in 500 responses: %.0f ms, %d snapshots\n",
              std::chrono::duration<double, std::milli>(took).count(), made);
  EXPECT_LE(made, kResponses / 4);
}

TEST_F(Discovery, NamesWhatIsBrokenAndTakesTheRest) {
  start_controller();
  start();
  sync();
  auto push = response(kAddresses, "n3");
  auto broken = workload("b", "10.0.0.2");
  broken.mutable_workload()->add_addresses("abc");
  add(push, "b", "1", broken);
  add(push, "c", "1", workload("c", "10.0.0.3"));
  add(push, "not-even", "1", deny_all("p", istio::security::GLOBAL));
  push.add_resources()->set_name("empty");
  const auto answer = exchange(push);
  ASSERT_TRUE(answer.has_error_detail());
  EXPECT_THAT(answer.error_detail().message(), HasSubstr("ns/b"));
  EXPECT_THAT(answer.error_detail().message(), HasSubstr("not-even"));
  EXPECT_THAT(answer.error_detail().message(), HasSubstr("empty"));
  const auto after = snapshot();
  EXPECT_EQ(after->workload(ip("10.0.0.2")), nullptr);
  EXPECT_NE(after->workload(ip("10.0.0.3")), nullptr);
  EXPECT_NE(after->workload(ip("10.0.0.1")), nullptr);
  EXPECT_EQ(client_->status().rejected, 3u);
  EXPECT_THAT(client_->status().last_error, HasSubstr("ns/b"));
}

TEST_F(Discovery, ANackIsBounded) {
  start_controller();
  start();
  sync();
  auto push = response(kAddresses, "n3");
  for (int i = 0; i < 2000; ++i) push.add_resources()->set_name("nothing-" + std::to_string(i));
  const auto answer = exchange(push);
  EXPECT_LE(answer.error_detail().message().size(), 4096u);
  EXPECT_EQ(client_->status().rejected, 2000u);
}

TEST_F(Discovery, AnUnreadablePolicyDeniesUntilItIsRemoved) {
  start_controller();
  start();
  sync();
  auto push = response(kPolicies, "n3");
  auto& resource = *push.add_resources();
  resource.set_name("ns/q");
  resource.mutable_resource()->set_type_url(kPolicies);
  resource.mutable_resource()->set_value("\xff\xff\xff");
  EXPECT_TRUE(exchange(push).has_error_detail());
  EXPECT_FALSE(open_to_all(snapshot(), "10.0.0.1"));
  auto removal = response(kPolicies, "n4");
  removal.add_removed_resources("ns/q");
  EXPECT_FALSE(exchange(removal).has_error_detail());
  EXPECT_TRUE(open_to_all(snapshot(), "10.0.0.1"));
}

TEST_F(Discovery, TakesRemovals) {
  start_controller();
  start();
  sync();
  auto push = response(kAddresses, "n3");
  push.add_removed_resources("a");
  push.add_removed_resources("never-known");
  EXPECT_FALSE(exchange(push).has_error_detail());
  EXPECT_EQ(snapshot()->workload(ip("10.0.0.1")), nullptr);
}

TEST_F(Discovery, RefusesATypeThatItDidNotAskFor) {
  start_controller();
  start();
  (void)subscriptions();
  const auto answer = exchange(response("type.googleapis.com/envoy.config.listener.v3.Listener", "n1"));
  ASSERT_TRUE(answer.has_error_detail());
  EXPECT_THAT(answer.error_detail().message(), HasSubstr("Listener"));
}

TEST_F(Discovery, TellsWhatItHasAfterAReconnect) {
  start_controller();
  start();
  sync();
  auto push = response(kAddresses, "n3");
  add(push, "b", "7", workload("b", "10.0.0.2"));
  push.add_removed_resources("a");
  exchange(push);
  (void)snapshot();
  ASSERT_TRUE(controller_.streams.take());
  controller_.break_stream();
  ASSERT_TRUE(controller_.streams.take());
  const auto requests = subscriptions();
  EXPECT_TRUE(requests[0].has_node());
  EXPECT_EQ(told(requests[0]), (std::map<std::string, std::string>{{"b", "7"}}));
  EXPECT_EQ(told(requests[1]), (std::map<std::string, std::string>{{"ns/p", "1"}}));
  exchange(response(kAddresses, "m1"));
  EXPECT_NE(snapshot()->workload(ip("10.0.0.2")), nullptr) << "what it had is still there";
}

TEST_F(Discovery, DoesNotClaimTheVersionOfWhatItRefused) {
  start_controller();
  start();
  sync();
  auto push = response(kPolicies, "n3");
  add(push, "ns/p", "2", deny_all("", istio::security::NAMESPACE));
  add(push, "ns/q", "2", deny_all("", istio::security::NAMESPACE));
  EXPECT_TRUE(exchange(push).has_error_detail());
  EXPECT_FALSE(open_to_all(snapshot(), "10.0.0.1"));
  controller_.break_stream();
  const auto requests = subscriptions();
  // "ns/q" is told all the same: else its removal meanwhile would never be.
  EXPECT_EQ(told(requests[1]), (std::map<std::string, std::string>{{"ns/p", "1"}, {"ns/q", ""}}));
  auto removal = response(kPolicies, "m1");
  removal.add_removed_resources("ns/q");
  exchange(removal);
  EXPECT_TRUE(open_to_all(snapshot(), "10.0.0.1"));
}

TEST_F(Discovery, AsksForEverythingWhenItHasTooMuchToTell) {
  controller_.max_receive = 4 * 1024 * 1024;
  start_controller();
  start();
  sync();
  auto push = response(kAddresses, "n3");
  add(push, "b", std::string(5 * 1024 * 1024, 'v'), workload("b", "10.0.0.2"));
  exchange(push);
  (void)snapshot();
  controller_.break_stream();
  // The stream that tells of "b" is refused before anything of it is read; the one after that tells nothing.
  const auto requests = subscriptions();
  EXPECT_EQ(told(requests[0]).size(), 0u);
  EXPECT_EQ(told(requests[1]).size(), 0u);
  auto all = response(kAddresses, "m1");
  add(all, "c", "1", workload("c", "10.0.0.3"));
  exchange(all);
  const auto after = snapshot();
  EXPECT_EQ(after->workload(ip("10.0.0.1")), nullptr) << "gone while nobody could tell";
  EXPECT_NE(after->workload(ip("10.0.0.3")), nullptr);
  EXPECT_EQ(after->policies().size(), 1u) << "of policies nothing was said yet";
  auto more = response(kAddresses, "m2");
  add(more, "d", "1", workload("d", "10.0.0.4"));
  exchange(more);
  EXPECT_NE(snapshot()->workload(ip("10.0.0.3")), nullptr) << "only the first push is everything";
  exchange(response(kPolicies, "m3"));
  EXPECT_TRUE(snapshot()->policies().empty());
}

TEST_F(Discovery, ReadsTheTokenAnewForEveryStream) {
  start_controller();
  start();
  sync();
  ASSERT_TRUE(controller_.streams.take());
  write("token", "secret-2");
  controller_.break_stream();
  const auto headers = controller_.streams.take();
  ASSERT_TRUE(headers);
  EXPECT_EQ(headers->find("authorization")->second, "Bearer secret-2");
}

TEST_F(Discovery, SurvivesATokenThatIsNone) {
  start_controller();
  for (const std::string& bad : {std::string("two\nlines"), std::string("caf\xc3\xa9"), std::string(),
                                 std::string("zero\0inside", 11), std::string("\x7f")}) {
    write("token", bad);
    start();
    EXPECT_FALSE(controller_.streams.take(std::chrono::milliseconds(50)));
    EXPECT_THAT(client_->status().last_error, HasSubstr("token"));
    client_.reset();
  }
  write("token", "secret-3\r\n");
  start();
  const auto headers = controller_.streams.take();
  ASSERT_TRUE(headers);
  EXPECT_EQ(headers->find("authorization")->second, "Bearer secret-3");
}

TEST_F(Discovery, ComesUpAfterItsControllerDoes) {
  start();
  EXPECT_FALSE(snapshots_.take(std::chrono::milliseconds(100)));
  start_controller();
  sync();
}

TEST_F(Discovery, FindsAControllerThatWasRestarted) {
  start_controller();
  start();
  sync();
  controller_.stop();
  start_controller();
  const auto requests = subscriptions();
  EXPECT_EQ(told(requests[0]), (std::map<std::string, std::string>{{"a", "1"}}));
}

TEST_F(Discovery, TellsAnImpostorNothing) {
  write("roots.pem", testing::Authority::root("somebody else").certificate_pem());
  start_controller();
  start();
  EXPECT_FALSE(controller_.streams.take(std::chrono::milliseconds(500)));
  EXPECT_THAT(client_->status().last_error, HasSubstr("discovery stream"));
  write("roots.pem", authority_.certificate_pem());
  EXPECT_TRUE(controller_.streams.take()) << "roots are read anew";
}

TEST_F(Discovery, TellsAControllerOfAnotherNameNothing) {
  start_controller();
  ControllerEndpoint other = endpoint();
  other.server_name = "other.test";
  client_ = std::make_unique<XdsClient>(other, [this](SnapshotPtr snapshot) { snapshots_.put(snapshot); });
  client_->start();
  EXPECT_FALSE(controller_.streams.take(std::chrono::milliseconds(500)));
}

TEST_F(Discovery, StopsAtOnceWhateverTheControllerDoes) {
  start();
  expect_prompt_stop(*client_);  // nobody listens
  port_.listen();
  start();
  const UniqueFd silent = port_.accept();
  ASSERT_TRUE(silent);
  expect_prompt_stop(*client_);  // taken, never answered
}

TEST_F(Discovery, StopsAtOnceWhileItListens) {
  start_controller();
  start();
  sync();
  expect_prompt_stop(*client_);
  expect_prompt_stop(*client_);  // again
}

TEST_F(Discovery, TriesAgainAfterGarbage) {
  port_.listen();
  start();
  for (int i = 0; i < 3; ++i) {
    const UniqueFd peer = port_.accept();
    ASSERT_TRUE(peer);
    ASSERT_EQ(::send(peer.get(), "HTTP/1.1 400 no\r\n\r\n", 19, MSG_NOSIGNAL), 19);
  }
  EXPECT_FALSE(client_->status().connected);
  EXPECT_THAT(client_->status().last_error, HasSubstr("discovery stream"));
  expect_prompt_stop(*client_);
}

}  // namespace
}  // namespace fairlead::state
