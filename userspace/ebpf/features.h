// What this kernel and node can do, found out by trying and not by version numbers. Every probe leaves
// nothing behind. Needs root. Thread: any; the probes take a few milliseconds each and make sockets, programs
// and one cgroup query.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fairlead::ebpf {

struct Feature {
  std::string name;       // stable: "cgroup-sock-addr", "sockops", "sk-lookup", "kernel-tls", …
  bool required = false;  // the agent does not start without
  bool ok = false;
  std::string detail;  // what was found, or how it failed
  std::string remedy;  // what to do when not ok; empty when ok
};

struct FeatureOptions {
  std::string bpf_directory = "/sys/fs/bpf/fairlead";  // whose file system must be a bpffs
  std::string cgroup_mount;                            // empty: found
};

// In a fixed order. Never fails: what cannot be probed is a Feature that is not ok.
std::vector<Feature> probe_features(const FeatureOptions& options);

// Where cgroup v2 is mounted (the first one of /proc/self/mounts).
std::optional<std::string> cgroup2_mount();
std::optional<std::string> cgroup2_mount_in(std::string_view mounts);  // the text of /proc/self/mounts
// Whether `path` (or its nearest existing parent) is on a bpffs.
bool on_bpffs(const std::string& path);

}  // namespace fairlead::ebpf
