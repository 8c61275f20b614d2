#include "ebpf/inventory_names.h"

#include <bpf/libbpf.h>

#include <span>
#include <utility>

namespace fairlead::ebpf {
namespace {

using Younger = std::pair<uint32_t, const char*>;

// Younger than the libbpf we build with (include/uapi/linux/bpf.h of Linux 6.18).
constexpr Younger kProgramTypes[] = {{32, "netfilter"}};
constexpr Younger kMapTypes[] = {{32, "cgrp_storage"}, {33, "arena"}, {34, "insn_array"}};
constexpr Younger kLinkTypes[] = {
    {10, "netfilter"}, {11, "tcx"}, {12, "uprobe_multi"}, {13, "netkit"}, {14, "sockmap"}};
constexpr Younger kAttachTypes[] = {{44, "struct_ops"},
                                    {45, "netfilter"},
                                    {46, "tcx_ingress"},
                                    {47, "tcx_egress"},
                                    {48, "trace_uprobe_multi"},
                                    {49, "cgroup_unix_connect"},
                                    {50, "cgroup_unix_sendmsg"},
                                    {51, "cgroup_unix_recvmsg"},
                                    {52, "cgroup_unix_getpeername"},
                                    {53, "cgroup_unix_getsockname"},
                                    {54, "netkit_primary"},
                                    {55, "netkit_peer"},
                                    {56, "trace_kprobe_session"},
                                    {57, "trace_uprobe_session"}};

std::string name_of(const char* known, std::span<const Younger> younger, uint32_t type) {
  if (known != nullptr) return known;
  for (const auto& [value, name] : younger) {
    if (value == type) return name;
  }
  return std::to_string(type);
}

}  // namespace

std::string program_type_name(uint32_t type) {
  return name_of(libbpf_bpf_prog_type_str(static_cast<bpf_prog_type>(type)), kProgramTypes, type);
}
std::string map_type_name(uint32_t type) {
  return name_of(libbpf_bpf_map_type_str(static_cast<bpf_map_type>(type)), kMapTypes, type);
}
std::string link_type_name(uint32_t type) {
  return name_of(libbpf_bpf_link_type_str(static_cast<bpf_link_type>(type)), kLinkTypes, type);
}
std::string attach_type_name(uint32_t type) {
  return name_of(libbpf_bpf_attach_type_str(static_cast<bpf_attach_type>(type)), kAttachTypes, type);
}

}  // namespace fairlead::ebpf
