/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The maps. What a program can reach through them is never rewritten, but for single aligned 64-bit words: user space
 * writes a new id and switches it in by one store (docs/adr/0004). Arrays are mmapable so that it can do just that.
 */
#ifndef SNIFFER_MAPS_H
#define SNIFFER_MAPS_H

#include <linux/bpf.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>

#include "sniffer.h"

#define ARRAY_OF(record, name, entries)            \
	struct {                                   \
		__uint(type, BPF_MAP_TYPE_ARRAY);  \
		__uint(max_entries, entries);      \
		__uint(map_flags, BPF_F_MMAPABLE); \
		__type(key, __u32);                \
		__type(value, record);             \
	} name SEC(".maps")

#define PER_CPU(record, name, entries)                   \
	struct {                                         \
		__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); \
		__uint(max_entries, entries);            \
		__type(key, __u32);                      \
		__type(value, record);                   \
	} name SEC(".maps")

ARRAY_OF(__u64, hooks, HOOKS_MAX);
ARRAY_OF(struct list, lists, LISTS_MAX);
ARRAY_OF(struct filter, filters, FILTERS_MAX);
ARRAY_OF(struct mirror, mirrors, MIRRORS_MAX);
ARRAY_OF(__u64, leases, MIRRORS_MAX); /* LEASE_ flags, and valid until */
ARRAY_OF(struct tunnel, tunnels, TUNNELS_MAX);
ARRAY_OF(struct egress, egress, EGRESS_MAX);
ARRAY_OF(__u64, paths, EGRESS_MAX); /* enum path_word */
ARRAY_OF(struct budget, budgets, BUDGETS_MAX);
ARRAY_OF(__u64, labels, COUNTERS_MAX);
ARRAY_OF(__u64, relay, 1); /* RELAY_SHARED and ifindex of the relay's sending end */
PER_CPU(struct counters, counters, COUNTERS_MAX);

/* By budget id: CLOCK_MONOTONIC, in units of the budget, until which what was used is not yet made up for. All CPUs share it
 * (limit.h). A map with a lock cannot be mmapable. */
struct bucket {
	struct bpf_spin_lock lock;
	__u32 pad;
	__u64 packets_until;
	__u64 bytes_until;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, BUDGETS_MAX);
	__type(key, __u32);
	__type(value, struct bucket);
} buckets SEC(".maps");

/* Hashes of frames that watched mirrors have matched, at a place by their hash. */
#define REPEATS_MAX 16384
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, REPEATS_MAX);
	__type(key, __u32);
	__type(value, __u64);
} repeats SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, NAMES_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct name_key);
	__type(value, struct name);
} names SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, OUTERS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct outer);
	__type(value, __u32);
} outers SEC(".maps");

/* Sequence numbers, one for each stream of copies that an analyzer can tell apart. Under a lock: on 5.10 an addition has no
 * result. */
struct sequence {
	struct bpf_spin_lock lock;
	__u32 next;
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SEQUENCES_MAX);
	__type(key, __u32);
	__type(value, struct sequence);
} sequences SEC(".maps");

/* What one run of a program needs beside its stack. A tap can run inside another's bpf_clone_redirect (a copy may cross
 * a tapped device on its way out), so there is one per level of nesting. */
#define LEVELS 4
#define WINDOW_LENGTH 128
#define WINDOW_MASK 0xff
#define TAG_LENGTH 4
#define HEADER_MASK 0xff
#define FRAGMENT_HEADER 8 /* of IPv6 */
#define ZEROS_LENGTH 1024

/* The frame as it was on the wire: a VLAN tag that the skb holds is put back. Its words lie so that those of an IPv4 packet
 * are aligned. */
struct window {
	__u32 length;	    /* bytes of the frame that are here */
	__u32 frame_length; /* bytes of the whole frame, tag included */
	__u32 tag_length;   /* TAG_LENGTH when a tag was put back, else 0 */
	__u8 pad[6];
	__u8 bytes[WINDOW_MASK + 1 + 6];
};

/* The classic BPF machine (filter.h). */
struct machine {
	__u32 a;
	__u32 x;
	__u32 pc;
	__u32 next_rule; /* where to go on when the present rule does not match; 0: nowhere */
	__u32 action;	 /* of the present rule */
	__u32 filter;
	__u32 memory[16];
};

/* What the relay's programs are told about the clone that is on its way. */
struct slot {
	__u32 armed;   /* set just before bpf_clone_redirect, cleared by the program that takes the clone */
	__u32 wrapped; /* the clone is a finished outer fragment: only send it */
	__u32 tunnel;
	__u32 generation;
	__u32 egress;
	__u32 counter;
	__u32 snap_length;
	__u32 hash;
	__u32 egress_seen;     /* what the mirror calls egress, else its ingress */
	__u32 original_length; /* bytes of the frame as it matched */
	__u32 length;	       /* bytes of the copy; encap makes less of it where the underlay has no room */
	__u32 outcome;	       /* result: OUTCOME_SENT, a drop, or OUTCOME_RELAYED */
	__u32 segments;	       /* result: frames given to the slow path */
};

/* An outer packet that is being cut into fragments. */
struct fragments {
	__u32 payload; /* bytes behind the outer IP header */
	__u32 id;
};

struct scratch {
	struct window window;
	struct machine machine;
	struct slot slot;
	struct fragments fragments;
	__u64 jiffies; /* when the clock was read */
	__u64 now_ns;
	struct outer outer;		  /* a key that is looked for */
	__u32 copies;			  /* of the present frame */
	__u32 flow_known;		  /* whether `flow` is the present frame's */
	__u64 flow;			  /* flow_hash() */
	__u32 direction;		  /* of its hook */
	__u32 stamped;			  /* whether it is one that the device will stamp */
	__u32 packets;			  /* wrapped by this CPU: the outer identification */
	__u8 front[FRAGMENT_HEADER];	  /* where a fragment's headers begin (fragment.h), or nothing */
	__u8 header[HEADER_MASK + 1 + 8]; /* outer header, inner Ethernet header and tag, as built */
	__u8 zeros[ZEROS_LENGTH];	  /* never written */
};

PER_CPU(struct scratch, scratches, LEVELS);
PER_CPU(__u32, levels, 1); /* how many are in use on this CPU */

/* Frames of the slow path that are in the relay (flight.h). */
struct flight {
	__u64 frames;
	__u64 since_ns; /* when the last one arrived, or the first one left */
};
PER_CPU(struct flight, flights, 1);

/* Bytes of an outer packet that is being cut into fragments: 0 its tail, 1 its front (cut_middle); twice the longest, for
 * the verifier's arithmetic. */
#define TAIL_MASK 0x3fff
struct tail {
	__u8 bytes[2 * (TAIL_MASK + 1)];
};
PER_CPU(struct tail, tails, 2);

static __always_inline struct scratch *scratch_at(__u32 level)
{
	return bpf_map_lookup_elem(&scratches, &level);
}

static __always_inline __u32 *level_in_use(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&levels, &zero);
}

#endif
