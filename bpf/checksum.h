/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The checksum of the outer UDP, where a target asks for it: over a plain frame, of the slow path. */
#ifndef SNIFFER_CHECKSUM_H
#define SNIFFER_CHECKSUM_H

#include "encap.h"

#define SUM_CHUNK 512 /* what bpf_csum_diff takes on 5.10 */
#define SUM_CHUNKS (FRAME_LIMIT / SUM_CHUNK + 2)

/* Sum of `length` bytes of the packet from `at` on, as 16-bit words as they lie in memory, folded; -1: not readable. */
__noinline int packet_sum(struct __sk_buff *skb, __u32 at, __u32 length)
{
	__u32 zero = 0, done = 0;
	struct tail *t = bpf_map_lookup_elem(&tails, &zero);
	__u64 sum = 0, size;

	if (!t)
		return -1;
	for (int n = 0; n < SUM_CHUNKS; n++) {
		if (done >= length)
			return sum_folded(sum);
		size = length - done;
		if (size > SUM_CHUNK)
			size = SUM_CHUNK;
		size = masked(size - 1, SUM_CHUNK - 1) + 1;
		*(__u32 *)(t->bytes + masked(size & ~3, 2 * SUM_CHUNK - 1)) = 0;
		if (bpf_skb_load_bytes(skb, at + done, t->bytes, size))
			return -1;
		sum += (__u32)bpf_csum_diff(NULL, 0, (__be32 *)t->bytes, masked(size + 3, SUM_CHUNK | (SUM_CHUNK - 4)),
					    0);
		done += SUM_CHUNK;
	}
	return -1;
}

/* Fills in the checksum of the UDP header that lies at `at` of the packet and has `length` bytes with what follows. */
static __always_inline long checksum_store(struct __sk_buff *skb, const struct egress *e, __u32 at, __u32 length)
{
	int sum = packet_sum(skb, at, length);
	__u16 checksum;

	if (sum < 0)
		return -1;
	checksum = ~sum_folded((__u64)e->pseudo + bpf_htons(length) + sum);
	if (!checksum)
		checksum = 0xffff;
	return bpf_skb_store_bytes(skb, at + UDP_CHECKSUM, &checksum, sizeof(checksum), 0);
}

#endif
