/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Which endpoint of a tunnel, and whether copies for it can leave. */
#ifndef SNIFFER_PATH_H
#define SNIFFER_PATH_H

#include "maps.h"
#include "window.h"

/* Why a copy cannot leave through this endpoint; OUTCOME_SENT: it can. */
static __always_inline enum outcome path_outcome(__u32 id)
{
	__u64 *path = bpf_map_lookup_elem(&paths, &id);

	if (!path || *path == PATH_NO_ROUTE || *path == PATH_NONE)
		return OUTCOME_DROPPED_NO_ROUTE;
	return *path == PATH_UNREACHABLE ? OUTCOME_DROPPED_NO_NEIGHBOUR : OUTCOME_SENT;
}

/* The endpoint of a tunnel that a flow goes to. */
static __always_inline __u32 endpoint_of(const struct tunnel *t, __u32 hash)
{
	__u32 count = t->endpoint_count;

	if (likely(count <= 1))
		return t->endpoints[0];
	return t->endpoints[masked((hash >> 14) % count, ENDPOINTS_LENGTH - 1)];
}

#endif
