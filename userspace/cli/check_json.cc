// check: may Fairlead work here, and does it leave everybody else alone?
#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "base/file.h"
#include "cli/inventory_rows.h"
#include "cli/output.h"
#include "ebpf/features.h"
#include "net/query.h"

namespace fairlead::cli {
namespace {

using nlohmann::json;

json quiet(const Options& options, std::string_view verb, std::string_view socket = "/keeper.sock") {
  const auto answer = net::query(options.run_directory + std::string(socket), verb, options.timeout);
  json document = answer ? json::parse(*answer, nullptr, false) : json();
  return document.is_discarded() ? json() : document;
}

class Findings {
 public:
  void add(std::string_view name, std::string_view state, std::string found, std::string remedy = "") {
    rows_.push_back(
        {{"check", name}, {"state", state}, {"found", std::move(found)}, {"remedy", std::move(remedy)}});
  }
  [[nodiscard]] const json& rows() const { return rows_; }

 private:
  json rows_ = json::array();
};

void check_features(const Options& options, Findings& findings) {
  ebpf::FeatureOptions wanted;
  if (const std::string directory = bpf_directory(options); !directory.empty())
    wanted.bpf_directory = directory;
  for (const auto& feature : ebpf::probe_features(wanted)) {
    findings.add(feature.name,
                 feature.ok         ? "ok"
                 : feature.required ? "fail"
                                    : "warn",
                 feature.detail, feature.remedy);
  }
}

void check_root(const ebpf::Inventory& inventory, Findings& findings) {
  bool ours_at_root = false;
  bool exclusive = false;
  const std::string root = ebpf::cgroup2_mount().value_or("");
  for (const auto& attachment : inventory.cgroup_attachments) {
    if (attachment.cgroup_path != root) continue;
    ours_at_root = ours_at_root || attachment.ours;
    exclusive = exclusive || attachment.exclusive;
  }
  findings.add("root-cgroup-ours", ours_at_root ? "fail" : "ok",
               ours_at_root ? "a program of ours is attached at the root cgroup"
                            : "nothing of ours at the root cgroup",
               ours_at_root ? "run fairlead-agent cleanup, then report this: it must not happen" : "");
  findings.add("root-cgroup-exclusive", exclusive ? "fail" : "ok",
               exclusive ? "a program is attached at the root cgroup exclusively: no child may attach"
                         : "children of the root cgroup may attach",
               exclusive ? "restart the Cilium agent so that it attaches by link" : "");
}

// The key is (attach type, object): ours and others' must have none in common (architecture: why it cannot
// collide).
void check_collisions(const json& links, Findings& findings) {
  std::set<std::pair<std::string, std::string>> ours;
  std::set<std::pair<std::string, std::string>> common;
  for (const json& link : links) {
    if (link.value("owner", "") == "fairlead")
      ours.emplace(link.value("attachType", ""), link.value("target", ""));
  }
  for (const json& link : links) {
    const std::pair key(link.value("attachType", ""), link.value("target", ""));
    if (link.value("owner", "") != "fairlead" && ours.contains(key)) common.insert(key);
  }
  std::string names;
  for (const auto& [type, target] : common)
    names += fmt::format("{}{} on {}", names.empty() ? "" : "; ", type, target);
  findings.add("collisions", common.empty() ? "ok" : "fail",
               common.empty() ? fmt::format("{} hooks of ours, none shared with others", ours.size()) : names,
               common.empty()
                   ? ""
                   : "find the owner with `fairlead bpf links`, then exclude the pod from one of the two");
}

// "Seccomp:\t2" and the like of /proc/PID/status, empty when it does not say.
std::string field_of(const std::string& status, std::string_view name) {
  const size_t at = status.find(fmt::format("\n{}:\t", name));
  if (at == std::string::npos) return "";
  const size_t from = at + name.size() + 3;
  return status.substr(from, status.find('\n', from) - from);
}

// What the kernel says of the process counts; a proxy in a stranger's hand says what it likes.
void check_confinement(const Options& options, const json& keeper, Findings& findings) {
  const auto pid = keeper.value("proxyPid", -1);
  const auto status = read_file(fmt::format("/proc/{}/status", pid));
  if (pid <= 0 || !status) {
    findings.add("proxy-locked-in", "warn", "the proxy does not run", "see the agent's log");
    return;
  }
  const bool confined = field_of(*status, "Seccomp") == "2" && field_of(*status, "NoNewPrivs") == "1" &&
                        field_of(*status, "CapEff").find_first_not_of('0') == std::string::npos;
  const json proxy = quiet(options, "status", "/proxy.sock");
  const json locked = proxy.is_object() ? proxy.value("lockedIn", json::object()) : json::object();
  const int landlock = locked.value("landlock", 0);
  const bool audit = locked.value("seccomp", "") == "audit";
  findings.add("proxy-locked-in",
               !confined ? "fail"
               : audit   ? "warn"
                         : "ok",
               confined ? audit ? "seccomp only audits" : "seccomp filter, no_new_privs, no capability"
                        : "the kernel does not show seccomp filter, no_new_privs and an empty capability set",
               !confined ? "restart fairlead-agent; if it stays, report it"
               : audit   ? "set proxy.seccomp to enforce"
                         : "");
  if (locked.empty()) return;
  findings.add("proxy-landlock", landlock > 0 ? "ok" : "warn",
               landlock > 0 ? fmt::format("version {}", landlock) : "not in this kernel",
               landlock > 0 ? "" : "boot with landlock among lsm= (Linux 5.13 and later)");
  const bool keys = locked.value("keysLocked", false);
  findings.add("proxy-keys-locked", keys ? "ok" : "warn",
               keys ? fmt::format("{} of {} bytes used", locked.value("keyBytesUsed", uint64_t{0}),
                                  locked.value("keyBytes", uint64_t{0}))
                    : "private keys may be swapped out",
               keys ? "" : "give fairlead-agent a higher RLIMIT_MEMLOCK, or CAP_SYS_RESOURCE");
}

void check_kernel_tls(const Options& options, Findings& findings) {
  const json proxy = quiet(options, "status", "/proxy.sock");
  const json kernel = proxy.is_object() ? proxy.value("kernelTls", json::object()) : json::object();
  if (kernel.empty()) return;
  const bool on = kernel.value("active", false);
  const bool usable = kernel.value("support", "") == "usable";
  findings.add("kernel-tls", on ? "ok" : "warn",
               on       ? "the kernel passed the self-test: bulk goes by it"
               : usable ? "turned off: bulk costs more CPU"
                        : kernel.value("detail", "") + ": bulk costs more CPU",
               on       ? ""
               : usable ? "fairlead config set ktls on, or kernelTls.enabled in the configuration"
                        : kernel.value("remedy", ""));
}

}  // namespace

json net_pods(const Options& options) {
  const json pods = quiet(options, "pods");
  return pods.is_array() ? pods : json::array();
}

json agent_status(const Options& options) {
  return quiet(options, "status");
}

std::string bpf_directory(const Options& options) {
  const json status = agent_status(options);
  const auto where = json::json_pointer("/bpf/directory");
  return status.is_object() && status.contains(where) ? status.at(where).get<std::string>() : std::string();
}

json check_rows(const Options& options) {
  Findings findings;
  check_features(options, findings);
  const auto inventory = read_inventory(options);
  if (inventory) {
    check_root(*inventory, findings);
    check_collisions(link_rows(options, *inventory), findings);
  } else {
    findings.add("inventory", "fail", inventory.error().text(), "run as root");
  }
  const json status = quiet(options, "status");
  const bool runs = status.is_object() && status.contains("node");
  findings.add("agent", runs ? "ok" : "warn",
               runs ? fmt::format("runs on node {}", cell(status["node"])) : "does not answer",
               runs ? "" : "start fairlead-agent, or name its directory with --run-dir");
  if (runs) check_confinement(options, status, findings);
  if (runs) check_kernel_tls(options, findings);
  return findings.rows();
}

int run_check(const Options& options) {
  const json rows = check_rows(options);
  print_list(options, rows,
             {column("CHECK", "check"), column("STATE", "state"), column("FOUND", "found"),
              column("WHAT TO DO", "remedy")});
  const bool failed =
      std::any_of(rows.begin(), rows.end(), [](const json& row) { return row["state"] == "fail"; });
  return failed ? kFailure : kOk;
}

}  // namespace fairlead::cli
