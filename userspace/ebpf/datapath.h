// The BPF datapath of one agent: programs, pinned maps, and what is attached to each pod.
//
// Everything lives under one directory of a bpffs:
//   <directory>/maps/<map>              the maps of bpf/abi/maps.h, by name
//   <directory>/maps/fl_version         FL_ABI_VERSION of those maps
//   <directory>/pods/<uid>/<hook>       the bpf_links of a pod (connect4 … getsockname6, sockops, sk_lookup)
// Pins outlive the process: capture goes on while no agent runs, and the next open() takes over in place.
//
// Thread: one (the keeper's). Ownership: fds given are borrowed for the call. Errors: ErrorKind::kBpf with
// the saved errno, kInvalidArgument for what the caller got wrong, kUnavailable when there is no bpffs.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/net_types.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "bpf/abi/types.h"

namespace fairlead::ebpf {

constexpr size_t kMaxPodUid =
    63;  // octets of a pod's uid: letters, digits, '-', '_'; it names a directory (bpffs has no dots)

// A pod as the datapath sees it.
struct PodAttachment {
  std::string uid;
  uint64_t netns_cookie = 0;                  // SO_NETNS_COOKIE of a socket in the pod's netns
  BorrowedFd cgroup{-1};                      // the pod's cgroup (v2), opened O_RDONLY | O_DIRECTORY
  BorrowedFd netns{-1};                       // /proc/PID/ns/net or /run/netns/NAME
  abi::fl_pod pod{};                          // addresses, listener ports (network order), FL_POD_HAS_*
  std::vector<uint16_t> excluded_outbound{};  // ports, host order
  std::vector<uint16_t> excluded_inbound{};
  std::vector<Cidr> excluded_ranges{};  // destinations
};

enum class Direction : uint32_t { kOutbound = FL_OUTBOUND, kInbound = FL_INBOUND };

struct Counter {
  std::string name;  // "connect_captured"; failing helpers as "error.<site>"
  uint64_t value = 0;
};

class Datapath {
 public:
  // Loads the programs. Maps pinned under `pin_directory` by the same FL_ABI_VERSION are reused with what
  // they hold; those of another version are removed with everything that is attached. Mounts nothing.
  static Result<std::unique_ptr<Datapath>> open(std::string pin_directory);
  // Detaches everything under the directory and unpins it; needs no loaded program. Nothing there is success.
  static Result<void> remove_all(const std::string& pin_directory);

  virtual ~Datapath() = default;
  Datapath(const Datapath&) = delete;
  Datapath& operator=(const Datapath&) = delete;

  // The maps of the proxy (flow_maps.h). The Datapath keeps them open.
  [[nodiscard]] virtual BorrowedFd destinations() const noexcept = 0;
  [[nodiscard]] virtual BorrowedFd original_destinations() const noexcept = 0;
  [[nodiscard]] virtual BorrowedFd clients() const noexcept = 0;

  // Writes the pod's map entries, then attaches (sk_lookup and name programs before connect): nothing is
  // captured before it can be served. Idempotent: links that are there and alive get the new programs in
  // place, without a gap; dead ones, and links to another cgroup or netns, are made anew. A pod that was not
  // attached is not attached afterwards if this fails; one that was keeps what it had as far as the kernel
  // allows. Set the listeners before: without them, captured connections and inbound ones are dropped.
  [[nodiscard]] virtual Result<void> attach_pod(const PodAttachment& attachment) = 0;
  // Detaches, then forgets every map entry of the cookie. Unknown pods are success. The listeners' fds stay
  // open.
  [[nodiscard]] virtual Result<void> detach_pod(const std::string& uid, uint64_t netns_cookie) = 0;
  // Uids with pins, attached or half attached, sorted.
  [[nodiscard]] virtual Result<std::vector<std::string>> pods() const = 0;

  // The agent's listener (listening already) for the pod's connections of `family` (AF_INET, AF_INET6);
  // replaces. The kernel forgets it when it is closed.
  [[nodiscard]] virtual Result<void> set_listener(uint64_t netns_cookie, Direction direction, int family,
                                                  BorrowedFd listener) = 0;
  // The node's own addresses: connections from them are not captured (kubelet probes). Adds before it
  // deletes.
  [[nodiscard]] virtual Result<void> set_node_addresses(const std::vector<IpAddress>& addresses) = 0;

  // Sums over all CPUs. Counters of bpf/abi/types.h first, then the error sites of bpf/abi/sites.h.
  [[nodiscard]] virtual Result<std::vector<Counter>> counters() const = 0;

 protected:
  Datapath() = default;
};

}  // namespace fairlead::ebpf
