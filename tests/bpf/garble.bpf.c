/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* A bad wire: turns over the last byte of every ARP frame inside of VXLAN. On the egress of an uplink. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

/* In an outer Ethernet frame over IPv4 without options. */
#define PROTOCOL 23
#define INNER 50
#define ARP_LAST (INNER + 41)

char _license[] SEC("license") = "Dual BSD/GPL";

SEC("tc")
int garble(struct __sk_buff *skb)
{
	__u8 protocol, ethertype[2], last;

	if (bpf_skb_load_bytes(skb, PROTOCOL, &protocol, 1) || protocol != 17 ||
	    bpf_skb_load_bytes(skb, INNER + 12, ethertype, 2) || ethertype[0] != 8 || ethertype[1] != 6 ||
	    bpf_skb_load_bytes(skb, ARP_LAST, &last, 1))
		return TC_ACT_UNSPEC;
	last = ~last;
	bpf_skb_store_bytes(skb, ARP_LAST, &last, 1, 0);
	return TC_ACT_UNSPEC;
}
