// SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0)
/* A small stand-in for Cilium: Service translation at connect() on a root cgroup, and network policy on the host side of
 * the pods' veths. It knows nothing of Fairlead; that is the point.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "standin.h"

#define EHOSTUNREACH 113

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct standin_vip);
	__type(value, struct standin_backends);
} standin_vips SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, __u64); /* socket cookie */
	__type(value, struct standin_vip);
} standin_rev SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u8[16]);
	__type(value, __u8);
} standin_prot SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct standin_allow);
	__type(value, __u8);
} standin_allow SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} standin_drops SEC(".maps");

static __always_inline void map_v4(__u8 *out, __u32 address)
{
	__builtin_memset(out, 0, 10);
	out[10] = out[11] = 0xff;
	__builtin_memcpy(out + 12, &address, 4);
}

/* The backend for a socket that connects to `vip`; 1: none such service, 0: chosen, -1: no backend. */
static __always_inline int choose(void *ctx, struct standin_vip *vip, struct standin_endpoint *chosen)
{
	struct standin_backends *backends = bpf_map_lookup_elem(&standin_vips, vip);

	if (!backends)
		return 1;
	if (backends->count == 0)
		return -1;
	/* count is at most the power of two that the mask says; the verifier wants to see it */
	__u64 index = (bpf_get_prandom_u32() % backends->count) & (STANDIN_MAX_BACKENDS - 1);
	*chosen = backends->list[index];
	__u64 cookie = bpf_get_socket_cookie(ctx);
	bpf_map_update_elem(&standin_rev, &cookie, vip, BPF_ANY);
	return 0;
}

SEC("cgroup/connect4")
int standin_conn4(struct bpf_sock_addr *ctx)
{
	struct standin_vip vip = { .port = (__be16)ctx->user_port };
	struct standin_endpoint backend;

	map_v4(vip.address, ctx->user_ip4);
	int verdict = choose(ctx, &vip, &backend);
	if (verdict < 0) {
		bpf_set_retval(-EHOSTUNREACH);
		return 0;
	}
	if (verdict == 0) {
		__u32 address;

		__builtin_memcpy(&address, backend.address + 12, 4);
		ctx->user_ip4 = address;
		ctx->user_port = backend.port;
	}
	return 1;
}

SEC("cgroup/connect6")
int standin_conn6(struct bpf_sock_addr *ctx)
{
	struct standin_vip vip = { .port = (__be16)ctx->user_port };
	struct standin_endpoint backend;
	__u32 words[4];

	words[0] = ctx->user_ip6[0];
	words[1] = ctx->user_ip6[1];
	words[2] = ctx->user_ip6[2];
	words[3] = ctx->user_ip6[3];
	__builtin_memcpy(vip.address, words, 16);
	int verdict = choose(ctx, &vip, &backend);
	if (verdict < 0) {
		bpf_set_retval(-EHOSTUNREACH);
		return 0;
	}
	if (verdict == 0) {
		__builtin_memcpy(words, backend.address, 16);
		ctx->user_ip6[0] = words[0];
		ctx->user_ip6[1] = words[1];
		ctx->user_ip6[2] = words[2];
		ctx->user_ip6[3] = words[3];
		ctx->user_port = backend.port;
	}
	return 1;
}

SEC("cgroup/getpeername4")
int standin_peer4(struct bpf_sock_addr *ctx)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	struct standin_vip *vip = bpf_map_lookup_elem(&standin_rev, &cookie);
	__u32 address;

	if (vip) {
		__builtin_memcpy(&address, vip->address + 12, 4);
		ctx->user_ip4 = address;
		ctx->user_port = vip->port;
	}
	return 1;
}

SEC("cgroup/getpeername6")
int standin_peer6(struct bpf_sock_addr *ctx)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	struct standin_vip *vip = bpf_map_lookup_elem(&standin_rev, &cookie);
	__u32 words[4];

	if (vip) {
		__builtin_memcpy(words, vip->address, 16);
		ctx->user_ip6[0] = words[0];
		ctx->user_ip6[1] = words[1];
		ctx->user_ip6[2] = words[2];
		ctx->user_ip6[3] = words[3];
		ctx->user_port = vip->port;
	}
	return 1;
}

static __always_inline int allowed(struct standin_allow *key, __be16 port)
{
	key->prefix_length = STANDIN_ALLOW_FIXED + 128;
	key->port = port;
	if (bpf_map_lookup_elem(&standin_allow, key))
		return 1;
	key->port = 0;
	return bpf_map_lookup_elem(&standin_allow, key) != 0;
}

/* Only what opens a connection is judged; the rest belongs to one that was let in, or finds no socket. */
static __always_inline int judge(struct standin_allow *key, const struct tcphdr *tcp)
{
	if (!tcp->syn || tcp->ack || !bpf_map_lookup_elem(&standin_prot, key->pod) || allowed(key, tcp->dest))
		return TC_ACT_OK;
	__u32 zero = 0;
	__u64 *drops = bpf_map_lookup_elem(&standin_drops, &zero);
	if (drops)
		__sync_fetch_and_add(drops, 1);
	return TC_ACT_SHOT;
}

/* Egress of the host side: packets on their way into the pod, with true source, destination and port. */
SEC("tc")
int standin_to_pod(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *ethernet = data;
	struct standin_allow key = {};

	if ((void *)(ethernet + 1) > end)
		return TC_ACT_OK;
	if (ethernet->h_proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = (void *)(ethernet + 1);

		if ((void *)(ip + 1) > end || ip->protocol != 6 || ip->ihl != 5)
			return TC_ACT_OK;
		struct tcphdr *tcp = (void *)(ip + 1);
		if ((void *)(tcp + 1) > end)
			return TC_ACT_OK;
		map_v4(key.pod, ip->daddr);
		map_v4(key.source, ip->saddr);
		return judge(&key, tcp);
	}
	if (ethernet->h_proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = (void *)(ethernet + 1);

		if ((void *)(ip + 1) > end || ip->nexthdr != 6)
			return TC_ACT_OK;
		struct tcphdr *tcp = (void *)(ip + 1);
		if ((void *)(tcp + 1) > end)
			return TC_ACT_OK;
		__builtin_memcpy(key.pod, &ip->daddr, 16);
		__builtin_memcpy(key.source, &ip->saddr, 16);
		return judge(&key, tcp);
	}
	return TC_ACT_OK;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
