/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/* Addresses: plain values in, plain answers out. A word is four octets in network order. */
#ifndef FAIRLEAD_LIB_ADDR_H
#define FAIRLEAD_LIB_ADDR_H

#include "lib/kernel.h"

static __always_inline __u32 fl_addr_word(const struct fl_address *a, int index)
{
	__u32 word;

	__builtin_memcpy(&word, __builtin_assume_aligned(&a->octets[4 * index], 4), 4);
	return word;
}

static __always_inline void fl_addr_set(struct fl_address *a, __u32 w0, __u32 w1, __u32 w2, __u32 w3)
{
	__u32 *words = __builtin_assume_aligned(a->octets, 4);

	words[0] = w0;
	words[1] = w1;
	words[2] = w2;
	words[3] = w3;
}

static __always_inline void fl_addr_set4(struct fl_address *a, __be32 v4)
{
	fl_addr_set(a, 0, 0, bpf_htonl(0xffff), v4);
}

static __always_inline int fl_addr_is_mapped(const struct fl_address *a)
{
	return !fl_addr_word(a, 0) && !fl_addr_word(a, 1) && fl_addr_word(a, 2) == bpf_htonl(0xffff);
}

static __always_inline int fl_addr_equal(const struct fl_address *a, const struct fl_address *b)
{
	return fl_addr_word(a, 0) == fl_addr_word(b, 0) && fl_addr_word(a, 1) == fl_addr_word(b, 1) &&
	       fl_addr_word(a, 2) == fl_addr_word(b, 2) && fl_addr_word(a, 3) == fl_addr_word(b, 3);
}

/* 127.0.0.0/8 in mapped form, ::1. */
static __always_inline int fl_addr_is_loopback(const struct fl_address *a)
{
	if (fl_addr_is_mapped(a))
		return (fl_addr_word(a, 3) & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
	return !fl_addr_word(a, 0) && !fl_addr_word(a, 1) && !fl_addr_word(a, 2) &&
	       fl_addr_word(a, 3) == bpf_htonl(1);
}

/* connect() to 0.0.0.0 or :: means loopback, and the kernel rewrites it only after our program ran. */
static __always_inline int fl_addr_is_unspecified(const struct fl_address *a)
{
	if (fl_addr_is_mapped(a))
		return !fl_addr_word(a, 3);
	return !fl_addr_word(a, 0) && !fl_addr_word(a, 1) && !fl_addr_word(a, 2) && !fl_addr_word(a, 3);
}

static __always_inline int fl_addr_stays_here(const struct fl_address *a)
{
	return fl_addr_is_loopback(a) || fl_addr_is_unspecified(a);
}

#endif
