// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Live capture: frames of a pod's interfaces to the process that attached this. Nothing of it is pinned and nothing is shared
 * with the mirror's programs; like the tap it only reads, and says "next" whatever happens.
 *
 *   hook ─ capture ─ next program
 *             │ copy into the ring `frames`; no room: counted
 *          the process that reads them
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

#include "capture.h"
#include "filter.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

ARRAY_OF(struct capture, captures, 1);

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, CAPTURE_RING);
} frames SEC(".maps");

/* A record with room for ROOM bytes (a power of two): the ring wants a size that the verifier knows. */
#define KEEP(ROOM)                                                                    \
	do {                                                                          \
		struct {                                                              \
			struct captured head;                                         \
			__u8 bytes[TAG_LENGTH + (ROOM)];                              \
		} *record = bpf_ringbuf_reserve(&frames, sizeof(*record), 0);         \
                                                                                      \
		if (!record)                                                          \
			return OUTCOME_DROPPED_NO_MEMORY;                             \
		record->head = head;                                                  \
		loaded = masked(loaded - 1, (ROOM) - 1) + 1;                          \
		if (bpf_skb_load_bytes(skb, 0, record->bytes + TAG_LENGTH, loaded)) { \
			bpf_ringbuf_discard(record, 0);                               \
			return OUTCOME_DROPPED_NO_MEMORY;                             \
		}                                                                     \
		if (!head.start)                                                      \
			put_tag_back((__u32 *)record->bytes, (__u32 *)(w->bytes));    \
		bpf_ringbuf_submit(record, 0);                                        \
	} while (0)

/* The first sixteen bytes as the window has them: addresses, then the tag. */
static __always_inline void put_tag_back(__u32 *to, const __u32 *from)
{
	to[0] = from[0];
	to[1] = from[1];
	to[2] = from[2];
	to[3] = from[3];
}

static __always_inline enum outcome keep(struct __sk_buff *skb, const struct window *w, __u32 snap_length,
					 enum direction direction)
{
	struct captured head = {
		.when_ns = bpf_ktime_get_ns(),
		.length = w->frame_length,
		.kept = w->frame_length,
		.ifindex = skb->ifindex,
		.start = w->tag_length ? 0 : TAG_LENGTH,
		.direction = direction,
	};
	__u64 loaded;

	if (head.kept > snap_length)
		head.kept = snap_length;
	loaded = head.kept > w->tag_length ? head.kept - w->tag_length : 1;
	if (loaded <= 256)
		KEEP(256);
	else if (loaded <= 2048)
		KEEP(2048);
	else if (loaded <= 16384)
		KEEP(16384);
	else if (loaded <= 65536)
		KEEP(65536);
	else
		KEEP(CAPTURE_FRAME_MAX);
	return OUTCOME_SENT;
}

/* A filter of clsact may outlive whoever reads: then it does nothing. */
static __always_inline bool is_valid(const struct capture *wanted)
{
	__u64 valid_until = *(volatile const __u64 *)&wanted->valid_until;

	return valid_until == CAPTURE_FOR_EVER || bpf_ktime_get_ns() < valid_until;
}

static __always_inline int capture(struct __sk_buff *skb, enum direction direction)
{
	__u32 zero = 0;
	const struct capture *wanted = bpf_map_lookup_elem(&captures, &zero);
	struct scratch *s = scratch_at(0);
	enum outcome outcome;

	if (!wanted || !s || !is_valid(wanted) || window_load(skb, &s->window))
		return TC_ACT_UNSPEC;
	if (wanted->filter && !filter_accepts(skb, s, 0, wanted->filter, 0))
		return TC_ACT_UNSPEC;
	count(0, OUTCOME_MATCHED, 1, s->window.frame_length);
	outcome = keep(skb, &s->window, wanted->snap_length, direction);
	count(0, outcome, 1, s->window.frame_length);
	return TC_ACT_UNSPEC;
}

SEC("tc")
int capture_ingress(struct __sk_buff *skb)
{
	return capture(skb, INGRESS);
}

SEC("tc")
int capture_egress(struct __sk_buff *skb)
{
	return capture(skb, EGRESS);
}
