#include "agent/config.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "base/file.h"

namespace fairlead::agent {
namespace {

class Config : public ::testing::Test {
 protected:
  Result<AgentConfig> load(const std::string& text) {
    (void)write_file_atomically(path, text);
    return load_config(path);
  }
  void TearDown() override { ::unlink(path.c_str()); }
  std::string path = ::testing::TempDir() + "/agent-" + std::to_string(::getpid()) + ".yaml";
};

TEST_F(Config, HasDefaultsAndReadsEverything) {
  const auto config = load(
      "node: n1\nnetwork: east\ncontroller: {address: '1.2.3.4:15012'}\nproxy: {workers: 2, seccomp: "
      "audit}\ndrain: "
      "{deadline: "
      "500ms}\ncertificates: {ttl: 2h}\n");
  ASSERT_TRUE(config) << config.error().text();
  EXPECT_EQ(config->node, "n1");
  EXPECT_EQ(config->network, "east");
  EXPECT_EQ(config->run_directory, "/run/fairlead");
  EXPECT_EQ(config->proxy.workers, 2u);
  EXPECT_EQ(config->proxy.seccomp, confine::Mode::kAudit);
  EXPECT_EQ(config->drain.deadline, std::chrono::milliseconds(500));
  EXPECT_EQ(config->certificates.ttl, std::chrono::hours(2));
}

TEST_F(Config, NamesEveryMistakeWithItsLine) {
  const auto config =
      load("node: n1\ncontroler: {}\nproxy:\n  workers: many\n  threads: 2\ndrain: {deadline: 5}\n");
  ASSERT_FALSE(config);
  const std::string& text = config.error().text();
  EXPECT_NE(text.find(":2: unknown key 'controler'"), std::string::npos) << text;
  EXPECT_NE(text.find(":4: proxy.workers: want a number from 1 to 256"), std::string::npos) << text;
  EXPECT_NE(text.find(":5: unknown key 'proxy.threads'"), std::string::npos) << text;
  EXPECT_NE(text.find(":6: drain.deadline: '5' is not a duration"), std::string::npos) << text;
}

TEST_F(Config, LocksTheProxyInUnlessToldToAudit) {
  const std::string rest = "node: n1\ncontroller: {address: 'x:1'}\n";
  EXPECT_EQ(load(rest)->proxy.seccomp, confine::Mode::kEnforce);
  const auto off = load(rest + "proxy: {seccomp: off}\n");
  ASSERT_FALSE(off);
  EXPECT_NE(off.error().text().find(":3: proxy.seccomp: want audit or enforce"), std::string::npos)
      << off.error().text();
}

TEST_F(Config, AnAgentThatWasReplacedEndsUnlessToldToStay) {
  const std::string rest = "node: n1\ncontroller: {address: 'x:1'}\n";
  EXPECT_FALSE(load(rest)->hand_over.stay);
  EXPECT_FALSE(load(rest + "handOver: {afterwards: exit}\n")->hand_over.stay);
  EXPECT_TRUE(load(rest + "handOver: {afterwards: stay}\n")->hand_over.stay);
  const auto wrong = load(rest + "handOver: {afterwards: linger}\n");
  ASSERT_FALSE(wrong);
  EXPECT_NE(wrong.error().text().find(":3: handOver.afterwards: want exit or stay"), std::string::npos)
      << wrong.error().text();
}

TEST_F(Config, WantsWhatItCannotGuess) {
  EXPECT_NE(load("node: n1\n").error().text().find("controller.address"), std::string::npos);
  EXPECT_NE(load("controller: {address: 'x:1'}\n").error().text().find("node"), std::string::npos);
}

TEST_F(Config, SaysWhatIsThereTwiceOrNotAtAll) {
  const std::pair<const char*, const char*> cases[] = {
      {"node: a\ncontroller: {address: 'x:1'}\nnode: b\n", ":3: 'node' is there twice"},
      {"node: a\ncontroller:\n  address: 'x:1'\n  address: 'y:1'\n",
       ":4: 'controller.address' is there twice"},
      {"node: a\ncontroller: {address: 'x:1'}\n---\nlog: {level: debug}\n", ":4: want one document"},
      {"", ":1: file: want a mapping"},
      {"# nothing but a comment\n", ":1: file: want a mapping"},
      {"node: a\n? [b, c]\n: d\ncontroller: {address: 'x:1'}\n", ":2: got a list or a mapping as a key"},
  };
  for (const auto& [text, expected] : cases) {
    const auto config = load(text);
    ASSERT_FALSE(config) << text;
    EXPECT_EQ(config.error().text().find(path + expected), 0u) << config.error().text();
  }
}

TEST_F(Config, RefusesWhatCouldNeverWork) {
  const std::string good = "node: n1\ncontroller: {address: 'x:1'}\n";
  ASSERT_TRUE(load(good));
  const std::pair<std::string, const char*> cases[] = {
      {"node: ../n1\ncontroller: {address: 'x:1'}\n", "node: got '../n1', want a DNS name"},
      {"node: n1\ncontroller: {address: nonsense}\n", "controller.address: got 'nonsense', want HOST:PORT"},
      {"node: n1\ncontroller: {address: 'x:0'}\n", "controller.address: got 'x:0', want HOST:PORT"},
      {"node: n1\ncontroller: {address: 'x:65536'}\n", "controller.address: got"},
      {"node: n1\ncontroller: {address: ':1'}\n", "controller.address: got"},
      {good + "runDirectory: run\n", "runDirectory: got 'run', want an absolute path"},
      {good + "runDirectory: /a/../b\n", "runDirectory: got"},
      {good + "bpfDirectory: sys/fs/bpf/x\n", "bpfDirectory: got"},
      {good + "drain: {deadline: 0s}\ncertificates: {ttl: 500ms}\n", "certificates.ttl: got"},
  };
  for (const auto& [text, expected] : cases) {
    const auto config = load(text);
    ASSERT_FALSE(config) << text;
    EXPECT_NE(config.error().text().find(expected), std::string::npos) << config.error().text();
  }
  EXPECT_TRUE(load("node: ip-10-0-0-1.example.com\ncontroller: {address: '[fd00::1]:15012'}\n"));
}

TEST_F(Config, BrokenYamlNamesItsLine) {
  const auto config = load("node: n1\ncontroller: {address: [\n");
  ASSERT_FALSE(config);
  EXPECT_NE(config.error().text().find(path + ":"), std::string::npos);
}

TEST_F(Config,
       ATokenThatBeginsNoDocumentIsAnError) {  // the library would make empty documents of it for ever
  for (const char* text : {",\n", "]", "node: n1\n---\n,\n"}) {
    const auto config = load(text);
    ASSERT_FALSE(config) << text;
    EXPECT_EQ(config.error().text().find(path + ":"), 0u) << config.error().text();
  }
}

}  // namespace
}  // namespace fairlead::agent
