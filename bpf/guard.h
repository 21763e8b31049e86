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
 * interfaces of nodes of a cluster that is enough. Elsewhere, and where a copy of another node comes by an overlay, the look goes
 * through one overlay (overlay.h).
 */
#ifndef SNIFFER_GUARD_H
#define SNIFFER_GUARD_H

#include "overlay.h"

#define GRE_KEY 4 /* offset in the GRE header, where it has one */
#define GRE_ERSPAN 8
#define ETH_P_ERSPAN_II 0x88be
#define ETH_P_ERSPAN_III 0x22eb
#define ERSPAN_SESSION 0x3ff
#define ICMP_UNREACHABLE 3 /* types that quote the packet that they are about (RFC 792, RFC 4443) */
#define ICMP_TIME_EXCEEDED 11
#define ICMP_TOO_BIG 4 /* the code of ICMP_UNREACHABLE by which routers tell a path's MTU */
#define ICMP6_UNREACHABLE 1
#define ICMP6_PARAMETER_PROBLEM 4 /* its code 1, too: a protocol that nobody knows, as IPv4's protocol unreachable */
#define ICMP6_UNKNOWN_PROTOCOL 1
#define ICMP_HEADER 8

static __always_inline bool same(struct window *w, const struct egress *e, __u32 at, __u32 from, __u32 to)
{
	bool equal = true;

	for (__u32 n = from; n < to; n += 2)
		if (window_u16(w, at + n) != bpf_ntohs(*(const __u16 *)(e->template + n)))
			equal = false;
	return equal;
}

/* What tells one tunnel from another: behind UDP's ports, and length and checksum, the first eight bytes; of GRE flags, type and
 * key, of ERSPAN flags and type and the session. at: of the frame, where the header lies that is at `transport` of the template. */
static __always_inline bool is_same_tunnel(struct window *w, const struct egress *e, __u32 at, __u32 transport,
					   __u8 protocol)
{
	__u32 offset = at - transport;

	if (protocol == IPPROTO_UDP)
		return same(w, e, offset, transport + UDP_DESTINATION, transport + UDP_LENGTH) &&
		       same(w, e, offset, transport + UDP_HEADER, transport + UDP_HEADER + 8);
	if (!same(w, e, offset, transport, transport + GRE_KEY))
		return false;
	if (e->encapsulation != ENCAPSULATION_GRE)
		return !((window_u16(w, at + GRE_ERSPAN + 2) ^
			  bpf_ntohs(*(const __u16 *)(e->template + transport + GRE_ERSPAN + 2))) &
			 ERSPAN_SESSION);
	return !(window_u16(w, at) & OUTER_GRE_KEY) || same(w, e, offset, transport + GRE_KEY, transport + GRE_KEY + 4);
}

static __always_inline bool has_our_mark(struct __sk_buff *skb)
{
	return (skb->mark & MARK_COPY_MASK) == MARK_COPY;
}

/* Whether a frame with our mark is what the mark says: 1 or 0. */
__noinline int is_our_copy(struct __sk_buff *skb, __u32 level)
{
	struct scratch *s = scratch_at(level);
	__u32 id = skb->mark & ~MARK_COPY_MASK, at;
	const struct egress *e = bpf_map_lookup_elem(&egress, &id);
	struct window *w;
	__u8 protocol;

	if (!s || !e || e->template_length < OUTER_TRANSPORT)
		return 0;
	w = &s->window;
	at = tags_length(w);
	protocol = protocol_of(e);
	if (!same(w, e, at, 12, 14))
		return 0;
	if (!is_six(e)) {
		if (!same(w, e, at, OUTER_ADDRESSES, OUTER_TRANSPORT) || window_u8(w, at + OUTER_PROTOCOL) != protocol)
			return 0;
		/* A later fragment has no more to compare. */
		return window_u16(w, at + OUTER_FRAGMENT) & 0x1fff ||
		       is_same_tunnel(w, e, at + OUTER_TRANSPORT, OUTER_TRANSPORT, protocol);
	}
	if (!same(w, e, at, OUTER6_ADDRESSES, OUTER6_TRANSPORT))
		return 0;
	if (window_u8(w, at + OUTER6_PROTOCOL) == IPPROTO_FRAGMENT) {
		if (window_u8(w, at + OUTER6_TRANSPORT) != protocol)
			return 0;
		if (window_u16(w, at + OUTER6_TRANSPORT + 2) & 0xfff8)
			return 1;
		at += FRAGMENT_HEADER;
	} else if (window_u8(w, at + OUTER6_PROTOCOL) != protocol) {
		return 0;
	}
	return is_same_tunnel(w, e, at + OUTER6_TRANSPORT, OUTER6_TRANSPORT, protocol);
}

/* Whether `outers` has the key that is being made; the address is where it lies in the frame. The key lies in the scratch:
 * 5.10 refuses what it would have to follow on the stack. */
static __always_inline bool is_outer(struct scratch *s, __u32 address_at, bool six)
{
	__u32 *address = (__u32 *)s->outer.address;

	address[0] = six ? window_raw32(&s->window, address_at) : 0;
	address[1] = six ? window_raw32(&s->window, address_at + 4) : 0;
	address[2] = six ? window_raw32(&s->window, address_at + 8) : bpf_htonl(0xffff);
	address[3] = window_raw32(&s->window, six ? address_at + 12 : address_at);
	return bpf_map_lookup_elem(&outers, &s->outer) != NULL;
}

/* Whether the IP packet at `ip` has the header of an analyzer: 1 or 0. */
__noinline int has_analyzers_header(__u32 level, __u32 ip, __u32 six)
{
	struct scratch *s = scratch_at(level);
	__u32 transport, word;
	struct window *w;
	__u16 type;
	__u8 protocol;
	bool later;

	if (!s)
		return 0;
	w = &s->window;
	transport = transport_at(w, ip, six, &protocol, &later);
	if (!transport || w->length < transport + 8)
		return 0;
	s->outer.kind = OUTER_HEADER;
	s->outer.protocol = protocol;
	s->outer.port = 0;
	s->outer.key = 0;
	type = window_u16(w, transport + 2);
	if (later) {
		s->outer.kind = OUTER_LATER;
	} else if (protocol == IPPROTO_UDP && w->length >= transport + 16) {
		word = window_u32(w, transport + UDP_HEADER);
		if (word != VXLAN_FLAGS && (word & 0xffff) != ETH_P_TEB)
			return 0;
		s->outer.port = type;
		s->outer.key = window_u32(w, transport + UDP_HEADER + 4) >> 8;
	} else if (protocol == IPPROTO_GRE && type == ETH_P_TEB) {
		if (window_u16(w, transport) & OUTER_GRE_KEY) {
			s->outer.port = OUTER_GRE_KEY;
			s->outer.key = window_u32(w, transport + GRE_KEY);
		}
	} else if (protocol == IPPROTO_GRE && (type == ETH_P_ERSPAN_II || type == ETH_P_ERSPAN_III) &&
		   w->length >= transport + GRE_ERSPAN + 4) {
		s->outer.port = type;
		s->outer.key = window_u32(w, transport + GRE_ERSPAN) & ERSPAN_SESSION;
	} else {
		return 0;
	}
	return is_outer(s, ip + (six ? 24 : 16), six);
}

/* Whether an address of the frame is a node's. */
static __always_inline bool is_node(struct scratch *s, __u32 address_at, bool six)
{
	s->outer.kind = OUTER_NODE;
	s->outer.protocol = 0;
	s->outer.port = 0;
	s->outer.key = 0;
	return is_outer(s, address_at, six);
}

/* Who tells in `outers` that copies are refused: the analyzer whose header is in the scratch, one more time. */
static __always_inline void count_refusal(struct scratch *s, __u8 type, __u8 code, bool six)
{
	__u32 *seen;

	if (six ? type != ICMP6_UNREACHABLE && (type != ICMP6_PARAMETER_PROBLEM || code != ICMP6_UNKNOWN_PROTOCOL)
		: type != ICMP_UNREACHABLE || code == ICMP_TOO_BIG)
		return;
	seen = bpf_map_lookup_elem(&outers, &s->outer);
	if (seen)
		__sync_fetch_and_add(seen, 1);
}

/* An ICMP error about a copy, to the node that sent it: to copy that would make another one. `ip`: where it starts;
 * `anybody`: to whomever it goes. */
static __always_inline bool is_refusal(struct scratch *s, __u32 level, __u32 ip, bool six, bool anybody)
{
	struct window *w = &s->window;
	__u32 icmp = ip + (six ? OUTER6_TRANSPORT : OUTER_TRANSPORT) - OUTER_IP;
	__u8 type = window_u8(w, icmp);

	if (six) {
		if (window_u8(w, ip + OUTER6_PROTOCOL - OUTER_IP) != IPPROTO_ICMPV6 || type < ICMP6_UNREACHABLE ||
		    type > ICMP6_PARAMETER_PROBLEM)
			return false;
	} else if (window_u8(w, ip) != 0x45 || window_u8(w, ip + OUTER_PROTOCOL - OUTER_IP) != IPPROTO_ICMP ||
		   (type != ICMP_UNREACHABLE && type != ICMP_TIME_EXCEEDED)) {
		return false;
	}
	if (!(anybody || is_node(s, ip + (six ? 24 : 16), six)) ||
	    !has_analyzers_header(level, icmp + ICMP_HEADER, six))
		return false;
	count_refusal(s, type, window_u8(w, icmp + 1), six);
	return true;
}

/* Whether of all copies only what answers them is looked for. */
static __always_inline bool takes_answers(__u32 direction, __u32 guard)
{
	return guard == GUARD_REFUSALS || (guard == GUARD_ANALYZER && direction == INGRESS);
}

/* Whether an overlay carries a copy, or what refuses one: 1 or 0. Addresses inside are the overlay's own. Of guard: NONE: the
 * frame has our mark, so the copy is ours; NODE: the outer packet has to be a node's; REFUSALS: only what refuses copies. */
__noinline int is_carried_copy(struct __sk_buff *skb, __u32 level, __u32 guard)
{
	struct scratch *s = scratch_at(level), *inner = scratch_at(level + 1);
	__u32 ip;
	bool six;

	if (!s || !inner)
		return 0;
	ip = tags_length(&s->window) + OUTER_IP;
	six = window_u16(&s->window, ip - 2) == ETH_P_IPV6;
	if (!six && window_u16(&s->window, ip - 2) != ETH_P_IP)
		return 0;
	if (!load_carried(skb, &s->window, &inner->window, ip, six))
		return 0;
	if (guard == GUARD_NODE && !is_node(s, ip + (six ? 8 : 12), six))
		return 0;
	ip = tags_length(&inner->window) + OUTER_IP;
	six = window_u16(&inner->window, ip - 2) == ETH_P_IPV6;
	if (!six && window_u16(&inner->window, ip - 2) != ETH_P_IP)
		return 0;
	return (guard != GUARD_NONE && is_refusal(inner, level + 1, ip, six, true)) ||
	       (guard != GUARD_REFUSALS && has_analyzers_header(level + 1, ip, six));
}

/* Whether is_known_copy() has to be asked: of most frames the first look says that they are nothing that it knows. */
static __always_inline bool may_be_copy(struct __sk_buff *skb, struct window *w, __u32 direction, __u32 guard)
{
	__u16 type = window_u16(w, 12);
	__u8 protocol;

	if (has_our_mark(skb))
		return true;
	if (type != ETH_P_IP && type != ETH_P_IPV6)
		return type == ETH_P_8021Q || type == ETH_P_8021AD;
	protocol = type == ETH_P_IP ? window_u8(w, OUTER_PROTOCOL) : window_u8(w, OUTER6_PROTOCOL);
	if (protocol == (type == ETH_P_IP ? IPPROTO_ICMP : IPPROTO_ICMPV6))
		return guard == GUARD_NODE || takes_answers(direction, guard);
	if (protocol == IPPROTO_UDP || protocol == IPPROTO_GRE || protocol == IPPROTO_FRAGMENT)
		return guard == GUARD_REFUSALS || !takes_answers(direction, guard);
	return guard != GUARD_ANALYZER && (protocol == IPPROTO_IPIP || protocol == IPPROTO_IPV6);
}

/* Whether the frame on a guarded hook is a copy of somebody's, or what a copy has caused: 1 or 0. */
__noinline int is_known_copy(struct __sk_buff *skb, __u32 level, __u32 direction, __u32 guard)
{
	struct scratch *s = scratch_at(level);
	bool answers = takes_answers(direction, guard);
	__u32 ip;
	bool six;

	if (!s)
		return 0;
	if (guard == GUARD_NODE && direction == EGRESS && has_our_mark(skb))
		return 1;
	ip = tags_length(&s->window) + OUTER_IP;
	six = window_u16(&s->window, ip - 2) == ETH_P_IPV6;
	if (!six && window_u16(&s->window, ip - 2) != ETH_P_IP)
		return 0;
	if ((answers || guard == GUARD_NODE) && is_refusal(s, level, ip, six, guard == GUARD_ANALYZER))
		return 1;
	if (!answers && has_analyzers_header(level, ip, six) &&
	    (guard != GUARD_NODE || is_node(s, ip + (six ? 8 : 12), six)))
		return 1;
	return (guard == GUARD_NODE || guard == GUARD_REFUSALS) && is_carried_copy(skb, level, guard);
}

#endif
