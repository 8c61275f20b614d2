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

/* Returns what the program returns; agent->port is set when the destination is to be rewritten. */
static __always_inline int on_connect(struct bpf_sock_addr *ctx, const struct fl_endpoint *to,
				      struct fl_endpoint *agent)
{
	const struct fl_dest *dest;
	const struct fl_pod *pod;
	int excluded = 0;
	__u64 cookie;

	if (!fl_is_tcp(ctx->type, ctx->protocol))
		return 1;
	if (fl_addr_stays_here(&to->address)) {
		forget(ctx);
		return 1;
	}
	dest = bpf_map_lookup_elem(&fl_dests, &to->address);
	if (!dest)
		return 1;

	fl_count(FL_COUNT_CONNECT_SEEN);
	cookie = bpf_get_netns_cookie(ctx);
	pod = bpf_map_lookup_elem(&fl_pods, &cookie);
	if (pod)
		excluded = fl_port_excluded(cookie, to->port, FL_OUTBOUND) || fl_range_excluded(cookie, &to->address);

	switch (fl_decide(dest->flags, pod, excluded)) {
	case FL_EXCLUDE:
		fl_count(FL_COUNT_CONNECT_EXCLUDED);
		return 1;
	case FL_REFUSE:
		return refuse(FL_COUNT_CONNECT_REFUSED);
	case FL_CAPTURE:
		if (!pod)
			return refuse(FL_COUNT_CONNECT_DENIED);
		fl_agent_endpoint(agent, to, pod->outbound_port, bound_port(ctx));
		if (!remember(ctx, to, cookie, agent))
			return refuse(FL_COUNT_CONNECT_DENIED);
		fl_count(FL_COUNT_CONNECT_CAPTURED);
		return 1;
	default:
		return refuse(FL_COUNT_CONNECT_DENIED);
	}
}

SEC("cgroup/connect4")
int fl_connect4(struct bpf_sock_addr *ctx)
{
	struct fl_endpoint to = {.port = ctx->user_port};
	struct fl_endpoint agent = {};
	int allow;

	fl_addr_set4(&to.address, ctx->user_ip4);
	allow = on_connect(ctx, &to, &agent);
	if (allow && agent.port) {
		ctx->user_ip4 = fl_addr_word(&agent.address, 3);
		ctx->user_port = agent.port;
	}
	return allow;
}

SEC("cgroup/connect6")
int fl_connect6(struct bpf_sock_addr *ctx)
{
	struct fl_endpoint to = {.port = ctx->user_port};
	struct fl_endpoint agent = {};
	int allow;

	fl_addr_set(&to.address, ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3]);
	allow = on_connect(ctx, &to, &agent);
	if (allow && agent.port) {
		ctx->user_ip6[0] = fl_addr_word(&agent.address, 0);
		ctx->user_ip6[1] = fl_addr_word(&agent.address, 1);
		ctx->user_ip6[2] = fl_addr_word(&agent.address, 2);
		ctx->user_ip6[3] = fl_addr_word(&agent.address, 3);
		ctx->user_port = agent.port;
	}
	return allow;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
