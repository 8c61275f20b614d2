/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/* Where fl_captured of a connection is kept: on the socket that the application holds.
 *
 * With MPTCP that is the outer socket: getpeername() is asked of it, while connect4/6 and sockops run for its subflow, a
 * TCP socket that the application never sees.
 */
#ifndef FAIRLEAD_LIB_STORAGE_H
#define FAIRLEAD_LIB_STORAGE_H

#include "lib/maps.h"

/* Whether this kernel has MPTCP: without it, the verifier refuses the helper that finds the outer socket. */
const volatile __u8 with_mptcp = 0;

static __always_inline struct fl_captured *fl_storage(struct bpf_sock *sk, __u64 flags)
{
	struct mptcp_sock *outer = with_mptcp ? bpf_skc_to_mptcp_sock(sk) : 0;

	if (outer)
		return bpf_sk_storage_get(&fl_sockets, outer, 0, flags);
	return bpf_sk_storage_get(&fl_sockets, sk, 0, flags);
}

#endif
