/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The outer IP header, of either version, in the scratch: what differs from copy to copy. */
#ifndef SNIFFER_OUTER_H
#define SNIFFER_OUTER_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>

#include "window.h"

#define OUTER_IP 14 /* offsets in the outer header: of both versions, of IPv4 */
#define OUTER_TOS 15
#define OUTER_LENGTH 16
#define OUTER_ID 18
#define OUTER_FRAGMENT 20
#define OUTER_PROTOCOL 23
#define OUTER_CHECKSUM 24
#define OUTER_ADDRESSES 26
#define OUTER_TRANSPORT 34
#define OUTER6_LENGTH 18 /* of IPv6 */
#define OUTER6_PROTOCOL 20
#define OUTER6_ADDRESSES 22
#define OUTER6_TRANSPORT 54
#define MORE_FRAGMENTS 0x2000
#define UDP_DESTINATION 2 /* offsets in the UDP header */
#define UDP_LENGTH 4
#define UDP_CHECKSUM 6
#define UDP_HEADER 8
#define PORT_BASE 0xc000 /* RFC 7348: source ports 49152 to 65535 */

static __always_inline bool is_six(const struct egress *e)
{
	return e->flags & EGRESS_IPV6;
}

/* Where what follows the outer IP header begins. */
static __always_inline __u32 transport_of(const struct egress *e)
{
	return is_six(e) ? OUTER6_TRANSPORT : OUTER_TRANSPORT;
}

static __always_inline __u8 protocol_of(const struct egress *e)
{
	return is_six(e) ? e->template[OUTER6_PROTOCOL] : e->template[OUTER_PROTOCOL];
}

static __always_inline __u16 *header_u16(struct scratch *s, __u32 offset)
{
	return (__u16 *)(s->header + offset);
}

/* Differentiated services of the IP packet in the frame, as the bits lie in an outer header; 0 of any other. No congestion
 * notification: an outer header that says that it knows of it must be read by who decapsulates (RFC 6040). */
static __always_inline __u8 inner_services(struct window *w)
{
	__u32 at = ETH_HLEN;
	__u16 type = window_u16(w, at - 2);

	for (int tags = 0; tags < 3; tags++) {
		if (type != ETH_P_8021Q && type != ETH_P_8021AD)
			break;
		at += TAG_LENGTH;
		type = window_u16(w, at - 2);
	}
	if (at + 2 > w->length)
		return 0;
	if (type == ETH_P_IP)
		return window_u8(w, at + 1) & 0xfc;
	return type == ETH_P_IPV6 ? window_u16(w, at) >> 4 & 0xfc : 0;
}

/* Sum of 16-bit words as they lie in memory, folded. */
static __always_inline __u16 sum_folded(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* The checksum of the outer IPv4 header. length: bytes of the IP packet; fragment: offset in units of 8 bytes, with
 * flags; services: differentiated services that the template does not have. */
static __always_inline __u16 header_checksum(const struct egress *e, __u32 length, __u16 id, __u16 fragment,
					     __u8 services)
{
	__u64 sum = (__u64)e->checksum + bpf_htons(length) + id + bpf_htons(fragment) + bpf_htons(services);

	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* Of the outer IPv4 header in the scratch: lengths, identification and checksum. */
static __always_inline void header_finish(struct scratch *s, const struct egress *e, __u32 length, __u16 id,
					  __u16 fragment)
{
	__u8 services = e->flags & EGRESS_DSCP ? s->header[OUTER_TOS] : 0;

	*header_u16(s, OUTER_LENGTH) = bpf_htons(length);
	*header_u16(s, OUTER_ID) = id;
	if (fragment)
		*header_u16(s, OUTER_FRAGMENT) = bpf_htons(fragment);
	*header_u16(s, OUTER_CHECKSUM) = header_checksum(e, length, id, fragment, services);
}

/* The outer IP header in the scratch. length: bytes of the outer IP packet. IPv6: the flow label tells flows apart where
 * there are no ports (RFC 6438). */
static __always_inline void header_ip(struct scratch *s, const struct egress *e, __u32 length, __u32 hash, __u16 id)
{
	__u8 services = e->flags & EGRESS_DSCP ? inner_services(&s->window) : 0;
	__u32 *first = (__u32 *)(s->header + OUTER_IP);

	if (is_six(e)) {
		*first |= bpf_htonl((__u32)services << 20 | (hash & 0xfffff));
		*header_u16(s, OUTER6_LENGTH) = bpf_htons(length - (OUTER6_TRANSPORT - OUTER_IP));
		return;
	}
	if (e->flags & EGRESS_DSCP)
		s->header[OUTER_TOS] = services;
	header_finish(s, e, length, id, 0);
}

#endif
