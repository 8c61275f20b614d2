// The answers of proxy.sock as JSON documents: stable API of the CLI.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "confine/lock_in.h"
#include "proxy/authz_check.h"
#include "proxy/proxy_main.h"
#include "proxy/worker.h"
#include "state/clients.h"
#include "state/snapshot.h"
#include "tls/kernel_tls.h"
#include "tls/key_memory.h"

namespace fairlead::proxy {

// How the process is locked in.
struct Confinement {
  confine::LockedIn confined;
  tls::KeyMemory keys;
};

struct ProxyStatus {
  std::string node;
  std::chrono::seconds uptime{};
  size_t workers = 0;
  bool ready = false;  // a snapshot is in force and the capture map holds it
  std::string controller_address;
  state::XdsStatus controller;
  Confinement locked;
  tls::KernelTlsSupport kernel_tls;
  bool kernel_tls_on = false;
};

std::string_view to_string(confine::Mode mode) noexcept;

std::string error_json(std::string_view text);
std::string status_json(const ProxyStatus& status, const state::Snapshot& snapshot,
                        const std::vector<WorkerReport>& reports);
// What the process was started with, and what was set since. Of secrets only the files are named.
std::string config_json(const ProxyConfig& config, bool kernel_tls_on);
std::string workloads_json(const state::Snapshot& snapshot);
std::string services_json(const state::Snapshot& snapshot);
// `node`: whose pods are counted as local.
std::string policies_json(const state::Snapshot& snapshot, const std::string& node);
// The argument of the question "authz", and its answer.
Result<AuthzQuestion> authz_question(std::string_view argument);
std::string authz_json(const std::vector<AuthzAnswer>& answers);
std::string certificates_json(const std::vector<state::CertificateClient::Status>& certificates);

}  // namespace fairlead::proxy
