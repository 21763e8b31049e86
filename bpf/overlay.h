/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What an overlay carries: of VXLAN (RFC 7348; with a group policy, too), GENEVE (RFC 8926), GRE (RFC 2784, RFC 2890) and IP in
 * IP (RFC 2003, RFC 2473, RFC 4213), one layer.
 */
#ifndef SNIFFER_OVERLAY_H
#define SNIFFER_OVERLAY_H

#include "tunnel.h"

#define OUTER_TAGS 3
#define VXLAN_FLAGS \
	0x08000000 /* first word of VXLAN's header (RFC 7348); of GENEVE's the second half is the EtherType */
#define GENEVE_PLAIN 0xc000ffff /* version and EtherType, in the first word */
#define GRE_CHECKSUM 0x8000
#define GRE_HAS_KEY 0x2000
#define GRE_HAS_SEQUENCE 0x1000

/* How far VLAN tags, beside the skb or in it, move the outer IP header: an uplink may be a VLAN, or one inside another. */
static __always_inline __u32 tags_length(struct window *w)
{
	__u32 at = 0;

	for (int n = 0; n < OUTER_TAGS; n++) {
		__u16 type = window_u16(w, 12 + at);

		if (type != ETH_P_8021Q && type != ETH_P_8021AD)
			break;
		at += TAG_LENGTH;
	}
	return at;
}

/* Where the transport header of an IP packet that is at `ip` begins, 0: what `outers` does not know. Sets protocol and
 * whether it is a later fragment. */
static __always_inline __u32 transport_at(struct window *w, __u32 ip, bool six, __u8 *protocol, bool *later)
{
	__u32 at = ip + (six ? OUTER6_TRANSPORT : OUTER_TRANSPORT) - OUTER_IP;

	if (!six) {
		*protocol = window_u8(w, ip + OUTER_PROTOCOL - OUTER_IP);
		*later = window_u16(w, ip + OUTER_FRAGMENT - OUTER_IP) & 0x1fff;
		return window_u8(w, ip) == 0x45 ? at : 0;
	}
	*protocol = window_u8(w, ip + OUTER6_PROTOCOL - OUTER_IP);
	*later = false;
	if (*protocol == IPPROTO_FRAGMENT) {
		*protocol = window_u8(w, at);
		*later = window_u16(w, at + 2) & 0xfff8;
		at += FRAGMENT_HEADER;
	}
	return at;
}

/* Where what a tunnel carries begins in the frame, 0: it is no tunnel. `frame`: whether it is a frame, else an IP packet. */
static __always_inline __u32 carried_at(struct window *w, __u32 ip, bool six, bool *frame)
{
	__u8 protocol;
	bool later;
	__u32 at = transport_at(w, ip, six, &protocol, &later), word;

	*frame = false;
	if (!at || later)
		return 0;
	if (protocol == IPPROTO_IPIP || protocol == IPPROTO_IPV6)
		return at;
	if (protocol == IPPROTO_UDP) {
		word = window_u32(w, at + UDP_HEADER);
		*frame = true;
		if ((word & GENEVE_PLAIN) == ETH_P_TEB)
			return at + UDP_HEADER + 8 + (word >> 24 & 0x3f) * 4;
		return word & VXLAN_FLAGS ? at + UDP_HEADER + 8 : 0;
	}
	word = window_u32(w, at);
	if (protocol != IPPROTO_GRE || word >> 16 & ~(GRE_CHECKSUM | GRE_HAS_KEY | GRE_HAS_SEQUENCE))
		return 0;
	*frame = (word & 0xffff) == ETH_P_TEB;
	if (!*frame && (word & 0xffff) != ETH_P_IP && (word & 0xffff) != ETH_P_IPV6)
		return 0;
	word >>= 16;
	return at + 4 + (word & GRE_CHECKSUM ? 4 : 0) + (word & GRE_HAS_KEY ? 4 : 0) +
	       (word & GRE_HAS_SEQUENCE ? 4 : 0);
}

/* Reads what the tunnel at `ip` of a frame carries into a window, as a frame: an IP packet gets an EtherType in front. False:
 * there is nothing, or not enough of it. */
static __always_inline bool load_carried(struct __sk_buff *skb, struct window *w, struct window *inner, __u32 ip,
					 bool six)
{
	bool frame;
	__u32 at = carried_at(w, ip, six, &frame);
	__u64 length;

	if (!at || at >= w->length)
		return false;
	at -= w->tag_length + (frame ? 0 : OUTER_IP);
	length = skb->len - at;
	if (skb->len < at + OUTER_TRANSPORT + 8)
		return false;
	if (length > WINDOW_LENGTH)
		length = WINDOW_LENGTH;
	length = masked(length - 1, WINDOW_LENGTH - 1) + 1;
	if (bpf_skb_load_bytes(skb, at, inner->bytes, length))
		return false;
	inner->length = length;
	if (!frame)
		*(__u16 *)(inner->bytes + 12) = bpf_htons(inner->bytes[OUTER_IP] >> 4 == 6 ? ETH_P_IPV6 : ETH_P_IP);
	return true;
}

#endif
