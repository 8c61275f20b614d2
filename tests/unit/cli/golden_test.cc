// Every noun in every format, fed with what agents answer (tests/golden/agent), held by tests/golden/cli. The
// nouns that ask the kernel (bpf, check) are held by tests/netns/test_cli.py on a real one.
#include "support/golden.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <nlohmann/json.hpp>
#include <thread>

#include "base/file.h"
#include "cli/command.h"
#include "cli/output.h"
#include "net/query.h"

namespace fairlead::cli {
namespace {

using nlohmann::json;

// keeper.sock and proxy.sock that answer VERB with agent/keeper-VERB.json and agent/proxy-VERB.json.
class FakeAgent : public ::testing::Test {
 protected:
  void SetUp() override {
    directory = ::testing::TempDir() + "/cli-" + std::to_string(::getpid());
    ASSERT_TRUE(make_directories(directory));
    reactor = std::move(*Reactor::create());
    for (const char* name : {"keeper", "proxy"}) {
      auto listening = net::QueryServer::listen(
          *reactor, directory + "/" + name + ".sock", 0600,
          [this, name](std::string_view verb, std::string_view argument, const net::QueryPeer&) {
            asked = std::string(verb) + (argument.empty() ? "" : " ") + std::string(argument);
            if (!refusal.empty()) return json{{"error", refusal}}.dump();
            if (verb == silent) return std::string("no JSON");
            return test::read_golden(fmt::format("agent/{}-{}.json", name, verb));
          });
      ASSERT_TRUE(listening) << listening.error().text();
      servers.push_back(std::move(*listening));
    }
    thread = std::thread([this] { reactor->run(); });
  }
  void TearDown() override {
    reactor->stop();
    thread.join();
    servers.clear();
    ::rmdir(directory.c_str());
  }

  struct Said {
    int status;
    std::string out, err;
  };
  Said say(std::vector<const char*> words) const {
    words.insert(words.end(), {"--run-dir", directory.c_str()});
    ::testing::internal::CaptureStdout();
    ::testing::internal::CaptureStderr();
    const int status = run(words, nullptr);
    std::fflush(stdout);
    return {status, ::testing::internal::GetCapturedStdout(), ::testing::internal::GetCapturedStderr()};
  }

  std::string directory, asked, refusal, silent = "nothing";
  std::unique_ptr<Reactor> reactor;
  std::vector<std::unique_ptr<net::QueryServer>> servers;
  std::thread thread;
};

// "27423d6h" changes while it is read, and the width of its column with it.
std::string without_durations(const std::string& text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t end = text.find_first_of(" \n", at);
    std::string word = text.substr(at, end - at);
    if (word.find_first_not_of("-0123456789dhms") == std::string::npos && word.size() > 3) word = "DURATION";
    out += word;
    const size_t next = std::min(text.find_first_not_of(' ', end), text.size());
    out += next > end && text[end] == ' ' ? (next - end == 1 ? " " : "  ") : "";
    at = next;
    if (at < text.size() && text[at] == '\n') out += text[at++];
  }
  return out;
}

struct Noun {
  const char* file;
  std::vector<const char*> words;
};
const Noun kNouns[] = {
    {"status", {"status"}},
    {"pod-list", {"pod", "list"}},
    {"workload-list", {"workload", "list"}},
    {"service-list", {"service", "list"}},
    {"policy-list", {"policy", "list"}},
    {"connection-list", {"connection", "list"}},
    {"cert-list", {"cert", "list"}},
    {"why", {"why"}},
    {"why-denied", {"why", "--denied"}},
    {"pod-add", {"pod", "add", "u", "ns/p", "sa", "/run/netns/p", "/sys/fs/cgroup/p"}},
    {"pod-remove", {"pod", "remove", "u"}},
};

TEST_F(FakeAgent, EveryNounInEveryFormat) {
  for (const Noun& noun : kNouns) {
    json document;
    for (const auto& [format, ending] : {std::pair("json", "json"), {"yaml", "yaml"}, {"table", "txt"}}) {
      std::vector<const char*> words = noun.words;
      words.insert(words.begin(), {"-o", format});
      const Said said = say(words);
      EXPECT_EQ(said.status, kOk) << noun.file << ": " << said.err;
      EXPECT_EQ(said.err, "") << noun.file;
      const bool moving = std::string_view(noun.file) == "cert-list" && std::string_view(format) == "table";
      test::expect_golden(fmt::format("cli/{}.{}", noun.file, ending),
                          moving ? without_durations(said.out) : said.out);
      if (std::string_view(format) == "json") {
        document = json::parse(said.out, nullptr, false);
        EXPECT_FALSE(document.is_discarded()) << noun.file;
      }
      if (std::string_view(format) == "yaml") EXPECT_EQ(said.out, yaml(document)) << noun.file;
    }
  }
}

TEST_F(FakeAgent, HelpIsStable) {
  test::expect_golden("cli/help.txt", say({"--help"}).out);
  EXPECT_EQ(say({"help"}).out, test::read_golden("cli/help.txt"));
}

TEST_F(FakeAgent, PodAddSendsWhatItWasTold) {
  (void)say({"pod", "add", "u", "ns/p", "sa", "/n", "/c", "a=b", "c=d=e"});
  ASSERT_EQ(asked.substr(0, 8), "pod.add ");
  EXPECT_EQ(
      json::parse(asked.substr(8)),
      json::parse(R"({"uid":"u","namespace":"ns","name":"p","serviceAccount":"sa","netns":"/n","cgroup":"/c",
                            "annotations":{"a":"b","c":"d=e"}})"));
}

// Every failure says which command comes next, and data stays away from stdout.
TEST_F(FakeAgent, FailuresNameTheNextCommand) {
  struct Case {
    std::vector<const char*> words;
    int status;
    const char* next;
  };
  const Case cases[] = {
      {{}, kUsage, "fairlead ["},
      {{"fly"}, kUsage, "Try: fairlead --help"},
      {{"pod"}, kUsage, "Try: fairlead pod list"},
      {{"pod", "lst"}, kUsage, "Try: fairlead pod list"},
      {{"--fly", "status"}, kUsage, "unknown option '--fly'"},
      {{"status", "now"}, kUsage, "Try: fairlead --help"},
      {{"-o", "xml", "status"}, kUsage, "Try: fairlead -o json"},
      {{"--timeout", "x", "status"}, kUsage, "Try: fairlead --timeout"},
      {{"why", "-n"}, kUsage, "Try: fairlead why"},
      {{"pod", "add", "u"}, kUsage, "Try: fairlead"},
      {{"pod", "add", "u", "ns", "sa", "/n", "/c"}, kUsage, "Try: fairlead"},
      {{"pod", "add", "u", "ns/p", "sa", "/n", "/c", "novalue"}, kUsage, "Try: fairlead"},
      {{"pod", "remove"}, kUsage, "Try: fairlead pod list"},
  };
  for (const Case& c : cases) {
    const Said said = say(c.words);
    std::string sentence;
    for (const char* word : c.words) sentence += std::string(word) + " ";
    EXPECT_EQ(said.status, c.status) << sentence;
    EXPECT_EQ(said.out, "") << sentence;
    EXPECT_NE(said.err.find(c.next), std::string::npos) << sentence << said.err;
  }
  refusal = "no pod with uid u";
  for (const auto& words :
       {std::vector<const char*>{"pod", "remove", "u"}, {"status"}, {"workload", "list"}}) {
    const Said said = say(words);
    EXPECT_EQ(said.status, kFailure);
    EXPECT_EQ(said.out, "");
    EXPECT_NE(said.err.find("no pod with uid u\n  Try: fairlead "), std::string::npos) << said.err;
  }
}

TEST_F(FakeAgent, AnAnswerThatIsNoJsonIsAFailure) {
  silent = "workloads";
  const Said said = say({"workload", "list"});
  EXPECT_EQ(said.status, kFailure);
  EXPECT_NE(said.err.find("Try: fairlead --version"), std::string::npos);
}

TEST(RunDirectory, OfTheCommandLineBeatsThatOfTheEnvironment) {
  const auto error_of = [](std::vector<const char*> words, const char* environment) {
    ::testing::internal::CaptureStderr();
    EXPECT_EQ(run(words, environment), kUnreachable);
    return ::testing::internal::GetCapturedStderr();
  };
  EXPECT_NE(error_of({"status"}, "/from-environment").find("/from-environment/"), std::string::npos);
  EXPECT_NE(error_of({"--run-dir", "/run/fairlead", "status"}, "/from-environment").find("/run/fairlead/"),
            std::string::npos);
}

}  // namespace
}  // namespace fairlead::cli
