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

static __always_inline int hand_over(struct bpf_sk_lookup *ctx, __u32 direction)
{
	struct fl_listener_key key = {
		.netns_cookie = netns_cookie, .family = ctx->family, .direction = direction};
	struct bpf_sock *listener = bpf_map_lookup_elem(&fl_listeners, &key);
	long failed;

	if (!listener)
		return SK_DROP;
	failed = fl_failed(bpf_sk_assign(ctx, listener, 0), FL_SITE_LOOKUP_ASSIGN);
	bpf_sk_release(listener);
	return failed ? SK_DROP : SK_PASS;
}

static __always_inline int is_captured(struct bpf_sk_lookup *ctx, const struct fl_address *remote,
				       const struct fl_address *local)
{
	struct fl_connection connection = {.netns_cookie = netns_cookie, .address = *remote, .agent_address = *local};

	connection.port = ctx->remote_port;
	connection.agent_port = bpf_htons(ctx->local_port);
	return bpf_map_lookup_elem(&fl_origdst, &connection) != 0;
}

static __always_inline int on_lookup(struct bpf_sk_lookup *ctx)
{
	struct fl_address remote, local;

	if (!fl_lookup_concerns(ctx->protocol, ctx->ingress_ifindex))
		return SK_PASS;
	addresses(ctx, &remote, &local);
	if (ctx->ingress_ifindex == FL_LOOPBACK_IFINDEX)
		return is_captured(ctx, &remote, &local) ? hand_over(ctx, FL_OUTBOUND) : SK_PASS;
	if (fl_lookup_is_own(&remote, &local))
		return SK_PASS;
	if (bpf_map_lookup_elem(&fl_node_ips, &remote) ||
	    fl_port_excluded(netns_cookie, bpf_htons(ctx->local_port), FL_INBOUND)) {
		fl_count(FL_COUNT_LOOKUP_PASSED);
		return SK_PASS;
	}
	if (hand_over(ctx, FL_INBOUND) == SK_DROP)
		return SK_DROP;
	fl_count(FL_COUNT_LOOKUP_CAPTURED);
	return SK_PASS;
}

SEC("sk_lookup")
int fl_lookup(struct bpf_sk_lookup *ctx)
{
	int verdict = on_lookup(ctx);

	if (verdict == SK_DROP)
		fl_count(FL_COUNT_LOOKUP_DROPPED);
	return verdict;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
