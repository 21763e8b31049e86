// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * The programs. tap sits on production hooks: it reads, matches and clones; it never writes to the packet and says
 * "next" whatever happens. encap and encap_frame sit on the two ends of the relay, where only clones pass.
 *
 *   hook ─ tap ─ next program
 *           │ bpf_clone_redirect
 *   relay, sending end: encap ── fast path: bpf_skb_adjust_room ── uplink
 *           │ cannot be wrapped as it is
 *   relay, receiving end: encap_frame ── slow path: bpf_skb_change_head ── uplink
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

#include "fast.h"
#include "flow.h"
#include "path.h"
#include "slow.h"
#include "tap.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

SEC("tc")
int tap_ingress(struct __sk_buff *skb)
{
	return tap(skb, INGRESS);
}

SEC("tc")
int tap_egress(struct __sk_buff *skb)
{
	return tap(skb, EGRESS);
}

SEC("tc")
int encap(struct __sk_buff *skb)
{
	__u32 *level = level_in_use();
	const struct egress *e;
	const struct tunnel *t;
	struct scratch *s;

	if (!level || !*level)
		return TC_ACT_SHOT;
	s = scratch_at(*level - 1);
	if (!s || !s->slot.armed)
		return TC_ACT_SHOT;
	s->slot.armed = 0;
	skb->tstamp = 0;   /* when the original is to leave (EDT): the copy waits for nothing */
	skb->priority = 0; /* nor is it before anybody in the uplink's queues, or of a class that is somebody's */
	e = bpf_map_lookup_elem(&egress, &s->slot.egress);
	t = bpf_map_lookup_elem(&tunnels, &s->slot.tunnel);
	if (!e || !t)
		return refuse(&s->slot, OUTCOME_DROPPED_NO_ROUTE);
	if (unlikely(s->slot.wrapped))
		return send(skb, e, s->slot.egress, s->slot.counter, 1, skb->len);
	return wrap_clone(skb, s, e, t);
}

SEC("tc")
int encap_frame(struct __sk_buff *skb)
{
	__u32 mark = skb->mark, tunnel = mark >> MARK_TUNNEL_SHIFT, counter = mark & MARK_COUNTER_MASK;
	__u32 *level = level_in_use();
	const struct egress *e;
	const struct tunnel *t;
	enum outcome outcome;
	struct scratch *s;
	int verdict;

	if (!level || *level >= LEVELS)
		return TC_ACT_SHOT;
	s = scratch_at(*level);
	t = bpf_map_lookup_elem(&tunnels, &tunnel);
	count(counter, OUTCOME_ARRIVED, 1, 0);
	flight_ends();
	if (!s || !t || !t->endpoint_count ||
	    (t->generation & MARK_GENERATION_MASK) != (mark >> MARK_GENERATION_SHIFT & MARK_GENERATION_MASK))
		return lose(counter, OUTCOME_LOST_STALE, skb->len);
	if (window_load(skb, &s->window))
		return lose(counter, OUTCOME_LOST_NO_MEMORY, skb->len);
	s->slot.hash = flow_hash(&s->window);
	s->slot.egress = endpoint_of(t, s->slot.hash);
	s->slot.tunnel = tunnel;
	s->slot.counter = counter;
	s->slot.egress_seen = mark & MARK_EGRESS;
	s->slot.snap_length = skb->hash & HASH_SNAP_MASK;
	s->slot.original_length = skb->hash >> HASH_LENGTH_SHIFT;
	if (!s->slot.original_length)
		s->slot.original_length = s->window.frame_length;
	bpf_set_hash_invalid(skb);
	e = bpf_map_lookup_elem(&egress, &s->slot.egress);
	outcome = path_outcome(s->slot.egress);
	if (!e || outcome == OUTCOME_DROPPED_NO_ROUTE)
		return lose(counter, OUTCOME_LOST_NO_ROUTE, s->window.frame_length);
	if (outcome != OUTCOME_SENT)
		return lose(counter, OUTCOME_LOST_NO_NEIGHBOUR, s->window.frame_length);
	*level += 1;
	verdict = wrap_frame(skb, s, e, *level - 1, t->oversize);
	*level -= 1;
	return verdict;
}

/* An XDP program on the receiving end gives the relay a NAPI ring of its own: a burst of segments fills that, never the
 * backlog that production shares (docs/adr/0002). */
SEC("xdp.frags")
int relay_ring(struct xdp_md *context)
{
	(void)context;
	return XDP_PASS;
}
