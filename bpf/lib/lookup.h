/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/* Which inbound connections are the agent's. */
#ifndef FAIRLEAD_LIB_LOOKUP_H
#define FAIRLEAD_LIB_LOOKUP_H

#include "lib/kernel.h"

/* Interface 0: not a packet but another program's bpf_sk_lookup_tcp() (Cilium's local redirect policy asks so);
 * lo: the agent itself going to the application, and the pod talking to itself.
 */
static __always_inline int fl_lookup_concerns(__u32 protocol, __u32 ingress_ifindex)
{
	return protocol == FL_IPPROTO_TCP && ingress_ifindex != 0 && ingress_ifindex != FL_LOOPBACK_IFINDEX;
}

#endif
