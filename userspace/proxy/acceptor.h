// One listener of one pod. Accepts a bounded number per event; when the process is out of file descriptors or
// memory it stops listening to the listener for a moment instead of spinning. Thread: the worker's.
// Ownership: the listener's fd (the keeper keeps its own copy).
#pragma once

#include <memory>

#include "event/reactor.h"
#include "proxy/pod.h"

namespace fairlead::proxy {

class Acceptor final : private IoHandler, public Deferred {
 public:
  Acceptor(Worker& worker, std::shared_ptr<Pod> pod, UniqueFd listener, bool inbound);
  ~Acceptor() override;
  void open();
  void close() noexcept;

 private:
  void on_io(uint32_t events) noexcept override;
  void on_back_off() noexcept { open(); }
  void accepted(UniqueFd fd, const SocketAddress& peer);

  Worker& worker_;
  std::shared_ptr<Pod> pod_;
  UniqueFd listener_;
  bool inbound_;
  bool open_ = false;
  Alarm<Acceptor, &Acceptor::on_back_off> back_off_;
};

}  // namespace fairlead::proxy
