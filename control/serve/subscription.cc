#include "control/serve/subscription.h"

namespace fairlead::serve {

using envoy::service::discovery::v3::DeltaDiscoveryRequest;
using envoy::service::discovery::v3::DeltaDiscoveryResponse;

void Subscription::update(const DeltaDiscoveryRequest& request) {
  if (first_) {
    wildcard_ = request.resource_names_subscribe().empty();
    for (const auto& [name, version] : request.initial_resource_versions()) held_[name] = {version, false};
    first_ = false;
  }
  for (const std::string& name : request.resource_names_subscribe()) {
    if (name == "*") {
      wildcard_ = true;
    } else {
      names_.insert(name);
      asked_.insert(name);
    }
  }
  for (const std::string& name : request.resource_names_unsubscribe()) unsubscribe(name);
}

void Subscription::unsubscribe(const std::string& name) {
  if (name == "*") {
    wildcard_ = false;
  } else {
    names_.erase(name);
    asked_.erase(name);
  }
}

std::set<std::string> Subscription::wanted_names(const PublishedType& type) const {
  std::set<std::string> wanted;
  const auto add = [&](const std::string& name) {
    if (!type.resources.contains(name)) return;
    wanted.insert(name);
    const auto members = type.members.find(name);
    if (members != type.members.end()) wanted.insert(members->second.begin(), members->second.end());
  };
  for (const std::string& name : names_) {
    add(name);
    const auto aliased = type.by_alias.find(name);
    if (aliased == type.by_alias.end()) continue;
    for (const std::string& target : aliased->second) add(target);
  }
  return wanted;
}

void Subscription::tell(const std::string& name, const PublishedResource& resource, Response& response) {
  const auto held = held_.find(name);
  bool asked = asked_.contains(name);  // asked again: told again
  for (const std::string& alias : resource.aliases) asked = asked || asked_.contains(alias);
  if (held != held_.end() && held->second.version == resource.version && !(asked && held->second.told)) {
    held->second.told = true;
    return;
  }
  auto* out = response.add_resources();
  out->set_name(name);
  out->set_version(resource.version);
  for (const std::string& alias : resource.aliases) out->add_aliases(alias);
  *out->mutable_resource() = *resource.body;
  held_[name] = {resource.version, true};
}

void Subscription::take_away(const PublishedType& type, const std::set<std::string>& wanted,
                             Response& response) {
  for (auto it = held_.begin(); it != held_.end();) {
    const bool exists = type.resources.contains(it->first);
    // What the agent has from an earlier stream it may be about to ask for again.
    const bool unwanted = exists && it->second.told && !wildcard_ && !wanted.contains(it->first);
    if (exists && !unwanted) {
      ++it;
      continue;
    }
    response.add_removed_resources(it->first);
    it = held_.erase(it);
  }
}

void Subscription::answer_absent(const PublishedType& type, Response& response) {
  for (const std::string& name : asked_) {
    if (!type.resources.contains(name) && !type.by_alias.contains(name)) response.add_removed_resources(name);
  }
  asked_.clear();
}

std::optional<DeltaDiscoveryResponse> Subscription::next(const std::string& type_url, const Published& state,
                                                         Removals removals) {
  if (first_) return std::nullopt;
  DeltaDiscoveryResponse response;
  const PublishedType& type = state.of(type_url);
  const std::set<std::string> wanted = wildcard_ ? std::set<std::string>() : wanted_names(type);
  if (wildcard_) {
    for (const auto& [name, resource] : type.resources) tell(name, resource, response);
  } else {
    for (const std::string& name : wanted) tell(name, type.resources.at(name), response);
  }
  answer_absent(type, response);
  if (removals == Removals::kNow) take_away(type, wanted, response);
  if (response.resources().empty() && response.removed_resources().empty() && answered_) return std::nullopt;
  answered_ = true;
  response.set_type_url(type_url);
  return response;
}

}  // namespace fairlead::serve
