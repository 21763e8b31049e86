/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs the tap on damaged frames by the kernel's test run, and compares what it decided with libpcap, and the frame and
 * its metadata with what they were.
 *
 *   decide TAP_FD COUNTERS_FD IFINDEX SEED COUNT LONGEST CPUS VALUE_BYTES MATCHED_BYTE COUNTER_ID... <frames, programs
 *
 * Each program has a counter: MATCHED_BYTE is where its 64-bit tally of matched packets lies in each CPU's VALUE_BYTES.
 * Prints one line of JSON: frames, those that the test run refused, decisions to mirror, what differed.
 */
#define _GNU_SOURCE
#include <linux/bpf.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "frames.h"

static struct {
	int tap, counters;
	uint32_t ifindex, cpus, value_bytes, matched_byte, ids[PROGRAMS_MAX], highest;
} plan;
static uint8_t *values;

static long bpf(int command, union bpf_attr *attributes)
{
	return syscall(__NR_bpf, command, attributes, sizeof(*attributes));
}

/* Matched packets by program, of all CPUs. */
static void read_matched(uint64_t *matched)
{
	static uint32_t keys[4096], following[2];
	static int no_batch;
	size_t length = (size_t)plan.value_bytes * plan.cpus;
	union bpf_attr a = {0};

	a.batch.out_batch = (uintptr_t)following;
	a.batch.keys = (uintptr_t)keys;
	a.batch.values = (uintptr_t)values;
	a.batch.count = plan.highest + 1;
	a.batch.map_fd = (uint32_t)plan.counters;
	if (!no_batch && bpf(BPF_MAP_LOOKUP_BATCH, &a) && errno != ENOENT)
		no_batch = 1;
	for (uint32_t n = 0; n < program_count; n++) {
		uint8_t *value = values + plan.ids[n] * length;

		if (no_batch) {
			memset(&a, 0, sizeof(a));
			a.map_fd = (uint32_t)plan.counters;
			a.key = (uintptr_t)&plan.ids[n];
			a.value = (uintptr_t)value;
			if (bpf(BPF_MAP_LOOKUP_ELEM, &a))
				fail("reading a counter");
		}
		matched[n] = 0;
		for (uint32_t cpu = 0; cpu < plan.cpus; cpu++)
			matched[n] += *(uint64_t *)(value + (size_t)cpu * plan.value_bytes + plan.matched_byte);
	}
}

/* What the kernel's test run refuses to run at all: an IP packet without a whole IP header. */
static int is_refusable(const struct frame *f)
{
	uint32_t type = (uint32_t)f->bytes[12] << 8 | f->bytes[13];

	return (type == 0x0800 && f->length < 34) || (type == 0x86dd && f->length < 54);
}

static int is_unchanged(const struct frame *f, const uint8_t *after, uint32_t length, const struct __sk_buff *before,
			const struct __sk_buff *now)
{
	return length == f->length && !memcmp(after, f->bytes, length) && before->mark == now->mark &&
	       before->priority == now->priority && before->tstamp == now->tstamp &&
	       !memcmp(before->cb, now->cb, sizeof(now->cb));
}

int main(int argc, char **argv)
{
	static uint8_t after[FRAME_MAX + 4096];
	static struct frame f;
	uint64_t before[PROGRAMS_MAX], matched[PROGRAMS_MAX], refused = 0, taken = 0;

	if (argc < 10 || argc - 10 > PROGRAMS_MAX) {
		fprintf(stderr, "decide: wrong arguments\n");
		return 2;
	}
	plan.tap = atoi(argv[1]);
	plan.counters = atoi(argv[2]);
	plan.ifindex = (uint32_t)atoi(argv[3]);
	uint64_t seed = strtoull(argv[4], NULL, 10), count = strtoull(argv[5], NULL, 10);
	uint32_t longest = (uint32_t)atoi(argv[6]);
	plan.cpus = (uint32_t)atoi(argv[7]);
	plan.value_bytes = (uint32_t)atoi(argv[8]);
	plan.matched_byte = (uint32_t)atoi(argv[9]);
	for (int n = 10; n < argc; n++) {
		plan.ids[n - 10] = (uint32_t)atoi(argv[n]);
		if (plan.ids[n - 10] > plan.highest)
			plan.highest = plan.ids[n - 10];
	}
	values = calloc(plan.highest + 1, (size_t)plan.value_bytes * plan.cpus);
	read_input(seed);
	read_matched(before);
	for (uint64_t n = 0; n < count; n++) {
		struct __sk_buff metadata = {.ifindex = plan.ifindex, .mark = draw(1u << 31), .priority = draw(1u << 31)};
		struct __sk_buff now = {0};
		union bpf_attr a = {0};

		for (int word = 0; word < 5; word++)
			metadata.cb[word] = draw(1u << 31);
		metadata.tstamp = draw(1u << 31);
		draw_frame(&f, longest);
		a.test.prog_fd = (uint32_t)plan.tap;
		a.test.data_in = (uintptr_t)f.bytes;
		a.test.data_size_in = f.length;
		a.test.data_out = (uintptr_t)after;
		a.test.data_size_out = sizeof(after);
		a.test.ctx_in = (uintptr_t)&metadata;
		a.test.ctx_size_in = sizeof(metadata);
		a.test.ctx_out = (uintptr_t)&now;
		a.test.ctx_size_out = sizeof(now);
		if (bpf(BPF_PROG_TEST_RUN, &a)) {
			if (errno != EINVAL || !is_refusable(&f))
				differs(strerror(errno), 0, &f);
			refused++;
			continue;
		}
		if ((int32_t)a.test.retval != -1)
			differs("not next", a.test.retval, &f);
		if (!is_unchanged(&f, after, a.test.data_size_out, &metadata, &now))
			differs("the original is changed", 0, &f);
		read_matched(matched);
		for (uint32_t p = 0; p < program_count; p++) {
			uint64_t wanted = (uint64_t)is_wanted(p, &f);

			if (matched[p] - before[p] != wanted)
				differs(wanted ? "not taken" : "taken", p, &f);
			taken += wanted;
			before[p] = matched[p];
		}
	}
	printf("{\"frames\": %llu, \"refused\": %llu, \"taken\": %llu, ", (unsigned long long)count,
	       (unsigned long long)refused, (unsigned long long)taken);
	print_differences();
	return 0;
}
