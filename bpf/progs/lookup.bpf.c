// SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0)
/* New TCP connections into a pod: to the agent's listener in the same netns, whatever their port.
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

SEC("sk_lookup")
int fl_lookup(struct bpf_sk_lookup *ctx)
{
	struct fl_listener_key key = {.netns_cookie = netns_cookie, .family = ctx->family};
	struct fl_address remote, local;
	struct bpf_sock *listener;
	long failed;

	if (!fl_lookup_concerns(ctx->protocol, ctx->ingress_ifindex))
		return SK_PASS;
	addresses(ctx, &remote, &local);
	if (fl_lookup_is_own(&remote, &local))
		return SK_PASS;
	if (bpf_map_lookup_elem(&fl_node_ips, &remote) ||
	    fl_port_excluded(netns_cookie, bpf_htons(ctx->local_port), FL_INBOUND)) {
		fl_count(FL_COUNT_LOOKUP_PASSED);
		return SK_PASS;
	}
	listener = bpf_map_lookup_elem(&fl_inbound, &key);
	if (!listener) {
		fl_count(FL_COUNT_LOOKUP_DROPPED);
		return SK_DROP;
	}
	failed = fl_failed(bpf_sk_assign(ctx, listener, 0), FL_SITE_LOOKUP_ASSIGN);
	bpf_sk_release(listener);
	if (failed) {
		fl_count(FL_COUNT_LOOKUP_DROPPED);
		return SK_DROP;
	}
	fl_count(FL_COUNT_LOOKUP_CAPTURED);
	return SK_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
