/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/* Telling a tracer, if there is one: see abi/trace.h. */
#ifndef FAIRLEAD_LIB_TRACE_H
#define FAIRLEAD_LIB_TRACE_H

#include "lib/maps.h"

/* What an event takes of the ring. */
#define FL_EVENT_ROOM (sizeof(struct fl_event) + BPF_RINGBUF_HDR_SZ)

static __always_inline struct fl_tracer *fl_tracer_state(void)
{
	__u32 key = 0;

	return bpf_map_lookup_elem(&fl_tracer, &key);
}

/* All that it costs when nobody traces: the verifier turns the look-up into arithmetic, so this is one load. What is said
 * then is said by a global function of each object: out of line, and verified once, not for each end.
 */
static __always_inline int fl_traced(void)
{
	const struct fl_tracer *tracer = fl_tracer_state();

	return tracer && tracer->until;
}

static __always_inline int fl_lease_is_over(struct fl_tracer *tracer, __u64 now)
{
	__u64 until = *(volatile __u64 *)&tracer->until;

	if (now < until)
		return 0;
	/* Not if another tracer has taken a new one meanwhile. */
	__sync_val_compare_and_swap(&tracer->until, until, 0);
	return 1;
}

/* To be filled and submitted, or null. Zeroed: what a program does not know stays nothing. */
static __always_inline struct fl_event *fl_event(__u32 end, __u64 netns_cookie)
{
	struct fl_tracer *tracer = fl_tracer_state();
	__u64 now = bpf_ktime_get_ns();
	struct fl_event *event;

	if (!tracer || fl_lease_is_over(tracer, now) || !(tracer->verdicts & 1u << (end >> 8)))
		return 0;
	if (tracer->netns_cookie && tracer->netns_cookie != netns_cookie)
		return 0;
	event = bpf_ringbuf_reserve(&fl_events, sizeof(*event), 0);
	if (!event) {
		__sync_fetch_and_add(&tracer->lost, 1);
		return 0;
	}
	__builtin_memset(event, 0, sizeof(*event));
	event->time = now;
	event->netns_cookie = netns_cookie;
	event->end = end;
	return event;
}

/* For hooks that run in the calling process. */
static __always_inline void fl_event_process(struct fl_event *event)
{
	event->pid = bpf_get_current_pid_tgid() >> 32;
	event->cgroup_id = bpf_get_current_cgroup_id();
	bpf_get_current_comm(event->comm, sizeof(event->comm));
}

/* The reader looks by itself every few hundredths of a second: waking it for each event costs the traced process an interrupt,
 * many times what all the rest does. It is woken once when the ring is half full.
 */
static __always_inline void fl_event_submit(struct fl_event *event)
{
	__u64 waiting = bpf_ringbuf_query(&fl_events, BPF_RB_AVAIL_DATA);
	int crossing = waiting >= FL_EVENTS_BYTES / 2 && waiting - FL_EVENT_ROOM < FL_EVENTS_BYTES / 2;

	bpf_ringbuf_submit(event, crossing ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP);
}

#endif
