#include "control/serve/subscription.h"

#include <algorithm>

namespace fairlead::serve {
namespace {

using envoy::service::discovery::v3::DeltaDiscoveryRequest;
using envoy::service::discovery::v3::DeltaDiscoveryResponse;

void add(const std::string& name, const PublishedResource& resource, DeltaDiscoveryResponse& response) {
  auto* out = response.add_resources();
  out->set_name(name);
  out->set_version(resource.version);
  for (const std::string& alias : resource.aliases) out->add_aliases(alias);
  *out->mutable_resource() = *resource.body;
}

}  // namespace

void Subscription::update(const DeltaDiscoveryRequest& request) {
  if (first_) {
    type_ = request.type_url();
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
    if (std::exchange(wildcard_, false)) leave_wildcard();
  } else {
    names_.erase(name);
    asked_.erase(name);
  }
}

// From here on only the names count that it asks for.
void Subscription::leave_wildcard() {
  if (told_ == nullptr) return;
  const PublishedType& type = told_->of(type_);
  held_.clear();
  for (const std::string& name : wanted_names(type)) held_[name] = {type.resources.at(name).version, true};
  told_ = cleared_ = nullptr;
  uncleared_.clear();
}

std::set<std::string> Subscription::wanted_names(const PublishedType& type) const {
  std::set<std::string> wanted;
  const auto want = [&](const std::string& name) {
    if (!type.resources.contains(name)) return;
    wanted.insert(name);
    const auto members = type.members.find(name);
    if (members != type.members.end()) wanted.insert(members->second.begin(), members->second.end());
  };
  for (const std::string& name : names_) {
    want(name);
    const auto aliased = type.by_alias.find(name);
    if (aliased == type.by_alias.end()) continue;
    for (const std::string& target : aliased->second) want(target);
  }
  return wanted;
}

bool Subscription::is_asked(const std::string& name, const PublishedResource& resource) const {
  return asked_.contains(name) ||
         std::any_of(resource.aliases.begin(), resource.aliases.end(),
                     [this](const std::string& alias) { return asked_.contains(alias); });
}

void Subscription::answer_absent(const PublishedType& type, Response& response) {
  for (const std::string& name : asked_) {
    if (!type.resources.contains(name) && !type.by_alias.contains(name)) response.add_removed_resources(name);
  }
  asked_.clear();
}

void Subscription::tell_changes(const PublishedPtr& state, Response& response) {
  const auto& resources = state->of(type_).resources;
  if (told_ == nullptr) {
    for (const auto& [name, resource] : resources) {
      const auto held = held_.find(name);
      if (held == held_.end() || held->second.version != resource.version) add(name, resource, response);
    }
    for (const auto& [name, held] : held_) uncleared_.insert(name);
    held_.clear();
    cleared_ = state;
  } else {
    std::vector<std::string> names = changes_between(*told_, *state, type_);
    names.insert(names.end(), asked_.begin(), asked_.end());
    for (const std::string& name : names) {
      const auto found = resources.find(name);
      if (found == resources.end()) continue;
      add(name, found->second, response);
      uncleared_.insert(name);
    }
  }
  told_ = state;
}

void Subscription::take_away_changes(const PublishedPtr& state, Response& response) {
  const auto& resources = state->of(type_).resources;
  const auto& before = cleared_->of(type_).resources;
  for (const std::string& name : changes_between(*cleared_, *state, type_)) {
    if (before.contains(name)) uncleared_.insert(name);
  }
  for (const std::string& name : uncleared_) {
    if (!resources.contains(name)) response.add_removed_resources(name);
  }
  uncleared_.clear();
  cleared_ = state;
}

void Subscription::tell_wanted(const PublishedType& type, const std::set<std::string>& wanted,
                               Response& response) {
  for (const std::string& name : wanted) {
    const PublishedResource& resource = type.resources.at(name);
    Held& held = held_[name];
    const bool again = held.told && is_asked(name, resource);
    if (held.version != resource.version || again) add(name, resource, response);
    held = {resource.version, true};
  }
}

void Subscription::take_away_unwanted(const PublishedType& type, const std::set<std::string>& wanted,
                                      Response& response) {
  for (auto it = held_.begin(); it != held_.end();) {
    const bool exists = type.resources.contains(it->first);
    // What the agent has from an earlier stream it may be about to ask for again.
    if (exists && (!it->second.told || wanted.contains(it->first))) {
      ++it;
      continue;
    }
    response.add_removed_resources(it->first);
    it = held_.erase(it);
  }
}

std::optional<DeltaDiscoveryResponse> Subscription::next(const std::string& type_url,
                                                         const PublishedPtr& state, Removals removals) {
  if (first_) return std::nullopt;
  DeltaDiscoveryResponse response;
  const PublishedType& type = state->of(type_url);
  if (wildcard_) {
    tell_changes(state, response);
    if (removals == Removals::kNow) take_away_changes(state, response);
  } else {
    const std::set<std::string> wanted = wanted_names(type);
    tell_wanted(type, wanted, response);
    if (removals == Removals::kNow) take_away_unwanted(type, wanted, response);
  }
  answer_absent(type, response);
  if (response.resources().empty() && response.removed_resources().empty() && answered_) return std::nullopt;
  answered_ = true;
  response.set_type_url(type_url);
  return response;
}

}  // namespace fairlead::serve
