// SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0)
/* getpeername(), getsockname() and the address that accept() returns: what they would be without an agent between.
 *
 * Client side: a captured socket shows its original destination, and the pod's address for the loopback address that it
 * really has. Server side: a connection that the agent made shows the client it was made for.
 */
#include "lib/capture.h"
#include "lib/counters.h"

static __always_inline const struct fl_captured *storage_of(struct bpf_sock_addr *ctx)
{
	return bpf_sk_storage_get(&fl_sockets, ctx->sk, 0, 0);
}

/* Whose name to show instead of the peer (address and port as the kernel has them); null: leave it. */
static __always_inline int peer_name(struct bpf_sock_addr *ctx, struct fl_flow *peer, struct fl_endpoint *shown)
{
	const struct fl_captured *captured;
	const struct fl_client *client;

	if (!fl_is_tcp(ctx->type, ctx->protocol))
		return 0;
	captured = storage_of(ctx);
	if (captured && fl_is_captured(captured, &peer->address, peer->port)) {
		*shown = captured->original;
		return 1;
	}
	peer->netns_cookie = bpf_get_netns_cookie(ctx);
	client = bpf_map_lookup_elem(&fl_clients, peer);
	if (!client)
		return 0;
	shown->address = client->address;
	shown->port = client->port;
	return 1;
}

/* The pod's address to show instead of `local`; 0: leave it. The port stays: it is the one that is in use. */
static __always_inline int local_name(struct bpf_sock_addr *ctx, const struct fl_address *local,
				      struct fl_address *shown)
{
	const struct fl_captured *captured;
	const struct fl_pod *pod;
	struct bpf_sock *sk = ctx->sk;
	__u64 cookie;

	if (!fl_is_tcp(ctx->type, ctx->protocol) || !fl_addr_is_loopback(local))
		return 0;
	captured = storage_of(ctx);
	/* A socket may be disconnected and made a listener: its loopback address is then its own. */
	if (!captured || !(captured->flags & FL_CAPTURED) || !sk || sk->state == BPF_TCP_LISTEN)
		return 0;
	cookie = captured->netns_cookie;
	pod = bpf_map_lookup_elem(&fl_pods, &cookie);
	if (!pod || !(pod->flags & (fl_addr_is_mapped(local) ? FL_POD_HAS_V4 : FL_POD_HAS_V6)))
		return 0;
	if (fl_addr_is_mapped(local))
		*shown = pod->address4;
	else
		*shown = pod->address6;
	return 1;
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
	struct fl_endpoint shown;

	fl_addr_set4(&peer.address, ctx->user_ip4);
	/* an AF_INET socket cannot show an IPv6 client */
	if (peer_name(ctx, &peer, &shown) && fl_addr_is_mapped(&shown.address)) {
		show4(ctx, &shown.address);
		ctx->user_port = shown.port;
	}
	return 1;
}

SEC("cgroup/getpeername6")
int fl_getpeername6(struct bpf_sock_addr *ctx)
{
	struct fl_flow peer = {.port = ctx->user_port};
	struct fl_endpoint shown;

	fl_addr_set(&peer.address, ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3]);
	if (peer_name(ctx, &peer, &shown)) {
		show6(ctx, &shown.address);
		ctx->user_port = shown.port;
	}
	return 1;
}

SEC("cgroup/getsockname4")
int fl_getsockname4(struct bpf_sock_addr *ctx)
{
	struct fl_address local, shown;

	fl_addr_set4(&local, ctx->user_ip4);
	if (local_name(ctx, &local, &shown))
		show4(ctx, &shown);
	return 1;
}

SEC("cgroup/getsockname6")
int fl_getsockname6(struct bpf_sock_addr *ctx)
{
	struct fl_address local, shown;

	fl_addr_set(&local, ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3]);
	if (local_name(ctx, &local, &shown))
		show6(ctx, &shown);
	return 1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
