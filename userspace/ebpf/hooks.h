// The hooks of a pod: names of the pins, attach types, and the orders that matter. Internal to ebpf/.
#pragma once

#include <linux/bpf.h>

#include <array>

namespace fairlead::ebpf {

struct Hook {
  const char* name;  // of the pin
  bpf_attach_type type;
};

constexpr Hook kSockops{"sockops", BPF_CGROUP_SOCK_OPS};
constexpr Hook kGetpeername4{"getpeername4", BPF_CGROUP_INET4_GETPEERNAME};
constexpr Hook kGetpeername6{"getpeername6", BPF_CGROUP_INET6_GETPEERNAME};
constexpr Hook kGetsockname4{"getsockname4", BPF_CGROUP_INET4_GETSOCKNAME};
constexpr Hook kGetsockname6{"getsockname6", BPF_CGROUP_INET6_GETSOCKNAME};
constexpr Hook kLookup{"sk_lookup", BPF_SK_LOOKUP};
constexpr Hook kConnect4{"connect4", BPF_CGROUP_INET4_CONNECT};
constexpr Hook kConnect6{"connect6", BPF_CGROUP_INET6_CONNECT};

// connect last: before it runs, its connections must be published, named and served.
constexpr std::array<Hook, 8> kAttachOrder = {kSockops,      kGetpeername4, kGetpeername6, kGetsockname4,
                                              kGetsockname6, kLookup,       kConnect4,     kConnect6};
// connect first, the names of connections that still live last.
constexpr std::array<Hook, 8> kDetachOrder = {kConnect4,     kConnect6,     kLookup,       kSockops,
                                              kGetpeername4, kGetpeername6, kGetsockname4, kGetsockname6};

}  // namespace fairlead::ebpf
