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
      "node: n1\nnetwork: east\ncontroller: {address: '1.2.3.4:15012'}\nproxy: {workers: 2}\ndrain: "
      "{deadline: "
      "500ms}\ncertificates: {ttl: 2h}\n");
  ASSERT_TRUE(config) << config.error().text();
  EXPECT_EQ(config->node, "n1");
  EXPECT_EQ(config->network, "east");
  EXPECT_EQ(config->run_directory, "/run/fairlead");
  EXPECT_EQ(config->proxy.workers, 2u);
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

TEST_F(Config, WantsWhatItCannotGuess) {
  EXPECT_NE(load("node: n1\n").error().text().find("controller.address"), std::string::npos);
  EXPECT_NE(load("controller: {address: 'x:1'}\n").error().text().find("node"), std::string::npos);
}

TEST_F(Config, BrokenYamlNamesItsLine) {
  const auto config = load("node: n1\ncontroller: {address: [\n");
  ASSERT_FALSE(config);
  EXPECT_NE(config.error().text().find(path + ":"), std::string::npos);
}

}  // namespace
}  // namespace fairlead::agent
