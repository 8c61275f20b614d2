#include "proxy/resolve.h"

#include <algorithm>

namespace fairlead::proxy {
namespace {

using state::Endpoint;
using state::Service;
using state::Workload;

// The endpoint's address of the family the client asked for; any other rather than none.
const IpAddress* address_of(const Workload& workload, bool v4) {
  const auto same = std::find_if(workload.addresses.begin(), workload.addresses.end(),
                                 [v4](const IpAddress& address) { return address.is_v4() == v4; });
  if (same != workload.addresses.end()) return &*same;
  return workload.addresses.empty() ? nullptr : &workload.addresses.front();
}

constexpr std::string_view kOtherNetwork = "the destination is on another network";

// Why nothing may be sent to the workload, or empty.
std::string_view barrier(const Workload& workload) {
  if (workload.foreign) return kOtherNetwork;
  if (workload.tunnel == state::Tunnel::kUnsupported)
    return "the destination wants a tunnel protocol that is not supported";
  return {};
}

bool serves(const Service& service, const Endpoint& endpoint, uint16_t port) {
  return endpoint.workload->healthy && !endpoint.workload->addresses.empty() &&
         service.target_port(endpoint, port) != 0;
}

Target::Kind kind_of(const Workload& workload, std::span<const IpAddress> own,
                     const SocketAddress& endpoint) {
  if (std::find(own.begin(), own.end(), endpoint.ip) != own.end()) return Target::Kind::kSelf;
  if (workload.tunnel == state::Tunnel::kNone) return Target::Kind::kPlain;
  const auto& excluded = workload.not_in_place;
  const bool captured_there = std::find(excluded.begin(), excluded.end(), endpoint.port) == excluded.end();
  return workload.in_place && captured_there ? Target::Kind::kTunnelInPlace : Target::Kind::kTunnelHbone;
}

bool contains(std::span<const SocketAddress> list, const SocketAddress& endpoint) {
  return std::find(list.begin(), list.end(), endpoint) != list.end();
}

Target refused(std::string_view why) {
  Target target;
  target.why = why;
  return target;
}

Target to_service(std::shared_ptr<const Service> service, std::span<const IpAddress> own,
                  const SocketAddress& original, const std::function<size_t(size_t)>& pick,
                  std::span<const SocketAddress> avoid) {
  const auto& endpoints = service->endpoints;
  std::string_view why = "the service has no endpoint for this port";
  const auto at = [&](const Endpoint& endpoint) {
    return SocketAddress{*address_of(*endpoint.workload, original.ip.is_v4()),
                         service->target_port(endpoint, original.port)};
  };
  const auto fits = [&](const Endpoint& endpoint) {
    if (!serves(*service, endpoint, original.port)) return false;
    const std::string_view in_between = barrier(*endpoint.workload);
    if (!in_between.empty()) why = in_between;
    return in_between.empty() && (avoid.empty() || !contains(avoid, at(endpoint)));
  };
  const auto count = static_cast<size_t>(std::count_if(endpoints.begin(), endpoints.end(), fits));
  if (count == 0) {
    Target none = refused(why);
    none.service = std::move(service);
    return none;
  }
  size_t skip = pick(count);
  const auto chosen = std::find_if(endpoints.begin(), endpoints.end(),
                                   [&](const Endpoint& endpoint) { return fits(endpoint) && skip-- == 0; });
  Target target;
  target.workload = chosen->workload;
  target.endpoint = at(*chosen);
  target.kind = kind_of(*target.workload, own, target.endpoint);
  target.service = std::move(service);
  return target;
}

}  // namespace

Target resolve(const state::Snapshot& snapshot, std::span<const IpAddress> own, const SocketAddress& original,
               const std::function<size_t(size_t)>& pick, std::span<const SocketAddress> avoid) {
  if (auto service = snapshot.service(original.ip))
    return to_service(std::move(service), own, original, pick, avoid);
  auto workload = snapshot.workload(original.ip);
  if (workload == nullptr) {
    return refused(snapshot.elsewhere(original.ip) ? kOtherNetwork
                                                   : "the mesh does not know this destination");
  }
  Target target;
  target.kind = kind_of(*workload, own, original);
  const std::string_view why = barrier(*workload);
  if (target.kind != Target::Kind::kSelf && !why.empty()) return refused(why);
  target.workload = std::move(workload);
  target.endpoint = original;
  return target;
}

}  // namespace fairlead::proxy
