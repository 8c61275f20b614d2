#include "ebpf/pod_maps.h"

#include <set>

#include "bpf/abi/maps.h"
#include "ebpf/abi_convert.h"
#include "ebpf/map.h"

namespace fairlead::ebpf {
namespace {

using PortMap = Map<abi::fl_excluded_port, uint8_t>;
using RangeMap = Map<abi::fl_excluded_range, uint8_t>;

uint64_t cookie_of(const abi::fl_excluded_port& key) {
  return key.netns_cookie;
}
uint64_t cookie_of(const abi::fl_flow& key) {
  return key.netns_cookie;
}
uint64_t cookie_of(const abi::fl_connection& key) {
  return key.netns_cookie;
}
uint64_t cookie_of(const abi::fl_excluded_range& key) {
  uint64_t cookie = 0;
  for (const uint8_t octet : key.netns_cookie) cookie = cookie << 8 | octet;
  return cookie;
}

abi::fl_excluded_port port_key(uint64_t cookie, uint16_t port, uint8_t direction) {
  abi::fl_excluded_port key{};
  key.netns_cookie = cookie;
  key.port = htons(port);
  key.direction = direction;
  return key;
}

abi::fl_excluded_range range_key(uint64_t cookie, const Cidr& range) {
  abi::fl_excluded_range key{};
  key.prefix_length = 64u + range.length;
  for (int i = 7; i >= 0; --i, cookie >>= 8) key.netns_cookie[i] = static_cast<uint8_t>(cookie);
  // Bits behind the prefix are cleared, so that the same range is the same key (the kernel keeps what it is
  // given).
  for (size_t i = 0; i < 16; ++i) {
    const int bits = std::clamp(static_cast<int>(range.length) - static_cast<int>(8 * i), 0, 8);
    key.address[i] = static_cast<uint8_t>(range.base.octets()[i] & (0xff00 >> bits));
  }
  return key;
}

template <class Key>
struct OctetsLess {
  bool operator()(const Key& a, const Key& b) const { return std::memcmp(&a, &b, sizeof(Key)) < 0; }
};

// Makes the entries of one cookie be exactly `wanted`.
template <class Key>
Result<void> replace_keys(const Map<Key, uint8_t>& map, size_t limit, uint64_t cookie,
                          const std::set<Key, OctetsLess<Key>>& wanted) {
  FL_TRY_ASSIGN(const auto held, map.entries(limit));
  for (const Key& key : wanted) FL_TRY(map.put(key, 1));
  for (const auto& [key, value] : held) {
    if (cookie_of(key) == cookie && !wanted.contains(key)) FL_TRY(map.erase(key));
  }
  return {};
}

template <class Key, class Value>
Result<void> erase_keys(const Map<Key, Value>& map, size_t limit, uint64_t cookie) {
  FL_TRY_ASSIGN(const auto held, map.entries(limit));
  for (const auto& [key, value] : held) {
    if (cookie_of(key) == cookie) FL_TRY(map.erase(key));
  }
  return {};
}

}  // namespace

Result<void> write_pod(const MapFds& maps, const PodAttachment& attachment) {
  const uint64_t cookie = attachment.netns_cookie;
  std::set<abi::fl_excluded_port, OctetsLess<abi::fl_excluded_port>> ports;
  for (const uint16_t port : attachment.excluded_outbound) ports.insert(port_key(cookie, port, FL_OUTBOUND));
  for (const uint16_t port : attachment.excluded_inbound) ports.insert(port_key(cookie, port, FL_INBOUND));
  std::set<abi::fl_excluded_range, OctetsLess<abi::fl_excluded_range>> ranges;
  for (const Cidr& range : attachment.excluded_ranges) ranges.insert(range_key(cookie, range));
  FL_TRY(replace_keys(PortMap(maps.excluded_ports), FL_MAX_EXCLUDED_PORTS, cookie, ports));
  FL_TRY(replace_keys(RangeMap(maps.excluded_ranges), FL_MAX_EXCLUDED_RANGES, cookie, ranges));
  return Map<uint64_t, abi::fl_pod>(maps.pods).put(cookie, attachment.pod);
}

Result<void> erase_pod(const MapFds& maps, uint64_t netns_cookie) {
  FL_TRY((Map<uint64_t, abi::fl_pod>(maps.pods).erase(netns_cookie)));
  FL_TRY(erase_keys(PortMap(maps.excluded_ports), FL_MAX_EXCLUDED_PORTS, netns_cookie));
  FL_TRY(erase_keys(RangeMap(maps.excluded_ranges), FL_MAX_EXCLUDED_RANGES, netns_cookie));
  FL_TRY(erase_keys(Map<abi::fl_connection, abi::fl_original>(maps.original_destinations), FL_MAX_ORIGDST,
                    netns_cookie));
  FL_TRY(erase_keys(Map<abi::fl_flow, abi::fl_client>(maps.clients), FL_MAX_CLIENTS, netns_cookie));
  for (const uint32_t family : {AF_INET, AF_INET6}) {
    for (const uint32_t direction : {FL_OUTBOUND, FL_INBOUND}) {
      FL_TRY((Map<abi::fl_listener_key, uint64_t>(maps.listeners).erase({netns_cookie, family, direction})));
    }
  }
  return {};
}

}  // namespace fairlead::ebpf
