// The map entries of one pod. Internal to ebpf/. All changes add before they delete.
#pragma once

#include "base/result.h"
#include "base/unique_fd.h"
#include "ebpf/datapath.h"

namespace fairlead::ebpf {

struct MapFds {
  UniqueFd destinations, pods, excluded_ports, excluded_ranges, node_addresses;
  UniqueFd original_destinations, clients, listeners, counters, errors;
};

Result<void> write_pod(const MapFds& maps, const PodAttachment& attachment);
// Everything keyed by the cookie, in every map.
Result<void> erase_pod(const MapFds& maps, uint64_t netns_cookie);

}  // namespace fairlead::ebpf
