/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/* Which connections are the agent's. */
#ifndef FAIRLEAD_LIB_LOOKUP_H
#define FAIRLEAD_LIB_LOOKUP_H

#include "lib/addr.h"

/* Interface 0: not a packet but another program's bpf_sk_lookup_tcp() (Cilium's local redirect policy asks so). */
static __always_inline int fl_lookup_concerns(__u32 protocol, __u32 ingress_ifindex)
{
	return protocol == FL_IPPROTO_TCP && ingress_ifindex != 0;
}

/* The agent going to the application, and the pod talking to itself. ingress_ifindex is not enough: a packet to an own
 * address travels over lo, but its route names the interface of that address (rt_iif, rt6i_idev), and so does the context.
 * From outside, such sources are martians (IPv4) or forbidden (::1, RFC 4291 2.5.3), and a forged own IPv6 address never
 * sees the answer to its SYN.
 */
static __always_inline int fl_lookup_is_own(const struct fl_address *remote, const struct fl_address *local)
{
	return fl_addr_is_loopback(remote) || fl_addr_equal(remote, local);
}

#endif
