// bpf progs|maps|links: what is on the hooks, ours and everybody else's.
#include <sys/stat.h>

#include <map>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/net_types.h"
#include "cli/inventory_rows.h"
#include "cli/output.h"

namespace fairlead::cli {
namespace {

using nlohmann::json;

std::string_view owner(bool ours) {
  return ours ? "fairlead" : "other";
}

std::string netns_target(uint64_t inode) {
  return fmt::format("netns inode {}", inode);
}

// Target of a link → "ns/name", as far as the keeper tells; without it links are listed all the same.
std::map<std::string, std::string> pods_by_target(const Options& options) {
  std::map<std::string, std::string> pods;
  const auto answer = net_pods(options);
  for (const json& pod : answer) {
    const std::string name = pod.value("namespace", "") + "/" + pod.value("name", "");
    pods[pod.value("cgroup", "")] = name;
    struct stat netns{};
    if (::stat(pod.value("netns", "").c_str(), &netns) == 0) pods[netns_target(netns.st_ino)] = name;
  }
  return pods;
}

}  // namespace

Result<ebpf::Inventory> read_inventory(const Options& options) {
  ebpf::InventoryOptions wanted;
  const std::string directory = bpf_directory(options);
  if (!directory.empty()) wanted.pin_directory = directory;
  for (const json& pod : net_pods(options)) wanted.cgroup_paths.push_back(pod.value("cgroup", ""));
  return ebpf::take_inventory(wanted);
}

json link_rows(const Options& options, const ebpf::Inventory& inventory) {
  const auto pods = pods_by_target(options);
  std::map<uint32_t, std::string> names;
  for (const auto& program : inventory.programs) names[program.id] = program.name;
  json rows = json::array();
  for (const auto& link : inventory.links) {
    std::string kind = "other";
    std::string target;
    if (link.type == "cgroup") {
      kind = "cgroup";
      target = link.cgroup_path.empty() ? fmt::format("cgroup id {}", link.cgroup_id) : link.cgroup_path;
    } else if (link.type == "netns") {
      kind = "netns";
      target = netns_target(link.netns_inode);
    } else if (link.ifindex != 0) {
      kind = "interface";
      target = fmt::format("ifindex {}", link.ifindex);
    }
    const auto pod = pods.find(target);
    rows.push_back({{"id", link.id},
                    {"program", names[link.program_id]},
                    {"programId", link.program_id},
                    {"type", link.type},
                    {"attachType", link.attach_type},
                    {"target", target},
                    {"targetKind", kind},
                    {"owner", owner(link.ours)},
                    {"pin", link.pin},
                    {"pod", pod == pods.end() ? "" : pod->second}});
  }
  // Whoever attached without a link holds the hook all the same.
  for (const auto& attachment : inventory.cgroup_attachments) {
    if (attachment.by_link) continue;
    const auto pod = pods.find(attachment.cgroup_path);
    rows.push_back({{"id", nullptr},
                    {"program", attachment.program_name},
                    {"programId", attachment.program_id},
                    {"type", "cgroup"},
                    {"attachType", attachment.attach_type},
                    {"target", attachment.cgroup_path},
                    {"targetKind", "cgroup"},
                    {"owner", owner(attachment.ours)},
                    {"pin", ""},
                    {"pod", pod == pods.end() ? "" : pod->second}});
  }
  return rows;
}

int run_bpf_links(const Options& options) {
  const auto inventory = read_inventory(options);
  if (!inventory) return complain(kFailure, inventory.error().text() + "\n  Needs root: try sudo");
  print_list(options, link_rows(options, *inventory),
             {column("ID", "id"), column("OWNER", "owner"), column("PROGRAM", "program"),
              column("ATTACH TYPE", "attachType"), column("TARGET", "target"), column("POD", "pod")});
  return kOk;
}

json program_rows(const ebpf::Inventory& inventory) {
  json rows = json::array();
  for (const auto& program : inventory.programs) {
    const double per_run = program.run_count == 0 ? 0.0
                                                  : static_cast<double>(program.run_time_ns) /
                                                        static_cast<double>(program.run_count);
    rows.push_back({{"id", program.id},
                    {"name", program.name},
                    {"type", program.type},
                    {"tag", program.tag},
                    {"owner", owner(program.ours)},
                    {"runCount", program.run_count},
                    {"runTimeNs", program.run_time_ns},
                    {"nsPerRun", per_run},
                    {"instructions", program.instructions},
                    {"verifiedInstructions", program.verified_instructions}});
  }
  return rows;
}

namespace {

constexpr uint64_t kLongestMeasurement = 3600;

// Run counts and times of the interval alone; what was loaded meanwhile began at nothing.
Result<ebpf::Inventory> measure(const Options& options, std::chrono::seconds interval) {
  FL_TRY_ASSIGN(const UniqueFd statistics, ebpf::enable_run_statistics());
  FL_TRY_ASSIGN(const ebpf::Inventory before, read_inventory(options));
  std::this_thread::sleep_for(interval);
  FL_TRY_ASSIGN(ebpf::Inventory inventory, read_inventory(options));
  std::map<uint32_t, const ebpf::ProgramInfo*> known;
  for (const auto& program : before.programs) known[program.id] = &program;
  for (auto& program : inventory.programs) {
    const auto earlier = known.find(program.id);
    if (earlier == known.end()) continue;
    program.run_count -= earlier->second->run_count;
    program.run_time_ns -= earlier->second->run_time_ns;
  }
  inventory.run_statistics = true;
  return inventory;
}

}  // namespace

int run_bpf_progs(const Options& options) {
  const auto& words = options.arguments;
  const auto seconds = words.size() == 2 ? parse_number(words[1], kLongestMeasurement) : std::nullopt;
  if (!words.empty() && (words[0] != "--measure" || seconds.value_or(0) == 0))
    return complain(
        kUsage,
        fmt::format("bpf progs: unexpected '{}'\n  Try: fairlead bpf progs [--measure SECONDS]", words[0]));
  const auto inventory = seconds ? measure(options, std::chrono::seconds(*seconds)) : read_inventory(options);
  if (!inventory) return complain(kFailure, inventory.error().text() + "\n  Needs root: try sudo");
  print_list(options, program_rows(*inventory),
             {column("ID", "id"),
              column("OWNER", "owner"),
              column("NAME", "name"),
              column("TYPE", "type"),
              column("RUNS", "runCount"),
              {"NS/RUN", [](const json& row) { return fmt::format("{:.0f}", row.value("nsPerRun", 0.0)); }},
              column("INSTRUCTIONS", "instructions")});
  if (!inventory->run_statistics && options.format == Format::kTable) {
    complain(kOk,
             "run counts are off in the kernel: fairlead bpf progs --measure 5 switches them on for so long; "
             "sysctl kernel.bpf_stats_enabled=1 for good");
  }
  return kOk;
}

json map_rows(const ebpf::Inventory& inventory) {
  json rows = json::array();
  for (const auto& map : inventory.maps) {
    rows.push_back({{"id", map.id},
                    {"name", map.name},
                    {"type", map.type},
                    {"owner", owner(map.ours)},
                    {"entries", map.entries ? json(*map.entries) : json()},
                    {"maxEntries", map.max_entries},
                    {"memoryBytes", map.memory_bytes}});
  }
  return rows;
}

int run_bpf_maps(const Options& options) {
  const auto inventory = read_inventory(options);
  if (!inventory) return complain(kFailure, inventory.error().text() + "\n  Needs root: try sudo");
  print_list(options, map_rows(*inventory),
             {column("ID", "id"),
              column("OWNER", "owner"),
              column("NAME", "name"),
              column("TYPE", "type"),
              column("ENTRIES", "entries"),
              column("MAX", "maxEntries"),
              {"MEMORY", [](const json& row) { return bytes(row.value("memoryBytes", uint64_t{0})); }}});
  return kOk;
}

}  // namespace fairlead::cli
