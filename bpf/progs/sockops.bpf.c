// SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0)
/* Tells the agent where a captured connection meant to go, by the address it will see as its peer.
 *
 * TCP_CONNECT_CB: the local port is chosen, the SYN is not sent, so the entry is there before anybody can accept.
 * The entry of a connection that was established is the agent's to take: the application may have written and closed
 * before the agent accepts, and its data must still arrive. That is why there is no sock_release program: socket
 * storage goes with the socket, a failed connect is cleaned up here, and an entry that no agent ever takes is bounded by
 * the LRU and overwritten when its port is used again.
 */
#include "lib/capture.h"
#include "lib/counters.h"
#include "lib/storage.h"

static __always_inline void local_flow(struct bpf_sock_ops *ctx, __u64 cookie, struct fl_flow *flow)
{
	flow->netns_cookie = cookie;
	if (ctx->family == FL_AF_INET)
		fl_addr_set4(&flow->address, FL_CTX(ctx->local_ip4));
	else
		fl_addr_set(&flow->address, FL_CTX(ctx->local_ip6[0]), FL_CTX(ctx->local_ip6[1]), FL_CTX(ctx->local_ip6[2]),
			    FL_CTX(ctx->local_ip6[3]));
	flow->port = bpf_htons(ctx->local_port);
}

static __always_inline void remote_address(struct bpf_sock_ops *ctx, struct fl_address *address)
{
	if (ctx->family == FL_AF_INET)
		fl_addr_set4(address, FL_CTX(ctx->remote_ip4));
	else
		fl_addr_set(address, FL_CTX(ctx->remote_ip6[0]), FL_CTX(ctx->remote_ip6[1]), FL_CTX(ctx->remote_ip6[2]),
			    FL_CTX(ctx->remote_ip6[3]));
}

static __always_inline struct fl_captured *captured_by(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct fl_captured *captured;
	struct fl_address remote;

	if (!sk)
		return 0;
	captured = fl_storage(sk, 0);
	if (!captured)
		return 0;
	remote_address(ctx, &remote);
	/* remote_port keeps the 16 bits of network order in the upper half on little-endian machines */
	if (!fl_is_captured(captured, &remote, bpf_htons(bpf_ntohl(ctx->remote_port))))
		return 0;
	return captured;
}

static __always_inline void publish(struct bpf_sock_ops *ctx)
{
	struct fl_captured *captured = captured_by(ctx);
	struct fl_original original = {};
	struct fl_flow flow = {};

	if (!captured)
		return;
	local_flow(ctx, captured->netns_cookie, &flow);
	original.address = captured->original.address;
	original.port = captured->original.port;
	original.socket_cookie = captured->socket_cookie;
	if (fl_failed(bpf_map_update_elem(&fl_origdst, &flow, &original, BPF_ANY), FL_SITE_SOCKOPS_PUBLISH))
		return;
	fl_count(FL_COUNT_ORIGINAL_PUBLISHED);
	fl_failed(bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG),
		  FL_SITE_SOCKOPS_FLAGS);
}

/* Refused, timed out, or closed before it was established: nobody will accept it. */
static __always_inline void withdraw(struct bpf_sock_ops *ctx)
{
	struct fl_captured *captured = captured_by(ctx);
	struct fl_flow flow = {};

	if (!captured)
		return;
	local_flow(ctx, captured->netns_cookie, &flow);
	bpf_map_delete_elem(&fl_origdst, &flow); /* not found: the LRU was faster */
	captured->flags = 0;
}

SEC("sockops")
int fl_sockops(struct bpf_sock_ops *ctx)
{
	switch (ctx->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		publish(ctx);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		if (ctx->args[0] == BPF_TCP_SYN_SENT && ctx->args[1] == BPF_TCP_CLOSE)
			withdraw(ctx);
		break;
	}
	return 1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
