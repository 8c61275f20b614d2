#include "ebpf/flow_maps.h"

#include "bpf/abi/maps.h"
#include "ebpf/abi_convert.h"
#include "ebpf/map.h"

namespace fairlead::ebpf {

Result<std::optional<SocketAddress>> OriginalDestinations::take(uint64_t cookie, const SocketAddress& local,
                                                                const SocketAddress& agent) const {
  const Map<abi::fl_connection, abi::fl_original> map(map_);
  FL_TRY_ASSIGN(const auto original, map.take(to_connection(cookie, local, agent)));
  if (!original || original->port == 0) return std::optional<SocketAddress>();
  return std::optional<SocketAddress>(SocketAddress{from_abi(original->address), ntohs(original->port)});
}

Result<void> ClientNames::publish(uint64_t cookie, const SocketAddress& local,
                                  const SocketAddress& client) const {
  const Map<abi::fl_flow, abi::fl_client> map(map_);
  abi::fl_client value{};
  value.address = to_abi(client.ip);
  value.port = htons(client.port);
  return map.put(to_flow(cookie, local), value);
}

Result<void> ClientNames::forget(uint64_t cookie, const SocketAddress& local) const {
  const Map<abi::fl_flow, abi::fl_client> map(map_);
  FL_TRY(map.erase(to_flow(cookie, local)));
  return {};
}

Result<void> ClientNames::forget_all() const {
  const Map<abi::fl_flow, abi::fl_client> map(map_);
  FL_TRY_ASSIGN(const auto entries, map.entries(FL_MAX_CLIENTS));
  for (const auto& [flow, client] : entries) FL_TRY(map.erase(flow));
  return {};
}

Result<std::unordered_map<IpAddress, uint32_t>> Destinations::read() const {
  const Map<abi::fl_address, abi::fl_dest> map(map_);
  FL_TRY_ASSIGN(const auto entries, map.entries(FL_MAX_DESTS));
  std::unordered_map<IpAddress, uint32_t> held;
  held.reserve(entries.size());
  for (const auto& [address, destination] : entries) held.emplace(from_abi(address), destination.flags);
  return held;
}

Result<void> Destinations::replace(const std::unordered_map<IpAddress, uint32_t>& wanted) const {
  if (wanted.size() > FL_MAX_DESTS) {
    return Error(ErrorKind::kExhausted,
                 fmt::format("{} mesh destinations, at most {} fit", wanted.size(), FL_MAX_DESTS));
  }
  const Map<abi::fl_address, abi::fl_dest> map(map_);
  FL_TRY_ASSIGN(const auto held, read());
  std::vector<IpAddress> stale;
  for (const auto& [address, flags] : held) {
    if (!wanted.contains(address)) stale.push_back(address);
  }
  // Adding first never fails for lack of room, unless nearly everything changes at once: then room is made
  // before.
  size_t added = 0;
  for (const auto& [address, flags] : wanted) added += held.contains(address) ? 0 : 1;
  while (!stale.empty() && held.size() + added > FL_MAX_DESTS) {
    FL_TRY(map.erase(to_abi(stale.back())));
    stale.pop_back();
    --added;
  }
  for (const auto& [address, flags] : wanted) {
    const auto old = held.find(address);
    if (old == held.end() || old->second != flags) FL_TRY(map.put(to_abi(address), abi::fl_dest{flags}));
  }
  for (const IpAddress& address : stale) FL_TRY(map.erase(to_abi(address)));
  return {};
}

}  // namespace fairlead::ebpf
