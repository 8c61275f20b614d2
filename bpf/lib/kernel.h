/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/* What every program starts from. UAPI types are enough: contexts are UAPI structs, nothing is read from kernel memory,
 * so neither vmlinux.h nor a relocation is needed.
 */
#ifndef FAIRLEAD_LIB_KERNEL_H
#define FAIRLEAD_LIB_KERNEL_H

#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi/maps.h"
#include "abi/sites.h"
#include "abi/trace.h"
#include "abi/types.h"

/* From headers that do not compile for BPF. */
#define FL_AF_INET 2
#define FL_AF_INET6 10
#define FL_IPPROTO_TCP 6
#define FL_IPPROTO_MPTCP 262
#define FL_SOCK_STREAM 1
#define FL_ECONNREFUSED 111
#define FL_LOOPBACK_IFINDEX 1 /* LOOPBACK_IFINDEX: lo has it in every network namespace */

/* Reads a context field by itself. Without it the compiler merges reads of different branches into one through a
 * computed pointer, and the verifier refuses ("dereference of modified ctx ptr"); it does so with volatile reads, too, but
 * never moves inline assembly.
 */
#define FL_CTX(field)                            \
	({                                       \
		__typeof__(field) value_ = field; \
		asm volatile("" : "+r"(value_)); \
		value_;                          \
	})

#endif
