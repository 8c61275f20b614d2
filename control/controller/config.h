// The controller's configuration: one YAML file, one plain struct with its defaults here. Unknown keys are
// errors.
#pragma once

#include <chrono>
#include <string>

#include "base/log.h"
#include "base/result.h"

namespace fairlead::controller {

struct ControllerConfig {
  std::string listen = "0.0.0.0:15012";
  struct {
    std::string directory;  // required: manifests
  } source;
  std::string state_directory = "/var/lib/fairlead-controller";
  struct {
    std::chrono::seconds max_ttl = std::chrono::hours(24);  // of a workload's; the longest that is given
  } certificates;
  std::string trust_domain = "cluster.local";
  std::string cluster_domain = "cluster.local";
  std::string cluster_id = "Kubernetes";
  std::string root_namespace = "istio-system";
  log::Level log_level = log::Level::kInfo;
};

Result<ControllerConfig> load_config(const std::string& path);

}  // namespace fairlead::controller
