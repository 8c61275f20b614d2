// A pod as it is enrolled: who it is and where its namespace and cgroup are, with the exclusions of its
// annotations. Values; the JSON forms live in pod_spec_json.cc.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/net_types.h"
#include "base/result.h"

namespace fairlead::enroll {

constexpr size_t kMaxPods = 1024;
constexpr size_t kMaxExclusions = 64;  // ports or ranges of one annotation

struct PodSpec {
  std::string uid;
  std::string ns;
  std::string name;
  std::string service_account = "default";
  std::string netns;   // path
  std::string cgroup;  // path
  std::map<std::string, std::string> annotations;
};

// What Istio's annotations exclude from capture.
struct Exclusions {
  std::vector<uint16_t> outbound_ports;  // traffic.sidecar.istio.io/excludeOutboundPorts
  std::vector<uint16_t> inbound_ports;   // traffic.sidecar.istio.io/excludeInboundPorts
  std::vector<Cidr> outbound_ranges;     // traffic.sidecar.istio.io/excludeOutboundIPRanges
};
Result<Exclusions> exclusions_of(const PodSpec& pod);

// Names, uid and paths are such that they can be file names and arguments.
Result<void> validate(const PodSpec& pod);

Result<PodSpec> pod_from_json(std::string_view json);
Result<std::string> uid_from_json(std::string_view json);

// The keeper's memory (pods.json).
Result<std::vector<PodSpec>> load_pods(const std::string& path);
Result<void> save_pods(const std::string& path, const std::vector<PodSpec>& pods);

}  // namespace fairlead::enroll
