#include "ebpf/datapath.h"

#include <bpf/libbpf.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "bpf/abi/maps.h"
#include "bpf/abi/sites.h"
#include "ebpf/abi_convert.h"
#include "ebpf/features.h"
#include "ebpf/map.h"
#include "ebpf/objects.h"
#include "ebpf/pins.h"
#include "ebpf/pod_links.h"
#include "ebpf/pod_maps.h"

namespace fairlead::ebpf {
namespace {

Error invalid(std::string text) {
  return {ErrorKind::kInvalidArgument, std::move(text)};
}

Result<void> check_uid(const std::string& uid) {
  constexpr std::string_view kAllowed =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";  // bpffs has no dots
  const bool plain = uid.find_first_not_of(kAllowed) == std::string::npos;
  if (uid.empty() || uid.size() > kMaxPodUid || !plain) {
    return invalid(fmt::format("'{}' is not a pod uid", uid.substr(0, kMaxPodUid)));
  }
  return {};
}

Result<void> check(const PodAttachment& attachment) {
  FL_TRY(check_uid(attachment.uid));
  if (attachment.netns_cookie == 0) return invalid("pod without netns cookie");
  if (attachment.cgroup.get() < 0 || attachment.netns.get() < 0)
    return invalid("pod without cgroup or netns");
  if (attachment.pod.outbound_port == 0 || attachment.pod.inbound_port == 0)
    return invalid("pod without listener port");
  return {};
}

Result<MapFds> open_maps(const PinPaths& paths) {
  MapFds maps;
  const std::pair<UniqueFd MapFds::*, const char*> pins[] = {
      {&MapFds::destinations, FL_MAP_DESTS},      {&MapFds::pods, FL_MAP_PODS},
      {&MapFds::excluded_ports, FL_MAP_EXPORTS},  {&MapFds::excluded_ranges, FL_MAP_EXCIDRS},
      {&MapFds::node_addresses, FL_MAP_NODE_IPS}, {&MapFds::original_destinations, FL_MAP_ORIGDST},
      {&MapFds::clients, FL_MAP_CLIENTS},         {&MapFds::listeners, FL_MAP_LISTENERS},
      {&MapFds::counters, FL_MAP_COUNTERS},       {&MapFds::errors, FL_MAP_ERRORS},
  };
  for (const auto& [member, name] : pins) {
    FL_TRY_ASSIGN(maps.*member, open_pin(paths.map(name)));
  }
  return maps;
}

// Elements of a per-CPU array, summed.
Result<uint64_t> sum(BorrowedFd map, uint32_t index, size_t cpus) {
  std::vector<uint64_t> values(cpus);
  FL_TRY_ASSIGN(const bool found, raw::lookup(map.get(), &index, values.data(), false));
  uint64_t total = 0;
  for (const uint64_t value : values) total += found ? value : 0;
  return total;
}

class PinnedDatapath final : public Datapath {
 public:
  PinnedDatapath(PinPaths paths, Programs programs, MapFds maps)
      : paths_(std::move(paths)), programs_(std::move(programs)), maps_(std::move(maps)) {}

  [[nodiscard]] BorrowedFd destinations() const noexcept override { return maps_.destinations; }
  [[nodiscard]] BorrowedFd original_destinations() const noexcept override {
    return maps_.original_destinations;
  }
  [[nodiscard]] BorrowedFd clients() const noexcept override { return maps_.clients; }

  [[nodiscard]] Result<void> attach_pod(const PodAttachment& attachment) override;
  [[nodiscard]] Result<void> detach_pod(const std::string& uid, uint64_t netns_cookie) override;
  [[nodiscard]] Result<std::vector<std::string>> pods() const override {
    return list_directory(paths_.pods());
  }
  [[nodiscard]] Result<void> set_listener(uint64_t netns_cookie, Direction direction, int family,
                                          BorrowedFd listener) override;
  [[nodiscard]] Result<void> set_node_addresses(const std::vector<IpAddress>& addresses) override;
  [[nodiscard]] Result<std::vector<Counter>> counters() const override;

 private:
  PinPaths paths_;
  Programs programs_;
  MapFds maps_;
};

Result<void> PinnedDatapath::attach_pod(const PodAttachment& attachment) {
  FL_TRY(check(attachment));
  const bool known = is_captured(paths_, attachment.uid);
  Result<void> done = write_pod(maps_, attachment);
  if (done) done = attach_hooks(paths_, programs_, attachment);
  if (done) return {};
  Error failed = std::move(done).error();
  if (!known) {
    if (auto undone = detach_pod(attachment.uid, attachment.netns_cookie); !undone) {
      failed = std::move(failed).context(fmt::format("(not undone: {})", undone.error().text()));
    }
  }
  return std::move(failed).context(fmt::format("attach pod {}", attachment.uid));
}

Result<void> PinnedDatapath::detach_pod(const std::string& uid, uint64_t netns_cookie) {
  FL_TRY(check_uid(uid));
  FL_TRY(remove_pod_pins(paths_.pod(uid)));
  return erase_pod(maps_, netns_cookie);
}

Result<void> PinnedDatapath::set_listener(uint64_t netns_cookie, Direction direction, int family,
                                          BorrowedFd listener) {
  if (family != AF_INET && family != AF_INET6) return invalid(fmt::format("listener of family {}", family));
  const abi::fl_listener_key key{netns_cookie, static_cast<uint32_t>(family),
                                 static_cast<uint32_t>(direction)};
  return Map<abi::fl_listener_key, uint64_t>(maps_.listeners).put(key, static_cast<uint64_t>(listener.get()));
}

Result<void> PinnedDatapath::set_node_addresses(const std::vector<IpAddress>& addresses) {
  const std::set<IpAddress> wanted(addresses.begin(), addresses.end());
  if (wanted.size() > FL_MAX_NODE_IPS) {
    return Error(ErrorKind::kExhausted,
                 fmt::format("{} node addresses, at most {} fit", wanted.size(), FL_MAX_NODE_IPS));
  }
  const Map<abi::fl_address, uint8_t> map(maps_.node_addresses);
  FL_TRY_ASSIGN(const auto held, map.entries(FL_MAX_NODE_IPS));
  for (const IpAddress& address : wanted) FL_TRY(map.put(to_abi(address), 1));
  for (const auto& [address, value] : held) {
    if (!wanted.contains(from_abi(address))) FL_TRY(map.erase(address));
  }
  return {};
}

Result<std::vector<Counter>> PinnedDatapath::counters() const {
  const int cpus = libbpf_num_possible_cpus();
  if (cpus <= 0) return bpf_error("count possible CPUs", -cpus);
  std::vector<Counter> result;
#define FL_COUNTER_NAME(id, name) {#name, 0},
  std::vector<Counter> known = {FL_COUNTERS(FL_COUNTER_NAME)};
  std::vector<Counter> sites = {FL_SITES(FL_COUNTER_NAME)};
#undef FL_COUNTER_NAME
  for (uint32_t i = 0; i < known.size(); ++i) {
    FL_TRY_ASSIGN(known[i].value, sum(maps_.counters, i, static_cast<size_t>(cpus)));
    result.push_back(std::move(known[i]));
  }
  for (uint32_t i = 0; i < sites.size(); ++i) {
    FL_TRY_ASSIGN(sites[i].value, sum(maps_.errors, i, static_cast<size_t>(cpus)));
    result.push_back({"error." + sites[i].name, sites[i].value});
  }
  return result;
}

}  // namespace

Result<std::unique_ptr<Datapath>> Datapath::open(std::string pin_directory) {
  const PinPaths paths{std::move(pin_directory)};
  FL_TRY(make_pin_directories(paths));
  FL_TRY_ASSIGN(const bool reuse, version_matches(paths));
  if (!reuse) {
    FL_TRY(remove_all(paths.root));
    FL_TRY(make_pin_directories(paths));
  }
  FL_TRY_ASSIGN(Programs programs, Programs::load(paths));
  FL_TRY_ASSIGN(MapFds maps, open_maps(paths));
  // Last: maps without a version are half made and are not trusted by the next one.
  if (!reuse) FL_TRY(pin_version(paths));
  return std::unique_ptr<Datapath>(
      std::make_unique<PinnedDatapath>(paths, std::move(programs), std::move(maps)));
}

Result<void> Datapath::remove_all(const std::string& pin_directory) {
  const PinPaths paths{pin_directory};
  if (::access(paths.root.c_str(), F_OK) != 0 && errno == ENOENT) return {};
  if (!on_bpffs(paths.root)) return invalid(fmt::format("{} is on no BPF file system", paths.root));
  FL_TRY_ASSIGN(const auto uids, list_directory(paths.pods()));
  for (const std::string& uid : uids) FL_TRY(remove_pod_pins(paths.pod(uid)));
  FL_TRY_ASSIGN(const auto maps, list_directory(paths.maps()));
  for (const std::string& map : maps) FL_TRY(remove_pin(paths.map(map)));
  FL_TRY(remove_directory(paths.pods()));
  FL_TRY(remove_directory(paths.maps()));
  auto root = remove_directory(paths.root);
  if (!root && root.error().code() == ENOTEMPTY) return {};  // another agent lives below
  return root;
}

}  // namespace fairlead::ebpf
