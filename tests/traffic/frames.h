/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the fuzzers share: frames and filters from standard input, damage done to frames, libpcap's own interpreter.
 *
 * Input, in host byte order: a count and as many frames, a count and as many classic BPF programs; each with its length
 * (bytes; instructions of eight bytes) as a 32-bit number before it.
 */
#ifndef FRAMES_H
#define FRAMES_H

#include <dlfcn.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FRAME_MAX = 2048, SHORTEST = 15, PROGRAMS_MAX = 16, DIFFERENCES_MAX = 5 };

struct piece {
	uint32_t length;
	uint8_t *bytes;
};

struct frame {
	uint32_t length;
	uint8_t bytes[FRAME_MAX];
};

struct instruction {
	uint16_t code;
	uint8_t jt, jf;
	uint32_t k;
};

static struct piece *corpus, programs[PROGRAMS_MAX];
static uint32_t corpus_count, program_count;
static unsigned int (*libpcap_filter)(const struct instruction *, const uint8_t *, unsigned int, unsigned int);
static uint64_t state;

static void fail(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
}

/* xorshift64*: the same numbers everywhere for the same seed. */
static uint32_t draw(uint32_t below)
{
	state ^= state >> 12;
	state ^= state << 25;
	state ^= state >> 27;
	return (uint32_t)(((state * 0x2545f4914f6cdd1dULL) >> 32) * below >> 32);
}

/* Rather small than large. */
static uint32_t draw_low(uint32_t below)
{
	return draw(draw(below) + 1);
}

static uint32_t read_u32(void)
{
	uint32_t value;

	if (fread(&value, sizeof(value), 1, stdin) != 1)
		fail("standard input");
	return value;
}

static struct piece read_piece(uint32_t unit)
{
	struct piece found = {.length = read_u32()};

	found.bytes = malloc((size_t)found.length * unit + 1);
	if (!found.bytes || fread(found.bytes, unit, found.length, stdin) != found.length)
		fail("standard input");
	return found;
}

static void read_input(uint64_t seed)
{
	void *libpcap = dlopen("libpcap.so.0.8", RTLD_NOW);

	if (!libpcap)
		libpcap = dlopen("libpcap.so.1", RTLD_NOW);
	if (libpcap)
		*(void **)&libpcap_filter = dlsym(libpcap, "bpf_filter");
	if (!libpcap_filter)
		fail("libpcap's bpf_filter");
	state = seed * 2654435761u + 88172645463325252ull;
	corpus_count = read_u32();
	corpus = calloc(corpus_count, sizeof(*corpus));
	for (uint32_t n = 0; n < corpus_count; n++)
		corpus[n] = read_piece(1);
	program_count = read_u32();
	if (program_count > PROGRAMS_MAX)
		fail("too many programs");
	for (uint32_t n = 0; n < program_count; n++)
		programs[n] = read_piece(sizeof(struct instruction));
}

/* What libpcap decides of a frame. */
static int is_wanted(uint32_t program, const struct frame *f)
{
	return libpcap_filter((const struct instruction *)programs[program].bytes, f->bytes, f->length, f->length) != 0;
}

static void add_random(struct frame *f, uint32_t at, uint32_t count)
{
	if (at > f->length)
		at = f->length;
	for (uint32_t n = 0; n < count && at + n < FRAME_MAX; n++) {
		f->bytes[at + n] = (uint8_t)draw(256);
		f->length = at + n + 1;
	}
}

/* A frame of the corpus, damaged: bits flipped, header bytes replaced by what parsers care about, cut, lengthened, two
 * frames joined, random. SHORTEST to `longest` bytes. */
static void draw_frame(struct frame *f, uint32_t longest)
{
	static const uint8_t edges[] = {0x00, 0x01, 0x04, 0x05, 0x06, 0x08, 0x0f, 0x11, 0x29, 0x2c, 0x2f, 0x33, 0x40,
					0x45, 0x4f, 0x60, 0x7f, 0x80, 0x81, 0x84, 0x86, 0x88, 0xa8, 0xdd, 0xfe, 0xff};
	const struct piece *one = &corpus[draw(corpus_count)], *other = &corpus[draw(corpus_count)];
	uint32_t kind = draw(100), at, changes = 1 + draw(4);

	f->length = one->length < FRAME_MAX ? one->length : FRAME_MAX;
	memcpy(f->bytes, one->bytes, f->length);
	if (kind < 33) {
		while (changes--)
			f->bytes[draw_low(f->length)] ^= (uint8_t)(1 << draw(8));
	} else if (kind < 66) {
		while (changes--) {
			at = 12 + draw(54);
			if (at < f->length)
				f->bytes[at] = draw(10) < 7 ? edges[draw(sizeof(edges))] : (uint8_t)draw(256);
		}
	} else if (kind < 80) {
		f->length = draw_low(f->length);
	} else if (kind < 87) {
		add_random(f, f->length, draw(64));
	} else if (kind < 95) {
		at = draw(f->length < 80 ? f->length : 80);
		uint32_t from = draw(2) && at < other->length ? at : 12;

		f->length = at;
		for (uint32_t n = from; n < other->length && f->length < FRAME_MAX; n++)
			f->bytes[f->length++] = other->bytes[n];
	} else {
		at = draw(2) ? 12 : 0;
		f->length = at;
		add_random(f, at, draw(128));
	}
	if (f->length < SHORTEST)
		add_random(f, f->length, SHORTEST - f->length);
	if (f->length > longest)
		f->length = longest;
}

/* The differences found, for a line of JSON; the first few in full. */
static char differences[DIFFERENCES_MAX][2 * FRAME_MAX + 128];
static uint64_t difference_count;

static void differs(const char *what, uint32_t program, const struct frame *f)
{
	if (difference_count++ >= DIFFERENCES_MAX)
		return;
	char *to = differences[difference_count - 1];

	to += sprintf(to, "%s, program %u: ", what, program);
	for (uint32_t n = 0; n < f->length; n++)
		to += sprintf(to, "%02x", f->bytes[n]);
}

static void print_differences(void)
{
	printf("\"differences\": %llu, \"examples\": [", (unsigned long long)difference_count);
	for (uint64_t n = 0; n < difference_count && n < DIFFERENCES_MAX; n++)
		printf("%s\"%s\"", n ? ", " : "", differences[n]);
	printf("]}\n");
}

#endif
