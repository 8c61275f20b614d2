#include "state/decode.h"

#include <google/protobuf/wrappers.pb.h>

#include <algorithm>
#include <optional>

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

// Whether a newer protocol put something into the message that we do not know.
template <class Message>
bool says_more(const Message& message) {
  return !message.GetReflection()->GetUnknownFields(message).empty();
}

// One list of a match. An element that cannot be read could have matched anything: a positive list that has
// one constrains nothing (and the match is undecidable, so it lets nobody in); of a negative list the
// readable elements still exclude.
enum class Side { kPositive, kNegative };

template <class Value, class Messages, class Read>
std::vector<Value> list_of(Side side, const Messages& messages, bool& undecidable, Read read) {
  std::vector<Value> list;
  bool unread = false;
  for (const auto& message : messages) {
    if (std::optional<Value> value = read(message)) {
      list.push_back(std::move(*value));
    } else {
      unread = true;
    }
  }
  undecidable = undecidable || unread;
  if (unread && side == Side::kPositive) list.clear();
  return list;
}

std::optional<StringMatch> string_of(const istio::security::StringMatch& message) {
  if (says_more(message)) return std::nullopt;
  switch (message.match_type_case()) {
    case istio::security::StringMatch::kExact: return StringMatch{StringMatch::Kind::kExact, message.exact()};
    case istio::security::StringMatch::kPrefix:
      return StringMatch{StringMatch::Kind::kPrefix, message.prefix()};
    case istio::security::StringMatch::kSuffix:
      return StringMatch{StringMatch::Kind::kSuffix, message.suffix()};
    case istio::security::StringMatch::kPresence: return StringMatch{StringMatch::Kind::kPresence, {}};
    case istio::security::StringMatch::MATCH_TYPE_NOT_SET: break;
  }
  return std::nullopt;
}

std::optional<Cidr> range_of(const istio::security::Address& message) {
  const auto address = IpAddress::from_octets(message.address());
  const uint32_t width = message.address().size() == 4 ? 32 : 128;
  if (!address || message.length() > width || says_more(message)) return std::nullopt;
  return Cidr{*address, static_cast<uint8_t>(128 - width + message.length())};
}

std::optional<uint16_t> port_of_policy(uint32_t number) {
  if (number > 65535) return std::nullopt;
  return static_cast<uint16_t>(number);
}

std::optional<policy::ServiceAccountMatch> account_of(const istio::security::ServiceAccountMatch& message) {
  if (says_more(message)) return std::nullopt;
  return policy::ServiceAccountMatch{message.namespace_(), message.serviceaccount()};
}

policy::Match match_of(const istio::security::Match& message) {
  policy::Match match;
  bool& open = match.undecidable;
  const auto strings = [&](Side side, const auto& list) {
    return list_of<StringMatch>(side, list, open, string_of);
  };
  const auto ranges = [&](Side side, const auto& list) { return list_of<Cidr>(side, list, open, range_of); };
  const auto ports = [&](Side side, const auto& list) {
    return list_of<uint16_t>(side, list, open, port_of_policy);
  };
  const auto accounts = [&](Side side, const auto& list) {
    return list_of<policy::ServiceAccountMatch>(side, list, open, account_of);
  };
  match.namespaces = strings(Side::kPositive, message.namespaces());
  match.not_namespaces = strings(Side::kNegative, message.not_namespaces());
  match.principals = strings(Side::kPositive, message.principals());
  match.not_principals = strings(Side::kNegative, message.not_principals());
  match.service_accounts = accounts(Side::kPositive, message.service_accounts());
  match.not_service_accounts = accounts(Side::kNegative, message.not_service_accounts());
  match.source_ips = ranges(Side::kPositive, message.source_ips());
  match.not_source_ips = ranges(Side::kNegative, message.not_source_ips());
  match.destination_ips = ranges(Side::kPositive, message.destination_ips());
  match.not_destination_ips = ranges(Side::kNegative, message.not_destination_ips());
  match.destination_ports = ports(Side::kPositive, message.destination_ports());
  match.not_destination_ports = ports(Side::kNegative, message.not_destination_ports());
  // An extension narrows or widens in a way that we do not know; so does a field of a newer protocol.
  if (message.extensions_size() > 0 || says_more(message)) open = true;
  return match;
}

policy::Clause undecidable_clause() {
  policy::Match match;
  match.undecidable = true;
  return {{std::move(match)}};
}

std::vector<std::string> parts_of(const std::string& text, char separator) {
  std::vector<std::string> parts;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(separator, at), text.size());
    if (end > at) parts.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return parts;
}

bool read_targets(const std::string& text, policy::Policy& policy) {
  constexpr std::string_view kService = "service:";
  const std::vector<std::string> targets = parts_of(text, ',');
  for (const std::string& target : targets) {
    if (target == "gateway") {
      policy.gateway = true;
    } else if (target.starts_with(kService) && target.size() > kService.size()) {
      policy.services.push_back(target.substr(kService.size()));
    } else {
      return false;
    }
  }
  return !targets.empty();
}

// What says more about a policy as a whole; false: it is not understood.
bool read_extension(const istio::workload::Extension& extension, policy::Policy& policy) {
  if (says_more(extension)) return false;
  if (extension.name() == kAuditExtension) {
    policy.action = policy::Action::kAudit;
    policy.dry_run =
        false;  // that is for agents that do not know the extension: it decides nothing there, either
    return true;
  }
  google::protobuf::StringValue value;
  const bool readable = extension.config().UnpackTo(&value);
  if (extension.name() == kTargetsExtension) return readable && read_targets(value.value(), policy);
  if (extension.name() != kNotesExtension) return false;
  if (readable) policy.notes = parts_of(value.value(), '\n');
  return true;  // notes are for people: they change nothing
}

policy::Rule rule_of(const istio::security::Rule& message) {
  policy::Rule rule;
  for (const auto& clause_message : message.clauses()) {
    policy::Clause clause;
    for (const auto& match_message : clause_message.matches())
      clause.matches.push_back(match_of(match_message));
    // Whatever it adds to the alternatives, nobody knows what it matches.
    if (says_more(clause_message)) clause = undecidable_clause();
    rule.clauses.push_back(std::move(clause));
  }
  if (says_more(message)) rule.clauses.push_back(undecidable_clause());
  return rule;
}

}  // namespace

namespace {

// False when the list cannot be read: then no port is taken for one that takes tunnels.
bool read_excluded_ports(const istio::workload::Extension& extension, std::vector<uint16_t>& ports) {
  google::protobuf::StringValue value;
  if (!extension.config().UnpackTo(&value)) return false;
  for (const std::string& part : parts_of(value.value(), ',')) {
    std::string_view item = part;
    while (item.starts_with(' ')) item.remove_prefix(1);
    while (item.ends_with(' ')) item.remove_suffix(1);
    if (item.empty()) continue;
    const auto port = parse_number(item, 65535);
    if (!port) return false;
    ports.push_back(static_cast<uint16_t>(*port));
  }
  return true;
}

Tunnel tunnel_of(istio::workload::TunnelProtocol protocol) {
  switch (protocol) {
    case istio::workload::NONE: return Tunnel::kNone;
    case istio::workload::HBONE: return Tunnel::kHbone;
    default: return Tunnel::kUnsupported;  // also a value of a newer protocol
  }
}

}  // namespace

Result<Workload> decode_workload(const istio::workload::Workload& message, std::string_view network) {
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
  workload.network = message.network();
  workload.foreign = workload.network != network;
  workload.tunnel = tunnel_of(message.tunnel_protocol());
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

Result<Service> decode_service(const istio::workload::Service& message, std::string_view network) {
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
    (network_address.network() == network ? service.addresses : service.foreign_addresses)
        .push_back(*address);
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
  bool understood = !says_more(message);
  switch (message.scope()) {
    case istio::security::GLOBAL: result.scope = policy::Scope::kGlobal; break;
    case istio::security::NAMESPACE: result.scope = policy::Scope::kNamespace; break;
    case istio::security::WORKLOAD_SELECTOR: result.scope = policy::Scope::kWorkload; break;
    default:  // whomever it is meant for, it is not to be left out
      result.scope = policy::Scope::kGlobal;
      understood = false;
  }
  if (result.scope == policy::Scope::kNamespace && result.ns.empty())
    return broken(result.name, "a policy of a namespace, but of none");
  // An action that we do not know is the stricter one.
  result.action = message.action() == istio::security::ALLOW ? policy::Action::kAllow : policy::Action::kDeny;
  for (const auto& extension : message.extensions())
    understood = read_extension(extension, result) && understood;
  if (!understood && result.action == policy::Action::kAudit) result.action = policy::Action::kDeny;
  for (const auto& rule : message.rules()) result.rules.push_back(rule_of(rule));
  if (!understood) {
    // What the policy says beyond its rules may be what it is about.
    if (result.rules.empty()) result.rules.emplace_back();
    for (policy::Rule& rule : result.rules) rule.clauses.push_back(undecidable_clause());
  }
  return result;
}

policy::Policy unreadable_policy(std::string_view resource, policy::Scope scope) {
  policy::Policy policy;
  const size_t slash = resource.find('/');
  policy.ns = slash == std::string_view::npos ? "" : resource.substr(0, slash);
  policy.name = slash == std::string_view::npos ? resource : resource.substr(slash + 1);
  policy.scope = scope;
  policy.action = policy::Action::kDeny;
  policy.rules.push_back({{undecidable_clause()}});
  return policy;
}

}  // namespace fairlead::state
