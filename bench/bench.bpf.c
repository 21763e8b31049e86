// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * What the rows of the bench stand on: the least that a program can be, the least that a copy can cost, the end of the
 * production packet, and the end of every copy.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct tally {
	__u64 packets;
	__u64 bytes;
};

/* 0: production packets that ended; 1: copies that reached the uplink. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct tally);
	__uint(max_entries, 2);
} tallies SEC(".maps");

/* 0: the ifindex of the uplink. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 1);
} uplink SEC(".maps");

static __always_inline int end(struct __sk_buff *skb, __u32 which)
{
	struct tally *tally = bpf_map_lookup_elem(&tallies, &which);

	if (tally) {
		tally->packets++;
		tally->bytes += skb->len;
	}
	return TC_ACT_SHOT;
}

SEC("tc")
int empty(struct __sk_buff *skb __attribute__((unused)))
{
	return TC_ACT_UNSPEC;
}

SEC("tc")
int bare_clone(struct __sk_buff *skb)
{
	__u32 zero = 0, *ifindex = bpf_map_lookup_elem(&uplink, &zero);

	if (ifindex)
		bpf_clone_redirect(skb, *ifindex, 0);
	return TC_ACT_UNSPEC;
}

SEC("tc")
int production_ends(struct __sk_buff *skb)
{
	return end(skb, 0);
}

SEC("tc")
int black_hole(struct __sk_buff *skb)
{
	return end(skb, 1);
}
