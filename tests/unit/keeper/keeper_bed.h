// A keeper in a process of its own, with real BPF objects and real namespaces, and the fake proxy as its
// child. Needs root, cgroup v2 and a bpffs. Everything is removed at the end.
#pragma once

#include <gtest/gtest.h>
#include <sys/types.h>

#include <chrono>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "keeper/keeper.h"

namespace fairlead::keeper::test {

constexpr std::chrono::seconds kPatience{15};

class KeeperBed : public ::testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

  void script(const std::vector<std::string>& lines) const;  // for the proxies that start from now on
  void start();
  void start_and_wait();  // … until it answers and a proxy has synced
  int stop(int signal);   // its exit status; 128 + signal when it was killed
  int wait_for_end();
  [[nodiscard]] bool runs() const;

  nlohmann::json ask(const std::string& line) const;
  nlohmann::json add(const nlohmann::json& pod) const { return ask("pod.add " + pod.dump()); }
  nlohmann::json remove(const std::string& uid) const;
  // A namespace with 10.200.NUMBER.2 and fd42:NUMBER::2 and a cgroup, as the lab would make them.
  nlohmann::json make_pod(int number);
  void destroy_namespace(int number) const;

  // The next report that begins so; those before it are dropped. Fails when none comes.
  std::string report(const std::string& beginning);
  std::vector<std::string> reports_until(const std::string& beginning);
  static void eventually(const std::string& what, const std::function<bool()>& test);

  [[nodiscard]] std::string file(const std::string& name) const;  // of the run directory
  [[nodiscard]] std::vector<std::string> pinned_pods() const;
  [[nodiscard]] std::string log() const;

  KeeperConfig config_;
  std::string name_, directory_;
  pid_t pid_ = -1;

 private:
  std::ifstream reports_;
  std::string cgroups_;
  std::vector<std::string> namespaces_;
};

}  // namespace fairlead::keeper::test
