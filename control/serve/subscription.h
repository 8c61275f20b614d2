// What one agent was told of one type and what it must be told next (delta xDS). Pure: no gRPC, no thread.
// Holds names and versions, never resources: an agent that is slow is later told the difference to the newest
// state.
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
  // Whether what is gone may be taken away now, or only what is new or changed is told.
  enum class Removals { kNow, kLater };

  // Takes a request of this type; what it says of a nonce is for the caller. First request without names:
  // everything.
  void update(const envoy::service::discovery::v3::DeltaDiscoveryRequest& request);
  // What changed since the last answer. The first answer comes even when there is nothing to tell.
  std::optional<envoy::service::discovery::v3::DeltaDiscoveryResponse> next(
      const std::string& type, const Published& state, Removals removals = Removals::kNow);
  // Names that this agent asks for one by one.
  [[nodiscard]] size_t names() const { return names_.size(); }

 private:
  struct Held {
    std::string version;
    bool told = false;  // on this stream; else the agent said that it has it
  };
  using Response = envoy::service::discovery::v3::DeltaDiscoveryResponse;

  void unsubscribe(const std::string& name);
  [[nodiscard]] std::set<std::string> wanted_names(const PublishedType& type) const;
  void tell(const std::string& name, const PublishedResource& resource, Response& response);
  void take_away(const PublishedType& type, const std::set<std::string>& wanted, Response& response);
  void answer_absent(const PublishedType& type, Response& response);

  bool first_ = true;
  bool answered_ = false;
  bool wildcard_ = false;
  std::set<std::string> names_;
  std::set<std::string> asked_;  // newly subscribed: answered even if absent
  std::map<std::string, Held> held_;
};

}  // namespace fairlead::serve
