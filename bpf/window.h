/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The first bytes of a frame, read once and without touching the skb, as they were on the wire. */
#ifndef SNIFFER_WINDOW_H
#define SNIFFER_WINDOW_H

#include <bpf/bpf_endian.h>

#include "maps.h"

/* clang drops masks that it thinks redundant; the verifier needs them. */
#define masked(value, mask)                                                \
	({                                                                 \
		__u64 masked_value = (value);                              \
		asm volatile("%0 &= %1" : "+r"(masked_value) : "i"(mask)); \
		masked_value;                                              \
	})

static __always_inline __u8 window_u8(struct window *w, __u32 offset)
{
	return w->bytes[masked(w->base + offset, WINDOW_MASK)];
}

/* Host byte order. */
static __always_inline __u16 window_u16(struct window *w, __u32 offset)
{
	return bpf_ntohs(*(__u16 *)(w->bytes + masked(w->base + offset, WINDOW_MASK)));
}

static __always_inline __u32 window_u32(struct window *w, __u32 offset)
{
	return bpf_ntohl(*(__u32 *)(w->bytes + masked(w->base + offset, WINDOW_MASK)));
}

/* As it lies in memory. */
static __always_inline __u32 window_raw32(struct window *w, __u32 offset)
{
	return *(__u32 *)(w->bytes + masked(w->base + offset, WINDOW_MASK));
}

static __always_inline __u32 cut_to(__u32 length, __u32 snap_length)
{
	return snap_length && length > snap_length ? snap_length : length;
}

/* 0, or an error that means that the frame cannot be read (never seen; an empty frame). */
static __always_inline long window_load(struct __sk_buff *skb, struct window *w)
{
	__u64 length = skb->len;
	__u32 *bytes = (__u32 *)w->bytes;

	if (length < 12)
		return -1;
	w->frame_length = length;
	w->base = TAG_LENGTH;
	w->tag_length = 0;
	if (length > WINDOW_LENGTH)
		length = WINDOW_LENGTH;
	w->length = length;
	/* 5.10 does not learn a lower bound from a comparison: give it the form that it understands. */
	length = masked(length - 1, WINDOW_LENGTH - 1) + 1;
	if (bpf_skb_load_bytes(skb, 0, w->bytes + TAG_LENGTH, length))
		return -1;
	if (skb->vlan_present) {
		bytes[0] = bytes[1];
		bytes[1] = bytes[2];
		bytes[2] = bytes[3];
		*(__u16 *)(w->bytes + 12) = (__u16)skb->vlan_proto;
		*(__u16 *)(w->bytes + 14) = bpf_htons((__u16)skb->vlan_tci);
		w->base = 0;
		w->tag_length = TAG_LENGTH;
		w->length += TAG_LENGTH;
		w->frame_length += TAG_LENGTH;
	}
	return 0;
}

#endif
