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

/* Whether `outers` has the key that is being made; the address is where it lies in the frame. The key lies in the scratch:
 * 5.10 refuses what it would have to follow on the stack. */
static __always_inline bool is_outer(struct scratch *s, __u32 address_at)
{
	s->outer.address = window_u32(&s->window, address_at);
	return bpf_map_lookup_elem(&outers, &s->outer) != NULL;
}

static __always_inline bool has_analyzers_header(struct scratch *s)
{
	struct window *w = &s->window;
	__u32 ip = w->tag_length + OUTER_IP, transport = w->tag_length + OUTER_TRANSPORT;
	__u8 protocol;

	if (w->length < transport + 8 || window_u16(w, ip - 2) != ETH_P_IP || window_u8(w, ip) != 0x45)
		return false;
	protocol = window_u8(w, w->tag_length + OUTER_PROTOCOL);
	s->outer.kind = OUTER_HEADER;
	s->outer.protocol = protocol;
	s->outer.port = 0;
	s->outer.key = 0;
	if (window_u16(w, w->tag_length + OUTER_FRAGMENT) & 0x1fff) {
		s->outer.kind = OUTER_LATER;
	} else if (protocol == IPPROTO_UDP && w->length >= transport + 16) {
		s->outer.port = window_u16(w, transport + 2);
		s->outer.key = window_u32(w, transport + 12) >> 8;
	} else if (protocol == IPPROTO_GRE && window_u16(w, transport + 2) == ETH_P_TEB) {
		if (window_u16(w, transport) & OUTER_GRE_KEY) {
			s->outer.port = OUTER_GRE_KEY;
			s->outer.key = window_u32(w, transport + 4);
		}
	} else {
		return false;
	}
	return is_outer(s, ip + 16);
}

static __always_inline bool is_from_a_node(struct scratch *s)
{
	s->outer.kind = OUTER_NODE;
	s->outer.protocol = 0;
	s->outer.port = 0;
	s->outer.key = 0;
	return is_outer(s, s->window.tag_length + OUTER_ADDRESSES);
}

/* Whether the frame on a guarded hook is a copy of somebody's: 1 or 0. */
__noinline int is_known_copy(struct __sk_buff *skb, __u32 level, __u32 direction, __u32 guard)
{
	struct scratch *s = scratch_at(level);

	if (!s)
		return 0;
	if (guard == GUARD_NODE && direction == EGRESS && (skb->mark & MARK_COPY_MASK) == MARK_COPY)
		return 1;
	if (!has_analyzers_header(s))
		return 0;
	return guard == GUARD_ANALYZER || is_from_a_node(s);
}

#endif
