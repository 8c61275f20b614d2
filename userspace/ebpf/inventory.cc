#include "ebpf/inventory.h"

#include <bpf/bpf.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <set>

#include "base/file.h"
#include "base/net_types.h"
#include "bpf/abi/maps.h"
#include "bpf/abi/types.h"
#include "ebpf/features.h"
#include "ebpf/hooks.h"
#include "ebpf/inventory_names.h"
#include "ebpf/map.h"
#include "ebpf/pins.h"

namespace fairlead::ebpf {
namespace {

template <class Info>
Result<Info> info_of(BorrowedFd fd) {
  Info info{};
  uint32_t size = sizeof info;
  if (::bpf_obj_get_info_by_fd(fd.get(), &info, &size) != 0) return bpf_error("read object", errno);
  return info;
}

// Ids of the objects pinned under our directory.
struct Ours {
  std::set<uint32_t> programs, maps;
  std::vector<std::pair<uint32_t, std::string>> links;  // with the pin's path below the directory

  [[nodiscard]] std::string pin_of(uint32_t link) const {
    for (const auto& [id, path] : links) {
      if (id == link) return path;
    }
    return {};
  }
};

Result<std::vector<uint32_t>> map_ids_of(BorrowedFd program, uint32_t count) {
  std::vector<uint32_t> ids(count);
  if (count == 0) return ids;
  bpf_prog_info info{};
  info.nr_map_ids = count;
  info.map_ids = reinterpret_cast<uint64_t>(ids.data());
  uint32_t size = sizeof info;
  if (::bpf_obj_get_info_by_fd(program.get(), &info, &size) != 0) return bpf_error("read program", errno);
  ids.resize(std::min(count, info.nr_map_ids));
  return ids;
}

// What cannot be opened or read vanished meanwhile, or was never there: our own list is then shorter.
Result<Ours> find_ours(const std::string& directory) {
  const PinPaths paths{directory};
  Ours ours;
  FL_TRY_ASSIGN(const auto maps, list_directory(paths.maps()));
  for (const std::string& name : maps) {
    const auto fd = open_pin(paths.map(name));
    const auto info = fd ? info_of<bpf_map_info>(*fd) : Result<bpf_map_info>(bpf_error("open", ENOENT));
    if (info) ours.maps.insert(info->id);
  }
  FL_TRY_ASSIGN(const auto pods, list_directory(paths.pods()));
  for (const std::string& uid : pods) {
    FL_TRY_ASSIGN(const auto hooks, list_directory(paths.pod(uid)));
    for (const std::string& hook : hooks) {
      const auto fd = open_pin(fmt::format("{}/{}", paths.pod(uid), hook));
      const auto info = fd ? info_of<bpf_link_info>(*fd) : Result<bpf_link_info>(bpf_error("open", ENOENT));
      if (!info) continue;
      ours.links.emplace_back(info->id, fmt::format("pods/{}/{}", uid, hook));
      ours.programs.insert(info->prog_id);
    }
  }
  return ours;
}

// Walks all ids of one kind. `open` gives an fd for an id; `visit` takes it. Objects that vanish meanwhile
// are skipped.
template <class NextId, class Open, class Visit>
Result<void> walk(std::string_view what, NextId next_id, Open open, Visit visit) {
  uint32_t id = 0;
  for (size_t count = 0; next_id(id, &id) == 0; ++count) {
    if (count == kMaxObjects)
      return Error(ErrorKind::kExhausted, fmt::format("more than {} {}", kMaxObjects, what));
    const UniqueFd fd(open(id));
    if (fd)
      FL_TRY(visit(fd));
    else if (errno != ENOENT)
      return bpf_error(fmt::format("open one of the {}", what), errno);
  }
  if (errno != ENOENT) return bpf_error(fmt::format("list {}", what), errno);
  return {};
}

std::chrono::system_clock::time_point boot_time() {
  timespec now{};
  ::clock_gettime(CLOCK_BOOTTIME, &now);
  return std::chrono::system_clock::now() - std::chrono::seconds(now.tv_sec) -
         std::chrono::nanoseconds(now.tv_nsec);
}

std::string hex(const unsigned char* octets, size_t count) {
  std::string text;
  for (size_t i = 0; i < count; ++i) text += fmt::format("{:02x}", octets[i]);
  return text;
}

Result<void> list_programs(const Ours& ours, std::vector<ProgramInfo>& programs) {
  const auto boot = boot_time();
  const auto visit = [&](BorrowedFd fd) -> Result<void> {
    const auto info = info_of<bpf_prog_info>(fd);
    if (!info) return {};
    ProgramInfo program;
    program.id = info->id;
    program.name = info->name;
    program.type = program_type_name(info->type);
    program.tag = hex(info->tag, sizeof info->tag);
    program.run_count = info->run_cnt;
    program.run_time_ns = info->run_time_ns;
    program.loaded_at = boot + std::chrono::duration_cast<std::chrono::system_clock::duration>(
                                   std::chrono::nanoseconds(info->load_time));
    program.instructions = info->xlated_prog_len / sizeof(bpf_insn);
    program.verified_instructions = info->verified_insns;
    program.jited_bytes = info->jited_prog_len;
    program.created_by_uid = info->created_by_uid;
    if (auto ids = map_ids_of(fd, info->nr_map_ids)) program.map_ids = std::move(*ids);
    // Ours: attached by a link of ours, or sharing a map with us (a program of a predecessor about to go).
    program.ours =
        ours.programs.contains(info->id) || std::any_of(program.map_ids.begin(), program.map_ids.end(),
                                                        [&](uint32_t id) { return ours.maps.contains(id); });
    programs.push_back(std::move(program));
    return {};
  };
  return walk("programs", ::bpf_prog_get_next_id, ::bpf_prog_get_fd_by_id, visit);
}

// A cgroup's id is its file handle in the cgroup file system.
std::string cgroup_path(BorrowedFd mount, uint64_t id) {
  constexpr int kFileidKernfs = 0xfe;
  alignas(file_handle) std::array<char, sizeof(file_handle) + sizeof(uint64_t)> storage{};
  auto* handle = reinterpret_cast<file_handle*>(storage.data());
  handle->handle_bytes = sizeof id;
  handle->handle_type = kFileidKernfs;
  std::copy_n(reinterpret_cast<const char*>(&id), sizeof id, storage.data() + sizeof(file_handle));
  const UniqueFd fd(::open_by_handle_at(mount.get(), handle, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) return {};
  std::array<char, 4096> path{};
  const ssize_t length =
      ::readlink(fmt::format("/proc/self/fd/{}", fd.get()).c_str(), path.data(), path.size());
  return length <= 0 ? std::string() : std::string(path.data(), static_cast<size_t>(length));
}

// tcx, netkit and (in newer headers) xdp tell the interface first, the attach type second.
constexpr uint32_t kLinkTypeTcx = 11, kLinkTypeNetkit = 13;

LinkInfo describe(const bpf_link_info& info, BorrowedFd mount) {
  LinkInfo link;
  link.id = info.id;
  link.type = link_type_name(info.type);
  link.program_id = info.prog_id;
  switch (info.type) {
    case BPF_LINK_TYPE_CGROUP:
      link.attach_type = attach_type_name(info.cgroup.attach_type);
      link.cgroup_id = info.cgroup.cgroup_id;
      link.defunct = link.cgroup_id == 0;
      if (!link.defunct) link.cgroup_path = cgroup_path(mount, link.cgroup_id);
      break;
    case BPF_LINK_TYPE_NETNS:
      link.attach_type = attach_type_name(info.netns.attach_type);
      link.netns_inode = info.netns.netns_ino;
      link.defunct = link.netns_inode == 0;
      break;
    case BPF_LINK_TYPE_TRACING: link.attach_type = attach_type_name(info.tracing.attach_type); break;
    case BPF_LINK_TYPE_XDP:
    case kLinkTypeTcx:
    case kLinkTypeNetkit:
      link.ifindex = info.xdp.ifindex;
      link.defunct = link.ifindex == 0;
      if (info.type != BPF_LINK_TYPE_XDP) link.attach_type = attach_type_name(info.netns.attach_type);
      break;
    default: break;
  }
  return link;
}

Result<void> list_links(const Ours& ours, BorrowedFd mount, std::vector<LinkInfo>& links) {
  const auto visit = [&](BorrowedFd fd) -> Result<void> {
    const auto info = info_of<bpf_link_info>(fd);
    if (!info) return {};
    LinkInfo link = describe(*info, mount);
    link.pin = ours.pin_of(link.id);
    link.ours = !link.pin.empty();
    links.push_back(std::move(link));
    return {};
  };
  return walk("links", ::bpf_link_get_next_id, ::bpf_link_get_fd_by_id, visit);
}

// The kernel writes keys and values of the map's sizes, not of ours: another version's agent pinned others.
template <class Key, class Value>
std::optional<uint64_t> count(BorrowedFd map, const MapInfo& info) {
  if (info.key_size != sizeof(Key) || info.value_size != sizeof(Value)) return std::nullopt;
  const auto entries = Map<Key, Value>(map).entries(info.max_entries);
  if (!entries) return std::nullopt;
  return entries->size();
}

// Only our own hashes and the trie; arrays are always full, socket maps and storage cannot be read.
std::optional<uint64_t> count_entries(BorrowedFd map, const MapInfo& info) {
  if (info.name == FL_MAP_DESTS) return count<abi::fl_address, abi::fl_dest>(map, info);
  if (info.name == FL_MAP_PODS) return count<uint64_t, abi::fl_pod>(map, info);
  if (info.name == FL_MAP_EXPORTS) return count<abi::fl_excluded_port, uint8_t>(map, info);
  if (info.name == FL_MAP_EXCIDRS) return count<abi::fl_excluded_range, uint8_t>(map, info);
  if (info.name == FL_MAP_NODE_IPS) return count<abi::fl_address, uint8_t>(map, info);
  if (info.name == FL_MAP_ORIGDST) return count<abi::fl_connection, abi::fl_original>(map, info);
  if (info.name == FL_MAP_CLIENTS) return count<abi::fl_flow, abi::fl_client>(map, info);
  return std::nullopt;
}

// The kernel tells a map's memory only in /proc/self/fdinfo.
uint64_t memory_of(BorrowedFd map) {
  const auto text = read_file(fmt::format("/proc/self/fdinfo/{}", map.get()));
  constexpr std::string_view kField = "memlock:\t";
  const size_t start = text ? text->find(kField) : std::string::npos;
  if (start == std::string::npos) return 0;
  const size_t end = text->find('\n', start);
  const size_t digits = start + kField.size();
  return parse_number(std::string_view(*text).substr(digits, end - digits), UINT64_MAX).value_or(0);
}

Result<void> list_maps(const Ours& ours, bool count_them, std::vector<MapInfo>& maps) {
  const auto visit = [&](BorrowedFd fd) -> Result<void> {
    const auto info = info_of<bpf_map_info>(fd);
    if (!info) return {};
    MapInfo map;
    map.id = info->id;
    map.name = info->name;
    map.type = map_type_name(info->type);
    map.ours = ours.maps.contains(info->id);
    map.key_size = info->key_size;
    map.value_size = info->value_size;
    map.max_entries = info->max_entries;
    if (map.ours && count_them) map.entries = count_entries(fd, map);
    map.memory_bytes = memory_of(fd);
    maps.push_back(std::move(map));
    return {};
  };
  return walk("maps", ::bpf_map_get_next_id, ::bpf_map_get_fd_by_id, visit);
}

const ProgramInfo* find_program(const Inventory& inventory, uint32_t id) {
  for (const ProgramInfo& program : inventory.programs) {
    if (program.id == id) return &program;
  }
  return nullptr;
}

// All attach types of cgroups, not only ours: `fairlead check` shows who else is there.
Result<void> query_cgroup(const std::string& path, Inventory& inventory) {
  FL_TRY_ASSIGN(const UniqueFd fd, open_file(path, O_RDONLY | O_DIRECTORY));
  struct stat status{};
  if (::fstat(fd.get(), &status) != 0) return Error::from_errno(fmt::format("stat {}", path));
  for (const bpf_attach_type type : kCgroupAttachTypes) {
    std::array<uint32_t, 64> ids{};  // BPF_CGROUP_MAX_PROGS
    uint32_t flags = 0, count = ids.size();
    if (::bpf_prog_query(fd.get(), type, 0, &flags, ids.data(), &count) != 0) continue;  // not in this kernel
    for (uint32_t i = 0; i < count; ++i) {
      CgroupAttachment attachment;
      attachment.cgroup_path = path;
      attachment.attach_type = attach_type_name(type);
      attachment.program_id = ids[i];
      if (const ProgramInfo* program = find_program(inventory, ids[i])) {
        attachment.program_name = program->name;
        attachment.ours = program->ours;
      }
      attachment.by_link =
          std::any_of(inventory.links.begin(), inventory.links.end(), [&](const LinkInfo& link) {
            return link.program_id == ids[i] && link.cgroup_id == status.st_ino &&
                   link.attach_type == attachment.attach_type;
          });
      attachment.exclusive = (flags & (BPF_F_ALLOW_MULTI | BPF_F_ALLOW_OVERRIDE)) == 0;
      attachment.allow_override = (flags & BPF_F_ALLOW_OVERRIDE) != 0;
      inventory.cgroup_attachments.push_back(std::move(attachment));
    }
  }
  return {};
}

}  // namespace

Result<Inventory> take_inventory(const InventoryOptions& options) {
  Inventory inventory;
  const std::string mount =
      options.cgroup_mount.empty() ? cgroup2_mount().value_or("") : options.cgroup_mount;
  UniqueFd mount_fd;
  if (!mount.empty()) {
    FL_TRY_ASSIGN(mount_fd, open_file(mount, O_RDONLY | O_DIRECTORY));
  }
  FL_TRY_ASSIGN(Ours ours, find_ours(options.pin_directory));
  FL_TRY(list_programs(ours, inventory.programs));
  // The constants of our programs (.rodata) are maps without a pin.
  for (const ProgramInfo& program : inventory.programs) {
    if (program.ours) ours.maps.insert(program.map_ids.begin(), program.map_ids.end());
  }
  FL_TRY(list_links(ours, mount_fd, inventory.links));
  FL_TRY(list_maps(ours, options.count_entries, inventory.maps));
  std::set<std::string> cgroups(options.cgroup_paths.begin(), options.cgroup_paths.end());
  if (!mount.empty()) cgroups.insert(mount);
  for (const std::string& path : cgroups) {
    auto queried = query_cgroup(path, inventory);
    if (!queried && queried.error().code() != ENOENT)
      return std::move(queried).error();  // a cgroup may be gone
  }
  const auto statistics = read_file("/proc/sys/kernel/bpf_stats_enabled");
  inventory.run_statistics = statistics && statistics->starts_with('1');
  return inventory;
}

Result<UniqueFd> enable_run_statistics() {
  UniqueFd fd(::bpf_enable_stats(BPF_STATS_RUN_TIME));
  if (!fd) return bpf_error("switch run statistics on", errno);
  return fd;
}

}  // namespace fairlead::ebpf
