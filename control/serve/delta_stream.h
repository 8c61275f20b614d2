// What one agent was told of one type and what it must be told next (delta xDS). Pure: no gRPC, no thread.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>

#include "control/serve/published.h"
#include "discovery.pb.h"

namespace fairlead::serve {

class Subscription {
 public:
  // Takes a request of this type; what it says of a nonce is for the caller. First request without names: everything.
  void update(const envoy::service::discovery::v3::DeltaDiscoveryRequest& request);
  // What changed since the last answer. The first answer comes even when there is nothing to tell.
  std::optional<envoy::service::discovery::v3::DeltaDiscoveryResponse> next(const std::string& type, const Published& state);

 private:
  [[nodiscard]] bool wants(const std::string& name) const { return wildcard_ || names_.contains(name); }

  bool first_ = true;
  bool answered_ = false;
  bool wildcard_ = false;
  std::set<std::string> names_;
  std::set<std::string> asked_;              // newly subscribed: answered even if absent
  std::map<std::string, std::string> sent_;  // name → version the agent holds
};

}  // namespace fairlead::serve
