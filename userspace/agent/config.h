// The agent's configuration: one YAML file, one plain struct with its defaults here and nowhere else.
// Unknown keys and wrong values are errors `path:line: …`; all of them are reported, not only the first.
#pragma once

#include <chrono>
#include <string>

#include "base/log.h"
#include "base/result.h"
#include "confine/filter.h"

namespace fairlead::agent {

struct AgentConfig {
  std::string node;     // required
  std::string network;  // that the node is on, as the control plane names it; most meshes have one, unnamed
  std::string run_directory = "/run/fairlead";
  std::string bpf_directory = "/sys/fs/bpf/fairlead";
  struct {
    unsigned user = 65532;
    unsigned workers = 1;
    confine::Mode seccomp = confine::Mode::kEnforce;
  } proxy;
  struct {
    std::string address;  // required, HOST:PORT
    std::string server_name = "fairlead-controller";
    std::string roots = "/etc/fairlead/root-cert.pem";
    std::string token = "/etc/fairlead/token";
    std::string cluster_id = "Kubernetes";
  } controller;
  struct {
    std::chrono::seconds ttl{24 * 3600};
  } certificates;
  struct {
    bool enabled = true;
    unsigned after = 1024 * 1024;  // bytes
  } kernel_tls;
  struct {
    std::chrono::milliseconds deadline{25000};
  } drain;
  struct {
    // An agent that was replaced holds nothing any more. Where what ends is started anew (a DaemonSet), it has to
    // stay until it is told to end: started anew it would take over in its turn.
    bool stay = false;
  } hand_over;
  log::Level log_level = log::Level::kInfo;
};

Result<AgentConfig> load_config(const std::string& path);

}  // namespace fairlead::agent
