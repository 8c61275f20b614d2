// <stateDirectory>/status.json: what is in force, what is wrong with the manifests, who is connected and what
// they hold. For people, the CLI and the lab. Rewritten atomically on every change, at most every
// kMinInterval. Thread: set() and touch() from any; a thread of its own writes.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "control/model/objects.h"
#include "control/serve/server.h"

namespace fairlead::controller {

// The outcome of the newest set of manifests.
struct SetStatus {
  uint64_t version = 0;                // of the set in force; 0: none yet
  bool good = false;                   // false: the newest set was refused, `version` stays in force
  std::vector<std::string> refusals;   // why, one line each
  std::vector<model::Report> reports;  // of the set in force
  size_t workloads = 0;
  size_t services = 0;
  size_t policies = 0;
  size_t identities = 0;
};

class StatusFile {
 public:
  using Agents = std::function<std::vector<serve::AgentStatus>()>;
  explicit StatusFile(std::string path) : path_(std::move(path)) {}
  ~StatusFile() { stop(); }

  void start(Agents agents);
  // The last state is written before it returns.
  void stop();
  void set(SetStatus status);
  void touch();  // the agents have changed; waits for nothing but a moment's lock
  // What the file says; pure.
  static std::string render(const SetStatus& status, const std::vector<serve::AgentStatus>& agents);

 private:
  void run();
  void write(const SetStatus& status) const;

  const std::string path_;
  Agents agents_;
  std::mutex mutex_;
  std::condition_variable wake_;
  SetStatus status_;
  bool dirty_ = false;
  bool urgent_ = false;  // do not wait for kMinInterval
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace fairlead::controller
