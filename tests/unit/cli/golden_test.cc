// Every noun in every format, fed with what agents answer (tests/golden/agent), held by tests/golden/cli. The
// nouns that ask the kernel (bpf, check) are held by tests/netns/test_cli.py on a real one.
#include "support/golden.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <nlohmann/json.hpp>
#include <set>
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
            std::string answer = test::read_golden(fmt::format("agent/{}-{}.json", name, verb));
            return verb == "connections" ? page(std::move(answer), argument) : answer;
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

  // One of `pages`; the cursor counts those that are left.
  std::string page(std::string whole, std::string_view argument) const {
    json document = json::parse(whole);
    const json question = json::parse(argument);
    const int left = question.empty() ? pages : question["cursor"][0].get<int>();
    document["cursor"] = {left - 1};
    document["more"] = left > 1;
    document["silentWorkers"] = silent_workers;
    return document.dump();
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
  int pages = 1;
  int silent_workers = 0;
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

// "ports.servicePort" of every value in a row; of lists that are empty and of null only the name.
void leaves_of(const json& value, const std::string& path, std::set<std::string>& leaves) {
  if (value.is_array() && !value.empty()) {
    for (const json& item : value) leaves_of(item, path, leaves);
  } else if (value.is_object()) {
    for (const auto& [name, member] : value.items())
      leaves_of(member, path + (path.empty() ? "" : ".") + name, leaves);
  } else {
    leaves.insert(path);
  }
}

TEST_F(FakeAgent, KeysOfFiltersAreThoseOfTheRows) {
  for (const Noun& noun : kNouns) {
    const auto keys = keys_of(noun.words[0], noun.words.size() > 1 ? noun.words[1] : "");
    if (keys.empty() || noun.words.back()[0] == '-') continue;
    std::set<std::string> leaves;
    std::vector<const char*> words = noun.words;
    words.push_back("-ojson");
    leaves_of(json::parse(say(words).out), "", leaves);
    EXPECT_GT(leaves.size(), 5u) << noun.file;
    std::set<std::string> unknown = leaves;
    for (const Key& key : keys) {
      const std::string name(key.name);
      const std::string parent = name.substr(0, name.find('.'));
      EXPECT_TRUE(leaves.contains(name) || leaves.contains(parent)) << noun.file << " has no " << name;
      unknown.erase(name);
      unknown.erase(parent);
    }
    EXPECT_TRUE(unknown.empty()) << noun.file << ": no key for " << *unknown.begin();
  }
}

TEST_F(FakeAgent, EveryFormatShowsWhatTheFilterLetsThrough) {
  const auto rows = [&](std::vector<const char*> words) { return json::parse(say(std::move(words)).out); };
  EXPECT_EQ(rows({"connection", "list", "-ojson"}).size(), 2u);
  const json inbound =
      rows({"connection", "list", "-ojson", "--filter", "peer~spiffe://*/ns/frontend/*,bytes>1k"});
  ASSERT_EQ(inbound.size(), 1u);
  EXPECT_EQ(inbound[0]["direction"], "inbound");
  EXPECT_EQ(rows({"--filter=direction=outbound", "connection", "list", "--output=json"})[0]["id"], "0-2");
  EXPECT_EQ(
      rows({"connection", "list", "--output", "json", "--filter", "ageMs>1m", "--filter", "peer="}).size(),
      1u);
  EXPECT_EQ(rows({"why", "-ojson", "--filter", "allowed=true"}).size(), 1u);
  EXPECT_EQ(rows({"why", "-ojson", "-n", "1", "--filter", "allowed=true"}).size(), 1u)
      << "the filter comes first";
  EXPECT_EQ(rows({"cert", "list", "-ojson", "--filter", "notAfter<24h"}).size(), 0u);
  const Said table = say({"connection", "list", "--filter", "direction=outbound"});
  EXPECT_EQ(table.out.find("inbound"), std::string::npos) << table.out;
  EXPECT_NE(table.out.find("0-2"), std::string::npos) << table.out;
  EXPECT_EQ(say({"connection", "list", "-oyaml", "--filter", "direction=outbound"}).out,
            yaml(rows({"connection", "list", "-ojson", "--filter", "direction=outbound"})));
  const Said nothing = say({"connection", "list", "-ojson", "--filter", "pod=nobody"});
  EXPECT_EQ(nothing.status, kOk);
  EXPECT_EQ(nothing.out, "[]\n");
}

// A filter that cannot be read is never an empty list, and nobody is asked.
TEST_F(FakeAgent, FiltersThatAreWrongAreUsage) {
  for (const auto& [words, told] : std::vector<std::pair<std::vector<const char*>, const char*>>{
           {{"connection", "list", "--filter", "pdo=x"},
            "at character 1: no key 'pdo'\n  Keys: namespace pod "},
           {{"pod", "list", "--filter", "namespace"}, "at character 10: want an operator"},
           {{"bpf", "maps", "--filter", "memoryBytes>1m"}, "at character 13: '1m': want bytes"},
           {{"status", "--filter", "node=n1"}, "--filter does not go with it"}}) {
    asked.clear();
    const Said said = say(words);
    EXPECT_EQ(said.status, kUsage) << told;
    EXPECT_EQ(said.out, "");
    EXPECT_EQ(asked, "");
    EXPECT_NE(said.err.find(told), std::string::npos) << said.err;
    EXPECT_NE(said.err.find("Try: fairlead "), std::string::npos) << said.err;
  }
}

TEST_F(FakeAgent, ListsOfManyPagesAreReadToTheEnd) {
  pages = 3;
  const json rows = json::parse(say({"connection", "list", "-ojson"}).out);
  EXPECT_EQ(rows.size(), 6u);
  EXPECT_EQ(asked, R"(connections {"cursor":[1],"instance":"1267-18f"})");
  pages = 2;
  const Said said = say({"connection", "list", "-ojson", "--filter", "direction=inbound"});
  EXPECT_EQ(json::parse(said.out).size(), 2u);
}

TEST_F(FakeAgent, WhatIsMissingInAListIsSaid) {
  silent_workers = 1;
  const Said said = say({"connection", "list"});
  EXPECT_EQ(said.status, kOk);
  EXPECT_NE(said.err.find("1 workers of the proxy do not answer"), std::string::npos) << said.err;
}

// What the kernel says is held by tests/netns/test_report.py.
TEST_F(FakeAgent, ADumpHoldsWhatTheAgentAnswers) {
  json document = json::parse(say({"dump"}).out);
  for (const char* section :
       {"time", "kernel", "runDirectory", "fairlead", "check", "bpfPrograms", "bpfMaps", "bpfLinks"})
    EXPECT_EQ(document.erase(section), 1u) << section;
  test::expect_golden("cli/dump.json", document.dump(1) + "\n");
  silent = "workloads";
  const Said said = say({"dump", "-"});
  EXPECT_EQ(said.status, kFailure);
  document = json::parse(said.out);
  EXPECT_TRUE(document["workloads"].contains("error"));
  EXPECT_TRUE(document["services"].contains("data")) << "one that does not answer spoils nothing";
  EXPECT_NE(said.err.find("dump: workloads: "), std::string::npos) << said.err;
  EXPECT_EQ(say({"dump", "a", "b"}).status, kUsage);
  EXPECT_EQ(say({"dump", "--all"}).status, kUsage);
  const Said nowhere = say({"dump", "/nonexistent/file"});
  EXPECT_EQ(nowhere.status, kFailure);
  EXPECT_NE(nowhere.err.find("Try: fairlead dump"), std::string::npos);
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
      {{"-oxml", "status"}, kUsage, "Try: fairlead -o json"},
      {{"--output=xml", "status"}, kUsage, "--output xml: want table, json or yaml"},
      {{"--output=", "status"}, kUsage, "want table, json or yaml"},
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

TEST_F(FakeAgent, OptionsMayBeJoinedWithTheirValues) {
  const std::string wanted = say({"-o", "json", "pod", "list"}).out;
  for (const std::vector<const char*>& words :
       std::vector<std::vector<const char*>>{{"pod", "list", "-ojson"},
                                             {"-o=json", "pod", "list"},
                                             {"pod", "list", "--output", "json"},
                                             {"--output=json", "--timeout=9", "pod", "list"}})
    EXPECT_EQ(say(words).out, wanted) << words[0];
  EXPECT_NE(say({"pod", "add", "u", "ns/p", "sa", "/n", "/c", "--output-of=x"}).status, kUsage);
  EXPECT_NE(asked.find(R"("--output-of":"x")"), std::string::npos) << "an annotation, whatever its name";
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
