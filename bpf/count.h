/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Counting. Per CPU and with softirqs off, so plain additions are exact. */
#ifndef SNIFFER_COUNT_H
#define SNIFFER_COUNT_H

#include "maps.h"

static __always_inline void tally(struct counters *of, enum outcome outcome, __u64 packets, __u64 bytes)
{
	__u64 index = outcome;

	/* One register for the check and the use, or the verifier does not see that they are the same. */
	asm volatile("" : "+r"(index));
	if (index >= OUTCOMES)
		return;
	of->tally[index].packets += packets;
	of->tally[index].bytes += bytes;
}

static __always_inline struct counters *counters_at(__u32 counter)
{
	return bpf_map_lookup_elem(&counters, &counter);
}

static __always_inline void count(__u32 counter, enum outcome outcome, __u64 packets, __u64 bytes)
{
	struct counters *of = counters_at(counter);

	if (of)
		tally(of, outcome, packets, bytes);
}

#endif
