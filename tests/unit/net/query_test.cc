#include "net/query.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <thread>

namespace fairlead::net {
namespace {

class QueryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    path = ::testing::TempDir() + "/query-" + std::to_string(::getpid()) + ".sock";
    reactor = std::move(*Reactor::create());
    auto listening = QueryServer::listen(
        *reactor, path, 0600, [](std::string_view verb, std::string_view argument, const QueryPeer& peer) {
          if (verb == "big") return std::string(3 << 20, 'b');
          return std::string(verb) + "|" + std::string(argument) + "|" + std::to_string(peer.pid);
        });
    ASSERT_TRUE(listening) << listening.error().text();
    server = std::move(*listening);
    thread = std::thread([this] { reactor->run(); });
  }
  void TearDown() override {
    reactor->stop();
    thread.join();
    server.reset();
    EXPECT_NE(::access(path.c_str(), F_OK), 0) << "the socket file stays behind";
  }
  std::string path;
  std::unique_ptr<Reactor> reactor;
  std::unique_ptr<QueryServer> server;
  std::thread thread;
};

constexpr std::chrono::milliseconds kPatience{5000};

TEST_F(QueryTest, AnswersOneLineWithOneDocument) {
  const auto answer = query(path, "status {\"a\": 1}", kPatience);
  ASSERT_TRUE(answer) << answer.error().text();
  EXPECT_EQ(*answer, "status|{\"a\": 1}|" + std::to_string(::getpid()) + "\n");
}

TEST_F(QueryTest, LargeAnswersComeWhole) {
  const auto answer = query(path, "big", kPatience);
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->size(), (3u << 20) + 1);
}

TEST_F(QueryTest, AnEndlessLineIsCutOff) {
  const auto answer = query(path, std::string(kMaxQueryLine + 100000, 'x'), kPatience);
  EXPECT_FALSE(answer);
}

TEST_F(QueryTest, OnlyItsOwnerMayConnect) {
  struct stat info{};
  ASSERT_EQ(::stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
}

TEST(Query, NobodyThereIsUnavailable) {
  const auto answer = query("/nonexistent/x.sock", "status", kPatience);
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().kind(), ErrorKind::kUnavailable);
}

}  // namespace
}  // namespace fairlead::net
