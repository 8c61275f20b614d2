#include "control/serve/published.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include "base/net_types.h"

namespace fairlead::serve {
namespace {

// Maps serialise in any order otherwise: equal content must give equal bytes, or every restart would push
// everything.
std::string deterministic_bytes(const google::protobuf::Message& message) {
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);
    message.SerializeToCodedStream(&coded);
  }
  return bytes;
}

// FNV-1a, 64 bits: a version to compare, not a secret.
std::string hash_of(const std::string& bytes) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char byte : bytes) hash = (hash ^ static_cast<unsigned char>(byte)) * 0x100000001b3;
  return fmt::format("{:016x}", hash);
}

PublishedResource encode_one(std::string_view type, const google::protobuf::Message& message) {
  auto any = std::make_shared<google::protobuf::Any>();
  any->set_type_url(std::string(type));
  any->set_value(deterministic_bytes(message));
  return {hash_of(any->value()), any, {}};
}

void add_alias(const std::string& network, const std::string& octets, PublishedResource& resource) {
  if (const auto address = IpAddress::from_octets(octets))
    resource.aliases.push_back(network + "/" + address->to_string());
}

void encode_address(const std::string& name, const istio::workload::Address& message, PublishedType& type) {
  PublishedResource resource = encode_one(kAddressType, message);
  if (message.has_workload()) {
    const auto& workload = message.workload();
    // Pods of the host's network share its address: it says nothing about which of them is meant.
    if (workload.network_mode() != istio::workload::HOST_NETWORK) {
      for (const std::string& octets : workload.addresses()) add_alias(workload.network(), octets, resource);
    }
    for (const auto& [service, ports] : workload.services()) type.members[service].insert(name);
  } else {
    for (const auto& address : message.service().addresses())
      add_alias(address.network(), address.address(), resource);
  }
  for (const std::string& alias : resource.aliases) type.by_alias[alias].insert(name);
  type.resources[name] = std::move(resource);
}

using Resources = std::map<std::string, PublishedResource>;

// Both are in the order of their names.
std::vector<std::string> compare(const Resources& before, const Resources& after) {
  std::vector<std::string> names;
  auto old = before.begin();
  auto now = after.begin();
  while (old != before.end() || now != after.end()) {
    const int order = old == before.end() ? 1 : now == after.end() ? -1 : old->first.compare(now->first);
    if (order != 0 || old->second.version != now->second.version)
      names.push_back(order < 0 ? old->first : now->first);
    if (order <= 0) ++old;
    if (order >= 0) ++now;
  }
  return names;
}

void share_bodies(const Resources& before, Resources& after) {
  auto old = before.begin();
  for (auto& [name, resource] : after) {
    while (old != before.end() && old->first < name) ++old;
    if (old == before.end()) return;
    if (old->first == name && old->second.version == resource.version) resource.body = old->second.body;
  }
}

}  // namespace

const PublishedType& Published::of(const std::string& type) const {
  static const PublishedType kNone;
  const auto found = types.find(type);
  return found == types.end() ? kNone : found->second;
}

PublishedPtr encode(const model::Mesh& mesh, const PublishedPtr& previous) {
  auto published = std::make_shared<Published>();
  PublishedType& addresses = published->types[std::string(kAddressType)];
  for (const auto& [name, message] : mesh.addresses) encode_address(name, message, addresses);
  PublishedType& policies = published->types[std::string(kPolicyType)];
  for (const auto& [name, message] : mesh.policies)
    policies.resources[name] = encode_one(kPolicyType, message);
  published->identities_by_node = mesh.identities_by_node;
  if (previous == nullptr) return published;
  published->previous = previous;
  for (auto& [url, type] : published->types) {
    const Resources& before = previous->of(url).resources;
    share_bodies(before, type.resources);
    published->changes[url] = compare(before, type.resources);
  }
  return published;
}

std::vector<std::string> changes_between(const Published& before, const Published& after,
                                         const std::string& type) {
  if (after.previous.lock().get() == &before) {
    const auto known = after.changes.find(type);
    return known == after.changes.end() ? std::vector<std::string>() : known->second;
  }
  return compare(before.of(type).resources, after.of(type).resources);
}

}  // namespace fairlead::serve
