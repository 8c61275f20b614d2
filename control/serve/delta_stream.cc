#include "control/serve/delta_stream.h"

namespace fairlead::serve {

using envoy::service::discovery::v3::DeltaDiscoveryRequest;
using envoy::service::discovery::v3::DeltaDiscoveryResponse;

void Subscription::update(const DeltaDiscoveryRequest& request) {
  if (first_) {
    wildcard_ = request.resource_names_subscribe().empty();
    for (const auto& [name, version] : request.initial_resource_versions()) sent_[name] = version;
    first_ = false;
  }
  for (const std::string& name : request.resource_names_subscribe()) {
    if (name == "*") {
      wildcard_ = true;
    } else {
      names_.insert(name);
      asked_.insert(name);
      sent_.erase(name);  // asked again: sent again
    }
  }
  for (const std::string& name : request.resource_names_unsubscribe()) {
    if (name == "*") {
      wildcard_ = false;
    } else {
      names_.erase(name);
      asked_.erase(name);
      if (!wildcard_) sent_.erase(name);
    }
  }
}

std::optional<DeltaDiscoveryResponse> Subscription::next(const std::string& type, const Published& state) {
  if (first_) return std::nullopt;
  DeltaDiscoveryResponse response;
  const auto found = state.types.find(type);
  static const std::map<std::string, PublishedResource> kNone;
  const auto& resources = found == state.types.end() ? kNone : found->second;
  for (const auto& [name, resource] : resources) {
    if (!wants(name)) continue;
    const auto sent = sent_.find(name);
    if (sent != sent_.end() && sent->second == resource.version) continue;
    auto* out = response.add_resources();
    out->set_name(name);
    out->set_version(resource.version);
    *out->mutable_resource() = *resource.body;
    sent_[name] = resource.version;
    asked_.erase(name);
  }
  for (auto it = sent_.begin(); it != sent_.end();) {
    if (resources.contains(it->first)) {
      ++it;
      continue;
    }
    response.add_removed_resources(it->first);
    it = sent_.erase(it);
  }
  for (const std::string& name : asked_) response.add_removed_resources(name);  // asked for, not there
  asked_.clear();
  const bool nothing = response.resources().empty() && response.removed_resources().empty();
  if (nothing && answered_) return std::nullopt;
  answered_ = true;
  response.set_type_url(type);
  return response;
}

}  // namespace fairlead::serve
