/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The contract between the programs and user space: every record that lies in a map, every limit, every outcome.
 * sniffer/abi/ mirrors it in Python; a test compares the two through BTF.
 * Integers are in host byte order unless the type says otherwise.
 */
#ifndef SNIFFER_H
#define SNIFFER_H

#include <linux/types.h>

#define SNIFFER_ABI 2

/* Limits. Id 0 of lists, filters, mirrors, tunnels, egress and budgets means "none" and is never allocated;
 * counter 0 is the node's own. */
#define HOOKS_MAX 8192
#define HOOKS_ROW 8
#define HOOKS_PROBES 16
#define HOOKS_STRIDE 1021
#define LISTS_MAX 2048
#define FILTERS_MAX 2048
#define MIRRORS_MAX 4096
#define TUNNELS_MAX 1024
#define EGRESS_MAX 2048
#define COUNTERS_MAX 2048
#define BUDGETS_MAX 2048
#define NAMES_MAX 8192
#define OUTERS_MAX 16384
#define SEQUENCES_MAX 2048 /* EGRESS_MAX */

#define LIST_LENGTH 16	    /* mirrors on one hook */
#define PROGRAM_LENGTH 512  /* classic BPF instructions of one filter, linked */
#define TARGETS_LENGTH 4    /* targets of one mirror */
#define ENDPOINTS_LENGTH 8  /* endpoints of one target */
#define COPIES_LIMIT 16	    /* copies of one packet */
#define TEMPLATE_LENGTH 112 /* the longest outer header: Ethernet, IPv6, UDP, GENEVE with its options, padded */
#define NAME_LENGTH 1016
#define FLIGHT_LIMIT 256  /* frames of the slow path at once and per CPU, in a relay without a ring */
#define FRAME_LIMIT 16000 /* the longest frame that bpf_skb_change_head wraps, measured */

enum direction { INGRESS = 0, EGRESS = 1 };

/* Word of `hooks`, an open-addressed table: ifindex << 32 | direction << 31 | enum guard << 29 | HOOK_STAMPS | list id, at one
 * of HOOKS_PROBES places: the HOOKS_ROW from (2 * ifindex + direction) % HOOKS_MAX on, then each HOOKS_STRIDE further than the
 * one before it (the first of them from the first), going round: interfaces come in rows, and a number comes round again.
 * So a hook is switched by one store.
 * HOOK_STAMPS: the device stamps packets with the time of their sending, one at a time: no copy may go before them. */
#define HOOK_GUARD_SHIFT 29
#define HOOK_STAMPS 0x10000000
#define HOOK_LIST_MASK 0x0fffffff

/* Which copies pass a hook beside those with our mark and header. NODE: an interface of a node: those of other nodes, and ours
 * inside of an overlay. ANALYZER: towards a pod that is an analyzer: whoever sent them; from it, what it answers to them, to
 * whomever. REFUSALS, and NODE: what an analyzer that does not want copies answers to this or other nodes. A hook without a list
 * is there for these alone. */
enum guard { GUARD_NONE = 0, GUARD_NODE = 1, GUARD_ANALYZER = 2, GUARD_REFUSALS = 3 };

/* Value of `lists`: mirror ids in order, 0 ends. */
struct list {
	__u32 mirrors[LIST_LENGTH];
};

/* One classic BPF instruction, as in <linux/filter.h>, with the codes below beside the classic ones. */
struct instruction {
	__u16 code;
	__u8 jt;
	__u8 jf;
	__u32 k;
};

/* Value of `filters`. */
struct filter {
	struct instruction code[PROGRAM_LENGTH];
};

/* Codes of our own, outside of the classic ones. RULE starts a rule: k is the index where the next rule starts
 * (0: none follows), jt what a match of this rule means. */
#define CODE_RULE 0x1000
enum action { ACTION_SKIP = 0, ACTION_MIRROR = 1 };

/* What a sampling goes by. FLOW: all of a flow, both ways and on every node, or nothing of it. */
enum sampling { SAMPLING_FLOW = 0, SAMPLING_PACKET = 1 };

/* Value of `mirrors`. */
struct mirror {
	__u32 filter;	   /* 0: every frame */
	__u32 snap_length; /* bytes; 0: the whole frame */
	__u32 counter;
	__u32 target_count;
	__u32 tunnels[TARGETS_LENGTH];
	__u32 one_in;	/* of so many frames or flows one is copied; 0: all */
	__u32 sampling; /* enum sampling */
	__u32 budget;	/* 0: no limit */
	__u32 from_pod; /* 1: what leaves the hook is what the pod behind it receives */
};

/* Value of `budgets`: how much of something may pass. The burst is what can pass at once. What of it is used up lies in
 * `buckets`, in units of time: that until which it will be whole again. */
#define BUDGET_UNITS_PER_NS 16	 /* of the packets' cost and of both bursts */
#define BUDGET_BYTE_FRACTION 256 /* the cost of a byte is in so much smaller units */
struct budget {
	__u64 owner;	   /* whose it is, as a number; never 0 */
	__u64 packet_cost; /* 0: any number of packets */
	__u64 packet_burst;
	__u64 byte_cost; /* 0: any number of bytes */
	__u64 byte_burst;
	/* As people have said it; no program reads them. */
	__u64 packets_per_second;
	__u64 burst_packets;
	__u64 kilobits_per_second;
	__u64 burst_bits;
};

/* ERSPAN2 and 3: types II and III. */
enum encapsulation {
	ENCAPSULATION_NONE = 0,
	ENCAPSULATION_VXLAN = 1,
	ENCAPSULATION_GRE = 2,
	ENCAPSULATION_GENEVE = 3,
	ENCAPSULATION_ERSPAN2 = 4,
	ENCAPSULATION_ERSPAN3 = 5,
};
enum oversize { OVERSIZE_SEGMENT = 0, OVERSIZE_DROP = 1, OVERSIZE_TRUNCATE = 2 };

/* Value of `tunnels`. A cleared record keeps its generation: a frame still in the relay that was meant for the
 * former one is recognised by it. */
struct tunnel {
	__u32 generation;
	__u8 encapsulation;
	__u8 oversize;
	__u16 endpoint_count;
	__u32 snap_length;		   /* bytes, of every mirror that uses it at most; 0: no limit */
	__u32 budget;			   /* 0: no limit */
	__u32 endpoints[ENDPOINTS_LENGTH]; /* ids in `egress` */
};

/* Flags of `egress`. SEQUENCE: the header carries a sequence number, 32 bits, of those behind GRE's key. DSCP: that of
 * the outer header is the inner packet's. CHECKSUM: that of the outer UDP is made. DONT_FRAGMENT: nor do we. */
enum egress_flag {
	EGRESS_IPV6 = 1,
	EGRESS_SEQUENCE = 2,
	EGRESS_DSCP = 4,
	EGRESS_CHECKSUM = 8,
	EGRESS_DONT_FRAGMENT = 16,
};

/* Value of `egress`: where the copies for one endpoint leave, and the outer header as it is on the wire but for what differs
 * from copy to copy, which is zero: lengths, identification, checksums, source port, flow label, sequence number, and what
 * tells of the copy (GENEVE's options, the bits of ERSPAN). */
struct egress {
	__u32 ifindex;
	__u32 mtu;	      /* bytes of the outer IP packet */
	__u8 nexthop[16];     /* network order; IPv4 in the first four */
	__u32 checksum;	      /* sum of the template's IPv4 header as 16-bit words, not folded */
	__u32 pseudo;	      /* the same of UDP's pseudo header but for the length */
	__u32 sequence;	      /* index in `sequences` */
	__u8 family;	      /* of the nexthop: AF_INET or AF_INET6 */
	__u8 template_length; /* bytes of `template` in use, from the outer Ethernet header on */
	__u8 encapsulation;
	__u8 flags; /* enum egress_flag */
	__u8 template[TEMPLATE_LENGTH];
};

/* Word of `labels`, by counter: what the copies of a mirror are called. CRC-32 of its name << 32 | one frame in so many is
 * copied. */
#define LABEL_MIRROR_SHIFT 32

/* Key of `outers`: what the outer headers of copies from other nodes look like; the value counts up with each ICMP error by which
 * such a copy is refused, where a guard sees it. A copy has a
 * node's address as its source (OUTER_NODE: nothing else is set) and an analyzer's header: VXLAN and GENEVE: port, key is
 * the VNI; GRE: port is OUTER_GRE_KEY and key is the key, or both are 0; ERSPAN: port is GRE's protocol type, key the session
 * id. Later fragments have OUTER_LATER with address and protocol. Integers are in host byte order. */
enum outer_kind { OUTER_NODE = 1, OUTER_HEADER = 2, OUTER_LATER = 3 };
#define OUTER_GRE_KEY 0x2000
struct outer {
	__u8 address[16]; /* of the node; else of the analyzer. Network order; IPv4 as ::ffff:a.b.c.d */
	__u32 key;
	__u16 port;
	__u8 protocol; /* IPPROTO_UDP or IPPROTO_GRE */
	__u8 kind;
};

/* Word of `leases`, by mirror id: CLOCK_MONOTONIC in nanoseconds until which the mirror is valid, with these flags. WATCHED:
 * repeated frames are looked for. HELD: what matches is counted and dropped: its copies may come back as matches. */
#define LEASE_HELD 0x8000000000000000
#define LEASE_WATCHED 0x4000000000000000
#define LEASE_FLAGS_SHIFT 62

/* Word of `relay`: ifindex of its sending end, and whether its receiving end shares the backlog of production's packets,
 * for want of a ring. */
#define RELAY_SHARED 0x100000000

/* Word of `paths`, by egress id. REJECTING: copies go, and come back as ICMP errors. */
enum path_word { PATH_NONE = 0, PATH_REACHABLE = 1, PATH_UNREACHABLE = 2, PATH_NO_ROUTE = 3, PATH_REJECTING = 4 };

/* What became of a frame. Per mirror: matched = sent + every drop, in packets. wire and the losses are beside it:
 * packets written to the uplink, packets lost behind the relay. relayed - arrived is what the relay has in flight
 * or lost. skipped (on counter 0) and turns are told apart from all of these. truncated: copies cut to what the underlay has
 * room for, and the bytes that were cut. repeated: matches, while watched, of a frame that this very hook has seen before, or that is somebody's copy. */
enum outcome {
	OUTCOME_MATCHED,
	OUTCOME_SENT,
	OUTCOME_DROPPED_RATE_LIMIT,
	OUTCOME_DROPPED_SAMPLED_OUT,
	OUTCOME_DROPPED_OVERSIZE,
	OUTCOME_DROPPED_TOO_BIG,
	OUTCOME_DROPPED_NO_ROUTE,
	OUTCOME_DROPPED_NO_NEIGHBOUR,
	OUTCOME_DROPPED_NO_MEMORY,
	OUTCOME_DROPPED_RELAY_DOWN,
	OUTCOME_DROPPED_COPY_LIMIT,
	OUTCOME_DROPPED_PTP,
	OUTCOME_DROPPED_STORM,
	OUTCOME_WIRE,
	OUTCOME_LOST_NO_MEMORY,
	OUTCOME_LOST_OVERSIZE,
	OUTCOME_LOST_NO_ROUTE,
	OUTCOME_LOST_NO_NEIGHBOUR,
	OUTCOME_LOST_STALE,
	OUTCOME_RELAYED,
	OUTCOME_ARRIVED,
	OUTCOME_SKIPPED,
	OUTCOME_TURNS,
	OUTCOME_TRUNCATED,
	OUTCOME_REPEATED,
	OUTCOMES,
};

struct tally {
	__u64 packets;
	__u64 bytes;
};

/* Value of `counters`, per CPU. */
struct counters {
	struct tally tally[OUTCOMES];
};

/* Key and value of `names`, which no program reads. The text is JSON, padded with zero bytes. */
enum name_kind { NAME_NODE = 0, NAME_COUNTER = 1, NAME_TUNNEL = 2, NAME_VERDICT = 3 };
struct name_key {
	__u32 kind;
	__u32 id;
};
struct name {
	__u8 text[NAME_LENGTH];
};

/* skb->mark of a copy on its way to the uplink: MARK_COPY | egress id. On its way through the relay the mark
 * carries tunnel id, generation, direction and counter id instead; and skb->hash the snap length, 0 for none, and the length
 * of a frame that was cut on this side of the relay, 0 for one that was not. */
#define MARK_COPY 0x5e1f0000
#define MARK_COPY_MASK 0xffff0000
#define MARK_TUNNEL_SHIFT 22
#define MARK_GENERATION_SHIFT 12
#define MARK_GENERATION_MASK 0x3ff
#define MARK_EGRESS 0x800
#define MARK_COUNTER_MASK 0x7ff
#define HASH_SNAP_MASK 0x3fff
#define HASH_LENGTH_SHIFT 14
#define HASH_LENGTH_MAX 0x3ffff

#endif
