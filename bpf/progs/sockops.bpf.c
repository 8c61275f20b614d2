// SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0)
/* Tells where a captured connection meant to go: the agent, and sk_lookup, which hands it to the agent.
 *
 * TCP_CONNECT_CB: the local port is chosen, the SYN is not sent, so the entry is there before anybody looks for it.
 * The entry of a connection that was established is the agent's to take: the application may have written and closed
 * before the agent accepts, and its data must still arrive. That is why there is no sock_release program: socket
 * storage goes with the socket, a failed connect is cleaned up here, and an entry that no agent ever takes is bounded by
 * the LRU, and overwritten or removed when its port is used again.
 */
#include "lib/capture.h"
#include "lib/counters.h"
#include "lib/storage.h"
#include "lib/trace.h"

/* The connection from the captured socket's side: its remote endpoint is the agent's. */
static __always_inline void describe(struct bpf_sock_ops *ctx, struct fl_connection *connection)
{
	connection->netns_cookie = bpf_get_netns_cookie(ctx);
	if (ctx->family == FL_AF_INET) {
		fl_addr_set4(&connection->address, FL_CTX(ctx->local_ip4));
		fl_addr_set4(&connection->agent_address, FL_CTX(ctx->remote_ip4));
	} else {
		fl_addr_set(&connection->address, FL_CTX(ctx->local_ip6[0]), FL_CTX(ctx->local_ip6[1]),
			    FL_CTX(ctx->local_ip6[2]), FL_CTX(ctx->local_ip6[3]));
		fl_addr_set(&connection->agent_address, FL_CTX(ctx->remote_ip6[0]), FL_CTX(ctx->remote_ip6[1]),
			    FL_CTX(ctx->remote_ip6[2]), FL_CTX(ctx->remote_ip6[3]));
	}
	connection->port = bpf_htons(ctx->local_port);
	/* remote_port keeps the 16 bits of network order in the upper half on little-endian machines */
	connection->agent_port = bpf_htons(bpf_ntohl(ctx->remote_port));
}

static __always_inline struct fl_captured *captured_by(struct bpf_sock_ops *ctx, const struct fl_connection *connection)
{
	struct bpf_sock *sk = ctx->sk;
	struct fl_captured *captured;

	if (!sk)
		return 0;
	captured = fl_storage(sk, 0);
	if (!captured || !fl_is_captured(captured, &connection->agent_address, connection->agent_port))
		return 0;
	return captured;
}

__noinline int tell(struct bpf_sock_ops *ctx, __u32 end, const struct fl_connection *connection)
{
	struct fl_event *event = connection ? fl_event(end, connection->netns_cookie) : 0;
	struct bpf_sock *sk = ctx->sk;
	const struct fl_captured *captured;

	if (!event || !connection)
		return 0;
	captured = sk && end != FL_END_STALE_FLOW ? fl_storage(sk, 0) : 0;
	event->protocol = FL_IPPROTO_TCP;
	event->source.address = connection->address;
	event->source.port = connection->port;
	event->loopback.address = connection->agent_address;
	event->loopback.port = connection->agent_port;
	if (captured) {
		event->destination = captured->original;
		event->socket_cookie = captured->socket_cookie;
	}
	fl_event_submit(event);
	return 0;
}

/* What a captured connection left there that nobody took is not this one's. */
static __always_inline enum fl_end sweep(const struct fl_connection *connection)
{
	if (!fl_addr_is_loopback(&connection->agent_address))
		return FL_END_NONE;
	return bpf_map_delete_elem(&fl_origdst, connection) ? FL_END_NONE : FL_END_STALE_FLOW;
}

/* An earlier connection between the same two endpoints, to another destination, was published and not taken. It is over,
 * or this one could not have its port; but if it was reset, it may still be in the agent's backlog, with data. The agent
 * cannot tell the two apart, so neither gets a destination: what was meant for one must not arrive at the other.
 */
static __always_inline int is_contested(const struct fl_connection *connection, const struct fl_captured *captured)
{
	const struct fl_original *held = bpf_map_lookup_elem(&fl_origdst, connection);

	return held && (held->port != captured->original.port ||
			!fl_addr_equal(&held->address, &captured->original.address));
}

static __always_inline enum fl_end publish(struct bpf_sock_ops *ctx, const struct fl_connection *connection,
					   const struct fl_captured *captured)
{
	struct fl_original original = {};
	int contested = is_contested(connection, captured);

	if (!contested) {
		original.address = captured->original.address;
		original.port = captured->original.port;
	}
	original.socket_cookie = captured->socket_cookie;
	if (fl_failed(bpf_map_update_elem(&fl_origdst, connection, &original, BPF_ANY), FL_SITE_SOCKOPS_PUBLISH))
		return FL_END_FLOW_FAILED;
	if (!contested)
		fl_count(FL_COUNT_ORIGINAL_PUBLISHED);
	fl_failed(bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG),
		  FL_SITE_SOCKOPS_FLAGS);
	return contested ? FL_END_FLOW_CONTESTED : FL_END_FLOW;
}

/* Refused, timed out, or closed before it was established: nobody will accept it. */
static __always_inline enum fl_end withdraw(const struct fl_connection *connection, struct fl_captured *captured)
{
	bpf_map_delete_elem(&fl_origdst, connection); /* not found: the LRU was faster */
	captured->flags = 0;
	return FL_END_NOT_ESTABLISHED;
}

SEC("sockops")
int fl_sockops(struct bpf_sock_ops *ctx)
{
	struct fl_connection connection = {};
	struct fl_captured *captured;
	enum fl_end end;
	int begins = ctx->op == BPF_SOCK_OPS_TCP_CONNECT_CB;

	if (!begins && (ctx->op != BPF_SOCK_OPS_STATE_CB || ctx->args[0] != BPF_TCP_SYN_SENT ||
			ctx->args[1] != BPF_TCP_CLOSE))
		return 1;
	describe(ctx, &connection);
	captured = captured_by(ctx, &connection);
	if (captured)
		end = begins ? publish(ctx, &connection, captured) : withdraw(&connection, captured);
	else
		end = begins ? sweep(&connection) : FL_END_NONE;
	if (end && fl_traced())
		tell(ctx, end, &connection);
	return 1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
