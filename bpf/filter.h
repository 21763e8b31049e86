/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The classic BPF machine: decides what libpcap's bpf_filter() would decide of the frame as it was on the wire.
 * Its state lives in a map value, so that every turn looks alike to the verifier; run_turns() is a global function,
 * verified once.
 *
 * A load past the end, a division by zero, an unknown code and `ret 0` end the present rule; the next one begins
 * where CODE_RULE said, or nothing matches.
 */
#ifndef SNIFFER_FILTER_H
#define SNIFFER_FILTER_H

#include <linux/filter.h>

#include "count.h"
#include "window.h"

#define TURNS 16
#define COMPARISONS 4
#define RUNS (PROGRAM_LENGTH / TURNS + 1)

enum verdict { VERDICT_RUNNING, VERDICT_NONE, VERDICT_SKIP, VERDICT_MIRROR };

/* Reads size bytes (1, 2, 4) at an offset of the frame; false: past its end. */
static __always_inline bool fetch(struct __sk_buff *skb, struct window *w, __u64 offset, __u32 size, __u64 *value)
{
	__u32 far;

	if (likely(offset + size <= w->length)) {
		*value = size == 1 ? window_u8(w, offset) : size == 2 ? window_u16(w, offset) : window_u32(w, offset);
		return true;
	}
	if (offset + size > w->frame_length)
		return false;
	far = 0;
	if (bpf_skb_load_bytes(skb, offset - w->tag_length, &far, size))
		return false;
	*value = size == 1 ? *(__u8 *)&far : size == 2 ? bpf_ntohs(*(__u16 *)&far) : bpf_ntohl(far);
	return true;
}

#define LOAD(register, offset, size)                      \
	do {                                              \
		if (!fetch(skb, w, offset, size, &value)) \
			goto no_match;                    \
		register = value;                         \
	} while (0)
/* Most tests go on with the next instruction when they are what the traffic mostly is. Adding nothing is left to the processor's
 * guess, so that the next instruction does not wait for this one to be read: the counter is what all turns hang on. */
#define ADVANCE(by)                                                       \
	do {                                                              \
		__u64 ahead = (by);                                       \
		if (ahead)                                                \
			asm volatile("%0 += %1" : "+r"(pc) : "r"(ahead)); \
	} while (0)
#define JUMP(condition) ADVANCE((condition) ? jt : jf)
#define SHIFT(by, expression) (m->a = (by) < 32 ? (expression) : 0)

static __always_inline void rule_begins(struct machine *m, const struct instruction *i)
{
	m->next_rule = i->k;
	m->action = i->jt;
	m->a = 0;
	m->x = 0;
}

/* One instruction, and a comparison with a constant that follows a load at once. *at is the program counter, in a
 * register: it is what every turn waits for. */
static __always_inline enum verdict turn(struct __sk_buff *skb, struct scratch *s, const struct filter *f, __u64 *at)
{
	struct machine *m = &s->machine;
	struct window *w = &s->window;
	__u64 pc = masked(*at, PROGRAM_LENGTH - 1);
	const struct instruction *i = &f->code[pc];
	__u64 k = i->k, jt = i->jt, jf = i->jf, value;

	pc++;
	switch (i->code) {
	case BPF_LD | BPF_H | BPF_ABS:
		LOAD(m->a, k, 2);
		goto compare;
	case BPF_LD | BPF_B | BPF_ABS:
		LOAD(m->a, k, 1);
		goto compare;
	case BPF_LD | BPF_W | BPF_ABS:
		LOAD(m->a, k, 4);
		goto compare;
	case BPF_LD | BPF_H | BPF_IND:
		LOAD(m->a, (__u64)m->x + k, 2);
		goto compare;
	case BPF_LD | BPF_B | BPF_IND:
		LOAD(m->a, (__u64)m->x + k, 1);
		goto compare;
	case BPF_LD | BPF_W | BPF_IND:
		LOAD(m->a, (__u64)m->x + k, 4);
		goto compare;
	case BPF_LDX | BPF_B | BPF_MSH:
		LOAD(m->x, k, 1);
		m->x = (value & 0xf) << 2;
		break;
	case BPF_LD | BPF_W | BPF_LEN:
		m->a = w->frame_length;
		break;
	case BPF_LDX | BPF_W | BPF_LEN:
		m->x = w->frame_length;
		break;
	case BPF_LD | BPF_IMM:
		m->a = k;
		break;
	case BPF_LDX | BPF_IMM:
		m->x = k;
		break;
	case BPF_LD | BPF_MEM:
		m->a = m->memory[k & 15];
		break;
	case BPF_LDX | BPF_MEM:
		m->x = m->memory[k & 15];
		break;
	case BPF_ST:
		m->memory[k & 15] = m->a;
		break;
	case BPF_STX:
		m->memory[k & 15] = m->x;
		break;
	case BPF_JMP | BPF_JA:
		pc += k;
		break;
	case BPF_JMP | BPF_JEQ | BPF_K:
		pc--;
		value = m->a;
		goto compare;
	case BPF_JMP | BPF_JGT | BPF_K:
		JUMP(m->a > k);
		break;
	case BPF_JMP | BPF_JGE | BPF_K:
		JUMP(m->a >= k);
		break;
	case BPF_JMP | BPF_JSET | BPF_K:
		JUMP(m->a & k);
		break;
	case BPF_JMP | BPF_JEQ | BPF_X:
		JUMP(m->a == m->x);
		break;
	case BPF_JMP | BPF_JGT | BPF_X:
		JUMP(m->a > m->x);
		break;
	case BPF_JMP | BPF_JGE | BPF_X:
		JUMP(m->a >= m->x);
		break;
	case BPF_JMP | BPF_JSET | BPF_X:
		JUMP(m->a & m->x);
		break;
	case BPF_ALU | BPF_ADD | BPF_K:
		m->a += k;
		break;
	case BPF_ALU | BPF_ADD | BPF_X:
		m->a += m->x;
		break;
	case BPF_ALU | BPF_SUB | BPF_K:
		m->a -= k;
		break;
	case BPF_ALU | BPF_SUB | BPF_X:
		m->a -= m->x;
		break;
	case BPF_ALU | BPF_MUL | BPF_K:
		m->a *= k;
		break;
	case BPF_ALU | BPF_MUL | BPF_X:
		m->a *= m->x;
		break;
	case BPF_ALU | BPF_DIV | BPF_K:
		if (!k)
			goto no_match;
		m->a /= k;
		break;
	case BPF_ALU | BPF_DIV | BPF_X:
		if (!m->x)
			goto no_match;
		m->a /= m->x;
		break;
	case BPF_ALU | BPF_MOD | BPF_K:
		if (!k)
			goto no_match;
		m->a %= k;
		break;
	case BPF_ALU | BPF_MOD | BPF_X:
		if (!m->x)
			goto no_match;
		m->a %= m->x;
		break;
	case BPF_ALU | BPF_AND | BPF_K:
		m->a &= k;
		break;
	case BPF_ALU | BPF_AND | BPF_X:
		m->a &= m->x;
		break;
	case BPF_ALU | BPF_OR | BPF_K:
		m->a |= k;
		break;
	case BPF_ALU | BPF_OR | BPF_X:
		m->a |= m->x;
		break;
	case BPF_ALU | BPF_XOR | BPF_K:
		m->a ^= k;
		break;
	case BPF_ALU | BPF_XOR | BPF_X:
		m->a ^= m->x;
		break;
	case BPF_ALU | BPF_LSH | BPF_K:
		SHIFT(k, m->a << (k & 31));
		break;
	case BPF_ALU | BPF_LSH | BPF_X:
		SHIFT(m->x, m->a << (m->x & 31));
		break;
	case BPF_ALU | BPF_RSH | BPF_K:
		SHIFT(k, m->a >> (k & 31));
		break;
	case BPF_ALU | BPF_RSH | BPF_X:
		SHIFT(m->x, m->a >> (m->x & 31));
		break;
	case BPF_ALU | BPF_NEG:
		m->a = -m->a;
		break;
	case BPF_MISC | BPF_TAX:
		m->x = m->a;
		break;
	case BPF_MISC | BPF_TXA:
		m->a = m->x;
		break;
	case CODE_RULE:
		rule_begins(m, i);
		break;
	case BPF_RET | BPF_K:
		if (!k)
			goto no_match;
		goto match;
	case BPF_RET | BPF_A:
		if (!m->a)
			goto no_match;
		goto match;
	default:
		goto no_match;
	}
	*at = pc;
	return VERDICT_RUNNING;
compare:
	for (int n = 0; n < COMPARISONS; n++) {
		i = &f->code[masked(pc, PROGRAM_LENGTH - 1)];
		if (i->code != (BPF_JMP | BPF_JEQ | BPF_K))
			break;
		pc++;
		if (value == i->k)
			ADVANCE(i->jt);
		else
			ADVANCE(i->jf);
	}
	i = &f->code[masked(pc, PROGRAM_LENGTH - 1)];
	if (i->code == (BPF_JMP | BPF_JSET | BPF_K)) {
		pc++;
		if (value & i->k)
			ADVANCE(i->jt);
		else
			ADVANCE(i->jf);
	}
	*at = pc;
	return VERDICT_RUNNING;
match:
	return m->action == ACTION_MIRROR ? VERDICT_MIRROR : VERDICT_SKIP;
no_match:
	if (!m->next_rule)
		return VERDICT_NONE;
	*at = m->next_rule;
	m->next_rule = 0;
	return VERDICT_RUNNING;
}

/* Up to TURNS instructions; an enum verdict. */
__noinline int run_turns(struct __sk_buff *skb, __u32 level)
{
	struct scratch *s = scratch_at(level);
	const struct filter *f;
	enum verdict verdict;
	__u64 pc;

	if (!s)
		return VERDICT_NONE;
	f = bpf_map_lookup_elem(&filters, &s->machine.filter);
	if (!f)
		return VERDICT_NONE;
	if (!s->machine.pc && likely(f->code[0].code == CODE_RULE)) { /* what every program begins with */
		rule_begins(&s->machine, &f->code[0]);
		s->machine.pc = 1;
	}
	pc = *(volatile __u32 *)&s->machine
		      .pc; /* nothing that the verifier knows: it would follow each program there is */
	for (int n = 0; n < TURNS; n++) {
		verdict = turn(skb, s, f, &pc);
		if (verdict != VERDICT_RUNNING)
			return verdict;
	}
	s->machine.pc = pc;
	return VERDICT_RUNNING;
}

/* Does a filter want this frame, whose window is in the scratch? */
static __always_inline bool filter_accepts(struct __sk_buff *skb, struct scratch *s, __u32 level, __u32 filter,
					   __u32 counter)
{
	int verdict;

	s->machine.pc = 0;
	s->machine.next_rule = 0;
	s->machine.filter = filter;
	for (int n = 0; n < RUNS; n++) {
		verdict = run_turns(skb, level);
		if (verdict != VERDICT_RUNNING)
			return verdict == VERDICT_MIRROR;
	}
	count(counter, OUTCOME_TURNS, 1, s->window.frame_length);
	return false;
}

#endif
