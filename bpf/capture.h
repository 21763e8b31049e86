/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What the live capture (capture.bpf.c) and user space say to each other; sniffer/abi/capture.py mirrors it in Python.
 * Integers are in host byte order.
 */
#ifndef SNIFFER_CAPTURE_H
#define SNIFFER_CAPTURE_H

#include <linux/types.h>

#define CAPTURE_FRAME_MAX 262144 /* bytes kept of one frame at most: what readers of pcapng take */
#define CAPTURE_RING 8388608	 /* bytes of frames that wait to be read */

#define CAPTURE_FOR_EVER 0xffffffffffffffff

/* The one value of `captures`. */
struct capture {
	__u32 snap_length; /* bytes; at most CAPTURE_FRAME_MAX */
	__u32 filter;	   /* id in `filters`; 0: every frame */
	__u64 valid_until; /* CLOCK_MONOTONIC nanoseconds, CAPTURE_FOR_EVER for a link, which ends with its process */
};

/* Head of each record in `frames`; the frame's bytes begin `start` bytes behind it. */
struct captured {
	__u64 when_ns; /* CLOCK_MONOTONIC */
	__u32 length;  /* bytes of the whole frame, a tag that the skb held included */
	__u32 kept;    /* bytes of it that are here */
	__u32 ifindex;
	__u16 start;	 /* 0, or TAG_LENGTH where no tag was put back */
	__u16 direction; /* enum direction: the interface's */
};

#endif
