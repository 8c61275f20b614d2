// A connection from the agent to an application inside its pod, over lo, that shows the true client.
// Thread: the worker's.
#pragma once

#include "base/net_types.h"
#include "event/task.h"
#include "net/socket.h"
#include "proxy/moving_state.h"
#include "proxy/pod.h"

namespace fairlead::proxy {

// The published name of one connection; forgotten when destroyed.
class ClientName {
 public:
  ClientName() noexcept = default;
  ClientName(Worker& worker, contract::PodId pod, const SocketAddress& local) noexcept
      : worker_(&worker), pod_(pod), local_(local) {}
  ClientName(ClientName&& other) noexcept
      : worker_(std::exchange(other.worker_, nullptr)), pod_(other.pod_), local_(other.local_) {}
  ClientName& operator=(ClientName&& other) noexcept;
  ~ClientName();
  [[nodiscard]] ClientNameState state() const noexcept { return {worker_ != nullptr, local_}; }
  void let_go() noexcept { worker_ = nullptr; }  // a successor forgets it

 private:
  Worker* worker_ = nullptr;
  contract::PodId pod_ = 0;
  SocketAddress local_;
};

// The name goes first: once the port is free, it may be another connection's, published by another worker.
struct ApplicationSocket {
  UniqueFd fd;
  ClientName name;
};

// Binds to the pod's own address (never to loopback: applications trust that), publishes `client` for the
// bound port, then connects: accept() in the application already shows the true client. `own`: the pod's
// address that is dialled.
Task<Result<ApplicationSocket>> connect_application(Worker& worker, std::shared_ptr<Pod> pod,
                                                    SocketAddress own, SocketAddress client);

}  // namespace fairlead::proxy
