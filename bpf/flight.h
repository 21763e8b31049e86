/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * How much of the slow path may be in the relay at once, per CPU, where the relay has no ring of its own and so shares
 * the backlog of production's packets (docs/adr/0002). User space says whether, in the word of `relay`.
 */
#ifndef SNIFFER_FLIGHT_H
#define SNIFFER_FLIGHT_H

#include "maps.h"

/* A frame that is lost on its way never lands. When none has for so long, none is on its way. */
#define FLIGHT_OVER_NS 100000000

static __always_inline struct flight *flight_of_cpu(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&flights, &zero);
}

/* Room for so many frames? Then they are on their way. A super-packet alone always has room. */
static __always_inline bool flight_begins(__u32 frames)
{
	__u32 zero = 0;
	__u64 *word = bpf_map_lookup_elem(&relay, &zero), now;
	struct flight *f = flight_of_cpu();

	if (!word || !f || !(*word & RELAY_SHARED))
		return true;
	now = bpf_ktime_get_ns();
	if (now - f->since_ns > FLIGHT_OVER_NS)
		f->frames = 0;
	if (!f->frames)
		f->since_ns = now;
	else if (f->frames + frames > FLIGHT_LIMIT)
		return false;
	f->frames += frames;
	return true;
}

/* One has arrived, on the CPU where it left. */
static __always_inline void flight_ends(void)
{
	struct flight *f = flight_of_cpu();

	if (!f || !f->frames)
		return;
	f->frames--;
	f->since_ns = bpf_ktime_get_ns();
}

#endif
