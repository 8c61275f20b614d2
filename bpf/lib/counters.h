/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0) */
/* Counting: what happened, and which helper failed where. Per CPU, so no atomics. */
#ifndef FAIRLEAD_LIB_COUNTERS_H
#define FAIRLEAD_LIB_COUNTERS_H

#include "lib/maps.h"

static __always_inline void fl_count(enum fl_counter counter)
{
	__u32 key = counter;
	__u64 *value = bpf_map_lookup_elem(&fl_counters, &key);

	if (value)
		*value += 1;
}

/* Wraps a helper call: counts a failure at `site`, hands the result on. */
static __always_inline long fl_failed(long result, enum fl_site site)
{
	__u32 key = site;
	__u64 *value;

	if (result >= 0)
		return result;
	value = bpf_map_lookup_elem(&fl_errors, &key);
	if (value)
		*value += 1;
	return result;
}

#endif
