/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/* The contract between the BPF programs and user space: keys, values, limits.
 *
 * Addresses are always 16 octets in network order; IPv4 in v4-mapped form (::ffff:a.b.c.d), as
 * userspace/base/net_types.h keeps them. Ports in keys and values are network order (__be16).
 * Padding is explicit and must be zero: keys are hashed whole.
 */
#ifndef FAIRLEAD_ABI_TYPES_H
#define FAIRLEAD_ABI_TYPES_H

#ifdef __cplusplus
#include <cstddef>

#include <linux/types.h>
#define FL_ABI_SIZE(type, n) static_assert(sizeof(type) == (n), #type " size")
#define FL_ABI_OFFSET(type, field, n) static_assert(offsetof(type, field) == (n), #type "." #field)
namespace fairlead::abi {
#else /* BPF: the kernel's types are already there */
#define FL_ABI_SIZE(type, n) _Static_assert(sizeof(type) == (n), #type " size")
#define FL_ABI_OFFSET(type, field, n) _Static_assert(__builtin_offsetof(type, field) == (n), #type "." #field)
#endif

struct fl_address {
	__u8 octets[16];
} __attribute__((aligned(4))); /* so that the compiler copies and compares words, not octets */

/* A listener or a peer: where somebody is, as a socket sees it. */
struct fl_endpoint {
	struct fl_address address;
	__be16 port;
	__u8 pad[6];
};

/* fl_dests: destination address -> what a captured pod's connect() to it gets. Absent: untouched. */
#define FL_DEST_CAPTURE 1u /* send to the agent instead */
#define FL_DEST_REFUSE 2u  /* a mesh Service without endpoints: ECONNREFUSED at once */
struct fl_dest {
	__u32 flags;
};

/* fl_pods: netns cookie -> how this pod is captured. */
#define FL_POD_HAS_V4 1u
#define FL_POD_HAS_V6 2u
struct fl_pod {
	struct fl_address address4; /* shown by getsockname of captured sockets; zero when the pod has none */
	struct fl_address address6;
	__be16 outbound_port; /* the agent's outbound listener in the pod's netns, and the port of IPv4 below */
	__be16 inbound_port;  /* the agent's inbound listener there */
	__u32 flags;
};

/* What a captured connection dials instead: an endpoint of loopback, chosen by a hash of its destination, so that one
 * local port serves many destinations. IPv4: an address of 127.1.0.0 to 127.255.255.255, port fl_pod.outbound_port.
 * IPv6 has one loopback address: a port of this range, which
 *  - is below 1024: nobody connects from there by chance, however large ip_local_port_range is. A SYN from ::1 to its own
 *    port would connect the socket with itself, without any listener;
 *  - is no NodePort: Cilium's program at the root cgroup, which runs after ours, would translate it.
 * Applications may listen there all the same: only connections in fl_origdst are led to the agent.
 */
#define FL_OUTBOUND6_FIRST 256u
#define FL_OUTBOUND6_PORTS 128u

/* fl_exports: ports that are not captured. direction: 0 outbound, 1 inbound. */
#define FL_OUTBOUND 0u
#define FL_INBOUND 1u
struct fl_excluded_port {
	__u64 netns_cookie;
	__be16 port;
	__u8 direction;
	__u8 pad[5];
};

/* fl_excidrs: LPM trie of destination ranges that are not captured; prefix_length counts 64 bits of cookie first.
 * The cookie is kept as eight octets, most significant first: an LPM key is compared octet by octet.
 */
struct fl_excluded_range {
	__u32 prefix_length;
	__u8 netns_cookie[8];
	__u8 address[16];
};

/* fl_origdst: a captured connection, as the agent's accepted socket shows it -> where it meant to go. */
struct fl_connection {
	__u64 netns_cookie;
	struct fl_address address;	 /* of the captured socket */
	struct fl_address agent_address; /* what it dials instead */
	__be16 port;
	__be16 agent_port;
	__u8 pad[4];
};
struct fl_original {
	struct fl_address address;
	__be16 port; /* 0: contested, see sockops.bpf.c; to be refused */
	__u8 pad[6];
	__u64 socket_cookie; /* of the captured socket */
};

/* fl_clients: (netns cookie, local address and port of the agent's socket to the application) -> the true client,
 * shown by the application's accept() and getpeername().
 */
struct fl_flow {
	__u64 netns_cookie;
	struct fl_address address;
	__be16 port;
	__u8 pad[6];
};
struct fl_client {
	struct fl_address address;
	__be16 port;
	__u8 pad[6];
};

/* fl_listeners: SOCKHASH of the agent's listeners in the pods. */
struct fl_listener_key {
	__u64 netns_cookie;
	__u32 family;	 /* AF_INET or AF_INET6 */
	__u32 direction; /* FL_OUTBOUND or FL_INBOUND */
};

/* fl_counters: per-CPU array indexed by enum fl_counter. X(NAME, name): the name is what user space shows. */
#define FL_COUNTERS(X)                                                                             \
	X(CONNECT_SEEN, connect_seen)	    /* TCP connect() to a destination in fl_dests */          \
	X(CONNECT_CAPTURED, connect_captured) /* rewritten to the agent */                             \
	X(CONNECT_EXCLUDED, connect_excluded) /* excluded by port or range */                          \
	X(CONNECT_REFUSED, connect_refused) /* FL_DEST_REFUSE */                                       \
	X(CONNECT_DENIED, connect_denied)   /* could not be decided: failed closed */                  \
	X(ORIGINAL_PUBLISHED, original_published) /* fl_origdst written */                             \
	X(LOOKUP_CAPTURED, lookup_captured) /* inbound connection handed to the agent */               \
	X(LOOKUP_PASSED, lookup_passed)	    /* from the node itself, or excluded */                    \
	X(LOOKUP_DROPPED, lookup_dropped)   /* no agent (inbound or captured): failed closed */        \
	X(NAMES_SHOWN, names_shown)	    /* getpeername/getsockname answers replaced */
enum fl_counter {
#define FL_COUNTER_ENUM(id, name) FL_COUNT_##id,
	FL_COUNTERS(FL_COUNTER_ENUM)
#undef FL_COUNTER_ENUM
	FL_COUNT_MAX
};

FL_ABI_SIZE(struct fl_address, 16);
FL_ABI_SIZE(struct fl_endpoint, 24);
FL_ABI_SIZE(struct fl_dest, 4);
FL_ABI_SIZE(struct fl_pod, 40);
FL_ABI_OFFSET(struct fl_pod, outbound_port, 32);
FL_ABI_SIZE(struct fl_excluded_port, 16);
FL_ABI_SIZE(struct fl_excluded_range, 28);
FL_ABI_SIZE(struct fl_connection, 48);
FL_ABI_OFFSET(struct fl_connection, port, 40);
FL_ABI_SIZE(struct fl_flow, 32);
FL_ABI_OFFSET(struct fl_flow, port, 24);
FL_ABI_SIZE(struct fl_original, 32);
FL_ABI_SIZE(struct fl_client, 24);
FL_ABI_SIZE(struct fl_listener_key, 16);

#ifdef __cplusplus
} /* namespace fairlead::abi */
#endif
#endif
