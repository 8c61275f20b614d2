// The proxy process: TLS, HTTP/2, policy and routing for every pod the keeper hands over. No privilege is
// needed, and before anything of the network is read the process locks itself in (confine/lock_in.h). Thread:
// run() owns the control thread (contract with the keeper, queries, xDS and certificate callbacks by mailbox)
// and starts one worker thread per configured core. Returns the exit code when the keeper says drain, or is
// gone.
#pragma once

#include <chrono>
#include <string>

#include "base/unique_fd.h"
#include "confine/lock_in.h"
#include "state/clients.h"

namespace fairlead::proxy {

struct ProxyConfig {
  std::string node;
  std::string query_socket;   // path of proxy.sock
  std::string listen_socket;  // the same, or a successor's name for it until it serves
  unsigned workers = 1;
  state::ControllerEndpoint controller;
  std::chrono::seconds certificate_ttl{24 * 3600};
  struct {
    bool enabled = true;           // where the kernel passes the self-test
    uint64_t after = 1024 * 1024;  // bytes of one direction of a tunnel that carries bulk
  } kernel_tls;
  confine::Options lock_in;
};

int run(ProxyConfig config, UniqueFd contract);

}  // namespace fairlead::proxy
