/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The fast path, on the egress of the relay's sending end: wraps in place what can be, lets the rest pass. */
#ifndef SNIFFER_FAST_H
#define SNIFFER_FAST_H

#include "flight.h"
#include "segments.h"

static __always_inline int refuse(struct slot *slot, enum outcome outcome)
{
	slot->outcome = outcome;
	return TC_ACT_SHOT;
}

/* The relay's receiving end drops frames that end just behind a tag: those are cut there, not here. */
#define RELAY_SHORTEST 64
#define HEADERS_LONGEST (ETH_HLEN + TAG_LENGTH + 60 + 60) /* of a segment: Ethernet, tag, IPv4, TCP */
#define TAGGED_SHORTEST (ETH_HLEN + TAG_LENGTH + 2)

static __always_inline bool ends_behind_tag(struct window *w)
{
	__u16 type = window_u16(w, 12);

	return w->frame_length < TAGGED_SHORTEST && (type == ETH_P_8021Q || type == ETH_P_8021AD);
}

#define WRAPPED_LIMIT (FRAME_LIMIT + 54) /* the longest frame with the headers of VXLAN and a tag */

/* To the slow path: the kernel segments and fills checksums; mark and hash tell encap_frame what it must
 * know; of what BPF can write, nothing else survives the crossing (the kernel clears the priority). A snap length too long
 * to be told is longer than what the slow path takes. */
static __always_inline int pass_on(struct __sk_buff *skb, struct scratch *s, const struct egress *e, bool was_cut)
{
	struct slot *slot = &s->slot;
	__u32 length = s->window.frame_length, snap_length, original = 0;
	__u32 room = e->template_length + s->window.tag_length + (is_six(e) ? FRAGMENT_HEADER : 0);
	__u32 longest = skb->gso_size ? skb->gso_size + HEADERS_LONGEST : skb->len;

	if (longest > FRAME_LIMIT || longest + room > WRAPPED_LIMIT)
		return refuse(slot, OUTCOME_DROPPED_TOO_BIG);
	slot->segments = segments_of(skb, &s->window);
	if (ends_behind_tag(&s->window)) {
		/* It crosses with a tail, which is cut off behind the relay. */
		if (bpf_skb_change_tail(skb, RELAY_SHORTEST, 0))
			return refuse(slot, OUTCOME_DROPPED_NO_MEMORY);
		if (!slot->snap_length || slot->snap_length > length)
			slot->snap_length = length;
		was_cut = true;
	}
	if (!flight_begins(slot->segments))
		return refuse(slot, OUTCOME_DROPPED_NO_MEMORY);
	snap_length = slot->snap_length > HASH_SNAP_MASK ? 0 : slot->snap_length;
	slot->outcome = OUTCOME_RELAYED;
	if (was_cut)
		original = slot->original_length > HASH_LENGTH_MAX ? HASH_LENGTH_MAX : slot->original_length;
	skb->mark = slot->tunnel << MARK_TUNNEL_SHIFT |
		    (slot->generation & MARK_GENERATION_MASK) << MARK_GENERATION_SHIFT |
		    (slot->egress_seen ? MARK_EGRESS : 0) | (slot->counter & MARK_COUNTER_MASK);
	bpf_set_hash(skb, original << HASH_LENGTH_SHIFT | snap_length);
	return TC_ACT_OK;
}

/* The outer headers in front of an IP packet, in place. 0, or the kernel's error: -ENOMEM ruins the clone, after any
 * other it is as it was. */
static __always_inline long make_room(struct __sk_buff *skb, struct scratch *s, const struct egress *e,
				      struct wrapping *wrap)
{
	__u64 inner_length = ETH_HLEN + s->window.tag_length;
	__u16 tag_proto = skb->vlan_proto, tag_tci = skb->vlan_tci;
	long status;

	wrap->flags |= BPF_F_ADJ_ROOM_NO_CSUM_RESET | BPF_F_ADJ_ROOM_ENCAP_L2(inner_length);
	wrap->flags |= is_six(e) ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 : BPF_F_ADJ_ROOM_ENCAP_L3_IPV4;
	wrap->flags |= protocol_of(e) == IPPROTO_UDP ? BPF_F_ADJ_ROOM_ENCAP_L4_UDP : BPF_F_ADJ_ROOM_ENCAP_L4_GRE;
	if (shorten_segments(skb, wrap->excess))
		return -ENOMEM;
	if (unlikely(s->window.tag_length))
		bpf_skb_vlan_pop(skb);
	status = bpf_skb_adjust_room(skb, wrap->room, BPF_ADJ_ROOM_MAC, wrap->flags | BPF_F_ADJ_ROOM_ENCAP_L2_ETH);
	if (unlikely(status == -EINVAL)) /* a kernel before 5.13 does not know the last flag */
		status = bpf_skb_adjust_room(skb, wrap->room, BPF_ADJ_ROOM_MAC, wrap->flags);
	if (unlikely(status && s->window.tag_length))
		bpf_skb_vlan_push(skb, tag_proto, tag_tci);
	return status;
}

/* The usual outer headers, the quick way. */
static __always_inline bool header_written(struct __sk_buff *skb, struct scratch *s, const struct egress *e,
					   __u32 length)
{
	__u16 id = s->packets++;

	if (unlikely(s->window.tag_length || e->flags & ~EGRESS_DONT_FRAGMENT))
		return false;
	switch (e->template_length) {
	case 38: /* GRE */
		return header_write(skb, s, e, 38, length, id);
	case 42: /* GRE with a key */
		return header_write(skb, s, e, 42, length, id);
	case 50: /* VXLAN */
		return header_write(skb, s, e, 50, length, id);
	}
	return false;
}

/* Outer headers written, the copy leaves. */
static __always_inline int send_wrapped(struct __sk_buff *skb, struct scratch *s, const struct egress *e,
					struct wrapping *wrap)
{
	__u32 length = wrap->headers ? skb->len - OUTER_IP : e->template_length - OUTER_IP + wrap->length;
	__u32 packets = 1, bytes = length + OUTER_IP, each, payload;

	if (unlikely(!header_written(skb, s, e, length))) {
		header_build(s, e, length, s->slot.hash, bpf_get_prandom_u32());
		if (header_store(skb, s, e, 0))
			return refuse(&s->slot, OUTCOME_DROPPED_NO_MEMORY);
	}
	if (!wrap->headers && clear_beyond(skb, s, length + OUTER_IP))
		return refuse(&s->slot, OUTCOME_DROPPED_NO_MEMORY);
	if (unlikely(wrap->headers && wrap->segment_size)) {
		each = e->template_length + ETH_HLEN + s->window.tag_length + wrap->headers;
		payload = skb->len - each;
		packets = (payload + wrap->segment_size - 1) / wrap->segment_size;
		bytes = payload + packets * each;
	}
	s->slot.outcome = OUTCOME_SENT;
	return send(skb, e, s->slot.egress, s->slot.counter, packets, bytes);
}

/* Whether each segment of a super-packet needs a header of its own: then the kernel segments first, to what will fit.
 * GENEVE's says how long the segment is: of segments that are all alike, the same. */
static __always_inline bool tells_of_each(struct __sk_buff *skb, struct scratch *s, const struct egress *e,
					  struct wrapping *wrap)
{
	__u32 headers = ETH_HLEN + wrap->headers, size = wrap->segment_size;

	if (e->flags & (EGRESS_SEQUENCE | EGRESS_CHECKSUM))
		return true;
	if (e->encapsulation != ENCAPSULATION_GENEVE)
		return false;
	if (!(wrap->flags & BPF_F_ADJ_ROOM_FIXED_GSO) || !size || (skb->len - headers) % size)
		return true;
	s->slot.original_length = headers + s->window.tag_length + size;
	return false;
}

/* What the underlay has no room for in one packet is cut like what is longer than a snap length. A super-packet becomes
 * segments first, unless it is to be cut anyway. */
static __always_inline void cut_to_room(struct __sk_buff *skb, struct slot *slot, const struct egress *e, __u32 length)
{
	__u32 room = room_of(e);

	if (length <= room || (skb->gso_size && length == slot->original_length))
		return;
	slot->snap_length = room;
	slot->length = room;
}

static __always_inline int wrap_clone(struct __sk_buff *skb, struct scratch *s, const struct egress *e,
				      const struct tunnel *t)
{
	struct window *w = &s->window;
	struct slot *slot = &s->slot;
	struct wrapping wrap = {.room = e->template_length + w->tag_length, .length = w->frame_length};
	bool drop_oversize = t->oversize == OVERSIZE_DROP, was_cut = false;
	bool in_place = skb->protocol == bpf_htons(ETH_P_IP) || skb->protocol == bpf_htons(ETH_P_IPV6);
	long status;

	slot->original_length = w->frame_length;
	if (unlikely(t->oversize == OVERSIZE_TRUNCATE))
		cut_to_room(skb, slot, e, cut_to(w->frame_length, slot->snap_length));
	if (unlikely(slot->snap_length && wrap.length > slot->snap_length)) {
		wrap.length = slot->snap_length;
		if (!cut_tail(skb,
			      in_place || wrap.length > RELAY_SHORTEST ? wrap.length - w->tag_length : RELAY_SHORTEST))
			goto slow; /* a packet of an overlay: it is cut behind the relay */
		was_cut = true;
	}
	if (unlikely(!skb->gso_size && e->template_length - OUTER_IP + wrap.length > e->mtu)) {
		if (drop_oversize)
			return refuse(slot, OUTCOME_DROPPED_OVERSIZE);
		goto fragments;
	}
	if (unlikely(!in_place))
		goto slow;
	if (unlikely(skb->gso_size)) {
		bool fits;

		remove_jumbo(skb, w);
		fits = fit_segments(skb, s, e, &wrap);
		/* Of headers that nobody here reads (IPv6's extensions) each segment will tell, behind the relay. */
		if (!wrap.headers)
			return pass_on(skb, s, e, was_cut);
		if (drop_oversize && !(wrap.flags & BPF_F_ADJ_ROOM_FIXED_GSO))
			return refuse(slot, OUTCOME_DROPPED_OVERSIZE);
		if (t->oversize == OVERSIZE_TRUNCATE && !(wrap.flags & BPF_F_ADJ_ROOM_FIXED_GSO))
			goto slow;
		if (!fits)
			goto fragments;
		if (tells_of_each(skb, s, e, &wrap)) {
			if (!(wrap.flags & BPF_F_ADJ_ROOM_FIXED_GSO) && shorten_segments(skb, wrap.room + wrap.excess))
				return refuse(slot, OUTCOME_DROPPED_NO_MEMORY);
			goto slow;
		}
	}
	if (unlikely(e->flags & EGRESS_CHECKSUM))
		goto slow;
	status = make_room(skb, s, e, &wrap);
	if (unlikely(status == -ENOMEM))
		return refuse(slot, OUTCOME_DROPPED_NO_MEMORY);
	if (unlikely(status))
		goto slow;
	return send_wrapped(skb, s, e, &wrap);
fragments:
	if (e->flags & EGRESS_DONT_FRAGMENT)
		return refuse(slot, OUTCOME_DROPPED_OVERSIZE);
slow:
	return pass_on(skb, s, e, was_cut);
}

#endif
