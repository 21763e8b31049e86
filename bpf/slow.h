/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The slow path, on the ingress of the relay's receiving end: plain frames of any kind. */
#ifndef SNIFFER_SLOW_H
#define SNIFFER_SLOW_H

#include "fragment.h"

/* After bpf_skb_change_head skb->protocol still names the inner frame's, and a tag still lies beside the skb; but
 * bpf_redirect_neigh goes by it. Popping a tag out of the payload derives it anew from what follows, so a tag is
 * pushed into the outer Ethernet header and taken out again [net/core/skbuff.c: skb_vlan_push, __skb_vlan_pop]. */
static __always_inline long derive_protocol(struct __sk_buff *skb)
{
	if (!skb->vlan_present && skb->protocol == bpf_htons(ETH_P_IP))
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

static __always_inline int wrap_frame(struct __sk_buff *skb, struct scratch *s, const struct egress *e,
				      bool drop_oversize)
{
	__u32 counter = s->slot.counter, bytes = s->window.frame_length, zero = 0, length;
	__u64 *relay_ifindex = bpf_map_lookup_elem(&relay, &zero);
	__u16 id = bpf_get_prandom_u32();

	if (s->slot.snap_length && bytes > s->slot.snap_length) {
		bytes = s->slot.snap_length;
		if (!cut_tail(skb, bytes - s->window.tag_length) && !cut_middle(skb, bytes - s->window.tag_length))
			return lose(counter, OUTCOME_LOST_OVERSIZE, bytes);
	}
	length = e->template_length - OUTER_IP + bytes;
	header_build(s, e, length, s->slot.hash, id);
	if (!relay_ifindex || bpf_skb_change_head(skb, e->template_length + s->window.tag_length, 0) ||
	    header_store(skb, s, e) || derive_protocol(skb) || clear_beyond(skb, s, length + OUTER_IP))
		return lose(counter, OUTCOME_LOST_NO_MEMORY, bytes);
	length += OUTER_IP;
	if (length - OUTER_IP > e->mtu) {
		if (drop_oversize)
			return lose(counter, OUTCOME_LOST_OVERSIZE, bytes);
		length = fragment_all(skb, s, e, length - OUTER_TRANSPORT, id, *relay_ifindex);
		if (!length)
			return lose(counter, OUTCOME_LOST_OVERSIZE, bytes);
	}
	return send(skb, e, s->slot.egress, counter, 1, length);
}

#endif
