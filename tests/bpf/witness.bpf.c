/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Programs of the tests on other hooks than ours: one sends production on as a switch would, one counts what arrives. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} towards SEC(".maps"); /* ifindex */

struct tally {
	__u64 packets;
	__u64 bytes; /* by the length of the outer IP header */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2); /* IPv4; anything else */
	__type(key, __u32);
	__type(value, struct tally);
} arrived SEC(".maps");

/* What a packet looked like to whoever comes after the tap: production, copies. */
struct sight {
	__u64 tstamp;
	__u32 mark;
	__u32 priority;
	__u64 packets;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct sight);
} seen SEC(".maps");

/* Copies that carry a GRE key and a sequence number, by what their first packets say. */
struct stream {
	__u64 packets;
	__u64 first; /* numbers, plus one; 0: none has come */
	__u64 last;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct stream);
} numbered SEC(".maps");

char _license[] SEC("license") = "Dual BSD/GPL";

SEC("tc")
int forward(struct __sk_buff *skb)
{
	__u32 zero = 0, *ifindex = bpf_map_lookup_elem(&towards, &zero);

	(void)skb;
	return ifindex ? (int)bpf_redirect(*ifindex, 0) : TC_ACT_SHOT;
}

static __always_inline void number(struct __sk_buff *skb, const __u8 *ip)
{
	__u32 zero = 0, sequence;
	__u16 fragment = *(const __u16 *)(ip + 6);
	struct stream *s = bpf_map_lookup_elem(&numbered, &zero);

	if (!s || ip[9] != IPPROTO_GRE || (fragment & bpf_htons(0x1fff)) || (ip[20] & 0x30) != 0x30)
		return;
	if (bpf_skb_load_bytes(skb, ETH_HLEN + 28, &sequence, sizeof(sequence)))
		return;
	sequence = bpf_ntohl(sequence);
	s->packets++;
	if (!s->first || sequence + 1ULL < s->first)
		s->first = sequence + 1ULL;
	if (sequence + 1ULL > s->last)
		s->last = sequence + 1ULL;
}

SEC("tc")
int tally(struct __sk_buff *skb)
{
	__u32 index = skb->protocol != bpf_htons(ETH_P_IP);
	struct tally *t = bpf_map_lookup_elem(&arrived, &index);
	__u8 ip[24] = {};

	if (t && !bpf_skb_load_bytes(skb, ETH_HLEN, ip, sizeof(ip))) {
		__sync_fetch_and_add(&t->packets, 1);
		__sync_fetch_and_add(&t->bytes, bpf_ntohs(*(__u16 *)(ip + 2)));
		number(skb, ip);
	}
	return TC_ACT_SHOT; /* nobody listens, and nobody shall answer */
}

SEC("tc")
int look(struct __sk_buff *skb)
{
	__u32 index = skb->mark >> 16 == 0x5e1f;
	struct sight *s = bpf_map_lookup_elem(&seen, &index);

	if (s) {
		s->tstamp = skb->tstamp;
		s->mark = skb->mark;
		s->priority = skb->priority;
		__sync_fetch_and_add(&s->packets, 1);
	}
	return TC_ACT_UNSPEC;
}

SEC("tc")
int tag(struct __sk_buff *skb)
{
	bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), 5);
	return TC_ACT_UNSPEC;
}

SEC("tc")
int tag_twice(struct __sk_buff *skb)
{
	bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), 5);
	bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021AD), 6);
	return TC_ACT_UNSPEC;
}
