/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/* Every map, in every object: the loader pins them by name, so that all objects share one set. */
#ifndef FAIRLEAD_LIB_MAPS_H
#define FAIRLEAD_LIB_MAPS_H

#include "lib/kernel.h"

/* A socket whose connect() was rewritten. */
#define FL_CAPTURED 1u /* the last connect() of this socket was captured */
struct fl_captured {
	struct fl_endpoint original;
	struct fl_endpoint agent; /* where it was sent instead */
	__u64 netns_cookie;
	__u64 socket_cookie;
	__u32 flags;
	__u8 pad[4];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, FL_MAX_DESTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct fl_address);
	__type(value, struct fl_dest);
} fl_dests SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, FL_MAX_PODS);
	__type(key, __u64);
	__type(value, struct fl_pod);
} fl_pods SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, FL_MAX_EXCLUDED_PORTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct fl_excluded_port);
	__type(value, __u8);
} fl_exports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, FL_MAX_EXCLUDED_RANGES);
	__uint(map_flags, BPF_F_NO_PREALLOC); /* the only way for a trie */
	__type(key, struct fl_excluded_range);
	__type(value, __u8);
} fl_excidrs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, FL_MAX_NODE_IPS);
	__type(key, struct fl_address);
	__type(value, __u8);
} fl_node_ips SEC(".maps");

/* LRU: entries of connections that no agent ever accepts must not fill it. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, FL_MAX_ORIGDST);
	__type(key, struct fl_connection);
	__type(value, struct fl_original);
} fl_origdst SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, FL_MAX_CLIENTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct fl_flow);
	__type(value, struct fl_client);
} fl_clients SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, FL_MAX_LISTENERS);
	__type(key, struct fl_listener_key);
	__type(value, __u64);
} fl_listeners SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct fl_captured);
} fl_sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, FL_COUNT_MAX);
	__type(key, __u32);
	__type(value, __u64);
} fl_counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, FL_SITE_MAX);
	__type(key, __u32);
	__type(value, __u64);
} fl_errors SEC(".maps");

/* Mapped: the tracer renews its lease while programs count what they lost, each with a store of its own. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct fl_tracer);
} fl_tracer SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, FL_EVENTS_BYTES);
} fl_events SEC(".maps");

#endif
