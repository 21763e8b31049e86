/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Loops: a copy that leaves through a device which is itself mirrored must not be copied again. It is ours when it has
 * our mark, which cannot come from a pod (a mark does not cross a network namespace), and the very outer header of the
 * endpoint that the mark names.
 *
 * A copy of another node has no mark. Where such copies pass (guarded hooks: interfaces of nodes, and towards a pod that is an
 * analyzer) it is known by its outer header: the tunnel and the key of an analyzer, and on interfaces of nodes the address of
 * a node as its source. Other hooks do not look at it, so that no pod hides by forging our header.
 *
 * On its way out of a node by an overlay a copy of ours has the overlay's header in front of it, and still our mark: on
 * interfaces of nodes that is enough.
 */
#ifndef SNIFFER_GUARD_H
#define SNIFFER_GUARD_H

#include "encap.h"

static __always_inline bool same(struct window *w, const struct egress *e, __u32 at, __u32 from, __u32 to)
{
	bool equal = true;

	for (__u32 n = 0; n < TEMPLATE_LENGTH; n += 2)
		if (n >= from && n < to && window_u16(w, at + n) != bpf_ntohs(*(const __u16 *)(e->template + n)))
			equal = false;
	return equal;
}

static __always_inline bool is_our_copy(struct __sk_buff *skb, struct window *w)
{
	__u32 id = skb->mark & ~MARK_COPY_MASK;
	__u32 at = w->tag_length; /* how far a tag moves the outer IP header */
	const struct egress *e;

	if ((skb->mark & MARK_COPY_MASK) != MARK_COPY)
		return false;
	e = bpf_map_lookup_elem(&egress, &id);
	if (!e || e->template_length < OUTER_TRANSPORT)
		return false;
	if (!same(w, e, at, 12, 14) || !same(w, e, at, OUTER_ADDRESSES, OUTER_TRANSPORT) ||
	    window_u8(w, at + OUTER_PROTOCOL) != e->template[OUTER_PROTOCOL])
		return false;
	if (window_u16(w, at + OUTER_FRAGMENT) & 0x1fff) /* a later fragment has no more to compare */
		return true;
	if (e->template[OUTER_PROTOCOL] != IPPROTO_UDP)
		return same(w, e, at, OUTER_TRANSPORT, e->template_length);
	return same(w, e, at, OUTER_TRANSPORT + 2, OUTER_UDP_LENGTH) &&
	       same(w, e, at, OUTER_TRANSPORT + 8, e->template_length);
}

/* Whether `outers` has this key; the address is where it lies in the frame. */
static __always_inline bool is_outer(struct outer *key, struct window *w, __u32 address_at)
{
	key->address = window_u32(w, address_at);
	return bpf_map_lookup_elem(&outers, key);
}

static __always_inline bool has_analyzers_header(struct window *w)
{
	__u32 ip = w->tag_length + OUTER_IP, transport = w->tag_length + OUTER_TRANSPORT;
	struct outer header = {.kind = OUTER_HEADER};

	if (w->length < transport + 8 || window_u16(w, ip - 2) != ETH_P_IP || window_u8(w, ip) != 0x45)
		return false;
	header.protocol = window_u8(w, w->tag_length + OUTER_PROTOCOL);
	if (window_u16(w, w->tag_length + OUTER_FRAGMENT) & 0x1fff) {
		header.kind = OUTER_LATER;
	} else if (header.protocol == IPPROTO_UDP && w->length >= transport + 16) {
		header.port = window_u16(w, transport + 2);
		header.key = window_u32(w, transport + 12) >> 8;
	} else if (header.protocol == IPPROTO_GRE && window_u16(w, transport + 2) == ETH_P_TEB) {
		header.port = window_u16(w, transport) & OUTER_GRE_KEY;
		if (header.port)
			header.key = window_u32(w, transport + 4);
	} else {
		return false;
	}
	return is_outer(&header, w, ip + 16);
}

static __always_inline bool is_from_a_node(struct window *w)
{
	struct outer source = {.kind = OUTER_NODE};

	return is_outer(&source, w, w->tag_length + OUTER_ADDRESSES);
}

/* Whether a frame on a hook with this guard is a copy already. */
static __always_inline bool is_copy(struct __sk_buff *skb, struct window *w, enum direction direction, enum guard guard)
{
	if (direction == EGRESS) {
		if (is_our_copy(skb, w))
			return true;
		if (guard == GUARD_NODE && (skb->mark & MARK_COPY_MASK) == MARK_COPY)
			return true;
	}
	if (guard == GUARD_NONE || !has_analyzers_header(w))
		return false;
	return guard == GUARD_ANALYZER || is_from_a_node(w);
}

#endif
