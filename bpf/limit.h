/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Which of the frames that a mirror wants it gets: one in so many, and no more than its budget has room for; and none where
 * a copy would harm, or copies seem to make more copies.
 *
 * A budget is a token bucket that all CPUs share, as an amount of time (the generic cell rate algorithm, ITU-T I.371):
 * each packet costs what the rate takes to make up for it, and none passes that would bring the debt above the burst. A
 * frame longer than the burst passes when there is no debt at all, or it never would.
 */
#ifndef SNIFFER_LIMIT_H
#define SNIFFER_LIMIT_H

#include "count.h"
#include "flow.h"
#include "guard.h"
#include "window.h"

#define PTP_EVENT_PORT 319
#define PTP_GENERAL 8 /* messageType: events are below */
#define SAMPLING_SEED 0xd6e8feb86659fd93ULL

/* Of the present frame, worked out once. */
static __always_inline __u64 flow_of(struct scratch *s)
{
	if (likely(!s->flow_known)) {
		s->flow = flow_hash(&s->window);
		s->flow_known = 1;
	}
	return s->flow;
}

/* Is it one in so many? A flow's hash is mixed anew, so that what is chosen still spreads over endpoints and ports. */
static __always_inline bool sampled(struct scratch *s, const struct mirror *m)
{
	__u64 number, limit = ~0ULL / m->one_in;

	/* clang would make a product of 128 bits of the comparison. */
	asm volatile("" : "+r"(limit));
	if (m->sampling == SAMPLING_PACKET)
		number = (__u64)bpf_get_prandom_u32() << 32 | bpf_get_prandom_u32();
	else
		number = flow_mix(flow_of(s), SAMPLING_SEED);
	return number <= limit;
}

static __always_inline __u64 debt_at(__u64 until, __u64 now)
{
	return until > now ? until - now : 0;
}

/* Takes a frame of so many bytes from a budget. 1, or 0: it has no room for it. */
__noinline int budget_takes(__u32 id, __u32 bytes)
{
	const struct budget *b = bpf_map_lookup_elem(&budgets, &id);
	struct bucket *bucket = bpf_map_lookup_elem(&buckets, &id);
	__u64 now, cost, packets, octets;
	int taken = 0;

	if (!b || !bucket)
		return 0;
	cost = (b->byte_cost * bytes + BUDGET_BYTE_FRACTION - 1) / BUDGET_BYTE_FRACTION;
	now = bpf_ktime_get_ns() * BUDGET_UNITS_PER_NS;
	bpf_spin_lock(&bucket->lock);
	packets = debt_at(bucket->packets_until, now);
	octets = debt_at(bucket->bytes_until, now);
	if ((!packets || packets + b->packet_cost <= b->packet_burst) && (!octets || octets + cost <= b->byte_burst)) {
		bucket->packets_until = now + packets + b->packet_cost;
		bucket->bytes_until = now + octets + cost;
		taken = 1;
	}
	bpf_spin_unlock(&bucket->lock);
	return taken;
}

/* Has this hook seen this very frame before? Copies that somebody unwraps and sends back come again and again. */
static __always_inline bool is_repeated(struct scratch *s, __u32 ifindex, __u32 mirror_id)
{
	__u64 hash = flow_mix(FLOW_SEED, (__u64)ifindex << 32 | mirror_id << 1 | s->direction), *word;
	struct window *w = &s->window;
	__u32 place;

	hash = flow_mix(hash, w->frame_length);
	for (__u32 n = 0; n < WINDOW_LENGTH; n += 8) {
		if (n + 8 > w->length)
			break;
		hash = flow_mix(hash, (__u64)window_raw32(w, n) << 32 | window_raw32(w, n + 4));
	}
	place = hash >> 32 & (REPEATS_MAX - 1);
	word = bpf_map_lookup_elem(&repeats, &place);
	if (!word || *word == hash)
		return true;
	*word = hash;
	return false;
}

/* Whether the frame is one of PTP (IEEE 1588) whose time of sending matters: its sender has asked for a stamp, the clone would
 * take the asking along, and devices that have room for one stamp would leave the original without. */
__noinline int is_time_event(__u32 level)
{
	struct scratch *s = scratch_at(level);
	struct window *w;
	__u32 at = ETH_HLEN;
	__u16 type;
	__u8 protocol;

	if (!s)
		return 0;
	w = &s->window;
	type = window_u16(w, 12);
	for (int tags = 0; tags < 3; tags++) {
		if (type != ETH_P_8021Q && type != ETH_P_8021AD)
			break;
		type = window_u16(w, at + 2);
		at += 4;
	}
	if (type == ETH_P_1588)
		return at < w->length && (window_u8(w, at) & 15) < PTP_GENERAL;
	if (type == ETH_P_IP) {
		protocol = window_u8(w, at + 9);
		at += (window_u8(w, at) & 15) * 4;
	} else if (type == ETH_P_IPV6) {
		protocol = window_u8(w, at + 6);
		at += 40;
		protocol = flow_protocol(w, &at, protocol);
	} else {
		return 0;
	}
	return protocol == IPPROTO_UDP && at + 4 <= w->length && window_u16(w, at + 2) == PTP_EVENT_PORT;
}

/* Why a mirror does not get the frame, an enum outcome; OUTCOME_SENT: it does. flags: of its lease. */
__noinline int limit_outcome(struct __sk_buff *skb, __u32 level, __u32 mirror_id, __u32 flags)
{
	const struct mirror *m = bpf_map_lookup_elem(&mirrors, &mirror_id);
	struct scratch *s = scratch_at(level);

	if (!s || !m)
		return OUTCOME_DROPPED_RATE_LIMIT;
	if (s->stamped)
		return OUTCOME_DROPPED_PTP;
	if (flags & LEASE_HELD >> LEASE_FLAGS_SHIFT)
		return OUTCOME_DROPPED_STORM;
	if (flags && (is_repeated(s, skb->ifindex, mirror_id) || is_known_copy(skb, level, s->direction, GUARD_NONE)))
		count(m->counter, OUTCOME_REPEATED, m->target_count, 0);
	if (m->one_in && !sampled(s, m))
		return OUTCOME_DROPPED_SAMPLED_OUT;
	if (m->budget && !budget_takes(m->budget, cut_to(s->window.frame_length, m->snap_length)))
		return OUTCOME_DROPPED_RATE_LIMIT;
	return OUTCOME_SENT;
}

#endif
