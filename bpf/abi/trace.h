/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/* What the programs tell to whoever traces them.
 *
 *  - fl_tracer says who wants events and until when; it is mapped by the tracer. Nobody: one load per program run.
 *  - The wish is a lease: a tracer that was killed stops renewing, and the first program that finds the lease over clears
 *    it. So nothing has to notice the death, and nothing stays switched on.
 *  - Events go through one ring buffer, straight from the kernel to `fairlead bpf trace`. The keeper is not between: it
 *    must neither wait for a slow reader nor copy for a fast one. A ring has one consumer; a lock on the pins' directory
 *    (flock, which dies with its holder) sees to it.
 *  - A full ring never holds a connection up: the event is counted as lost, and the tracer shows how many.
 *  - Pod and verdicts are chosen in the kernel, so that what nobody wants cannot overrun the ring.
 *  - The pins outlive the agent; events go on while it is restarted.
 */
#ifndef FAIRLEAD_ABI_TRACE_H
#define FAIRLEAD_ABI_TRACE_H

#include "types.h"

#ifdef __cplusplus
namespace fairlead::abi {
#endif

/* X(NAME, name): the name is what user space shows. */
#define FL_VERDICTS(X)                                                             \
	X(CAPTURED, captured)	/* goes to the agent */                            \
	X(PASSED, passed)	/* left as it is */                                \
	X(REFUSED, refused)	/* as the mesh says */                             \
	X(DENIED, denied)	/* could not be decided: failed closed */          \
	X(DROPPED, dropped)	/* nobody there to hand it to: failed closed */    \
	X(PUBLISHED, published) /* fl_origdst written */                           \
	X(WITHDRAWN, withdrawn) /* fl_origdst cleaned */                           \
	X(LOST, lost)		/* fl_origdst not written: the agent refuses */    \
	X(NAMED, named)		/* another name shown than the kernel's */
enum fl_verdict {
	FL_VERDICT_NONE,
#define FL_VERDICT_ENUM(id, name) FL_VERDICT_##id,
	FL_VERDICTS(FL_VERDICT_ENUM)
#undef FL_VERDICT_ENUM
	FL_VERDICT_MAX
};

/* Every end that a program run comes to: X(NAME, VERDICT, hook, name). */
#define FL_ENDS(X)                                                                                     \
	X(MESH, CAPTURED, connect, mesh_destination)                                                   \
	X(NOT_TCP, PASSED, connect, not_tcp)                                                           \
	X(LOOPBACK, PASSED, connect, loopback)                                                         \
	X(OUTSIDE, PASSED, connect, not_in_mesh)                                                       \
	X(EXCLUDED_PORT, PASSED, connect, excluded_port)                                               \
	X(EXCLUDED_RANGE, PASSED, connect, excluded_range)                                             \
	X(NO_ENDPOINTS, REFUSED, connect, no_endpoints)                                                \
	X(FOREIGN_NETNS, DENIED, connect, foreign_namespace) /* no enrolled pod's */                   \
	X(UNKNOWN_DEST, DENIED, connect, unknown_destination) /* written by a newer agent */           \
	X(NO_STORAGE, DENIED, connect, no_memory)                                                      \
	X(FLOW, PUBLISHED, sockops, captured_flow)                                                     \
	X(FLOW_FAILED, LOST, sockops, map_refused)                                                     \
	X(FLOW_CONTESTED, LOST, sockops, contested_flow) /* an earlier one may wait for the agent */   \
	X(NOT_ESTABLISHED, WITHDRAWN, sockops, not_established)                                        \
	X(STALE_FLOW, WITHDRAWN, sockops, stale_flow) /* nobody took it, the port is used again */     \
	X(INBOUND, CAPTURED, lookup, from_outside)                                                     \
	X(LED, CAPTURED, lookup, captured_flow)                                                        \
	X(LOOKUP_LOOPBACK, PASSED, lookup, loopback)                                                   \
	X(LOOKUP_OWN, PASSED, lookup, own_address) /* agent to application, pod to itself */           \
	X(LOOKUP_NODE, PASSED, lookup, from_node)                                                      \
	X(LOOKUP_EXCLUDED, PASSED, lookup, excluded_port)                                              \
	X(NO_LISTENER, DROPPED, lookup, no_listener)                                                   \
	X(NOT_ASSIGNED, DROPPED, lookup, not_assigned)                                                 \
	X(DESTINATION_SHOWN, NAMED, getpeername, original_destination)                                 \
	X(CLIENT_SHOWN, NAMED, getpeername, true_client)                                               \
	X(NOBODY_SHOWN, NAMED, getpeername, reset_before_accept)                                       \
	X(OTHER_FAMILY, PASSED, getpeername, client_of_other_family) /* IPv6 on an IPv4 socket */      \
	X(POD_SHOWN, NAMED, getsockname, pod_address)
enum fl_end_index {
#define FL_END_INDEX(id, verdict, hook, name) FL_END_INDEX_##id,
	FL_ENDS(FL_END_INDEX)
#undef FL_END_INDEX
	FL_END_COUNT
};
/* With the verdict in it: a program needs no table to know what its end means. */
enum fl_end {
	FL_END_NONE, /* nothing to tell */
#define FL_END_ENUM(id, verdict, hook, name) FL_END_##id = FL_VERDICT_##verdict << 8 | FL_END_INDEX_##id,
	FL_ENDS(FL_END_ENUM)
#undef FL_END_ENUM
};

/* fl_tracer: its only element. Zero `until`: nobody traces. */
struct fl_tracer {
	__u64 until;	    /* CLOCK_MONOTONIC, nanoseconds */
	__u64 lost;	    /* events for which the ring had no room; never reset */
	__u64 netns_cookie; /* of the one pod to tell of; 0: all */
	__u32 verdicts;	    /* bit 1 << enum fl_verdict */
	__u32 pid;	    /* of the tracer, for whoever finds it taken */
};

struct fl_event {
	__u64 time; /* CLOCK_MONOTONIC, nanoseconds */
	__u64 netns_cookie;
	__u64 cgroup_id;	       /* of the process; 0 as long as pid is */
	__u64 socket_cookie;	       /* 0: no socket yet */
	struct fl_endpoint source;     /* port 0: not chosen yet */
	struct fl_endpoint destination;
	struct fl_endpoint loopback; /* what stands for one of them on loopback; zero: nothing */
	__u32 pid;		     /* of the process (not the thread); 0: sockops and sk_lookup run for packets */
	__u16 end;		     /* enum fl_end */
	__u16 protocol;
	__u8 comm[16];
};

FL_ABI_SIZE(struct fl_tracer, 32);
FL_ABI_OFFSET(struct fl_tracer, verdicts, 24);
FL_ABI_SIZE(struct fl_event, 128);
FL_ABI_OFFSET(struct fl_event, pid, 104);
FL_ABI_OFFSET(struct fl_event, comm, 112);

#ifdef __cplusplus
} /* namespace fairlead::abi */
#endif
#endif
