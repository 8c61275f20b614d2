#include <gmock/gmock.h>

#include "unit/state/agent_for_test.h"
#include "unit/state/issuer_for_test.h"
#include "unit/tls/pair.h"

namespace fairlead::state {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::HasSubstr;
using CredentialsPtr = std::shared_ptr<const tls::Credentials>;

constexpr milliseconds kMoment{200};  // long enough for what must not happen to happen
constexpr seconds kSoon{3};           // well before the deadline of a call

SpiffeId id(const std::string& account) {
  return {"cluster.local", "ns", account};
}

class Certificates : public ClientTest {
 protected:
  ~Certificates() override {
    client_.reset();
    issuer_.release_all();
    controller_.stop();
  }
  void start() {
    if (!std::exchange(serving_, true)) serve();
    client_ = std::make_unique<CertificateClient>(
        endpoint(), seconds(86400), [this](CredentialsPtr made) { credentials_.put(std::move(made)); });
    client_->start();
  }
  void serve() {
    controller_.sign = std::ref(issuer_);
    start_controller();
  }
  void want(const std::string& account) { ASSERT_TRUE(client_->want(id(account))); }
  CredentialsPtr credentials() {
    auto taken = credentials_.take();
    EXPECT_TRUE(taken);
    return taken ? *taken : nullptr;
  }
  Issuer::Seen request() {
    auto taken = issuer_.seen.take();
    EXPECT_TRUE(taken);
    return taken ? *taken : Issuer::Seen();
  }
  CertificateClient::Status status_of(const std::string& account) {
    for (const auto& status : client_->status()) {
      if (status.id == id(account)) return status;
    }
    return {};
  }

  Issuer issuer_;
  bool serving_ = false;
  Events<CredentialsPtr> credentials_;
  std::unique_ptr<CertificateClient> client_;
};

TEST_F(Certificates, AsksInTheNameOfTheWorkloadAndGetsItsCertificate) {
  start();
  want("a");
  want("a");
  const CredentialsPtr made = credentials();
  ASSERT_NE(made, nullptr);
  EXPECT_EQ(made->id(), id("a"));
  const auto asked = request();
  EXPECT_EQ(asked.identity, id("a").uri());
  EXPECT_EQ(asked.request.validity_duration(), 86400);
  EXPECT_THAT(asked.request.csr(), HasSubstr("BEGIN CERTIFICATE REQUEST"));
  EXPECT_EQ(asked.metadata.find("authorization")->second, "Bearer secret-1");
  EXPECT_EQ(asked.metadata.find("clusterid")->second, "Kubernetes");
  const auto status = status_of("a");
  EXPECT_TRUE(status.ready);
  EXPECT_EQ(status.serial, made->serial());
  EXPECT_EQ(status.not_after, made->not_after());
  EXPECT_EQ(status.last_error, "");
  EXPECT_FALSE(issuer_.seen.take(kMoment)) << "wanted twice, asked once";
}

TEST_F(Certificates, RenewalsAreSpreadAroundHalfOfTheLife) {
  start();
  constexpr int kMany = 24;
  for (int i = 0; i < kMany; ++i) want("a" + std::to_string(i));
  for (int i = 0; i < kMany; ++i) ASSERT_NE(credentials(), nullptr);
  std::set<double> shares;
  for (const auto& status : client_->status()) {
    const auto life = status.not_after - status.not_before;
    const double share = std::chrono::duration<double>(status.next_attempt - status.not_before) / life;
    EXPECT_GE(share, 0.45);
    EXPECT_LE(share, 0.55);
    shares.insert(share);
  }
  EXPECT_GT(shares.size(), 12u) << "not all at once";
}

TEST_F(Certificates, RenewsAtHalfOfTheLifeWithAnotherKey) {
  issuer_.answer = [this](const std::string& identity, int attempt, const auto& request, auto& response) {
    // The first one has one to three seconds to go until half of its life.
    return attempt == 1 ? issuer_.good(identity, request, response, seconds(20), seconds(8))
                        : issuer_.good(identity, request, response, seconds(7200));
  };
  start();
  want("a");
  const CredentialsPtr first = credentials();
  const auto first_request = request();
  const auto second_request = request();
  const CredentialsPtr second = credentials();
  ASSERT_TRUE(first && second);
  EXPECT_NE(first->serial(), second->serial());
  EXPECT_NE(first_request.request.csr(), second_request.request.csr());
  const auto age = second_request.when - first->not_before();
  EXPECT_GE(age, seconds(9));
  EXPECT_LE(age, seconds(13));
  EXPECT_EQ(status_of("a").serial, second->serial());
}

TEST_F(Certificates, KeepsTheOldOneUntilTheNewOneWorks) {
  issuer_.answer = [this](const std::string& identity, int attempt, const auto& request, auto& response) {
    if (attempt == 1) return issuer_.good(identity, request, response, seconds(40), seconds(21));
    if (attempt == 2) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "signer is away");
    if (attempt == 3) {
      (void)issuer_.good(identity, request, response, seconds(7200));
      response.mutable_cert_chain()->RemoveLast();
      return grpc::Status::OK;
    }
    return issuer_.good(identity, request, response, seconds(7200));
  };
  issuer_.hold([](const std::string&, int attempt) { return attempt == 3; });
  start();
  want("a");
  const CredentialsPtr first = credentials();
  ASSERT_NE(first, nullptr);
  for (int i = 0; i < 3; ++i) (void)request();
  const auto between = status_of("a");
  EXPECT_TRUE(between.ready);
  EXPECT_EQ(between.serial, first->serial());
  EXPECT_THAT(between.last_error, HasSubstr("signer is away"));
  issuer_.release_all();
  const CredentialsPtr second = credentials();
  ASSERT_NE(second, nullptr);
  EXPECT_NE(second->serial(), first->serial()) << "neither failure brought any";
  EXPECT_EQ(status_of("a").last_error, "");
}

TEST_F(Certificates, OneThatIsBornOldIsRenewedBeforeItsEndAgainAndAgain) {
  // Dated back by far more than it lives: half of its life is over when it comes.
  issuer_.answer = [this](const std::string& identity, int, const auto& request, auto& response) {
    return issuer_.good(identity, request, response, seconds(122), seconds(120));
  };
  start();
  want("a");
  CredentialsPtr last = credentials();
  for (int i = 0; i < 6; ++i) {
    ASSERT_NE(last, nullptr);
    const CredentialsPtr next = credentials();
    EXPECT_LT(std::chrono::system_clock::now(), last->not_after()) << "renewal " << i;
    last = next;
  }
}

TEST_F(Certificates, FailuresAreRetriedBeforeTheEndOfTheOldOne) {
  // Five seconds to go; doubling pauses alone would pass them by with the third failure.
  issuer_.answer = [this](const std::string& identity, int attempt, const auto& request, auto& response) {
    if (attempt == 1) return issuer_.good(identity, request, response, seconds(125), seconds(120));
    if (attempt < 5) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "signer is away");
    return issuer_.good(identity, request, response, seconds(7200));
  };
  start();
  want("a");
  const CredentialsPtr first = credentials();
  ASSERT_NE(first, nullptr);
  const CredentialsPtr second = credentials();
  ASSERT_NE(second, nullptr);
  EXPECT_LT(std::chrono::system_clock::now(), first->not_after());
}

TEST_F(Certificates, OneThatRanOutIsNotReady) {
  issuer_.answer = [this](const std::string& identity, int attempt, const auto& request, auto& response) {
    if (attempt == 1) return issuer_.good(identity, request, response, seconds(10), seconds(8));
    return grpc::Status(grpc::StatusCode::UNAVAILABLE, "signer is away");
  };
  start();
  want("a");
  const CredentialsPtr first = credentials();
  ASSERT_NE(first, nullptr);
  EXPECT_TRUE(status_of("a").ready);
  while (request().when < first->not_after()) {
    if (HasFailure()) return;
  }
  EXPECT_FALSE(status_of("a").ready);
}

TEST_F(Certificates, RefusesAnswersThatAreNotWhatWasAskedFor) {
  struct Case {
    const char* account;
    const char* error;
    std::function<void(CertificateResponse&, const CertificateRequest&)> spoil;
  };
  const auto stranger = testing::Authority::root("somebody else");
  const std::vector<Case> cases = {
      {"other-identity", "asked for",
       [this](auto& response, const auto& request) {
         response.set_cert_chain(0, issuer_.authority.sign(request.csr(), testing::workload(id("b").uri())));
       }},
      {"other-root", "own chain",
       [stranger](auto& response, const auto&) { response.set_cert_chain(1, stranger.certificate_pem()); }},
      {"other-key", "key",
       [this](auto& response, const auto&) {
         const auto shape = testing::workload(id("other-key").uri());
         response.set_cert_chain(0, issuer_.authority.issue(shape).certificate_pem);
       }},
      {"one-element", "1 elements",
       [](auto& response, const auto&) { response.mutable_cert_chain()->RemoveLast(); }},
      {"no-element", "0 elements", [](auto& response, const auto&) { response.clear_cert_chain(); }},
      {"no-certificate", "PEM", [](auto& response, const auto&) { response.set_cert_chain(0, "garbage"); }},
      {"no-root", "PEM", [](auto& response, const auto&) { response.set_cert_chain(1, ""); }},
      {"past", "own chain",
       [this](auto& response, const auto& request) {
         auto shape = testing::workload(id("past").uri());
         shape.starts_in = seconds(-7200);
         shape.ends_in = seconds(-3600);
         response.set_cert_chain(0, issuer_.authority.sign(request.csr(), shape));
       }},
  };
  // By value: the client asks until the fixture ends.
  issuer_.answer = [this, cases](const std::string& identity, int, const auto& request, auto& response) {
    (void)issuer_.good(identity, request, response, seconds(7200));
    for (const Case& c : cases) {
      if (identity == id(c.account).uri()) c.spoil(response, request);
    }
    return grpc::Status::OK;
  };
  start();
  for (const Case& c : cases) want(c.account);
  // Each is asked for again, and by then its error is known.
  std::map<std::string, int> asked;
  while (asked.size() < cases.size() ||
         std::any_of(asked.begin(), asked.end(), [](const auto& entry) { return entry.second < 2; })) {
    ++asked[request().identity];
    ASSERT_FALSE(HasFailure());
  }
  for (const Case& c : cases) {
    EXPECT_FALSE(status_of(c.account).ready) << c.account;
    EXPECT_THAT(status_of(c.account).last_error, HasSubstr(c.error)) << c.account;
  }
  EXPECT_FALSE(credentials_.take(milliseconds(0)));
}

TEST_F(Certificates, BacksOffAfterFailures) {
  issuer_.answer = [](const auto&, int, const auto&, auto&) {
    return grpc::Status(grpc::StatusCode::UNAUTHENTICATED, "no pod of this node");
  };
  start();
  want("a");
  const auto first = request().when;
  const auto second = request().when;
  const auto third = request().when;
  EXPECT_GE(second - first, milliseconds(390));  // 0.5 s and 1 s, ±20 %
  EXPECT_GE(third - second, milliseconds(790));
  EXPECT_LE(third - first, seconds(10));
  EXPECT_THAT(status_of("a").last_error, HasSubstr("no pod of this node"));
  want("b");
  EXPECT_EQ(request().identity, id("b").uri()) << "one that fails delays no other";
}

TEST_F(Certificates, AStuckOneDelaysNoOther) {
  issuer_.hold([](const std::string& identity, int) { return identity == id("stuck").uri(); });
  start();
  want("stuck");
  EXPECT_EQ(request().identity, id("stuck").uri());
  want("a");
  const auto other = credentials_.take(kSoon);
  ASSERT_TRUE(other);
  EXPECT_EQ((*other)->id(), id("a"));
  issuer_.release_all();
  EXPECT_EQ(credentials()->id(), id("stuck"));
}

TEST_F(Certificates, FetchesSeveralAtOnceAndNoMore) {
  issuer_.hold([](const std::string&, int) { return true; });
  start();
  constexpr size_t kMany = 3 * kMaxFetches;
  for (size_t i = 0; i < kMany; ++i) want("a" + std::to_string(i));
  for (size_t i = 0; i < kMaxFetches; ++i) (void)request();
  EXPECT_FALSE(issuer_.seen.take(kMoment));
  issuer_.release_all();
  std::set<SpiffeId> got;
  for (size_t i = 0; i < kMany; ++i) got.insert(credentials()->id());
  EXPECT_EQ(got.size(), kMany);
  EXPECT_LE(issuer_.most_at_once(), kMaxFetches);
}

TEST_F(Certificates, RenewalsLeaveRoomForWhoeverHasNone) {
  issuer_.answer = [this](const std::string& identity, int attempt, const auto& request, auto& response) {
    return attempt == 1 ? issuer_.good(identity, request, response, seconds(40), seconds(21))
                        : issuer_.good(identity, request, response, seconds(7200));
  };
  issuer_.hold([](const std::string&, int attempt) { return attempt > 1; });
  start();
  constexpr size_t kMany = 2 * kMaxFetches;
  for (size_t i = 0; i < kMany; ++i) want("old" + std::to_string(i));
  for (size_t i = 0; i < kMany; ++i) ASSERT_NE(credentials(), nullptr);
  for (size_t i = 0; i < kMany + kMaxFetches - kFetchesForNew; ++i) (void)request();
  EXPECT_FALSE(issuer_.seen.take(kMoment)) << "the rest of the renewals waits";
  want("new");
  EXPECT_EQ(credentials()->id(), id("new"));
  issuer_.release_all();
  for (size_t i = 0; i < kMany; ++i) EXPECT_NE(credentials(), nullptr);
}

TEST_F(Certificates, FailuresLeaveRoomForTheFirstAttempt) {
  issuer_.answer = [this](const std::string& identity, int attempt, const auto& request, auto& response) {
    if (attempt == 1 && identity != id("new").uri()) return grpc::Status(grpc::StatusCode::INTERNAL, "once");
    return issuer_.good(identity, request, response, seconds(7200));
  };
  issuer_.hold([](const std::string&, int attempt) { return attempt > 1; });
  start();
  for (size_t i = 0; i < kMaxFetches; ++i) want("bad" + std::to_string(i));
  for (size_t i = 0; i < 2 * kMaxFetches - kFetchesForNew; ++i) (void)request();
  want("new");
  EXPECT_EQ(credentials()->id(), id("new"));
}

TEST_F(Certificates, ForgottenDuringACallItIsGone) {
  issuer_.hold([](const std::string&, int attempt) { return attempt == 1; });
  start();
  want("a");
  (void)request();
  client_->forget(id("a"));
  EXPECT_EQ(issuer_.cancelled.take(kSoon), id("a").uri()) << "the call is given up";
  EXPECT_TRUE(client_->status().empty());
  want("a");
  EXPECT_EQ(credentials()->id(), id("a"));
  EXPECT_FALSE(credentials_.take(kMoment)) << "of the first call comes nothing";
}

TEST_F(Certificates, ForgottenIsNotRenewed) {
  issuer_.answer = [this](const std::string& identity, int, const auto& request, auto& response) {
    return issuer_.good(identity, request, response, seconds(40), seconds(21));
  };
  start();
  want("a");
  ASSERT_NE(credentials(), nullptr);
  (void)request();
  client_->forget(id("a"));
  client_->forget(id("never-known"));
  EXPECT_FALSE(issuer_.seen.take(milliseconds(1000)));  // it was due after 0.6 s at most
}

TEST_F(Certificates, NewRootsReachTheCredentials) {
  const auto next = testing::Authority::root("next root");
  issuer_.answer = [this, next](const std::string& identity, int attempt, const auto& request,
                                auto& response) {
    if (attempt == 1) return issuer_.good(identity, request, response, seconds(40), seconds(21));
    (void)issuer_.good(identity, request, response, seconds(7200));
    response.set_cert_chain(1, issuer_.authority.certificate_pem() + next.certificate_pem());
    return grpc::Status::OK;
  };
  start();
  want("a");
  const CredentialsPtr before = credentials();
  const CredentialsPtr after = credentials();
  ASSERT_TRUE(before && after);
  const auto accepts = [](const CredentialsPtr& own, const testing::Authority& of_peer,
                          const std::string& roots_of_peer) {
    const auto peer = tls::try_credentials(of_peer.issue(testing::workload(tls::kServerUri)),
                                           of_peer.certificate_pem() + roots_of_peer, tls::kServerUri);
    EXPECT_TRUE(peer);
    tls::Pair pair(own, *peer);
    pair.run();
    return pair.client().done && !pair.client().error;
  };
  const std::string both = issuer_.authority.certificate_pem();
  EXPECT_TRUE(accepts(before, issuer_.authority, ""));
  EXPECT_FALSE(accepts(before, next, both));
  EXPECT_TRUE(accepts(after, issuer_.authority, ""));
  EXPECT_TRUE(accepts(after, next, both));
}

TEST_F(Certificates, KeepsToOneConnectionWhileItsRootsAreTheSame) {
  start();
  want("a");
  ASSERT_NE(credentials(), nullptr);
  const std::string peer = request().peer;
  write("token", "secret-2");
  want("b");
  ASSERT_NE(credentials(), nullptr);
  const auto second = request();
  EXPECT_EQ(second.peer, peer);
  EXPECT_EQ(second.metadata.find("authorization")->second, "Bearer secret-2") << "the token is read anew";
  write("roots.pem", testing::Authority::root("somebody else").certificate_pem());
  want("c");
  EXPECT_FALSE(issuer_.seen.take(kMoment)) << "this controller is trusted no longer";
  write("roots.pem", authority_.certificate_pem());
  ASSERT_NE(credentials(), nullptr);
  EXPECT_NE(request().peer, peer);
}

TEST_F(Certificates, FindsAControllerThatWasRestarted) {
  start();
  want("a");
  ASSERT_NE(credentials(), nullptr);
  controller_.stop();
  want("b");
  start_controller();
  ASSERT_NE(credentials(), nullptr);
}

TEST_F(Certificates, SurvivesMissingFiles) {
  std::filesystem::remove(directory_ + "/token");
  start();
  want("a");
  EXPECT_FALSE(issuer_.seen.take(kMoment));
  EXPECT_THAT(status_of("a").last_error, HasSubstr("token"));
  write("token", "secret-3");
  EXPECT_EQ(credentials()->id(), id("a"));
  (void)request();
  std::filesystem::remove(directory_ + "/roots.pem");
  want("b");
  EXPECT_FALSE(issuer_.seen.take(kMoment));
  EXPECT_THAT(status_of("b").last_error, HasSubstr("roots.pem"));
}

TEST_F(Certificates, SaysThatItHoldsNoMore) {
  start();
  client_->stop();
  for (size_t i = 0; i < kMaxIdentities; ++i) want("a" + std::to_string(i));
  const auto refused = client_->want(id("one-more"));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().kind(), ErrorKind::kExhausted);
  EXPECT_THAT(refused.error().text(), HasSubstr("one-more"));
  EXPECT_TRUE(client_->want(id("a0"))) << "what it holds it may be told again";
  client_->forget(id("a0"));
  EXPECT_TRUE(client_->want(id("one-more")));
}

TEST_F(Certificates, StopsAtOnceDuringCalls) {
  issuer_.hold([](const std::string&, int) { return true; });
  start();
  for (size_t i = 0; i < 2 * kMaxFetches; ++i) want("a" + std::to_string(i));
  for (size_t i = 0; i < kMaxFetches; ++i) (void)request();
  expect_prompt_stop(*client_);
  for (size_t i = 0; i < kMaxFetches; ++i) EXPECT_TRUE(issuer_.cancelled.take());
  EXPECT_FALSE(issuer_.seen.take(milliseconds(0)));
  EXPECT_FALSE(credentials_.take(milliseconds(0)));
  expect_prompt_stop(*client_);  // again
}

TEST_F(Certificates, StopsAtOnceWhateverTheControllerDoes) {
  serving_ = true;  // nobody listens
  start();
  want("a");
  expect_prompt_stop(*client_);
  port_.listen();
  start();
  want("a");
  const UniqueFd silent = port_.accept();
  ASSERT_TRUE(silent);
  expect_prompt_stop(*client_);  // taken, never answered
}

}  // namespace
}  // namespace fairlead::state
