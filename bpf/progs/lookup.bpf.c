// SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0)
/* New TCP connections in a pod's netns: from outside to the agent's inbound listener, whatever their port; over lo those
 * that were captured, and no others, to its outbound listener, whatever loopback endpoint they dial.
 *
 * sk_lookup cannot ask for the netns cookie, so every pod has its own instance that knows it by heart.
 * Without a listener the connection is dropped, never passed: nothing reaches the application around the agent.
 */
#include "lib/capture.h"
#include "lib/counters.h"
#include "lib/lookup.h"
#include "lib/trace.h"

const volatile __u64 netns_cookie = 0;

static __always_inline void addresses(struct bpf_sk_lookup *ctx, struct fl_address *remote, struct fl_address *local)
{
	if (ctx->family == FL_AF_INET) {
		fl_addr_set4(remote, FL_CTX(ctx->remote_ip4));
		fl_addr_set4(local, FL_CTX(ctx->local_ip4));
		return;
	}
	fl_addr_set(remote, FL_CTX(ctx->remote_ip6[0]), FL_CTX(ctx->remote_ip6[1]), FL_CTX(ctx->remote_ip6[2]),
		    FL_CTX(ctx->remote_ip6[3]));
	fl_addr_set(local, FL_CTX(ctx->local_ip6[0]), FL_CTX(ctx->local_ip6[1]), FL_CTX(ctx->local_ip6[2]),
		    FL_CTX(ctx->local_ip6[3]));
}

/* Returns `done`, or how it failed. */
static __always_inline enum fl_end hand_over(struct bpf_sk_lookup *ctx, __u32 direction, enum fl_end done)
{
	struct fl_listener_key key = {
		.netns_cookie = netns_cookie, .family = ctx->family, .direction = direction};
	struct bpf_sock *listener = bpf_map_lookup_elem(&fl_listeners, &key);
	long failed;

	if (!listener)
		return FL_END_NO_LISTENER;
	failed = fl_failed(bpf_sk_assign(ctx, listener, 0), FL_SITE_LOOKUP_ASSIGN);
	bpf_sk_release(listener);
	return failed ? FL_END_NOT_ASSIGNED : done;
}

static __always_inline const struct fl_original *captured(struct bpf_sk_lookup *ctx, const struct fl_address *remote,
							  const struct fl_address *local)
{
	struct fl_connection connection = {.netns_cookie = netns_cookie, .address = *remote, .agent_address = *local};

	connection.port = ctx->remote_port;
	connection.agent_port = bpf_htons(ctx->local_port);
	return bpf_map_lookup_elem(&fl_origdst, &connection);
}

static __always_inline enum fl_end judge(struct bpf_sk_lookup *ctx, const struct fl_address *remote,
					 const struct fl_address *local)
{
	if (ctx->ingress_ifindex == FL_LOOPBACK_IFINDEX)
		return captured(ctx, remote, local) ? hand_over(ctx, FL_OUTBOUND, FL_END_LED) :
						      FL_END_LOOKUP_LOOPBACK;
	if (fl_lookup_is_own(remote, local))
		return FL_END_LOOKUP_OWN;
	if (bpf_map_lookup_elem(&fl_node_ips, remote))
		return FL_END_LOOKUP_NODE;
	if (fl_port_excluded(netns_cookie, bpf_htons(ctx->local_port), FL_INBOUND))
		return FL_END_LOOKUP_EXCLUDED;
	return hand_over(ctx, FL_INBOUND, FL_END_INBOUND);
}

__noinline int tell(struct bpf_sk_lookup *ctx, __u32 end, const struct fl_address *remote, const struct fl_address *local)
{
	struct fl_event *event = remote && local ? fl_event(end, netns_cookie) : 0;

	if (!event || !remote || !local)
		return 0;
	event->protocol = FL_IPPROTO_TCP;
	event->source.address = *remote;
	event->source.port = ctx->remote_port;
	event->destination.address = *local;
	event->destination.port = bpf_htons(ctx->local_port);
	if (end == FL_END_LED) {
		const struct fl_original *original = captured(ctx, remote, local);

		event->loopback = event->destination;
		__builtin_memset(&event->destination, 0, sizeof(event->destination));
		if (original) {
			event->destination.address = original->address;
			event->destination.port = original->port;
			event->socket_cookie = original->socket_cookie;
		}
	}
	fl_event_submit(event);
	return 0;
}

static __always_inline int rule(enum fl_end end)
{
	switch (end >> 8) {
	case FL_VERDICT_DROPPED:
		fl_count(FL_COUNT_LOOKUP_DROPPED);
		return SK_DROP;
	case FL_VERDICT_CAPTURED:
		if (end == FL_END_INBOUND)
			fl_count(FL_COUNT_LOOKUP_CAPTURED);
		return SK_PASS;
	}
	if (end == FL_END_LOOKUP_NODE || end == FL_END_LOOKUP_EXCLUDED)
		fl_count(FL_COUNT_LOOKUP_PASSED);
	return SK_PASS;
}

SEC("sk_lookup")
int fl_lookup(struct bpf_sk_lookup *ctx)
{
	struct fl_address remote, local;
	enum fl_end end;

	/* Not told of: UDP comes here with every datagram. */
	if (!fl_lookup_concerns(ctx->protocol, ctx->ingress_ifindex))
		return SK_PASS;
	addresses(ctx, &remote, &local);
	end = judge(ctx, &remote, &local);
	if (fl_traced())
		tell(ctx, end, &remote, &local);
	return rule(end);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
