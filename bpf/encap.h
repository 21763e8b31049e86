/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Wrapping a clone: cutting it to the snap length, the outer header, and the way out. Only ever called on clones. */
#ifndef SNIFFER_ENCAP_H
#define SNIFFER_ENCAP_H

#include <linux/pkt_cls.h>

#include "count.h"
#include "tunnel.h"

#define CUT_SHORTEST 128 /* bytes that bpf_skb_adjust_room leaves, outer headers included */

/* The outer header and, behind it, the frame's own Ethernet header with the tag that the skb held, in the scratch.
 * length: bytes of the outer IP packet. */
static __always_inline void header_build(struct scratch *s, const struct egress *e, __u32 length, __u32 hash, __u16 id)
{
	struct window *w = &s->window;
	__u64 *to = (__u64 *)s->header;
	const __u64 *from = (const __u64 *)e->template;
	__u32 transport = transport_of(e);

	for (int n = 0; n < TEMPLATE_LENGTH / 8; n++)
		to[n] = from[n];
	header_ip(s, e, length, hash, id);
	if (protocol_of(e) == IPPROTO_UDP) {
		*header_u16(s, transport) = bpf_htons(PORT_BASE | (hash & 0x3fff));
		*header_u16(s, transport + UDP_LENGTH) = bpf_htons(length + OUTER_IP - transport);
	}
	if (e->encapsulation >= ENCAPSULATION_GENEVE || e->flags & EGRESS_SEQUENCE)
		tunnel_finish(s, e, length + OUTER_IP - e->template_length);
	for (__u32 n = 0; n < 20; n += 4)
		*(__u32 *)(s->header + masked(e->template_length + n, HEADER_MASK)) = window_raw32(w, n);
}

/* Writes what header_build built into the clone, at `offset`. */
static __always_inline long header_store(struct __sk_buff *skb, struct scratch *s, const struct egress *e, __u32 offset)
{
	__u64 length = masked(e->template_length + ETH_HLEN + s->window.tag_length - 1, HEADER_MASK) + 1;

	return bpf_skb_store_bytes(skb, offset, s->header, length, 0);
}

/* The same over IPv4, of a header that says nothing of the copy, for an untagged frame, straight into the packet: half the
 * cost. template_length is a constant where this is inlined. False: not so much of the packet lies in one piece, and nothing
 * was written. */
static __always_inline bool header_write(struct __sk_buff *skb, struct scratch *s, const struct egress *e,
					 __u32 template_length, __u32 length, __u16 id)
{
	__u8 *data = (__u8 *)(long)skb->data;
	const __u8 *from = e->template;
	__u32 n = 0;

	if (data + template_length + ETH_HLEN > (__u8 *)(long)skb->data_end)
		return false;
	for (; n + 8 <= template_length; n += 8)
		*(__u64 *)(data + n) = *(const __u64 *)(from + n);
	for (; n < template_length; n += 2)
		*(__u16 *)(data + n) = *(const __u16 *)(from + n);
	*(__u16 *)(data + OUTER_LENGTH) = bpf_htons(length);
	*(__u16 *)(data + OUTER_ID) = id;
	*(__u16 *)(data + OUTER_CHECKSUM) = header_checksum(e, length, id, 0, 0);
	if (from[OUTER_PROTOCOL] == IPPROTO_UDP) {
		*(__u16 *)(data + OUTER_TRANSPORT) = bpf_htons(PORT_BASE | (s->slot.hash & 0x3fff));
		*(__u16 *)(data + OUTER_TRANSPORT + UDP_LENGTH) = bpf_htons(length - 20);
	}
	data += template_length;
	for (n = 0; n < 12; n += 4)
		*(__u32 *)(data + n) = window_raw32(&s->window, n);
	*(__u16 *)(data + 12) = *(__u16 *)window_at(&s->window, 12);
	return true;
}

/* What lies behind the end of the frame (cut_tail could not cut that deep) goes out as zeros, outside of the outer IP
 * packet. 0, or an error: more than ZEROS_LENGTH bytes. */
static __always_inline long clear_beyond(struct __sk_buff *skb, struct scratch *s, __u32 end)
{
	__u64 excess = skb->len - end;

	if (likely(skb->len <= end))
		return 0;
	if (excess > ZEROS_LENGTH)
		return -1;
	return bpf_skb_store_bytes(skb, end, s->zeros, masked(excess - 1, ZEROS_LENGTH - 1) + 1, 0);
}

#define ROOM_LIMIT (FRAME_LIMIT - 64) /* what the slow path wraps, in whatever tunnel */

/* Bytes of a frame that one outer packet has room for, and the slow path can wrap. */
static __always_inline __u32 room_of(const struct egress *e)
{
	__u32 overhead = e->template_length - OUTER_IP, room = e->mtu > overhead ? e->mtu - overhead : 0;

	return room > ROOM_LIMIT ? ROOM_LIMIT : room;
}

/* Shortens a clone to length bytes, or to a little more: the kernel keeps headers that a checksum still needs. A super-
 * packet becomes one frame. False: it cannot be cut. */
static __always_inline bool cut_tail(struct __sk_buff *skb, __u32 length)
{
	for (int n = 0; n < 6; n++) {
		__u32 size = n == 0 ? length : 32 << n;

		if (size < length || size < ETH_HLEN)
			continue;
		if (skb->len <= size && !skb->gso_size)
			return true;
		if (skb->len > size && !bpf_skb_change_tail(skb, size, 0))
			return true;
	}
	return false;
}

/* Shortens where the kernel refuses to cut the tail: packets of an overlay, headers that lie deep. Bytes are taken from
 * the middle, and the front written anew. Only where no checksum is left to be filled in: behind the relay. */
static __always_inline bool cut_middle(struct __sk_buff *skb, __u32 length)
{
	__u32 one = 1, size = length < CUT_SHORTEST ? CUT_SHORTEST : length;
	struct tail *front = bpf_map_lookup_elem(&tails, &one);

	if (skb->len <= size)
		return true;
	if (!front || size > TAIL_MASK + 1 || bpf_skb_load_bytes(skb, 0, front->bytes, masked(size - 1, TAIL_MASK) + 1))
		return false;
	for (int n = 0; n < 5 && skb->len > size; n++) {
		__u32 excess = skb->len - size;

		if (bpf_skb_adjust_room(skb, -(__s32)(excess > 0xfff ? 0xfff : excess), BPF_ADJ_ROOM_MAC, 0))
			return false;
	}
	return !bpf_skb_store_bytes(skb, 0, front->bytes, masked(size - 1, TAIL_MASK) + 1, 0);
}

/* Hands a wrapped clone to the uplink; the kernel resolves the nexthop and keeps it fresh. */
static __always_inline int send(struct __sk_buff *skb, const struct egress *e, __u32 id, __u32 counter, __u32 packets,
				__u32 bytes)
{
	struct bpf_redir_neigh nexthop = {.nh_family = e->family};
	int verdict;

	__builtin_memcpy(nexthop.ipv6_nh, e->nexthop, sizeof(e->nexthop));
	skb->mark = MARK_COPY | (id & ~MARK_COPY_MASK);
	verdict = bpf_redirect_neigh(e->ifindex, &nexthop, sizeof(nexthop), 0);
	if (likely(verdict == TC_ACT_REDIRECT))
		count(counter, OUTCOME_WIRE, packets, bytes);
	else
		count(counter, OUTCOME_LOST_NO_ROUTE, packets, bytes);
	return verdict;
}

#endif
