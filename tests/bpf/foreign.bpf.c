/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Programs of somebody else on the hooks that we use: they count, and go on or say that all is decided. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} runs SEC(".maps");

char _license[] SEC("license") = "Dual BSD/GPL";

static __always_inline int counted(struct __sk_buff *skb, int verdict)
{
	__u32 zero = 0;
	__u64 *cell = bpf_map_lookup_elem(&runs, &zero);

	if (cell && skb->len)
		__sync_fetch_and_add(cell, 1);
	return verdict;
}

SEC("tc")
int foreign_next(struct __sk_buff *skb)
{
	return counted(skb, TC_ACT_UNSPEC);
}

SEC("tc")
int foreign_ok(struct __sk_buff *skb)
{
	return counted(skb, TC_ACT_OK);
}

SEC("tc")
int foreign_drop(struct __sk_buff *skb)
{
	return counted(skb, TC_ACT_SHOT);
}
