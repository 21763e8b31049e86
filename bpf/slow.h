/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The slow path, on the ingress of the relay's receiving end: plain frames of any kind. */
#ifndef SNIFFER_SLOW_H
#define SNIFFER_SLOW_H

#include "checksum.h"
#include "fragment.h"

/* After bpf_skb_change_head skb->protocol still names the inner frame's, and a tag still lies beside the skb; but
 * bpf_redirect_neigh goes by it. Popping a tag out of the payload derives it anew from what follows, so a tag is
 * pushed into the outer Ethernet header and taken out again [net/core/skbuff.c: skb_vlan_push, __skb_vlan_pop]. */
static __always_inline long derive_protocol(struct __sk_buff *skb, const struct egress *e)
{
	if (!skb->vlan_present && skb->protocol == *(const __u16 *)(e->template + 12))
		return 0;
	if (!skb->vlan_present && bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), 1))
		return -1;
	return bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), 1) || bpf_skb_vlan_pop(skb) || bpf_skb_vlan_pop(skb);
}

static __always_inline int lose(__u32 counter, enum outcome outcome, __u32 bytes)
{
	count(counter, outcome, 1, bytes);
	return TC_ACT_SHOT;
}

static __always_inline int wrap_frame(struct __sk_buff *skb, struct scratch *s, const struct egress *e, __u32 level,
				      enum oversize policy)
{
	__u32 counter = s->slot.counter, bytes = s->window.frame_length, zero = 0, length;
	__u64 *relay_ifindex = bpf_map_lookup_elem(&relay, &zero);
	__u32 id = bpf_get_prandom_u32(), gap = 0, transport = transport_of(e);
	__u32 cut = cut_to(bytes, s->slot.snap_length), room = room_of(e);
	bool oversize;

	if (policy == OVERSIZE_TRUNCATE && cut > room) {
		count(counter, OUTCOME_TRUNCATED, 1, cut - room);
		cut = room;
	}
	if (cut < bytes) {
		bytes = cut;
		if (!cut_tail(skb, bytes - s->window.tag_length) && !cut_middle(skb, bytes - s->window.tag_length))
			return lose(counter, OUTCOME_LOST_OVERSIZE, bytes);
	}
	length = e->template_length - OUTER_IP + bytes;
	oversize = length > e->mtu;
	if (oversize && (policy == OVERSIZE_DROP || e->flags & EGRESS_DONT_FRAGMENT))
		return lose(counter, OUTCOME_LOST_OVERSIZE, bytes);
	header_build(s, e, length, s->slot.hash, id);
	if (oversize) {
		gap = fragment_headers(e) - transport;
		fragment_begin(s, e, id);
	}
	if (!relay_ifindex || bpf_skb_change_head(skb, e->template_length + s->window.tag_length + gap, 0) ||
	    header_store(skb, s, e, gap) || (gap && fragment_head(skb, s, e, 0, id, 0, true)) ||
	    derive_protocol(skb, e) || clear_beyond(skb, s, length + OUTER_IP + gap))
		return lose(counter, OUTCOME_LOST_NO_MEMORY, bytes);
	length += OUTER_IP;
	if (e->flags & EGRESS_CHECKSUM && checksum_store(skb, e, transport + gap, length - transport))
		return lose(counter, OUTCOME_LOST_NO_MEMORY, bytes);
	if (oversize) {
		length = fragment_all(skb, s, e, length - transport, id, level, *relay_ifindex);
		if (!length)
			return lose(counter, OUTCOME_LOST_OVERSIZE, bytes);
	}
	return send(skb, e, s->slot.egress, counter, 1, length);
}

#endif
