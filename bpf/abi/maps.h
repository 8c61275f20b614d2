/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/* Names (at most 15 characters) and sizes of the maps; all are pinned under <bpffs>/fairlead/<instance>/maps/. */
#ifndef FAIRLEAD_ABI_MAPS_H
#define FAIRLEAD_ABI_MAPS_H

#define FL_ABI_VERSION 2 /* a pin of another version is never reused */

#define FL_MAP_DESTS "fl_dests"       /* HASH      fl_address -> fl_dest; written by the proxy */
#define FL_MAP_PODS "fl_pods"         /* HASH      __u64 netns cookie -> fl_pod; keeper */
#define FL_MAP_EXPORTS "fl_exports"   /* HASH      fl_excluded_port -> __u8; keeper */
#define FL_MAP_EXCIDRS "fl_excidrs"   /* LPM_TRIE  fl_excluded_range -> __u8; keeper */
#define FL_MAP_NODE_IPS "fl_node_ips" /* HASH      fl_address -> __u8: the node's own addresses; keeper */
#define FL_MAP_ORIGDST "fl_origdst"   /* LRU_HASH  fl_connection -> fl_original; sockops writes, proxy takes */
#define FL_MAP_CLIENTS "fl_clients"   /* HASH      fl_flow -> fl_client; proxy */
#define FL_MAP_LISTENERS "fl_listeners" /* SOCKHASH fl_listener_key -> listener; keeper */
#define FL_MAP_SOCKETS "fl_sockets"   /* SK_STORAGE captured socket -> fl_captured (BPF only) */
#define FL_MAP_COUNTERS "fl_counters" /* PERCPU_ARRAY enum fl_counter -> __u64 */
#define FL_MAP_ERRORS "fl_errors"     /* PERCPU_ARRAY enum fl_site (sites.h) -> __u64: failing helpers */
#define FL_MAP_TRACER "fl_tracer" /* ARRAY of one fl_tracer (trace.h); mapped by `fairlead bpf trace` */
#define FL_MAP_EVENTS "fl_events" /* RINGBUF of fl_event, while somebody traces */
#define FL_MAP_VERSION "fl_version" /* ARRAY of one __u32: FL_ABI_VERSION of the maps pinned beside it */

#define FL_MAX_DESTS 131072
#define FL_MAX_PODS 1024
#define FL_MAX_EXCLUDED_PORTS 16384
#define FL_MAX_EXCLUDED_RANGES 16384
#define FL_MAX_NODE_IPS 1024
#define FL_MAX_ORIGDST 65536
#define FL_MAX_CLIENTS 131072
#define FL_MAX_LISTENERS 4096 /* two directions, two families */
#define FL_EVENTS_BYTES 524288 /* of the ring: some 3,800 events */

#endif
