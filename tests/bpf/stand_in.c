/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Programs and maps of every kind that the product has, for the tests of kernel/bpf.py and kernel/tcx.py. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct value {
	__u64 packets;
	__u32 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 3000);
} hash SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct value);
	__uint(max_entries, 5000);
} array SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct value);
	__uint(max_entries, 40);
} per_cpu SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__uint(value_size, 12);
	__uint(max_entries, 1000);
} mapped_with_a_long_name SEC(".maps");

const volatile __u32 constant = 7;
char _license[] SEC("license") = "Dual BSD/GPL";

/* On loopback -1 (next), elsewhere the mark. */
SEC("tc")
int count_the_packets_of_it(struct __sk_buff *skb)
{
	__u32 key = 1;
	struct value *cell = bpf_map_lookup_elem(&per_cpu, &key);
	struct value *element = bpf_map_lookup_elem(&array, &key);
	__u64 *word = bpf_map_lookup_elem(&mapped_with_a_long_name, &key);
	__u64 *hashed = bpf_map_lookup_elem(&hash, &key);

	if (cell) {
		cell->packets += 1;
		cell->bytes += skb->len;
	}
	if (word && element)
		element->packets = *word;
	if (hashed)
		skb->mark = (__u32)*hashed + constant;
	return skb->ifindex == 1 ? -1 : (int)skb->mark;
}

SEC("tc")
int second(struct __sk_buff *skb)
{
	return -1;
}

SEC("tc")
int refused(struct __sk_buff *skb)
{
	return *(int *)((long)skb->data + 4);
}
