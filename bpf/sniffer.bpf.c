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
#include <linux/errno.h>
#include <bpf/bpf_helpers.h>

#include "count.h"
#include "encap.h"
#include "filter.h"
#include "flow.h"
#include "fragment.h"
#include "guard.h"
#include "maps.h"
#include "window.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* ---- tap ---- */

/* The list of a hook, 0 for none. */
static __always_inline __u32 list_of(__u32 ifindex, __u32 direction)
{
	__u64 owner = (__u64)ifindex << 32 | (__u64)direction << 31;

	for (int n = 0; n < HOOKS_PROBES; n++) {
		__u32 place = (2 * ifindex + direction + n) & (HOOKS_MAX - 1);
		volatile __u64 *word = bpf_map_lookup_elem(&hooks, &place);
		__u64 value = word ? *word : 0;

		if ((value & ~0x7fffffffULL) == owner)
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

/* Why a copy cannot leave through this endpoint; OUTCOME_SENT: it can. */
static __always_inline enum outcome path_outcome(__u32 id)
{
	__u64 *path = bpf_map_lookup_elem(&paths, &id);

	if (!path || *path == PATH_NO_ROUTE || *path == PATH_NONE)
		return OUTCOME_DROPPED_NO_ROUTE;
	return *path == PATH_UNREACHABLE ? OUTCOME_DROPPED_NO_NEIGHBOUR : OUTCOME_SENT;
}

/* The endpoint of a tunnel that a flow goes to. */
static __always_inline __u32 endpoint_of(const struct tunnel *t, __u32 hash)
{
	__u32 count = t->endpoint_count;

	if (count <= 1)
		return t->endpoints[0];
	return t->endpoints[masked((hash >> 14) % count, ENDPOINTS_LENGTH - 1)];
}

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
	if (slot->armed) {
		slot->armed = 0;
		return status == -ENOMEM ? OUTCOME_DROPPED_NO_MEMORY : OUTCOME_DROPPED_RELAY_DOWN;
	}
	if (slot->outcome != OUTCOME_RELAYED)
		return slot->outcome;
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
	const struct tunnel *t;
	enum outcome outcome;
	__u32 length, snap_length, tunnel;

	if (!s || !m)
		return 0;
	tunnel = m->tunnels[nth & (TARGETS_LENGTH - 1)];
	t = bpf_map_lookup_elem(&tunnels, &tunnel);
	if (!t)
		return 0;
	snap_length = m->snap_length;
	if (t->snap_length && (!snap_length || snap_length > t->snap_length))
		snap_length = t->snap_length;
	length = s->window.frame_length;
	if (snap_length && length > snap_length)
		length = snap_length;
	s->slot.tunnel = tunnel;
	s->slot.generation = t->generation;
	s->slot.counter = m->counter;
	s->slot.snap_length = snap_length;
	s->slot.hash = flow_hash(&s->window);
	s->slot.egress = endpoint_of(t, s->slot.hash);
	count(m->counter, OUTCOME_MATCHED, 1, s->window.frame_length);
	outcome = path_outcome(s->slot.egress);
	if (outcome == OUTCOME_SENT)
		outcome = clone_to_relay(skb, &s->slot);
	count(m->counter, outcome, 1, outcome == OUTCOME_SENT ? length : s->window.frame_length);
	return 0;
}

/* What one mirror wants of the frame. Always 0. */
__noinline int mirror_frame(struct __sk_buff *skb, __u32 level, __u32 id)
{
	const struct mirror *m = bpf_map_lookup_elem(&mirrors, &id);
	const __u64 *lease = bpf_map_lookup_elem(&leases, &id);
	struct scratch *s = scratch_at(level);

	if (!s || !m || !lease)
		return 0;
	if (m->filter && !filter_accepts(skb, level, m->filter, m->counter))
		return 0;
	if (*lease <= now_ns(s))
		return 0;
	for (__u32 nth = 0; nth < TARGETS_LENGTH; nth++) {
		if (nth >= m->target_count)
			break;
		if (s->copies < COPIES_LIMIT) {
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
	__u32 list = list_of(skb->ifindex, direction);
	__u32 *level = level_in_use();
	struct scratch *s;

	if (!list || !level || *level >= LEVELS)
		return TC_ACT_UNSPEC;
	s = scratch_at(*level);
	if (!s || window_load(skb, &s->window))
		return TC_ACT_UNSPEC;
	if (direction == EGRESS && is_our_copy(skb, &s->window)) {
		count(0, OUTCOME_SKIPPED, 1, s->window.frame_length);
		return TC_ACT_UNSPEC;
	}
	s->copies = 0;
	*level += 1;
	mirror_all(skb, *level - 1, list);
	*level -= 1;
	return TC_ACT_UNSPEC;
}

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

/* ---- encap: egress of the relay's sending end ---- */

static __always_inline int refuse(struct slot *slot, enum outcome outcome)
{
	slot->outcome = outcome;
	return TC_ACT_SHOT;
}

/* Headers of an IP packet of TCP or UDP that starts at `at`, from there to the payload, in bytes; 0: something else. */
static __always_inline __u32 headers_of(struct window *w, __u32 at, bool *tcp)
{
	__u32 ip_length;
	__u8 protocol;

	if (window_u8(w, at) >> 4 == 4) {
		ip_length = (window_u8(w, at) & 15) * 4;
		protocol = window_u8(w, at + 9);
	} else {
		ip_length = 40;
		protocol = window_u8(w, at + 6);
	}
	*tcp = protocol == IPPROTO_TCP;
	if (*tcp)
		return ip_length + (window_u8(w, at + ip_length + 12) >> 4) * 4;
	return protocol == IPPROTO_UDP ? ip_length + 8 : 0;
}

/* How many frames the kernel makes of a super-packet. A guest's has not said so: count them. */
static __always_inline __u32 segments_of(struct __sk_buff *skb, struct window *w)
{
	__u32 size = skb->gso_size, at = ETH_HLEN, length = w->frame_length, headers;
	bool tcp;

	if (skb->gso_segs || !size)
		return size ? skb->gso_segs : 1;
	for (int tags = 0; tags < 2; tags++)
		if (window_u16(w, at - 2) == ETH_P_8021Q || window_u16(w, at - 2) == ETH_P_8021AD)
			at += TAG_LENGTH;
	headers = at + headers_of(w, at, &tcp);
	return (length - (headers < length ? headers : 0) + size - 1) / size;
}

/* To the slow path: the kernel segments and fills checksums; mark and priority tell encap_frame what it must know. */
static __always_inline int pass_on(struct __sk_buff *skb, struct scratch *s)
{
	struct slot *slot = &s->slot;

	if (!skb->gso_size && skb->len > FRAME_LIMIT)
		return refuse(slot, OUTCOME_DROPPED_TOO_BIG);
	slot->segments = segments_of(skb, &s->window);
	slot->outcome = OUTCOME_RELAYED;
	skb->mark = slot->tunnel << MARK_TUNNEL_SHIFT |
		    (slot->generation & MARK_GENERATION_MASK) << MARK_GENERATION_SHIFT |
		    (slot->counter & MARK_COUNTER_MASK);
	skb->priority = slot->snap_length;
	return TC_ACT_OK;
}

/* A wrapping in place: what it does to the frame, in bytes. */
struct wrapping {
	__u32 room;	    /* added in front of the network header */
	__u32 length;	    /* of the frame as the analyzer gets it */
	__u32 headers;	    /* of each segment, network and transport; 0: not a super-packet */
	__u32 segment_size; /* payload of each segment */
	__u32 excess;	    /* to take from the segment size beside the room */
	__u64 flags;	    /* of bpf_skb_adjust_room */
};

/* Segments of a super-packet and the outer header must fit the underlay: as they are, or, TCP only, cut anew.
 * False: the slow path must do it. */
static __always_inline bool fit_segments(struct __sk_buff *skb, struct scratch *s, const struct egress *e,
					 struct wrapping *wrap)
{
	__u32 size = skb->gso_size, segment;
	bool tcp;

	wrap->headers = headers_of(&s->window, ETH_HLEN + s->window.tag_length, &tcp);
	wrap->segment_size = size;
	segment = wrap->headers + size;
	if (!wrap->headers || size > 0xf000)
		return false;
	if (segment + wrap->room <= e->mtu) {
		wrap->flags |= BPF_F_ADJ_ROOM_FIXED_GSO;
		return true;
	}
	if (!tcp)
		return false;
	wrap->excess = segment > e->mtu ? segment - e->mtu : 0;
	if (wrap->room + wrap->excess + 64 > size || wrap->excess > 0xfff)
		return false;
	wrap->segment_size = size - wrap->room - wrap->excess;
	return true;
}

/* Takes more from the segment size than the outer headers will: growing takes, shrinking back with a fixed size leaves
 * it taken. 0, or -ENOMEM: the clone is ruined. */
static __always_inline long shorten_segments(struct __sk_buff *skb, __u32 excess)
{
	if (excess && (bpf_skb_adjust_room(skb, excess, BPF_ADJ_ROOM_MAC, 0) ||
		       bpf_skb_adjust_room(skb, -(__s32)excess, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO)))
		return -ENOMEM;
	return 0;
}

/* The outer headers in front of an IP packet, in place. 0, or the kernel's error: -ENOMEM ruins the clone, after any
 * other it is as it was. */
static __always_inline long make_room(struct __sk_buff *skb, struct scratch *s, const struct egress *e,
				      struct wrapping *wrap)
{
	__u64 inner_length = ETH_HLEN + s->window.tag_length;
	__u16 tag_proto = skb->vlan_proto, tag_tci = skb->vlan_tci;
	long status;

	wrap->flags |=
		BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_NO_CSUM_RESET | BPF_F_ADJ_ROOM_ENCAP_L2(inner_length);
	wrap->flags |=
		e->template[OUTER_PROTOCOL] == IPPROTO_UDP ? BPF_F_ADJ_ROOM_ENCAP_L4_UDP : BPF_F_ADJ_ROOM_ENCAP_L4_GRE;
	if (shorten_segments(skb, wrap->excess))
		return -ENOMEM;
	if (s->window.tag_length)
		bpf_skb_vlan_pop(skb);
	status = bpf_skb_adjust_room(skb, wrap->room, BPF_ADJ_ROOM_MAC, wrap->flags | BPF_F_ADJ_ROOM_ENCAP_L2_ETH);
	if (status == -EINVAL) /* a kernel before 5.13 does not know the last flag */
		status = bpf_skb_adjust_room(skb, wrap->room, BPF_ADJ_ROOM_MAC, wrap->flags);
	if (status && s->window.tag_length)
		bpf_skb_vlan_push(skb, tag_proto, tag_tci);
	return status;
}

/* The usual outer headers, the quick way. */
static __always_inline bool header_written(struct __sk_buff *skb, struct scratch *s, const struct egress *e,
					   __u32 length)
{
	__u16 id = s->packets++;

	if (s->window.tag_length)
		return false;
	switch (e->template_length) {
	case 38: /* GRE */
		return header_write(skb, s, e, 38, length, id);
	case 42: /* GRE with a key */
		return header_write(skb, s, e, 42, length, id);
	case 50: /* VXLAN */
		return header_write(skb, s, e, 50, length, id);
	}
	return false;
}

/* Outer headers written, the copy leaves. */
static __always_inline int send_wrapped(struct __sk_buff *skb, struct scratch *s, const struct egress *e,
					struct wrapping *wrap)
{
	__u32 length = wrap->headers ? skb->len - OUTER_IP : e->template_length - OUTER_IP + wrap->length;
	__u32 packets = 1, bytes = length + OUTER_IP, each, payload;

	if (!header_written(skb, s, e, length)) {
		header_build(s, e, length, s->slot.hash, bpf_get_prandom_u32());
		if (header_store(skb, s, e))
			return refuse(&s->slot, OUTCOME_DROPPED_NO_MEMORY);
	}
	if (!wrap->headers && clear_beyond(skb, s, length + OUTER_IP))
		return refuse(&s->slot, OUTCOME_DROPPED_NO_MEMORY);
	if (wrap->headers && wrap->segment_size) {
		each = e->template_length + ETH_HLEN + s->window.tag_length + wrap->headers;
		payload = skb->len - each;
		packets = (payload + wrap->segment_size - 1) / wrap->segment_size;
		bytes = payload + packets * each;
	}
	s->slot.outcome = OUTCOME_SENT;
	return send(skb, e, s->slot.egress, s->slot.counter, packets, bytes);
}

static __always_inline int wrap_clone(struct __sk_buff *skb, struct scratch *s, const struct egress *e,
				      const struct tunnel *t)
{
	struct window *w = &s->window;
	struct slot *slot = &s->slot;
	struct wrapping wrap = {.room = e->template_length + w->tag_length, .length = w->frame_length};
	bool drop_oversize = t->oversize == OVERSIZE_DROP;
	long status;

	if (slot->snap_length && wrap.length > slot->snap_length) {
		wrap.length = slot->snap_length;
		if (!cut_tail(skb, wrap.length - w->tag_length))
			return refuse(slot, OUTCOME_DROPPED_TOO_BIG);
	}
	if (!skb->gso_size && e->template_length - OUTER_IP + wrap.length > e->mtu) {
		if (drop_oversize)
			return refuse(slot, OUTCOME_DROPPED_OVERSIZE);
		return pass_on(skb, s);
	}
	if (skb->protocol != bpf_htons(ETH_P_IP) && skb->protocol != bpf_htons(ETH_P_IPV6))
		return pass_on(skb, s);
	if (skb->gso_size) {
		if (!fit_segments(skb, s, e, &wrap))
			return drop_oversize ? refuse(slot, OUTCOME_DROPPED_OVERSIZE) : pass_on(skb, s);
		if (drop_oversize && !(wrap.flags & BPF_F_ADJ_ROOM_FIXED_GSO))
			return refuse(slot, OUTCOME_DROPPED_OVERSIZE);
	}
	status = make_room(skb, s, e, &wrap);
	if (status == -ENOMEM)
		return refuse(slot, OUTCOME_DROPPED_NO_MEMORY);
	if (status)
		return pass_on(skb, s);
	return send_wrapped(skb, s, e, &wrap);
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
	e = bpf_map_lookup_elem(&egress, &s->slot.egress);
	t = bpf_map_lookup_elem(&tunnels, &s->slot.tunnel);
	if (!e || !t)
		return refuse(&s->slot, OUTCOME_DROPPED_NO_ROUTE);
	if (s->slot.wrapped)
		return send(skb, e, s->slot.egress, s->slot.counter, 1, skb->len);
	return wrap_clone(skb, s, e, t);
}

/* ---- encap_frame: ingress of the relay's receiving end ---- */

/* After bpf_skb_change_head skb->protocol still names the inner frame's, and a tag still lies beside the skb; but
 * bpf_redirect_neigh goes by it. Popping a tag out of the payload derives it anew from what follows, so a tag is
 * pushed into the outer Ethernet header and taken out again [net/core/skbuff.c: skb_vlan_push, __skb_vlan_pop]. */
static __always_inline long derive_protocol(struct __sk_buff *skb)
{
	if (!skb->vlan_present && skb->protocol == bpf_htons(ETH_P_IP))
		return 0;
	if (!skb->vlan_present && bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), 1))
		return -1;
	return bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), 1) || bpf_skb_vlan_pop(skb) || bpf_skb_vlan_pop(skb);
}

static __always_inline int lose(__u32 counter, enum outcome outcome, __u32 bytes)
{
	count(counter, outcome, 1, bytes);
	return TC_ACT_SHOT;
}

static __always_inline int wrap_frame(struct __sk_buff *skb, struct scratch *s, const struct egress *e,
				      bool drop_oversize)
{
	__u32 counter = s->slot.counter, bytes = s->window.frame_length, zero = 0, length;
	__u64 *relay_ifindex = bpf_map_lookup_elem(&relay, &zero);
	__u16 id = bpf_get_prandom_u32();

	if (s->slot.snap_length && bytes > s->slot.snap_length) {
		bytes = s->slot.snap_length;
		if (!cut_tail(skb, bytes - s->window.tag_length))
			return lose(counter, OUTCOME_LOST_OVERSIZE, bytes);
	}
	length = e->template_length - OUTER_IP + bytes;
	header_build(s, e, length, s->slot.hash, id);
	if (!relay_ifindex || bpf_skb_change_head(skb, e->template_length + s->window.tag_length, 0) ||
	    header_store(skb, s, e) || derive_protocol(skb) || clear_beyond(skb, s, length + OUTER_IP))
		return lose(counter, OUTCOME_LOST_NO_MEMORY, bytes);
	length += OUTER_IP;
	if (length - OUTER_IP > e->mtu) {
		if (drop_oversize)
			return lose(counter, OUTCOME_LOST_OVERSIZE, bytes);
		length = fragment_all(skb, s, e, length - OUTER_TRANSPORT, id, *relay_ifindex);
		if (!length)
			return lose(counter, OUTCOME_LOST_OVERSIZE, bytes);
	}
	return send(skb, e, s->slot.egress, counter, 1, length);
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
	if (!s || !t || !t->endpoint_count ||
	    (t->generation & MARK_GENERATION_MASK) != (mark >> MARK_GENERATION_SHIFT & MARK_GENERATION_MASK))
		return lose(counter, OUTCOME_LOST_STALE, skb->len);
	if (window_load(skb, &s->window))
		return lose(counter, OUTCOME_LOST_NO_MEMORY, skb->len);
	s->slot.hash = flow_hash(&s->window);
	s->slot.egress = endpoint_of(t, s->slot.hash);
	s->slot.tunnel = tunnel;
	s->slot.counter = counter;
	s->slot.snap_length = skb->priority;
	skb->priority = 0;
	e = bpf_map_lookup_elem(&egress, &s->slot.egress);
	outcome = path_outcome(s->slot.egress);
	if (!e || outcome == OUTCOME_DROPPED_NO_ROUTE)
		return lose(counter, OUTCOME_LOST_NO_ROUTE, s->window.frame_length);
	if (outcome != OUTCOME_SENT)
		return lose(counter, OUTCOME_LOST_NO_NEIGHBOUR, s->window.frame_length);
	*level += 1;
	verdict = wrap_frame(skb, s, e, t->oversize == OVERSIZE_DROP);
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
