// Names of the kernel's BPF enums, as bpftool and libbpf write them; a number where a newer kernel knows more
// than we. Pure. Internal to ebpf/.
#pragma once

#include <linux/bpf.h>

#include <array>
#include <cstdint>
#include <string>

namespace fairlead::ebpf {

std::string program_type_name(uint32_t type);
std::string map_type_name(uint32_t type);
std::string link_type_name(uint32_t type);
std::string attach_type_name(uint32_t type);

// The attach types of cgroups that have to do with sockets and packets.
constexpr std::array<bpf_attach_type, 22> kCgroupAttachTypes = {
    BPF_CGROUP_INET_INGRESS,      BPF_CGROUP_INET_EGRESS,
    BPF_CGROUP_INET_SOCK_CREATE,  BPF_CGROUP_INET_SOCK_RELEASE,
    BPF_CGROUP_SOCK_OPS,          BPF_CGROUP_INET4_BIND,
    BPF_CGROUP_INET6_BIND,        BPF_CGROUP_INET4_CONNECT,
    BPF_CGROUP_INET6_CONNECT,     BPF_CGROUP_INET4_POST_BIND,
    BPF_CGROUP_INET6_POST_BIND,   BPF_CGROUP_UDP4_SENDMSG,
    BPF_CGROUP_UDP6_SENDMSG,      BPF_CGROUP_UDP4_RECVMSG,
    BPF_CGROUP_UDP6_RECVMSG,      BPF_CGROUP_INET4_GETPEERNAME,
    BPF_CGROUP_INET6_GETPEERNAME, BPF_CGROUP_INET4_GETSOCKNAME,
    BPF_CGROUP_INET6_GETSOCKNAME, BPF_CGROUP_GETSOCKOPT,
    BPF_CGROUP_SETSOCKOPT,        BPF_CGROUP_DEVICE};

}  // namespace fairlead::ebpf
