/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * A hash of the flow a frame belongs to: the same both ways, on every node and for every fragment of a packet, so
 * that an analyzer sees both directions of a connection on one queue. IP: addresses, protocol and, where every packet
 * of the flow has them, ports; else the MAC addresses and the EtherType.
 */
#ifndef SNIFFER_FLOW_H
#define SNIFFER_FLOW_H

#include <linux/if_ether.h>
#include <linux/in.h>

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

static __always_inline __u32 flow_hash(struct window *w)
{
	__u64 hash = FLOW_SEED;
	__u32 at = 14;
	__u16 type = window_u16(w, 12);

	for (int tags = 0; tags < 3; tags++) {
		if (type != ETH_P_8021Q && type != ETH_P_8021AD)
			break;
		type = window_u16(w, at + 2);
		at += 4;
	}
	if (type == ETH_P_IP && at + 20 <= w->length) {
		__u32 fragment = window_u16(w, at + 6) & 0x3fff;
		__u8 protocol = window_u8(w, at + 9);

		hash = flow_mix_pair(hash, window_u32(w, at + 12), window_u32(w, at + 16));
		if (fragment)
			return flow_mix(hash, protocol);
		return flow_mix_ports(w, hash, at + (window_u8(w, at) & 15) * 4, protocol);
	}
	if (type == ETH_P_IPV6 && at + 40 <= w->length) {
		for (int word = 0; word < 16; word += 4)
			hash = flow_mix_pair(hash, window_u32(w, at + 8 + word), window_u32(w, at + 24 + word));
		return flow_mix_ports(w, hash, at + 40, window_u8(w, at + 6));
	}
	hash = flow_mix_pair(hash, window_u32(w, 0), window_u32(w, 6));
	hash = flow_mix_pair(hash, window_u16(w, 4), window_u16(w, 10));
	return flow_mix(hash, type);
}

#endif
