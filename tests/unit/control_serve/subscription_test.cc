#include "control/serve/subscription.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "unit/control_serve/mesh_for_test.h"

namespace fairlead::serve {
namespace {

using envoy::service::discovery::v3::DeltaDiscoveryRequest;
using envoy::service::discovery::v3::DeltaDiscoveryResponse;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;
using namespace testing;

const std::string kType(kAddressType);

DeltaDiscoveryRequest request(const std::vector<std::string>& subscribe,
                              const std::vector<std::string>& unsubscribe = {}) {
  DeltaDiscoveryRequest message;
  message.set_type_url(kType);
  for (const std::string& name : subscribe) message.add_resource_names_subscribe(name);
  for (const std::string& name : unsubscribe) message.add_resource_names_unsubscribe(name);
  return message;
}

std::vector<std::string> names(const std::optional<DeltaDiscoveryResponse>& response) {
  std::vector<std::string> list;
  for (const auto& resource : response->resources()) list.push_back(resource.name());
  return list;
}
std::vector<std::string> removed(const std::optional<DeltaDiscoveryResponse>& response) {
  return {response->removed_resources().begin(), response->removed_resources().end()};
}

class SubscriptionTest : public ::testing::Test {
 protected:
  SubscriptionTest() {
    add_workload(mesh_, "a", 1, "shop/web");
    add_workload(mesh_, "b", 2);
    add_service(mesh_, "shop/web", 9);
  }
  std::optional<DeltaDiscoveryResponse> next(Subscription::Removals removals = Subscription::Removals::kNow) {
    return subscription_.next(kType, encode(mesh_), removals);
  }

  model::Mesh mesh_;
  Subscription subscription_;
};

TEST_F(SubscriptionTest, SaysNothingUnasked) {
  EXPECT_FALSE(next());
}

TEST_F(SubscriptionTest, WildcardTellsEverythingOnceAndThenChanges) {
  subscription_.update(request({}));
  EXPECT_THAT(names(next()), UnorderedElementsAre(uid("a"), uid("b"), "shop/web"));
  EXPECT_FALSE(next()) << "nothing has changed";
  mesh_.addresses[uid("a")].mutable_workload()->set_node("node2");
  mesh_.addresses.erase(uid("b"));
  add_workload(mesh_, "c", 3);
  const auto change = next();
  ASSERT_TRUE(change);
  EXPECT_THAT(names(change), UnorderedElementsAre(uid("a"), uid("c")));
  EXPECT_THAT(removed(change), ElementsAre(uid("b")));
  EXPECT_FALSE(next());
}

TEST_F(SubscriptionTest, FirstAnswerComesEvenIfEmpty) {
  mesh_ = {};
  subscription_.update(request({}));
  const auto answer = next();
  ASSERT_TRUE(answer) << "an agent is ready once it was answered";
  EXPECT_EQ(answer->type_url(), kType);
  EXPECT_FALSE(next());
}

TEST_F(SubscriptionTest, WhatComesAndGoesBetweenTwoAnswersIsNotTold) {
  subscription_.update(request({}));
  next();
  const model::Mesh before = mesh_;
  mesh_.addresses.erase(uid("b"));
  (void)encode(mesh_);
  mesh_ = before;
  EXPECT_FALSE(next());
}

TEST_F(SubscriptionTest, InitialVersionsSaveAPush) {
  const PublishedPtr state = encode(mesh_);
  DeltaDiscoveryRequest again = request({});
  auto& versions = *again.mutable_initial_resource_versions();
  versions[uid("a")] = state->of(kType).resources.at(uid("a")).version;
  versions[uid("b")] = "of yesterday";
  versions[uid("gone")] = "of last year";
  subscription_.update(again);
  const auto answer = next();
  ASSERT_TRUE(answer);
  EXPECT_THAT(names(answer), UnorderedElementsAre(uid("b"), "shop/web"));
  EXPECT_THAT(removed(answer), ElementsAre(uid("gone")));
}

TEST_F(SubscriptionTest, VersionsDependOnContentAlone) {
  model::Mesh same = mesh_;
  EXPECT_EQ(encode(mesh_)->of(kType).resources.at(uid("a")).version,
            encode(same)->of(kType).resources.at(uid("a")).version);
  same.addresses[uid("a")].mutable_workload()->set_node("node2");
  EXPECT_NE(encode(mesh_)->of(kType).resources.at(uid("a")).version,
            encode(same)->of(kType).resources.at(uid("a")).version);
}

TEST_F(SubscriptionTest, RemovalsCanWait) {
  subscription_.update(request({}));
  next();
  mesh_.addresses.erase(uid("b"));
  EXPECT_FALSE(next(Subscription::Removals::kLater));
  EXPECT_THAT(removed(next(Subscription::Removals::kNow)), ElementsAre(uid("b")));
}

TEST_F(SubscriptionTest, WhatWasToldMeanwhileIsTakenAwayToo) {
  subscription_.update(request({}));
  next();
  mesh_.addresses.erase(uid("b"));
  add_workload(mesh_, "c", 3);
  EXPECT_THAT(names(next(Subscription::Removals::kLater)), ElementsAre(uid("c")));
  mesh_.addresses.erase(uid("c"));
  EXPECT_FALSE(next(Subscription::Removals::kLater));
  EXPECT_THAT(removed(next()), UnorderedElementsAre(uid("b"), uid("c")));
  add_workload(mesh_, "b", 2);
  EXPECT_THAT(names(next()), ElementsAre(uid("b")));
}

TEST_F(SubscriptionTest, AfterAReconnectRemovalsCanWaitAsWell) {
  DeltaDiscoveryRequest again = request({});
  (*again.mutable_initial_resource_versions())[uid("gone")] = "x";
  subscription_.update(again);
  EXPECT_THAT(removed(next(Subscription::Removals::kLater)), IsEmpty());
  EXPECT_THAT(removed(next()), ElementsAre(uid("gone")));
}

TEST_F(SubscriptionTest, WildcardAndANameTellsTheNameAgain) {
  subscription_.update(request({"*"}));
  next();
  subscription_.update(request({uid("b"), uid("ghost")}));
  const auto answer = next();
  EXPECT_THAT(names(answer), ElementsAre(uid("b")));
  EXPECT_THAT(removed(answer), ElementsAre(uid("ghost")));
}

TEST_F(SubscriptionTest, FromEverythingToNames) {
  subscription_.update(request({}));
  next();
  subscription_.update(request({}, {"*"}));
  EXPECT_FALSE(next());
  mesh_.addresses[uid("a")].mutable_workload()->set_node("node2");
  EXPECT_FALSE(next()) << "nobody asks for it any more";
  subscription_.update(request({uid("a")}));
  EXPECT_THAT(names(next()), ElementsAre(uid("a")));
  subscription_.update(request({"*"}));
  EXPECT_THAT(names(next()), UnorderedElementsAre(uid("b"), "shop/web")) << "and back";
}

// A story of random states, told in a row (as a server does) and unrelated, to an agent now quick, now slow.
class Story {
 public:
  explicit Story(unsigned seed) : random_(seed) { subscription_.update(request({})); }

  void step() {
    const std::string name(1, static_cast<char>('a' + draw(6)));
    if (draw(2) == 0) {
      mesh_.addresses.erase(uid(name));
    } else {
      add_workload(mesh_, name, static_cast<char>(1 + draw(3)));
    }
    state_ = draw(4) == 0 ? encode(mesh_) : encode(mesh_, state_);
    if (draw(3) != 0) tell(draw(2) == 0 ? Subscription::Removals::kNow : Subscription::Removals::kLater);
  }
  void tell(Subscription::Removals removals) {
    const auto answer = subscription_.next(kType, state_, removals);
    if (!answer) return;
    for (const auto& resource : answer->resources()) agent_[resource.name()] = resource.version();
    for (const auto& gone : answer->removed_resources()) {
      EXPECT_EQ(agent_.erase(gone), 1u) << "took away what the agent did not have";
    }
  }
  void expect_agent_has_state() const {
    std::map<std::string, std::string> wanted;
    for (const auto& [name, resource] : state_->of(kType).resources) wanted[name] = resource.version;
    EXPECT_EQ(agent_, wanted);
  }

 private:
  unsigned draw(unsigned bound) { return static_cast<unsigned>(random_() % bound); }

  std::minstd_rand random_;
  model::Mesh mesh_;
  PublishedPtr state_ = encode(mesh_);
  Subscription subscription_;
  std::map<std::string, std::string> agent_;  // name → version
};

TEST(SubscriptionStory, LeavesTheAgentWithTheState) {
  for (unsigned seed = 1; seed <= 300; ++seed) {
    SCOPED_TRACE(seed);
    Story story(seed);
    for (int i = 0; i < 60; ++i) story.step();
    story.tell(Subscription::Removals::kNow);
    story.expect_agent_has_state();
  }
}

// ---- by name ----

TEST_F(SubscriptionTest, OnDemandBeginsWithNothing) {
  subscription_.update(request({"*"}, {"*"}));
  const auto answer = next();
  ASSERT_TRUE(answer);
  EXPECT_THAT(names(answer), IsEmpty());
  add_workload(mesh_, "c", 3);
  EXPECT_FALSE(next()) << "nobody asked for it";
}

TEST_F(SubscriptionTest, OnDemandByNameAddressAndService) {
  subscription_.update(request({uid("b")}));
  EXPECT_THAT(names(next()), ElementsAre(uid("b")));
  subscription_.update(request({"/10.0.0.1"}));
  EXPECT_THAT(names(next()), ElementsAre(uid("a"))) << "by its address";
  subscription_.update(request({"/10.96.0.9"}));
  EXPECT_THAT(names(next()), ElementsAre("shop/web")) << "its workload is known already";
  add_workload(mesh_, "c", 3, "shop/web");
  EXPECT_THAT(names(next()), ElementsAre(uid("c"))) << "a new workload of a service that was asked for";
  add_workload(mesh_, "c", 3);
  EXPECT_THAT(removed(next()), ElementsAre(uid("c"))) << "it is of that service no more";
}

TEST_F(SubscriptionTest, AServiceBringsItsWorkloads) {
  subscription_.update(request({"shop/web"}));
  const auto answer = next();
  EXPECT_THAT(names(answer), UnorderedElementsAre("shop/web", uid("a")));
  for (const auto& resource : answer->resources()) {
    if (resource.name() == uid("a")) {
      EXPECT_THAT(resource.aliases(), ElementsAre("/10.0.0.1"));
    }
  }
}

TEST_F(SubscriptionTest, WhatIsAskedForAndNotThereIsAnswered) {
  subscription_.update(request({"/10.9.9.9", uid("b")}));
  const auto answer = next();
  EXPECT_THAT(names(answer), ElementsAre(uid("b")));
  EXPECT_THAT(removed(answer), ElementsAre("/10.9.9.9"));
  EXPECT_FALSE(next());
}

TEST_F(SubscriptionTest, AskedAgainIsToldAgain) {
  subscription_.update(request({uid("b")}));
  next();
  subscription_.update(request({uid("b")}));
  EXPECT_THAT(names(next()), ElementsAre(uid("b")));
}

TEST_F(SubscriptionTest, UnsubscribedIsToldNoMore) {
  subscription_.update(request({uid("a"), uid("b")}));
  next();
  subscription_.update(request({}, {uid("b")}));
  next();
  mesh_.addresses[uid("b")].mutable_workload()->set_node("node2");
  EXPECT_FALSE(next());
}

TEST_F(SubscriptionTest, OnReconnectOnDemandTakesNothingAwayThatExists) {
  const PublishedPtr state = encode(mesh_);
  DeltaDiscoveryRequest again = request({"*"}, {"*"});
  (*again.mutable_initial_resource_versions())[uid("b")] = state->of(kType).resources.at(uid("b")).version;
  (*again.mutable_initial_resource_versions())[uid("gone")] = "x";
  subscription_.update(again);
  EXPECT_THAT(removed(next()), ElementsAre(uid("gone"))) << "b is about to be asked for again";
  subscription_.update(request({uid("b")}));
  EXPECT_FALSE(next()) << "the agent has it in this version";
}

TEST(PublishedTest, PodsOfTheHostsNetworkHaveNoAlias) {
  model::Mesh mesh;
  add_workload(mesh, "a", 1);
  mesh.addresses[uid("a")].mutable_workload()->set_network_mode(istio::workload::HOST_NETWORK);
  EXPECT_THAT(encode(mesh)->of(kType).by_alias, IsEmpty());
}

}  // namespace
}  // namespace fairlead::serve
