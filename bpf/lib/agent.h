/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/* Where on loopback a captured connection finds the agent: see FL_OUTBOUND6_FIRST in abi/types.h. */
#ifndef FAIRLEAD_LIB_AGENT_H
#define FAIRLEAD_LIB_AGENT_H

#include "lib/addr.h"

_Static_assert(FL_OUTBOUND6_FIRST + FL_OUTBOUND6_PORTS <= 1024, "a port that connect() never chooses by itself");

/* Any odd constant with well spread bits does; the shift brings the product's good upper half down. */
static __always_inline __u32 fl_mix(__u32 hash, __u32 word)
{
	hash = (hash ^ word) * 0x9e3779b1;
	return hash ^ hash >> 15;
}

/* Without a secret: whoever makes destinations collide shares the ports of his own pod. */
static __always_inline __u32 fl_hash(const struct fl_endpoint *to)
{
	__u32 hash = fl_mix(0, fl_addr_word(&to->address, 0));

	hash = fl_mix(hash, fl_addr_word(&to->address, 1));
	hash = fl_mix(hash, fl_addr_word(&to->address, 2));
	hash = fl_mix(hash, fl_addr_word(&to->address, 3));
	hash = fl_mix(hash, to->port);
	return fl_mix(hash, 0);
}

/* 127.1.0.1 to 127.255.255.254. 127.0.0.0/16 is left to those who live there (the agent's own listener, resolvers on
 * 127.0.0.53 and their like), and no address ends in 0 or 255.
 */
static __always_inline __be32 fl_agent_address4(__u32 hash)
{
	__u32 second = 1 + (((hash >> 16 & 0xff) * 255) >> 8);
	__u32 third = hash >> 8 & 0xff;
	__u32 fourth = 1 + (((hash & 0xff) * 254) >> 8);

	return bpf_htonl(0x7f000000 | second << 16 | third << 8 | fourth);
}

/* `bound`: the port, in host order, that the socket is bound to already; 0: none. It is not dialled: the socket would
 * meet itself.
 */
static __always_inline __be16 fl_agent_port6(__u32 hash, __u32 bound)
{
	__u32 port = FL_OUTBOUND6_FIRST + hash % FL_OUTBOUND6_PORTS;

	if (port == bound)
		port = FL_OUTBOUND6_FIRST + (hash + 1) % FL_OUTBOUND6_PORTS;
	return bpf_htons(port);
}

static __always_inline void fl_agent_endpoint(struct fl_endpoint *agent, const struct fl_endpoint *original,
					      __be16 port4, __u32 bound)
{
	__u32 hash = fl_hash(original);

	if (fl_addr_is_mapped(&original->address)) {
		fl_addr_set4(&agent->address, fl_agent_address4(hash));
		agent->port = port4;
	} else {
		fl_addr_set(&agent->address, 0, 0, 0, bpf_htonl(1));
		agent->port = fl_agent_port6(hash, bound);
	}
}

#endif
