#include "state/decode.h"

#include <google/protobuf/wrappers.pb.h>

#include <algorithm>

namespace fairlead::state {
namespace {

using policy::StringMatch;

Error broken(std::string_view what, std::string_view why) {
  return {ErrorKind::kInvalidArgument, fmt::format("{}: {}", what, why)};
}

Result<uint16_t> port_of(uint32_t port) {
  if (port > 65535) return Error(ErrorKind::kInvalidArgument, fmt::format("port {}", port));
  return static_cast<uint16_t>(port);
}

template <class Ports>
Result<std::vector<ServicePort>> ports_of(const Ports& ports) {
  std::vector<ServicePort> list;
  for (const auto& port : ports) {
    FL_TRY_ASSIGN(const uint16_t service_port, port_of(port.service_port()));
    FL_TRY_ASSIGN(const uint16_t target_port, port_of(port.target_port()));
    list.push_back({service_port, target_port});
  }
  return list;
}

// ---- policies
// -----------------------------------------------------------------------------------------------------------

template <class Messages>
std::vector<StringMatch> strings_of(const Messages& messages, bool& undecidable) {
  std::vector<StringMatch> list;
  for (const auto& message : messages) {
    switch (message.match_type_case()) {
      case istio::security::StringMatch::kExact:
        list.push_back({StringMatch::Kind::kExact, message.exact()});
        break;
      case istio::security::StringMatch::kPrefix:
        list.push_back({StringMatch::Kind::kPrefix, message.prefix()});
        break;
      case istio::security::StringMatch::kSuffix:
        list.push_back({StringMatch::Kind::kSuffix, message.suffix()});
        break;
      case istio::security::StringMatch::kPresence: list.push_back({StringMatch::Kind::kPresence, {}}); break;
      case istio::security::StringMatch::MATCH_TYPE_NOT_SET: undecidable = true; break;
    }
  }
  return list;
}

template <class Messages>
std::vector<Cidr> ranges_of(const Messages& messages, bool& undecidable) {
  std::vector<Cidr> list;
  for (const auto& message : messages) {
    const auto address = IpAddress::from_octets(message.address());
    const uint32_t width = address && address->is_v4() && message.address().size() == 4 ? 32 : 128;
    if (!address || message.length() > width) {
      undecidable = true;
      continue;
    }
    list.push_back({*address, static_cast<uint8_t>(128 - width + message.length())});
  }
  return list;
}

template <class Numbers>
std::vector<uint16_t> port_list(const Numbers& numbers, bool& undecidable) {
  std::vector<uint16_t> list;
  for (const uint32_t number : numbers) {
    if (number > 65535) {
      undecidable = true;
    } else {
      list.push_back(static_cast<uint16_t>(number));
    }
  }
  return list;
}

template <class Messages>
std::vector<policy::ServiceAccountMatch> accounts_of(const Messages& messages) {
  std::vector<policy::ServiceAccountMatch> list;
  for (const auto& message : messages) list.push_back({message.namespace_(), message.serviceaccount()});
  return list;
}

policy::Match match_of(const istio::security::Match& message) {
  policy::Match match;
  bool& open = match.undecidable;
  match.namespaces = strings_of(message.namespaces(), open);
  match.not_namespaces = strings_of(message.not_namespaces(), open);
  match.principals = strings_of(message.principals(), open);
  match.not_principals = strings_of(message.not_principals(), open);
  match.service_accounts = accounts_of(message.service_accounts());
  match.not_service_accounts = accounts_of(message.not_service_accounts());
  match.source_ips = ranges_of(message.source_ips(), open);
  match.not_source_ips = ranges_of(message.not_source_ips(), open);
  match.destination_ips = ranges_of(message.destination_ips(), open);
  match.not_destination_ips = ranges_of(message.not_destination_ips(), open);
  match.destination_ports = port_list(message.destination_ports(), open);
  match.not_destination_ports = port_list(message.not_destination_ports(), open);
  // An extension narrows or widens in a way that we do not know; so does a field of a newer protocol.
  if (message.extensions_size() > 0) open = true;
  if (!message.GetReflection()->GetUnknownFields(message).empty()) open = true;
  return match;
}

}  // namespace

namespace {

// False when the list cannot be read: then no port is taken for one that takes tunnels.
bool read_excluded_ports(const istio::workload::Extension& extension, std::vector<uint16_t>& ports) {
  google::protobuf::StringValue value;
  if (!extension.config().UnpackTo(&value)) return false;
  std::string_view rest = value.value();
  while (!rest.empty()) {
    const size_t comma = rest.find(',');
    std::string_view item = rest.substr(0, comma);
    rest = comma == std::string_view::npos ? std::string_view() : rest.substr(comma + 1);
    while (item.starts_with(' ')) item.remove_prefix(1);
    while (item.ends_with(' ')) item.remove_suffix(1);
    if (item.empty()) continue;
    const auto port = parse_number(item, 65535);
    if (!port) return false;
    ports.push_back(static_cast<uint16_t>(*port));
  }
  return true;
}

}  // namespace

Result<Workload> decode_workload(const istio::workload::Workload& message) {
  if (message.uid().empty()) return broken("workload", "no uid");
  Workload workload;
  workload.uid = message.uid();
  workload.name = message.name();
  workload.ns = message.namespace_();
  const std::string trust_domain = message.trust_domain().empty() ? "cluster.local" : message.trust_domain();
  const std::string account = message.service_account().empty() ? "default" : message.service_account();
  auto identity = SpiffeId::make(trust_domain, workload.ns, account);
  if (!identity) return std::move(identity).error().context(workload.uid);
  workload.identity = std::move(*identity);
  for (const std::string& octets : message.addresses()) {
    auto address = IpAddress::from_octets(octets);
    if (!address) return std::move(address).error().context(workload.uid);
    workload.addresses.push_back(*address);
  }
  workload.node = message.node();
  workload.canonical_name = message.canonical_name();
  workload.workload_name = message.workload_name();
  workload.cluster = message.cluster_id().empty() ? "Kubernetes" : message.cluster_id();
  workload.tunnel = message.tunnel_protocol() == istio::workload::HBONE ? Tunnel::kHbone : Tunnel::kNone;
  workload.healthy = message.status() == istio::workload::HEALTHY;
  workload.host_network = message.network_mode() == istio::workload::HOST_NETWORK;
  const auto& extensions = message.extensions();
  workload.in_place = std::any_of(extensions.begin(), extensions.end(), [](const auto& extension) {
    return extension.name() == kInPlaceExtension;
  });
  for (const auto& extension : extensions) {
    if (extension.name() != kNotInPlaceExtension) continue;
    if (!read_excluded_ports(extension, workload.not_in_place)) workload.in_place = false;
  }
  for (const auto& [name, list] : message.services()) {
    auto ports = ports_of(list.ports());
    if (!ports) return std::move(ports).error().context(workload.uid);
    workload.services.emplace_back(name, std::move(*ports));
  }
  workload.policy_names.assign(message.authorization_policies().begin(),
                               message.authorization_policies().end());
  return workload;
}

Result<Service> decode_service(const istio::workload::Service& message) {
  if (message.hostname().empty() || message.namespace_().empty())
    return broken("service", "no hostname or namespace");
  Service service;
  service.ns = message.namespace_();
  service.name = message.name();
  service.hostname = message.hostname();
  for (const auto& network_address : message.addresses()) {
    if (network_address.has_length()) continue;  // a range is no single VIP; nothing is captured for it
    auto address = IpAddress::from_octets(network_address.address());
    if (!address) return std::move(address).error().context(service.full_name());
    service.addresses.push_back(*address);
  }
  auto ports = ports_of(message.ports());
  if (!ports) return std::move(ports).error().context(service.full_name());
  service.ports = std::move(*ports);
  return service;
}

Result<policy::Policy> decode_policy(const istio::security::Authorization& message) {
  if (message.name().empty()) return broken("policy", "no name");
  policy::Policy result;
  result.ns = message.namespace_();
  result.name = message.name();
  result.dry_run = message.dry_run();
  switch (message.scope()) {
    case istio::security::GLOBAL: result.scope = policy::Scope::kGlobal; break;
    case istio::security::NAMESPACE: result.scope = policy::Scope::kNamespace; break;
    default: result.scope = policy::Scope::kWorkload; break;
  }
  // An action that we do not know is the stricter one.
  result.action = message.action() == istio::security::ALLOW ? policy::Action::kAllow : policy::Action::kDeny;
  for (const auto& rule_message : message.rules()) {
    policy::Rule rule;
    for (const auto& clause_message : rule_message.clauses()) {
      policy::Clause clause;
      for (const auto& match_message : clause_message.matches())
        clause.matches.push_back(match_of(match_message));
      rule.clauses.push_back(std::move(clause));
    }
    result.rules.push_back(std::move(rule));
  }
  return result;
}

}  // namespace fairlead::state
