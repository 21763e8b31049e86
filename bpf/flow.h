/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * A hash of the flow a frame belongs to: the same both ways and on every node, so that an analyzer sees both directions of a
 * connection on one queue, and a sample has both. IP: addresses, protocol and, but for fragments, ports; else the MAC
 * addresses and the EtherType.
 *
 * Only the first fragment of a datagram has ports, and who decides by frame cannot know those of the others: all fragments
 * of a protocol between two addresses (of any protocol in IPv6) are one flow, apart from those of their whole packets.
 */
#ifndef SNIFFER_FLOW_H
#define SNIFFER_FLOW_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>

#include "window.h"

#define FLOW_SEED 0x9e3779b97f4a7c15ULL

static __always_inline __u64 flow_mix(__u64 hash, __u64 value)
{
	hash = (hash ^ value) * 0xff51afd7ed558ccdULL;
	return hash ^ hash >> 32;
}

/* Two ends of a flow, in either order. */
static __always_inline __u64 flow_mix_pair(__u64 hash, __u32 one, __u32 other)
{
	return flow_mix(hash, (__u64)(one ^ other) << 32 | (__u32)(one + other));
}

static __always_inline __u64 flow_mix_ports(struct window *w, __u64 hash, __u32 at, __u8 protocol)
{
	__u32 one = 0, other = 0;

	if ((protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP) && at + 4 <= w->length) {
		one = window_u16(w, at);
		other = window_u16(w, at + 2);
	}
	return flow_mix(hash, (__u64)protocol << 48 | (__u64)(one ^ other) << 24 | (one + other));
}

#define EXTENSIONS 6

/* The protocol behind the extension headers of an IPv6 packet (RFC 8200), which one direction of a flow may have and the other
 * not; IPPROTO_FRAGMENT for all fragments. *at is moved from the first header to that protocol's. */
static __always_inline __u8 flow_protocol(struct window *w, __u32 *at, __u8 protocol)
{
	for (int n = 0; n < EXTENSIONS; n++) {
		if (protocol != IPPROTO_HOPOPTS && protocol != IPPROTO_ROUTING && protocol != IPPROTO_DSTOPTS)
			break;
		if (*at + 2 > w->length)
			break;
		protocol = window_u8(w, *at);
		*at += (window_u8(w, *at + 1) + 1) * 8;
	}
	return protocol;
}

static __always_inline __u64 flow_hash(struct window *w)
{
	__u64 hash = FLOW_SEED;
	__u32 at = 14;
	__u16 type = window_u16(w, 12);

	for (int tags = 0; tags < 3; tags++) {
		if (likely(type != ETH_P_8021Q && type != ETH_P_8021AD))
			break;
		type = window_u16(w, at + 2);
		at += 4;
	}
	if (likely(type == ETH_P_IP && at + 20 <= w->length)) {
		__u32 fragment = window_u16(w, at + 6) & 0x3fff;
		__u8 protocol = window_u8(w, at + 9);

		hash = flow_mix_pair(hash, window_u32(w, at + 12), window_u32(w, at + 16));
		if (unlikely(fragment))
			return flow_mix(hash, protocol);
		return flow_mix_ports(w, hash, at + (window_u8(w, at) & 15) * 4, protocol);
	}
	if (type == ETH_P_IPV6 && at + 40 <= w->length) {
		for (int word = 0; word < 16; word += 4)
			hash = flow_mix_pair(hash, window_u32(w, at + 8 + word), window_u32(w, at + 24 + word));
		type = window_u8(w, at + 6);
		at += 40;
		type = flow_protocol(w, &at, type);
		return flow_mix_ports(w, hash, at, type);
	}
	hash = flow_mix_pair(hash, window_u32(w, 0), window_u32(w, 6));
	hash = flow_mix_pair(hash, window_u16(w, 4), window_u16(w, 10));
	return flow_mix(hash, type);
}

#endif
