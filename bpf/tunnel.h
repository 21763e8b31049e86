/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What the headers behind the outer IP header say of a copy: GRE's sequence number (RFC 2890), the headers of ERSPAN
 * (draft-foschiano-erspan-03), the options of GENEVE (docs/geneve-options.md). In the scratch, over the template.
 */
#ifndef SNIFFER_TUNNEL_H
#define SNIFFER_TUNNEL_H

#include "outer.h"

/* From the end of the template back. */
#define GENEVE_MIRROR 28
#define GENEVE_DIRECTION 20
#define GENEVE_LENGTH 12
#define GENEVE_SAMPLING 4
#define ERSPAN2_LENGTH 8
#define ERSPAN3_LENGTH 12
#define ERSPAN_IN_FRAME 0x1800 /* En: the tag is in the frame */
#define ERSPAN_TRUNCATED 0x400
#define ERSPAN3_EGRESS 8
#define ERSPAN3_TICK_NS 100 /* Gra 01 */

enum seen { SEEN_INGRESS = 1, SEEN_EGRESS = 2 };

/* A word of the header, `back` bytes before its end. */
static __always_inline __u32 *header_word(struct scratch *s, const struct egress *e, __u32 back)
{
	return (__u32 *)(s->header + masked(e->template_length - back, HEADER_MASK));
}

/* The next number of a stream of copies. */
static __always_inline __u32 sequence_next(const struct egress *e)
{
	__u32 index = e->sequence, number;
	struct sequence *stream = bpf_map_lookup_elem(&sequences, &index);

	if (!stream)
		return 0;
	bpf_spin_lock(&stream->lock);
	number = stream->next++;
	bpf_spin_unlock(&stream->lock);
	return number;
}

/* VLAN, priority and the tag's place of the first word of type II; of type III without the place. */
static __always_inline __u32 erspan_tag(struct window *w, __u32 in_frame)
{
	__u16 type = window_u16(w, 12), tag = window_u16(w, 14);

	if (type != ETH_P_8021Q && type != ETH_P_8021AD)
		return 0;
	return (__u32)(tag & 0xfff) << 16 | (tag >> 13) << 13 | in_frame;
}

/* bytes: of the frame that follows. */
static __always_inline void tunnel_finish(struct scratch *s, const struct egress *e, __u32 bytes)
{
	struct slot *slot = &s->slot;
	__u32 cut = slot->original_length > bytes ? ERSPAN_TRUNCATED : 0;
	__u32 counter = slot->counter, sequence_back = 4;
	__u64 *label;

	switch (e->encapsulation) {
	case ENCAPSULATION_GENEVE:
		label = bpf_map_lookup_elem(&labels, &counter);
		if (label) {
			__u64 word = *(volatile __u64 *)label;

			*header_word(s, e, GENEVE_MIRROR) = bpf_htonl((__u32)(word >> LABEL_MIRROR_SHIFT));
			*header_word(s, e, GENEVE_SAMPLING) = bpf_htonl((__u32)word);
		}
		*header_word(s, e, GENEVE_DIRECTION) = bpf_htonl(slot->egress_seen ? SEEN_EGRESS : SEEN_INGRESS);
		*header_word(s, e, GENEVE_LENGTH) = bpf_htonl(slot->original_length);
		break;
	case ENCAPSULATION_ERSPAN2:
		sequence_back += ERSPAN2_LENGTH;
		*header_word(s, e, 8) |= bpf_htonl(erspan_tag(&s->window, ERSPAN_IN_FRAME) | cut);
		*header_word(s, e, 4) = bpf_htonl(slot->egress_seen ? SEEN_EGRESS : SEEN_INGRESS);
		break;
	case ENCAPSULATION_ERSPAN3:
		sequence_back += ERSPAN3_LENGTH;
		*header_word(s, e, 12) |= bpf_htonl(erspan_tag(&s->window, 0) | cut);
		*header_word(s, e, 8) = bpf_htonl((__u32)(bpf_ktime_get_ns() / ERSPAN3_TICK_NS));
		if (slot->egress_seen)
			*header_word(s, e, 4) |= bpf_htonl(ERSPAN3_EGRESS);
		break;
	}
	if (e->flags & EGRESS_SEQUENCE)
		*header_word(s, e, sequence_back) = bpf_htonl(sequence_next(e));
}

#endif
