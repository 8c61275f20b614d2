// What one agent was told of one type and what it must be told next (delta xDS). Pure: no gRPC, no thread.
// An agent that wants everything costs a reference to the state that it was told last, not a list of names: a
// thousand agents share one. An agent that is slow is later told the difference to the newest state; there is
// no queue.
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
      const std::string& type, const PublishedPtr& state, Removals removals = Removals::kNow);
  // Names that this agent asks for one by one.
  [[nodiscard]] size_t names() const { return names_.size(); }

 private:
  using Response = envoy::service::discovery::v3::DeltaDiscoveryResponse;
  struct Held {
    std::string version;
    bool told = false;  // on this stream; else the agent said that it has it
  };

  void unsubscribe(const std::string& name);
  void leave_wildcard();
  [[nodiscard]] std::set<std::string> wanted_names(const PublishedType& type) const;
  [[nodiscard]] bool is_asked(const std::string& name, const PublishedResource& resource) const;
  void answer_absent(const PublishedType& type, Response& response);
  // For an agent that wants everything.
  void tell_changes(const PublishedPtr& state, Response& response);
  void take_away_changes(const PublishedPtr& state, Response& response);
  // For an agent that asks by name.
  void tell_wanted(const PublishedType& type, const std::set<std::string>& wanted, Response& response);
  void take_away_unwanted(const PublishedType& type, const std::set<std::string>& wanted, Response& response);

  std::string type_;
  bool first_ = true;
  bool answered_ = false;
  bool wildcard_ = false;
  std::set<std::string> names_;
  std::set<std::string> asked_;       // newly subscribed: answered even if absent
  std::map<std::string, Held> held_;  // by name; with wildcard only what the agent had before this stream
  PublishedPtr told_;                 // all that is in it was told
  PublishedPtr cleared_;              // all that was gone by then was taken away
  std::set<std::string> uncleared_;   // names that the agent may hold and that `cleared_` may not know
};

}  // namespace fairlead::serve
