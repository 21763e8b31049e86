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

#define likely(condition) __builtin_expect(!!(condition), 1)
#define unlikely(condition) __builtin_expect(!!(condition), 0)

/* Where a byte of the frame lies; a constant needs no mask. */
static __always_inline __u8 *window_at(struct window *w, __u64 offset)
{
	return w->bytes + (__builtin_constant_p(offset) ? offset : masked(offset, WINDOW_MASK));
}

static __always_inline __u8 window_u8(struct window *w, __u64 offset)
{
	return *window_at(w, offset);
}

/* Host byte order. */
static __always_inline __u16 window_u16(struct window *w, __u64 offset)
{
	return bpf_ntohs(*(__u16 *)window_at(w, offset));
}

static __always_inline __u32 window_u32(struct window *w, __u64 offset)
{
	return bpf_ntohl(*(__u32 *)window_at(w, offset));
}

/* As it lies in memory. */
static __always_inline __u32 window_raw32(struct window *w, __u64 offset)
{
	return *(__u32 *)window_at(w, offset);
}

static __always_inline __u32 cut_to(__u32 length, __u32 snap_length)
{
	return snap_length && length > snap_length ? snap_length : length;
}

/* What is copied without a call: words of eight bytes from here on, so that no field of a plain IP packet lies across two of
 * them. A processor is slow to read what it has just written in two pieces. */
#define WINDOW_FIRST 6
#define WINDOW_HALF (WINDOW_FIRST + 56)
#define WINDOW_WHOLE (WINDOW_FIRST + 120)

static __always_inline void window_copy(struct window *w, const __u8 *data, __u32 from, __u32 to)
{
	for (__u32 n = from; n < to; n += 8)
		*(__u64 *)(w->bytes + n) = *(const __u64 *)(data + n);
}

/* The first `length` bytes of a frame without a tag. */
static __always_inline long window_fill(struct __sk_buff *skb, struct window *w, __u64 length)
{
	const __u8 *data = (const __u8 *)(long)skb->data, *end = (const __u8 *)(long)skb->data_end;
	__u64 done = 0, rest, last;

	if (likely(data + WINDOW_HALF <= end)) {
		window_copy(w, data, 0, 8);
		window_copy(w, data, WINDOW_FIRST, WINDOW_HALF);
		done = WINDOW_HALF;
		if (data + WINDOW_WHOLE <= end) {
			window_copy(w, data, WINDOW_HALF, WINDOW_WHOLE);
			done = WINDOW_WHOLE;
		}
		if (likely(length - done <= 8)) {
			last = masked(length - 8, WINDOW_LENGTH - 1);
			if (likely(data + last + 8 <= end)) {
				*(__u64 *)(w->bytes + last) = *(const __u64 *)(data + last);
				return 0;
			}
		}
	}
	rest = length - done;
	if (!rest)
		return 0;
	/* 5.10 does not learn a lower bound from a comparison: give it the form that it understands. */
	rest = masked(rest - 1, WINDOW_LENGTH - 1) + 1;
	return bpf_skb_load_bytes(skb, done, w->bytes + done, rest);
}

/* The same of a frame whose tag the skb holds; the tag is not among the `length`. */
static __always_inline long window_fill_tagged(struct __sk_buff *skb, struct window *w, __u64 length)
{
	length = masked(length - 1, WINDOW_LENGTH - 1) + 1;
	if (bpf_skb_load_bytes(skb, 0, w->bytes + TAG_LENGTH, length))
		return -1;
	for (int n = 0; n < 12; n += 2)
		*(__u16 *)(w->bytes + n) = *(__u16 *)(w->bytes + n + TAG_LENGTH);
	*(__u16 *)(w->bytes + 12) = (__u16)skb->vlan_proto;
	*(__u16 *)(w->bytes + 14) = bpf_htons((__u16)skb->vlan_tci);
	w->tag_length = TAG_LENGTH;
	w->length += TAG_LENGTH;
	w->frame_length += TAG_LENGTH;
	return 0;
}

/* 0, or an error that means that the frame cannot be read (never seen; an empty frame). */
static __always_inline long window_load(struct __sk_buff *skb, struct window *w)
{
	__u64 length = skb->len;

	if (length < 12)
		return -1;
	w->frame_length = length;
	w->tag_length = 0;
	if (length > WINDOW_LENGTH)
		length = WINDOW_LENGTH;
	w->length = length;
	return unlikely(skb->vlan_present) ? window_fill_tagged(skb, w, length) : window_fill(skb, w, length);
}

#endif
