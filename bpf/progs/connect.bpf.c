// SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0)
/* connect() of a pod: destinations of the mesh go to the agent's listener inside the pod.
 *
 * Attached to the pod's own cgroup, whose programs run before those of the root: the destination is still the one that
 * the application gave. connect6 also sees v4-mapped destinations, for which connect4 does not run.
 * A socket belongs to the cgroup that created it: the agent's own sockets in the pod's netns never come here.
 */
#include "lib/agent.h"
#include "lib/capture.h"
#include "lib/counters.h"
#include "lib/storage.h"
#include "lib/trace.h"

/* What an earlier connect() of this socket left must not speak for this one, which may go to the agent itself. */
static __always_inline void forget(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct fl_captured *captured = sk ? fl_storage(sk, 0) : 0;

	if (captured)
		captured->flags = 0;
}

static __always_inline int remember(struct bpf_sock_addr *ctx, const struct fl_endpoint *original, __u64 cookie,
				    const struct fl_endpoint *agent)
{
	struct bpf_sock *sk = ctx->sk;
	struct fl_captured *captured = sk ? fl_storage(sk, BPF_SK_STORAGE_GET_F_CREATE) : 0;

	if (!captured) {
		fl_failed(-1, FL_SITE_CONNECT_STORAGE);
		return 0;
	}
	captured->original = *original;
	captured->agent = *agent;
	captured->netns_cookie = cookie;
	captured->socket_cookie = bpf_get_socket_cookie(ctx);
	captured->flags = FL_CAPTURED;
	return 1;
}

static __always_inline int refuse(enum fl_counter counter)
{
	fl_count(counter);
	fl_failed(bpf_set_retval(-FL_ECONNREFUSED), FL_SITE_CONNECT_RETVAL);
	return 0;
}

static __always_inline __u32 bound_port(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;

	return sk ? sk->src_port : 0;
}

static __always_inline enum fl_end judge(struct bpf_sock_addr *ctx, const struct fl_endpoint *to,
					 struct fl_endpoint *agent)
{
	const struct fl_dest *dest;
	const struct fl_pod *pod;
	enum fl_end end;
	__u64 cookie;

	if (!fl_is_tcp(ctx->type, ctx->protocol))
		return FL_END_NOT_TCP;
	if (fl_addr_stays_here(&to->address)) {
		forget(ctx);
		return FL_END_LOOPBACK;
	}
	dest = bpf_map_lookup_elem(&fl_dests, &to->address);
	if (!dest)
		return FL_END_OUTSIDE;

	fl_count(FL_COUNT_CONNECT_SEEN);
	cookie = bpf_get_netns_cookie(ctx);
	pod = bpf_map_lookup_elem(&fl_pods, &cookie);
	end = fl_decide(dest->flags, pod, pod ? fl_excluded(cookie, to) : FL_END_NONE);
	if (end != FL_END_MESH)
		return end;
	if (!pod)
		return FL_END_FOREIGN_NETNS;
	fl_agent_endpoint(agent, to, pod->outbound_port, bound_port(ctx));
	return remember(ctx, to, cookie, agent) ? FL_END_MESH : FL_END_NO_STORAGE;
}

/* Returns what the program returns. The destination is to be rewritten at FL_END_MESH. */
static __always_inline int rule(enum fl_end end)
{
	switch (end >> 8) {
	case FL_VERDICT_CAPTURED:
		fl_count(FL_COUNT_CONNECT_CAPTURED);
		return 1;
	case FL_VERDICT_REFUSED:
		return refuse(FL_COUNT_CONNECT_REFUSED);
	case FL_VERDICT_DENIED:
		return refuse(FL_COUNT_CONNECT_DENIED);
	}
	if (end == FL_END_EXCLUDED_PORT || end == FL_END_EXCLUDED_RANGE)
		fl_count(FL_COUNT_CONNECT_EXCLUDED);
	return 1;
}

__noinline int tell(struct bpf_sock_addr *ctx, __u32 end, const struct fl_endpoint *to, const struct fl_endpoint *agent)
{
	struct fl_event *event = to && agent ? fl_event(end, bpf_get_netns_cookie(ctx)) : 0;
	struct bpf_sock *sk = ctx->sk;

	if (!event || !to || !agent)
		return 0;
	fl_event_process(event);
	event->socket_cookie = bpf_get_socket_cookie(ctx);
	event->protocol = ctx->protocol;
	event->destination = *to;
	if (end == FL_END_MESH)
		event->loopback = *agent;
	if (sk && sk->src_port) {
		event->source.port = bpf_htons(sk->src_port);
		if (sk->family == FL_AF_INET)
			fl_addr_set4(&event->source.address, FL_CTX(sk->src_ip4));
		else
			fl_addr_set(&event->source.address, FL_CTX(sk->src_ip6[0]), FL_CTX(sk->src_ip6[1]),
				    FL_CTX(sk->src_ip6[2]), FL_CTX(sk->src_ip6[3]));
	}
	fl_event_submit(event);
	return 0;
}

static __always_inline enum fl_end on_connect(struct bpf_sock_addr *ctx, const struct fl_endpoint *to,
					      struct fl_endpoint *agent)
{
	enum fl_end end = judge(ctx, to, agent);

	if (fl_traced())
		tell(ctx, end, to, agent);
	return end;
}

SEC("cgroup/connect4")
int fl_connect4(struct bpf_sock_addr *ctx)
{
	struct fl_endpoint to = {.port = ctx->user_port};
	struct fl_endpoint agent = {};
	enum fl_end end;

	fl_addr_set4(&to.address, ctx->user_ip4);
	end = on_connect(ctx, &to, &agent);
	if (end == FL_END_MESH) {
		ctx->user_ip4 = fl_addr_word(&agent.address, 3);
		ctx->user_port = agent.port;
	}
	return rule(end);
}

SEC("cgroup/connect6")
int fl_connect6(struct bpf_sock_addr *ctx)
{
	struct fl_endpoint to = {.port = ctx->user_port};
	struct fl_endpoint agent = {};
	enum fl_end end;

	fl_addr_set(&to.address, ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3]);
	end = on_connect(ctx, &to, &agent);
	if (end == FL_END_MESH) {
		ctx->user_ip6[0] = fl_addr_word(&agent.address, 0);
		ctx->user_ip6[1] = fl_addr_word(&agent.address, 1);
		ctx->user_ip6[2] = fl_addr_word(&agent.address, 2);
		ctx->user_ip6[3] = fl_addr_word(&agent.address, 3);
		ctx->user_port = agent.port;
	}
	return rule(end);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
