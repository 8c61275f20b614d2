// check: may Fairlead work here, and does it leave everybody else alone?
#include <nlohmann/json.hpp>
#include <set>

#include "cli/inventory_rows.h"
#include "cli/output.h"
#include "ebpf/features.h"
#include "net/query.h"

namespace fairlead::cli {
namespace {

using nlohmann::json;

json quiet(const Options& options, std::string_view verb) {
  const auto answer = net::query(options.run_directory + "/keeper.sock", verb, options.timeout);
  json document = answer ? json::parse(*answer, nullptr, false) : json();
  return document.is_discarded() ? json() : document;
}

class Findings {
 public:
  void add(std::string_view name, std::string_view state, std::string found, std::string remedy = "") {
    if (state == "fail") failed_ = true;
    rows_.push_back(
        {{"check", name}, {"state", state}, {"found", std::move(found)}, {"remedy", std::move(remedy)}});
  }
  [[nodiscard]] const json& rows() const { return rows_; }
  [[nodiscard]] bool failed() const { return failed_; }

 private:
  json rows_ = json::array();
  bool failed_ = false;
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

}  // namespace

json net_pods(const Options& options) {
  const json pods = quiet(options, "pods");
  return pods.is_array() ? pods : json::array();
}

std::string bpf_directory(const Options& options) {
  const json status = quiet(options, "status");
  const auto where = json::json_pointer("/bpf/directory");
  return status.is_object() && status.contains(where) ? status.at(where).get<std::string>() : std::string();
}

int run_check(const Options& options) {
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
  print_list(options, findings.rows(),
             {column("CHECK", "check"), column("STATE", "state"), column("FOUND", "found"),
              column("WHAT TO DO", "remedy")});
  return findings.failed() ? kFailure : kOk;
}

}  // namespace fairlead::cli
