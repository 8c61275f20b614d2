/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/* Keys and values shared by the stand-in's programs and its loader. Addresses in v4-mapped form, ports in network order. */
#ifndef FAIRLEAD_STANDIN_H
#define FAIRLEAD_STANDIN_H

#include <linux/types.h>

#define STANDIN_MAX_BACKENDS 32

struct standin_vip {
	__u8 address[16];
	__be16 port;
	__u8 pad[2];
};
struct standin_endpoint {
	__u8 address[16];
	__be16 port;
	__u8 pad[2];
};
struct standin_backends {
	__u32 count;
	struct standin_endpoint list[STANDIN_MAX_BACKENDS];
};
/* LPM: pod and port are compared whole, the source by prefix. Port 0: any. */
struct standin_allow {
	__u32 prefix_length;
	__u8 pod[16];
	__be16 port;
	__u8 source[16];
} __attribute__((packed));

#define STANDIN_ALLOW_FIXED (16 * 8 + 16)

#endif
