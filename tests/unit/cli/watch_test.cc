// `why --watch`: the program itself, against a proxy that answers by script.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <deque>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/file.h"
#include "cli/command.h"
#include "net/query.h"

namespace fairlead::cli {
namespace {

using nlohmann::json;

json decision(const std::string& pod, bool allowed = true) {
  return {{"time", "2100-01-01T00:00:00.000Z"},
          {"direction", "inbound"},
          {"namespace", "shop"},
          {"pod", pod},
          {"source", "10.0.0.1:1"},
          {"destination", "10.0.0.2:2"},
          {"principal", ""},
          {"allowed", allowed},
          {"reason", "by script"}};
}

json page(const std::string& instance, int cursor, const std::vector<json>& rows, int missed = 0) {
  return {{"instance", instance}, {"cursor", {cursor}}, {"missed", missed}, {"rows", rows}};
}

class Watching : public ::testing::Test {
 protected:
  void SetUp() override {
    directory = ::testing::TempDir() + "/watch-" + std::to_string(::getpid());
    ASSERT_TRUE(make_directories(directory));
    reactor = std::move(*Reactor::create());
    listen();
  }
  void TearDown() override {
    if (child > 0) {
      ::kill(child, SIGKILL);
      ::waitpid(child, nullptr, 0);
    }
    deafen();
    ::rmdir(directory.c_str());
  }
  void listen() {
    auto listening = net::QueryServer::listen(
        *reactor, directory + "/proxy.sock", 0600,
        [this](std::string_view verb, std::string_view argument, const net::QueryPeer&) {
          EXPECT_EQ(verb, "decisions");
          return next(std::string(argument));
        });
    ASSERT_TRUE(listening) << listening.error().text();
    server = std::move(*listening);
    thread = std::thread([this] { reactor->run(); });
  }
  // Nobody listens any more.
  void deafen() {
    if (!thread.joinable()) return;
    reactor->stop();
    thread.join();
    server.reset();
    reactor = std::move(*Reactor::create());
  }
  std::string next(const std::string& argument) {
    const std::lock_guard lock(mutex);
    questions.push_back(argument);
    if (script.size() > 1) {
      const json answer = script.front();
      script.pop_front();
      return answer.dump();
    }
    json last = script.front();  // and nothing new from then on
    script.front()["rows"] = json::array();
    script.front()["missed"] = 0;
    return last.dump();
  }

  void start(std::vector<const char*> words) {
    int out[2];
    int err[2];
    ASSERT_EQ(::pipe2(out, O_CLOEXEC), 0);
    ASSERT_EQ(::pipe2(err, O_CLOEXEC), 0);
    out_ = UniqueFd(out[0]);
    err_ = UniqueFd(err[0]);
    const UniqueFd out_end(out[1]), err_end(err[1]);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, out_end.get(), 1);
    posix_spawn_file_actions_adddup2(&actions, err_end.get(), 2);
    words.insert(words.begin(), {FAIRLEAD_PROGRAM, "--run-dir", directory.c_str(), "why", "--watch"});
    words.push_back(nullptr);
    ASSERT_EQ(
        ::posix_spawn(&child, FAIRLEAD_PROGRAM, &actions, nullptr, const_cast<char**>(words.data()), environ),
        0);
    posix_spawn_file_actions_destroy(&actions);
  }
  // The next line, which must come by itself: it was flushed.
  static std::string line(const UniqueFd& from) {
    std::string text;
    for (char c = 0; c != '\n';) {
      pollfd entry{from.get(), POLLIN, 0};
      if (::poll(&entry, 1, 30000) <= 0 || ::read(from.get(), &c, 1) != 1) return text + "(no more)";
      if (c != '\n') text += c;
    }
    return text;
  }
  std::string out() const { return line(out_); }
  std::string err() const { return line(err_); }
  std::string pod() const {
    const json row = json::parse(out(), nullptr, false);
    return row.is_object() ? row.value("pod", "none") : "no JSON";
  }
  int interrupt() {
    ::kill(child, SIGINT);
    return end();
  }
  int end() {
    int status = 0;
    ::waitpid(std::exchange(child, -1), &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
  }

  std::string directory;
  std::unique_ptr<Reactor> reactor;
  std::unique_ptr<net::QueryServer> server;
  std::thread thread;
  std::mutex mutex;
  std::deque<json> script;
  std::vector<std::string> questions;
  pid_t child = -1;
  UniqueFd out_, err_;
};

TEST_F(Watching, ShowsTheLastOnesAndThenWhatComes) {
  script = {page("i", 3, {decision("a"), decision("b"), decision("c")}), page("i", 3, {}),
            page("i", 5, {decision("d"), decision("e")})};
  start({"-n", "2", "-ojson"});
  for (const char* expected : {"b", "c", "d", "e"}) EXPECT_EQ(pod(), expected);
  EXPECT_EQ(interrupt(), kOk) << "an interrupt is the orderly end";
  EXPECT_EQ(line(out_), "(no more)") << "nothing is shown twice";
  EXPECT_EQ(line(err_), "(no more)");
  EXPECT_EQ(questions[0], "{}");
  EXPECT_EQ(json::parse(questions[1]), json::parse(R"({"instance":"i","cursor":[3]})"));
  EXPECT_EQ(json::parse(questions.at(2)), json::parse(R"({"instance":"i","cursor":[3]})"));
}

TEST_F(Watching, FiltersAndFormatsHold) {
  script = {page("i", 3, {decision("shop/a"), decision("shop/b", false), decision("bank/c", false)}),
            page("i", 5, {decision("bank/d", false), decision("shop/e"), decision("shop/f", false)})};
  start({"--denied", "--filter", "pod~shop/*"});
  EXPECT_NE(out().find("DENIED   plaintext from 10.0.0.1:1 to 10.0.0.2:2 of shop/b: by script"),
            std::string::npos);
  EXPECT_NE(out().find("shop/f"), std::string::npos);
  EXPECT_EQ(interrupt(), kOk);
}

TEST_F(Watching, AGapIsSaid) {
  script = {page("i", 1, {decision("a")}, 7), page("i", 900, {decision("z")}, 387)};
  start({"-ojson"});
  EXPECT_EQ(pod(), "a");
  EXPECT_EQ(pod(), "z");
  EXPECT_EQ(err(), "fairlead: 387 decisions missed: there were more than the agent remembers")
      << "of the past nothing is missed: it was not asked for";
  EXPECT_EQ(interrupt(), kOk);
}

TEST_F(Watching, AnAgentThatGoesIsWaitedForAndTheNextOneFollowed) {
  script = {page("i", 1, {decision("a")})};
  start({"-ojson"});
  EXPECT_EQ(pod(), "a");
  deafen();
  EXPECT_NE(err().find("waiting for the agent"), std::string::npos);
  script = {page("other", 1, {decision("b")})};
  listen();
  EXPECT_EQ(pod(), "b");
  EXPECT_NE(err().find("the agent was restarted"), std::string::npos);
  EXPECT_EQ(interrupt(), kOk);
}

TEST_F(Watching, WithoutAnAgentAtTheStartItSaysSo) {
  deafen();
  start({});
  EXPECT_NE(err().find("proxy.sock"), std::string::npos);
  EXPECT_EQ(end(), kUnreachable);
}

TEST_F(Watching, AnAnswerThatIsNoneEndsIt) {
  script = {page("i", 1, {}), json{{"error", "no"}}};
  start({});
  EXPECT_EQ(err(), "fairlead: no");
  EXPECT_EQ(end(), kFailure);
}

TEST_F(Watching, AReaderThatGoesEndsIt) {
  script = {page("i", 1, {}), page("i", 2, {decision("a")})};
  start({});
  out_.reset();
  EXPECT_EQ(end(), 1000 + SIGPIPE);
}

}  // namespace
}  // namespace fairlead::cli
