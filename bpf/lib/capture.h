/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/* What a connect() gets. */
#ifndef FAIRLEAD_LIB_CAPTURE_H
#define FAIRLEAD_LIB_CAPTURE_H

#include "lib/addr.h"
#include "lib/maps.h"

static __always_inline int fl_is_tcp(__u32 type, __u32 protocol)
{
	return type == FL_SOCK_STREAM && (protocol == FL_IPPROTO_TCP || protocol == FL_IPPROTO_MPTCP);
}

/* The decision for a destination that fl_dests knows. `pod` is null when the socket's netns is no enrolled pod's: a
 * process of the pod went to another namespace, where 127.0.0.1 is somebody else's. Its traffic may be meant for the
 * mesh and must not leave as plaintext, so it is denied. `excluded`: by what the pod asked for, or FL_END_NONE.
 */
static __always_inline enum fl_end fl_decide(__u32 dest_flags, const struct fl_pod *pod, enum fl_end excluded)
{
	if (!pod || !pod->outbound_port)
		return FL_END_FOREIGN_NETNS;
	if (excluded)
		return excluded;
	if (dest_flags & FL_DEST_REFUSE)
		return FL_END_NO_ENDPOINTS;
	if (dest_flags & FL_DEST_CAPTURE)
		return FL_END_MESH;
	return FL_END_UNKNOWN_DEST;
}

static __always_inline int fl_port_excluded(__u64 cookie, __be16 port, __u8 direction)
{
	struct fl_excluded_port key = {.netns_cookie = cookie, .port = port, .direction = direction};

	return bpf_map_lookup_elem(&fl_exports, &key) != 0;
}

static __always_inline void fl_range_key(struct fl_excluded_range *key, __u64 cookie, const struct fl_address *address)
{
	__be64 ordered = bpf_cpu_to_be64(cookie);

	key->prefix_length = 64 + 128;
	__builtin_memcpy(key->netns_cookie, &ordered, sizeof(ordered));
	__builtin_memcpy(key->address, address->octets, sizeof(key->address));
}

static __always_inline int fl_range_excluded(__u64 cookie, const struct fl_address *address)
{
	struct fl_excluded_range key;

	fl_range_key(&key, cookie, address);
	return bpf_map_lookup_elem(&fl_excidrs, &key) != 0;
}

static __always_inline enum fl_end fl_excluded(__u64 cookie, const struct fl_endpoint *to)
{
	if (fl_port_excluded(cookie, to->port, FL_OUTBOUND))
		return FL_END_EXCLUDED_PORT;
	return fl_range_excluded(cookie, &to->address) ? FL_END_EXCLUDED_RANGE : FL_END_NONE;
}

/* Whether a connection to (address, port) is the one that `captured` speaks of. The storage outlives the connect() it
 * was written for: the socket may be connected elsewhere since.
 */
static __always_inline int fl_is_captured(const struct fl_captured *captured, const struct fl_address *address,
					  __be16 port)
{
	return (captured->flags & FL_CAPTURED) && captured->agent.port == port &&
	       fl_addr_equal(&captured->agent.address, address);
}

#endif
