/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Fragmentation of the outer IPv4 packet (RFC 791), into as many as it takes. The clone is the vehicle of every
 * fragment: its tail is saved once, then each fragment is cut, filled and sent through the relay's encap program, the
 * last one by the caller's own verdict.
 */
#ifndef SNIFFER_FRAGMENT_H
#define SNIFFER_FRAGMENT_H

#include "encap.h"

#define FRAGMENTS 32 /* FRAME_LIMIT at an MTU of 576 needs 30 */
#define FRAGMENT_HEADERS OUTER_TRANSPORT

/* Makes the clone the fragment that starts at `offset` (a multiple of 8) of the outer payload. */
static __always_inline long fragment_fill(struct __sk_buff *skb, struct scratch *s, const struct egress *e,
					  struct tail *t, __u32 at, __u32 length, __u16 id, __u16 field)
{
	__u64 size = masked(length - 1, TAIL_MASK) + 1;

	if (!cut_tail(skb, FRAGMENT_HEADERS + length) && !cut_middle(skb, FRAGMENT_HEADERS + length))
		return -1;
	header_finish(s, e, length + 20, id, field);
	if (bpf_skb_store_bytes(skb, 0, s->header, FRAGMENT_HEADERS, 0))
		return -1;
	if (bpf_skb_store_bytes(skb, FRAGMENT_HEADERS, t->bytes + masked(at, TAIL_MASK), size, 0))
		return -1;
	return clear_beyond(skb, s, FRAGMENT_HEADERS + length);
}

/* payload: bytes behind the outer IP header, more than fit. Sends all fragments but the last, which is left in the
 * clone: its length in bytes with headers, or 0 when the packet is lost. */
static __always_inline __u32 fragment_all(struct __sk_buff *skb, struct scratch *s, const struct egress *e,
					  __u32 payload, __u16 id, __u32 relay_ifindex)
{
	__u32 zero = 0, part = (e->mtu - 20) & ~7, at = 0, left;
	struct tail *t = bpf_map_lookup_elem(&tails, &zero);
	__u64 rest = payload - part;

	if (!t || e->mtu < 576 || payload <= part || rest > TAIL_MASK)
		return 0;
	if (bpf_skb_load_bytes(skb, FRAGMENT_HEADERS + part, t->bytes, masked(rest - 1, TAIL_MASK) + 1))
		return 0;
	/* The first fragment has its payload already. */
	if (bpf_skb_change_tail(skb, FRAGMENT_HEADERS + part, 0) && !cut_middle(skb, FRAGMENT_HEADERS + part))
		return 0;
	header_finish(s, e, part + 20, id, MORE_FRAGMENTS);
	if (bpf_skb_store_bytes(skb, 0, s->header, FRAGMENT_HEADERS, 0))
		return 0;
	for (int n = 1; n < FRAGMENTS; n++) {
		s->slot.wrapped = 1;
		s->slot.armed = 1;
		if (bpf_clone_redirect(skb, relay_ifindex, 0) || s->slot.armed)
			return 0;
		left = payload - part - at;
		if (left <= part) {
			if (fragment_fill(skb, s, e, t, at, left, id, n * (part >> 3)))
				return 0;
			return FRAGMENT_HEADERS + left;
		}
		if (fragment_fill(skb, s, e, t, at, part, id, MORE_FRAGMENTS | n * (part >> 3)))
			return 0;
		at += part;
	}
	return 0;
}

#endif
