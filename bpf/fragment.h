/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Fragmentation of the outer packet (RFC 791, RFC 8200), into as many as it takes. The clone is the vehicle of every
 * fragment: its tail is saved once, then each fragment is cut, filled and sent through the relay's encap program, the
 * last one by the caller's own verdict.
 */
#ifndef SNIFFER_FRAGMENT_H
#define SNIFFER_FRAGMENT_H

#include "encap.h"

#define FRAGMENTS 32 /* FRAME_LIMIT at an MTU of 576 needs 30 */
#define SHORTEST_MTU 576
#define FRAGMENT6_HEADERS (OUTER6_TRANSPORT + FRAGMENT_HEADER)

/* Bytes of a fragment's headers, the outer Ethernet header included. */
static __always_inline __u32 fragment_headers(const struct egress *e)
{
	return is_six(e) ? FRAGMENT6_HEADERS : OUTER_TRANSPORT;
}

/* Bytes of the outer packet's payload that each fragment but the last has. */
static __always_inline __u32 fragment_part(const struct egress *e)
{
	return (e->mtu + OUTER_IP - fragment_headers(e)) & ~7;
}

/* IPv6: the headers up to UDP's or GRE's are moved to the front, the fragment header behind them. Once. */
static __always_inline void fragment_begin(struct scratch *s, const struct egress *e, __u32 id)
{
	__u8 *front = s->front;

	if (!is_six(e))
		return;
	for (int n = 0; n < OUTER6_TRANSPORT; n += 2)
		*(__u16 *)(front + n) = *header_u16(s, n);
	*(__u16 *)(front + OUTER6_TRANSPORT) = bpf_htons((__u16)(front[OUTER6_PROTOCOL] << 8));
	front[OUTER6_PROTOCOL] = IPPROTO_FRAGMENT;
	*(__u16 *)(front + OUTER6_TRANSPORT + 4) = (__u16)(id >> 16);
	*(__u16 *)(front + OUTER6_TRANSPORT + 6) = (__u16)id;
}

/* The headers of the fragment with `length` bytes of payload from `offset` (in units of 8 bytes) on, into the clone. */
static __always_inline long fragment_head(struct __sk_buff *skb, struct scratch *s, const struct egress *e,
					  __u32 length, __u32 id, __u32 offset, bool more)
{
	if (is_six(e)) {
		*(__u16 *)(s->front + OUTER6_LENGTH) = bpf_htons(length + FRAGMENT_HEADER);
		*(__u16 *)(s->front + OUTER6_TRANSPORT + 2) = bpf_htons(offset << 3 | more);
		return bpf_skb_store_bytes(skb, 0, s->front, FRAGMENT6_HEADERS, 0);
	}
	header_finish(s, e, length + OUTER_TRANSPORT - OUTER_IP, id, (more ? MORE_FRAGMENTS : 0) | offset);
	return bpf_skb_store_bytes(skb, 0, s->header, OUTER_TRANSPORT, 0);
}

/* Makes the clone the n-th fragment, of the tail that was saved: its length in bytes with headers, negative for the last
 * one; 0: it cannot be made. A global function: the verifier looks at it once, not for each turn. */
__noinline int fragment_fill(struct __sk_buff *skb, __u32 level, __u32 n)
{
	struct scratch *s = scratch_at(level);
	const struct egress *e = s ? bpf_map_lookup_elem(&egress, &s->slot.egress) : NULL;
	__u32 zero = 0, headers, part, left, length;
	struct tail *t = bpf_map_lookup_elem(&tails, &zero);
	__u64 size;

	if (!s || !e || !t || !n || n >= FRAGMENTS)
		return 0;
	headers = fragment_headers(e);
	part = fragment_part(e);
	left = s->fragments.payload - n * part;
	length = left < part ? left : part;
	size = masked(length - 1, TAIL_MASK) + 1;
	if (!cut_tail(skb, headers + length) && !cut_middle(skb, headers + length))
		return 0;
	if (fragment_head(skb, s, e, length, s->fragments.id, n * (part >> 3), left > part))
		return 0;
	if (bpf_skb_store_bytes(skb, headers, t->bytes + masked((n - 1) * part, TAIL_MASK), size, 0))
		return 0;
	if (clear_beyond(skb, s, headers + length))
		return 0;
	return left > part ? headers + length : -(headers + length);
}

/* payload: bytes behind the outer IP header, more than fit; they lie behind the room for a fragment's headers. Sends all
 * fragments but the last, which is left in the clone: its length in bytes with headers, or 0 when the packet is lost. */
static __always_inline __u32 fragment_all(struct __sk_buff *skb, struct scratch *s, const struct egress *e,
					  __u32 payload, __u32 id, __u32 level, __u32 relay_ifindex)
{
	__u32 zero = 0, headers = fragment_headers(e), part = fragment_part(e);
	struct tail *t = bpf_map_lookup_elem(&tails, &zero);
	__u64 rest = payload - part;
	int length;

	if (!t || e->mtu < SHORTEST_MTU || payload <= part || rest > TAIL_MASK)
		return 0;
	if (bpf_skb_load_bytes(skb, headers + part, t->bytes, masked(rest - 1, TAIL_MASK) + 1))
		return 0;
	/* The first fragment has its payload already. */
	if (bpf_skb_change_tail(skb, headers + part, 0) && !cut_middle(skb, headers + part))
		return 0;
	if (fragment_head(skb, s, e, part, id, 0, true))
		return 0;
	s->fragments.payload = payload;
	s->fragments.id = id;
	for (int n = 1; n < FRAGMENTS; n++) {
		s->slot.wrapped = 1;
		s->slot.armed = 1;
		if (bpf_clone_redirect(skb, relay_ifindex, 0) || s->slot.armed)
			return 0;
		length = fragment_fill(skb, level, n);
		if (length <= 0)
			return -length;
	}
	return 0;
}

#endif
