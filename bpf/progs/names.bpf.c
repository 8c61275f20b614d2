// SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0)
/* getpeername(), getsockname() and the address that accept() returns: what they would be without an agent between.
 *
 * Client side: a captured socket shows its original destination, and the pod's address for the loopback address that it
 * really has. Server side: a connection that the agent made shows the client it was made for.
 */
#include "lib/capture.h"
#include "lib/counters.h"
#include "lib/trace.h"

static __always_inline const struct fl_captured *storage_of(struct bpf_sock_addr *ctx)
{
	return bpf_sk_storage_get(&fl_sockets, ctx->sk, 0, 0);
}

/* accept() of a connection that was reset before. Its peer's port may be another's by now, and the name published for that port
 * another client's; what the first one wrote can still be read. Nor is it the pod's own, which the kernel would show.
 */
static __always_inline int is_over(struct bpf_sock *sk, const struct fl_address *peer)
{
	struct fl_address local;

	if (sk->state != BPF_TCP_CLOSE)
		return 0;
	if (fl_addr_is_mapped(peer))
		fl_addr_set4(&local, FL_CTX(sk->src_ip4));
	else
		fl_addr_set(&local, FL_CTX(sk->src_ip6[0]), FL_CTX(sk->src_ip6[1]), FL_CTX(sk->src_ip6[2]),
			    FL_CTX(sk->src_ip6[3]));
	return fl_addr_is_loopback(peer) || fl_addr_equal(&local, peer);
}

static __always_inline void nobody(struct fl_endpoint *shown, const struct fl_address *peer)
{
	__builtin_memset(shown, 0, sizeof(*shown));
	if (fl_addr_is_mapped(peer))
		fl_addr_set4(&shown->address, 0);
}

/* Whose name to show instead of the peer (address and port as the kernel has them). FL_END_NONE: leave it. */
static __always_inline enum fl_end peer_name(struct bpf_sock_addr *ctx, struct fl_flow *peer,
					     struct fl_endpoint *shown)
{
	const struct fl_captured *captured;
	const struct fl_client *client;
	struct bpf_sock *sk = ctx->sk;

	if (!fl_is_tcp(ctx->type, ctx->protocol) || !sk)
		return FL_END_NONE;
	captured = storage_of(ctx);
	if (captured && fl_is_captured(captured, &peer->address, peer->port)) {
		*shown = captured->original;
		return FL_END_DESTINATION_SHOWN;
	}
	if (is_over(sk, &peer->address)) {
		nobody(shown, &peer->address);
		return FL_END_NOBODY_SHOWN;
	}
	peer->netns_cookie = bpf_get_netns_cookie(ctx);
	client = bpf_map_lookup_elem(&fl_clients, peer);
	if (!client)
		return FL_END_NONE;
	shown->address = client->address;
	shown->port = client->port;
	return FL_END_CLIENT_SHOWN;
}

/* The pod's address to show instead of the local one. The port stays: it is the one that is in use. */
static __always_inline enum fl_end local_name(struct bpf_sock_addr *ctx, const struct fl_endpoint *local,
					      struct fl_endpoint *shown)
{
	const struct fl_captured *captured;
	const struct fl_pod *pod;
	struct bpf_sock *sk = ctx->sk;
	__u64 cookie;

	if (!fl_is_tcp(ctx->type, ctx->protocol) || !fl_addr_is_loopback(&local->address))
		return FL_END_NONE;
	captured = storage_of(ctx);
	/* A socket may be disconnected and made a listener: its loopback address is then its own. */
	if (!captured || !(captured->flags & FL_CAPTURED) || !sk || sk->state == BPF_TCP_LISTEN)
		return FL_END_NONE;
	cookie = captured->netns_cookie;
	pod = bpf_map_lookup_elem(&fl_pods, &cookie);
	if (!pod || !(pod->flags & (fl_addr_is_mapped(&local->address) ? FL_POD_HAS_V4 : FL_POD_HAS_V6)))
		return FL_END_NONE;
	shown->address = fl_addr_is_mapped(&local->address) ? pod->address4 : pod->address6;
	shown->port = local->port;
	return FL_END_POD_SHOWN;
}

__noinline int tell(struct bpf_sock_addr *ctx, __u32 end, const struct fl_endpoint *real, const struct fl_endpoint *shown)
{
	struct fl_event *event = real && shown ? fl_event(end, bpf_get_netns_cookie(ctx)) : 0;

	if (!event || !real || !shown)
		return 0;
	fl_event_process(event);
	event->socket_cookie = bpf_get_socket_cookie(ctx);
	event->protocol = ctx->protocol;
	event->loopback = *real;
	if (end == FL_END_DESTINATION_SHOWN)
		event->destination = *shown;
	else
		event->source = *shown;
	fl_event_submit(event);
	return 0;
}

static __always_inline void show6(struct bpf_sock_addr *ctx, const struct fl_address *address)
{
	ctx->user_ip6[0] = fl_addr_word(address, 0);
	ctx->user_ip6[1] = fl_addr_word(address, 1);
	ctx->user_ip6[2] = fl_addr_word(address, 2);
	ctx->user_ip6[3] = fl_addr_word(address, 3);
	fl_count(FL_COUNT_NAMES_SHOWN);
}

static __always_inline void show4(struct bpf_sock_addr *ctx, const struct fl_address *address)
{
	ctx->user_ip4 = fl_addr_word(address, 3);
	fl_count(FL_COUNT_NAMES_SHOWN);
}

SEC("cgroup/getpeername4")
int fl_getpeername4(struct bpf_sock_addr *ctx)
{
	struct fl_flow peer = {.port = ctx->user_port};
	struct fl_endpoint real = {.port = ctx->user_port}, shown = {};
	enum fl_end end;

	fl_addr_set4(&peer.address, ctx->user_ip4);
	real.address = peer.address;
	end = peer_name(ctx, &peer, &shown);
	/* an AF_INET socket cannot show an IPv6 client */
	if (end && !fl_addr_is_mapped(&shown.address))
		end = FL_END_OTHER_FAMILY;
	if (end && fl_traced())
		tell(ctx, end, &real, &shown);
	if (end && end != FL_END_OTHER_FAMILY) {
		show4(ctx, &shown.address);
		ctx->user_port = shown.port;
	}
	return 1;
}

SEC("cgroup/getpeername6")
int fl_getpeername6(struct bpf_sock_addr *ctx)
{
	struct fl_flow peer = {.port = ctx->user_port};
	struct fl_endpoint real = {.port = ctx->user_port}, shown = {};
	enum fl_end end;

	fl_addr_set(&peer.address, ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3]);
	real.address = peer.address;
	end = peer_name(ctx, &peer, &shown);
	if (end && fl_traced())
		tell(ctx, end, &real, &shown);
	if (end) {
		show6(ctx, &shown.address);
		ctx->user_port = shown.port;
	}
	return 1;
}

SEC("cgroup/getsockname4")
int fl_getsockname4(struct bpf_sock_addr *ctx)
{
	struct fl_endpoint local = {.port = ctx->user_port}, shown = {};
	enum fl_end end;

	fl_addr_set4(&local.address, ctx->user_ip4);
	end = local_name(ctx, &local, &shown);
	if (end && fl_traced())
		tell(ctx, end, &local, &shown);
	if (end)
		show4(ctx, &shown.address);
	return 1;
}

SEC("cgroup/getsockname6")
int fl_getsockname6(struct bpf_sock_addr *ctx)
{
	struct fl_endpoint local = {.port = ctx->user_port}, shown = {};
	enum fl_end end;

	fl_addr_set(&local.address, ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3]);
	end = local_name(ctx, &local, &shown);
	if (end && fl_traced())
		tell(ctx, end, &local, &shown);
	if (end)
		show6(ctx, &shown.address);
	return 1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
