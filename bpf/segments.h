/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Super-packets: what segments they will become, and what must be done so that each fits the underlay. */
#ifndef SNIFFER_SEGMENTS_H
#define SNIFFER_SEGMENTS_H

#include <linux/errno.h>

#include "encap.h"

/* Headers of an IP packet of TCP or UDP that starts at `at`, from there to the payload, in bytes; 0: something else, or
 * headers that the kernel refuses to segment: behind us it would drop them without a word. */
static __always_inline __u32 headers_of(struct window *w, __u32 at, bool *tcp)
{
	__u32 ip_length, tcp_length;
	__u8 protocol;

	if (window_u8(w, at) >> 4 == 4) {
		ip_length = (window_u8(w, at) & 15) * 4;
		protocol = window_u8(w, at + 9);
	} else {
		ip_length = 40;
		protocol = window_u8(w, at + 6);
	}
	*tcp = protocol == IPPROTO_TCP;
	if (ip_length < 20)
		return 0;
	if (*tcp) {
		tcp_length = (window_u8(w, at + ip_length + 12) >> 4) * 4;
		return tcp_length < 20 ? 0 : ip_length + tcp_length;
	}
	return protocol == IPPROTO_UDP ? ip_length + 8 : 0;
}

#define JUMBO_LENGTH 8
#define JUMBO_OPTION 0xc204 /* RFC 2675: type, and bytes of its value */

/* A super-packet of IPv6 that is longer than its length field can say has the length in a hop-by-hop header (BIG TCP, up to
 * Linux 7.0), which the kernel takes out as it segments, but not from behind outer headers: out with it before. */
static __always_inline void remove_jumbo(struct __sk_buff *skb, struct window *w)
{
	__u32 at = ETH_HLEN + w->tag_length, headers = at + 40;
	__u8 protocol = window_u8(w, headers);

	if (w->frame_length <= 0xffff || skb->protocol != bpf_htons(ETH_P_IPV6) || window_u8(w, at + 6) ||
	    window_u8(w, headers + 1) || window_u16(w, headers + 2) != JUMBO_OPTION)
		return;
	if (bpf_skb_adjust_room(skb, -JUMBO_LENGTH, BPF_ADJ_ROOM_NET, BPF_F_ADJ_ROOM_FIXED_GSO))
		return;
	bpf_skb_store_bytes(skb, ETH_HLEN + 6, &protocol, 1, 0);
	*window_at(w, at + 6) = protocol;
	for (__u32 n = 0; n < 20; n += 4)
		*(__u32 *)window_at(w, headers + n) = window_raw32(w, headers + JUMBO_LENGTH + n);
	w->frame_length -= JUMBO_LENGTH;
}

/* How many frames the kernel makes of a super-packet. A guest's has not said so: count them. */
static __always_inline __u32 segments_of(struct __sk_buff *skb, struct window *w)
{
	__u32 size = skb->gso_size, at = ETH_HLEN, length = w->frame_length, headers;
	bool tcp;

	if (skb->gso_segs || !size)
		return size ? skb->gso_segs : 1;
	for (int tags = 0; tags < 2; tags++)
		if (window_u16(w, at - 2) == ETH_P_8021Q || window_u16(w, at - 2) == ETH_P_8021AD)
			at += TAG_LENGTH;
	headers = at + headers_of(w, at, &tcp);
	return (length - (headers < length ? headers : 0) + size - 1) / size;
}

/* A wrapping in place: what it does to the frame, in bytes. */
struct wrapping {
	__u32 room;	    /* added in front of the network header */
	__u32 length;	    /* of the frame as the analyzer gets it */
	__u32 headers;	    /* of each segment, network and transport; 0: not a super-packet */
	__u32 segment_size; /* payload of each segment */
	__u32 excess;	    /* to take from the segment size beside the room */
	__u64 flags;	    /* of bpf_skb_adjust_room */
};

/* Segments of a super-packet and the outer header must fit the underlay: as they are, or, TCP only, cut anew.
 * False: the slow path must do it. */
static __always_inline bool fit_segments(struct __sk_buff *skb, struct scratch *s, const struct egress *e,
					 struct wrapping *wrap)
{
	__u32 size = skb->gso_size, segment;
	bool tcp;

	wrap->headers = headers_of(&s->window, ETH_HLEN + s->window.tag_length, &tcp);
	wrap->segment_size = size;
	segment = wrap->headers + size;
	if (!wrap->headers || size > 0xf000)
		return false;
	if (segment + wrap->room <= e->mtu) {
		wrap->flags |= BPF_F_ADJ_ROOM_FIXED_GSO;
		return true;
	}
	if (!tcp)
		return false;
	wrap->excess = segment > e->mtu ? segment - e->mtu : 0;
	if (wrap->room + wrap->excess + 64 > size || wrap->excess > 0xf00)
		return false;
	wrap->segment_size = size - wrap->room - wrap->excess;
	return true;
}

/* Takes more from the segment size than the outer headers will: growing takes, shrinking back with a fixed size leaves
 * it taken. 0, or -ENOMEM: the clone is ruined. */
static __always_inline long shorten_segments(struct __sk_buff *skb, __u32 excess)
{
	if (excess && (bpf_skb_adjust_room(skb, excess, BPF_ADJ_ROOM_MAC, 0) ||
		       bpf_skb_adjust_room(skb, -(__s32)excess, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO)))
		return -ENOMEM;
	return 0;
}

#endif
