// The proxy process: started from this very binary with another uid, no capability and no way back to one;
// restarted when it dies, with back-off when it dies young. Thread: the keeper's.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <string>

#include "event/reactor.h"

namespace fairlead::keeper {

struct ProxyCommand {
  std::string config_path;  // handed on: `fairlead-agent proxy --config PATH --contract-fd N`
  uid_t uid = 65532;
  size_t locked_memory = 0;  // its RLIMIT_MEMLOCK at least
  bool successor = false;    // `--successor`: another one has the usual name of its socket
};

class ProxyChild final : private IoHandler {
 public:
  using Started = std::function<void(UniqueFd contract)>;  // our end of a fresh contract socket
  using Exited = std::function<void(int status)>;
  ProxyChild(Reactor& reactor, ProxyCommand command, Started started, Exited exited);
  ~ProxyChild();

  Result<void> start();
  // No restart from here on.
  void let_go() noexcept { restart_ = false; }
  // Again from here on, and at once when there is none.
  void keep() noexcept;
  void no_successor() noexcept { command_.successor = false; }  // those that are started from here on
  void kill(int signal) noexcept;
  [[nodiscard]] pid_t pid() const noexcept { return pid_; }
  [[nodiscard]] unsigned restarts() const noexcept { return restarts_; }

 private:
  void on_io(uint32_t events) noexcept override;  // the pidfd: the child died
  void on_back_off() noexcept;

  Reactor& reactor_;
  ProxyCommand command_;
  Started started_;
  Exited exited_;
  pid_t pid_ = -1;
  UniqueFd pidfd_;
  TimePoint started_at_;
  std::chrono::milliseconds back_off_time_{10};
  unsigned restarts_ = 0;
  bool restart_ = true;
  Alarm<ProxyChild, &ProxyChild::on_back_off> back_off_;
};

}  // namespace fairlead::keeper
