/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* On production hooks: reads, matches, clones. Nothing here writes to the packet. */
#ifndef SNIFFER_TAP_H
#define SNIFFER_TAP_H

#include <linux/errno.h>

#include "filter.h"
#include "guard.h"
#include "limit.h"
#include "path.h"

/* The list of a hook and its guard, 0 for none. */
static __always_inline __u32 list_of(__u32 ifindex, __u32 direction)
{
	__u64 owner = (__u64)ifindex << 32 | (__u64)direction << 31;

	for (int n = 0; n < HOOKS_PROBES; n++) {
		__u32 further = n < HOOKS_ROW ? n : (n - HOOKS_ROW + 1) * HOOKS_STRIDE;
		__u32 place = (2 * ifindex + direction + further) & (HOOKS_MAX - 1);
		volatile __u64 *word = bpf_map_lookup_elem(&hooks, &place);
		__u64 value = word ? *word : 0;

		if (likely((value & ~0x7fffffffULL) == owner))
			return value & 0x7fffffff;
	}
	return 0;
}

/* CLOCK_MONOTONIC in nanoseconds, to the jiffy: reading the clock anew for each frame would cost more than a rule. */
static __always_inline __u64 now_ns(struct scratch *s)
{
	__u64 jiffies = bpf_jiffies64();

	if (s->jiffies != jiffies) {
		s->jiffies = jiffies;
		s->now_ns = bpf_ktime_get_ns();
	}
	return s->now_ns;
}

#define XMIT_CONGESTION 2 /* NET_XMIT_CN of <linux/netdevice.h> */

/* Clones the frame to the relay; slot is filled. */
static __always_inline enum outcome clone_to_relay(struct __sk_buff *skb, struct slot *slot)
{
	__u32 zero = 0;
	__u64 *ifindex = bpf_map_lookup_elem(&relay, &zero);
	long status;

	if (!ifindex)
		return OUTCOME_DROPPED_RELAY_DOWN;
	slot->wrapped = 0;
	slot->outcome = OUTCOME_DROPPED_RELAY_DOWN;
	slot->armed = 1;
	status = bpf_clone_redirect(skb, (__u32)*ifindex, 0);
	if (unlikely(slot->armed)) {
		slot->armed = 0;
		return status == -ENOMEM ? OUTCOME_DROPPED_NO_MEMORY : OUTCOME_DROPPED_RELAY_DOWN;
	}
	if (likely(slot->outcome != OUTCOME_RELAYED))
		return slot->outcome;
	/* A link that is down has a queue that refuses whatever comes. */
	if (status == XMIT_CONGESTION || status == -ENETDOWN)
		return OUTCOME_DROPPED_RELAY_DOWN;
	/* Of a super-packet the status tells the fate of the last segment only: what else is lost shows behind the relay. */
	if (status < 0 || (status > 0 && slot->segments == 1))
		return OUTCOME_DROPPED_NO_MEMORY;
	count(slot->counter, OUTCOME_RELAYED, slot->segments, 0);
	return OUTCOME_SENT;
}

/* One copy of the frame to one target of a mirror. Always 0. */
__noinline int copy_frame(struct __sk_buff *skb, __u32 level, __u32 mirror_id, __u32 nth)
{
	struct scratch *s = scratch_at(level);
	const struct mirror *m = bpf_map_lookup_elem(&mirrors, &mirror_id);
	struct counters *counters_of;
	const struct tunnel *t;
	enum outcome outcome;
	__u32 bytes, length, snap_length, tunnel;

	if (!s || !m)
		return 0;
	counters_of = counters_at(m->counter);
	tunnel = m->tunnels[nth & (TARGETS_LENGTH - 1)];
	t = bpf_map_lookup_elem(&tunnels, &tunnel);
	if (!t || !counters_of)
		return 0;
	snap_length = m->snap_length;
	if (t->snap_length && (!snap_length || snap_length > t->snap_length))
		snap_length = t->snap_length;
	bytes = s->window.frame_length;
	length = cut_to(bytes, snap_length);
	s->slot.tunnel = tunnel;
	s->slot.generation = t->generation;
	s->slot.counter = m->counter;
	s->slot.snap_length = snap_length;
	s->slot.egress_seen = s->direction ^ m->from_pod;
	s->slot.hash = flow_of(s);
	s->slot.egress = endpoint_of(t, s->slot.hash);
	tally(counters_of, OUTCOME_MATCHED, 1, bytes);
	outcome = path_outcome(s->slot.egress);
	if (outcome == OUTCOME_SENT && unlikely(t->budget) && !budget_takes(t->budget, length))
		outcome = OUTCOME_DROPPED_RATE_LIMIT;
	s->slot.length = length;
	if (outcome == OUTCOME_SENT)
		outcome = clone_to_relay(skb, &s->slot);
	tally(counters_of, outcome, 1, outcome == OUTCOME_SENT ? s->slot.length : bytes);
	if (unlikely(outcome == OUTCOME_SENT && s->slot.length < length))
		tally(counters_of, OUTCOME_TRUNCATED, 1, length - s->slot.length);
	return 0;
}

/* A frame that no target of a mirror gets. */
static __always_inline void drop_all(const struct mirror *m, enum outcome outcome, __u64 bytes)
{
	count(m->counter, OUTCOME_MATCHED, m->target_count, m->target_count * bytes);
	count(m->counter, outcome, m->target_count, m->target_count * bytes);
}

/* What one mirror wants of the frame. Always 0. */
__noinline int mirror_frame(struct __sk_buff *skb, __u32 level, __u32 id)
{
	const struct mirror *m = bpf_map_lookup_elem(&mirrors, &id);
	volatile __u64 *lease = bpf_map_lookup_elem(&leases, &id);
	struct scratch *s = scratch_at(level);
	__u64 word;
	int outcome;

	if (!s || !m || !lease)
		return 0;
	word = *lease;
	if ((word & ~(LEASE_HELD | LEASE_WATCHED)) <= now_ns(s))
		return 0;
	word >>= LEASE_FLAGS_SHIFT;
	if (m->filter && !filter_accepts(skb, s, level, m->filter, m->counter))
		return 0;
	if (unlikely(m->one_in | m->budget | s->stamped | word)) {
		outcome = limit_outcome(skb, level, id, word);
		if (outcome != OUTCOME_SENT) {
			drop_all(m, outcome, s->window.frame_length);
			return 0;
		}
	}
	for (__u32 nth = 0; nth < TARGETS_LENGTH; nth++) {
		if (nth >= m->target_count)
			break;
		if (likely(s->copies < COPIES_LIMIT)) {
			s->copies++;
			copy_frame(skb, level, id, nth);
		} else {
			count(m->counter, OUTCOME_MATCHED, 1, s->window.frame_length);
			count(m->counter, OUTCOME_DROPPED_COPY_LIMIT, 1, s->window.frame_length);
		}
	}
	return 0;
}

/* Everything that a hook's list asks for. */
static __always_inline void mirror_all(struct __sk_buff *skb, __u32 level, __u32 list_id)
{
	const struct list *list = bpf_map_lookup_elem(&lists, &list_id);

	if (!list)
		return;
	for (int n = 0; n < LIST_LENGTH; n++) {
		if (!list->mirrors[n])
			break;
		mirror_frame(skb, level, list->mirrors[n]);
	}
}

static __always_inline int tap(struct __sk_buff *skb, enum direction direction)
{
	__u32 list = list_of(skb->ifindex, direction), guard = list >> HOOK_GUARD_SHIFT;
	__u32 *level = level_in_use();
	struct scratch *s;

	if (!list || !level || *level >= LEVELS)
		return TC_ACT_UNSPEC;
	s = scratch_at(*level);
	if (!s || window_load(skb, &s->window))
		return TC_ACT_UNSPEC;
	if ((direction == EGRESS && has_our_mark(skb) &&
	     (is_our_copy(skb, *level) || is_carried_copy(skb, *level, GUARD_NONE))) ||
	    (guard && may_be_copy(skb, &s->window, direction, guard) && is_known_copy(skb, *level, direction, guard))) {
		if (list & HOOK_LIST_MASK)
			count(0, OUTCOME_SKIPPED, 1, s->window.frame_length);
		return TC_ACT_UNSPEC;
	}
	s->copies = 0;
	s->flow_known = 0;
	s->direction = direction;
	s->stamped = list & HOOK_STAMPS ? is_time_event(*level) : 0;
	*level += 1;
	mirror_all(skb, *level - 1, list & HOOK_LIST_MASK);
	*level -= 1;
	return TC_ACT_UNSPEC;
}

#endif
