// What BPF is on this node and where it is attached: ours and everybody else's. Read-only; needs
// CAP_SYS_ADMIN (the kernel lists ids only to it). Plain structs, for `fairlead bpf …` and `fairlead check`;
// JSON is made elsewhere.
//
// Thread: any. Errors: kBpf or kSyscall when a list cannot be read at all; objects that vanish meanwhile are
// left out.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace fairlead::ebpf {

struct ProgramInfo {
  uint32_t id = 0;
  std::string name;
  std::string type;  // "cgroup_sock_addr", "sk_lookup", …; a number when unknown
  std::string tag;   // 16 hex digits
  bool ours = false;
  uint64_t run_count = 0;    // 0 unless kernel.bpf_stats_enabled is set
  uint64_t run_time_ns = 0;  // likewise
  std::chrono::system_clock::time_point loaded_at{};
  uint32_t instructions = 0;           // translated
  uint32_t verified_instructions = 0;  // what the verifier walked
  uint32_t jited_bytes = 0;
  uint32_t created_by_uid = 0;
  std::vector<uint32_t> map_ids;
};

struct LinkInfo {
  uint32_t id = 0;
  std::string type;  // "cgroup", "netns", "tcx", "xdp", …
  uint32_t program_id = 0;
  std::string attach_type;   // "cgroup_inet4_connect", "sk_lookup", …; empty when the kernel does not tell
  uint64_t cgroup_id = 0;    // type cgroup; 0 when the cgroup is gone
  std::string cgroup_path;   // below cgroup_mount; empty when unknown
  uint32_t netns_inode = 0;  // type netns; 0 when the namespace is gone
  uint32_t ifindex = 0;      // xdp, tcx, netkit
  bool defunct = false;      // what it was attached to is gone
  bool ours = false;
  std::string pin;  // path below our directory; empty when not pinned there
};

// A program attached to a cgroup, by link or not, as BPF_PROG_QUERY tells.
struct CgroupAttachment {
  std::string cgroup_path;
  std::string attach_type;
  uint32_t program_id = 0;
  std::string program_name;
  bool by_link = false;
  bool ours = false;
  // Flags of the place (same for all programs there): exclusive means that no child cgroup may attach.
  bool exclusive = false;
  bool allow_override = false;
};

struct MapInfo {
  uint32_t id = 0;
  std::string name;
  std::string type;
  bool ours = false;
  uint32_t key_size = 0;
  uint32_t value_size = 0;
  uint32_t max_entries = 0;
  // Counted for our maps only (walking a foreign map costs its owner): absent where it cannot be walked.
  std::optional<uint64_t> entries;
  uint64_t memory_bytes = 0;
};

struct Inventory {
  std::vector<ProgramInfo> programs;  // sorted by id, as are links and maps
  std::vector<LinkInfo> links;
  std::vector<CgroupAttachment> cgroup_attachments;
  std::vector<MapInfo> maps;
  bool run_statistics = false;  // kernel.bpf_stats_enabled
};

struct InventoryOptions {
  std::string pin_directory = "/sys/fs/bpf/fairlead";
  std::string cgroup_mount;  // empty: found (cgroup2_mount())
  std::vector<std::string>
      cgroup_paths;  // absolute; queried for attachments; the root of the mount is always
  bool count_entries = true;
};

// Bounds: at most kMaxObjects of each kind are listed; more is kExhausted.
constexpr size_t kMaxObjects = 65536;

Result<Inventory> take_inventory(const InventoryOptions& options);

// BPF_ENABLE_STATS: every program's runs are counted and timed while the fd is open, whatever
// kernel.bpf_stats_enabled says and whoever else does the same. Needs CAP_SYS_ADMIN.
Result<UniqueFd> enable_run_statistics();

}  // namespace fairlead::ebpf
