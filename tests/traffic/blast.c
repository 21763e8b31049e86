/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sends as fast as one core can, and says what a packet cost.
 *
 *   blast udp --dst IPV4 --port PORT [--sport PORT] --size BYTES [--seconds S] [--count N] [--gso BYTES] [--rate PPS]
 *   blast raw --dev NAME --hex FRAME [--seconds S] [--count N] [--rate PPS]
 *
 * --size is the UDP payload of one datagram; with --gso it is that of one super-packet, which the kernel cuts into
 * datagrams of --gso bytes. --ports N: a run over N destination ports. --burst: packets of one system call.
 * Each payload starts with a 64-bit sequence number, big endian, where it fits.
 *
 * Prints one line of JSON: packets handed to the kernel (super-packets count as one), refused ones, wall and CPU
 * nanoseconds per packet.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif

enum { BURST_MAX = 64, SIZE_MAX_BYTES = 65507 };

struct plan {
	const char *destination, *device, *hex;
	int port, source_port, ports, size, gso, burst;
	double seconds, rate;
	long long count;
};

static void fail(const char *what)
{
	fprintf(stderr, "blast: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void usage(const char *what)
{
	fprintf(stderr, "blast: %s\n", what);
	exit(2);
}

static uint64_t now(clockid_t clock)
{
	struct timespec t;
	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static int open_udp(const struct plan *plan, struct sockaddr_in *to)
{
	int descriptor = socket(AF_INET, SOCK_DGRAM, 0), buffer = 16 << 20;
	if (descriptor < 0)
		fail("socket");
	struct sockaddr_in from = {.sin_family = AF_INET, .sin_port = htons((uint16_t)plan->source_port)};
	if (bind(descriptor, (struct sockaddr *)&from, sizeof(from)))
		fail("bind");
	for (int index = 0; index < plan->ports; index++) {
		to[index].sin_family = AF_INET;
		to[index].sin_port = htons((uint16_t)(plan->port + index));
		if (inet_pton(AF_INET, plan->destination, &to[index].sin_addr) != 1)
			usage("--dst is no IPv4 address");
	}
	/* One destination: connected, so that the route is looked up once, as in any sender of a stream. */
	if (plan->ports == 1 && connect(descriptor, (struct sockaddr *)to, sizeof(*to)))
		fail("connect");
	if (plan->gso && setsockopt(descriptor, IPPROTO_UDP, UDP_SEGMENT, &plan->gso, sizeof(plan->gso)))
		fail("UDP_SEGMENT");
	setsockopt(descriptor, SOL_SOCKET, SO_SNDBUFFORCE, &buffer, sizeof(buffer));
	return descriptor;
}

static int open_raw(const struct plan *plan)
{
	struct sockaddr_ll link = {.sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex(plan->device)};
	int descriptor = socket(AF_PACKET, SOCK_RAW, 0), buffer = 16 << 20;
	if (!link.sll_ifindex)
		fail(plan->device);
	if (descriptor < 0 || bind(descriptor, (struct sockaddr *)&link, sizeof(link)))
		fail("packet socket");
	setsockopt(descriptor, SOL_SOCKET, SO_SNDBUFFORCE, &buffer, sizeof(buffer));
	return descriptor;
}

static int unhex(const char *hex, unsigned char *frame)
{
	int length = 0;
	for (unsigned int octet; sscanf(hex + 2 * length, "%2x", &octet) == 1; length++) {
		if (length == SIZE_MAX_BYTES)
			usage("--hex is too long");
		frame[length] = (unsigned char)octet;
		if (!hex[2 * length + 1])
			usage("--hex has half a byte");
	}
	return length;
}

static void parse(int argc, char **argv, struct plan *plan)
{
	static const struct option options[] = {
		{"dst", 1, 0, 'd'},   {"port", 1, 0, 'p'}, {"sport", 1, 0, 'P'}, {"ports", 1, 0, 'n'},
		{"size", 1, 0, 's'},  {"gso", 1, 0, 'g'},  {"burst", 1, 0, 'b'}, {"seconds", 1, 0, 't'},
		{"count", 1, 0, 'c'}, {"rate", 1, 0, 'r'}, {"dev", 1, 0, 'i'},	 {"hex", 1, 0, 'x'},
		{0, 0, 0, 0},
	};
	for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
		switch (option) {
		case 'd':
			plan->destination = optarg;
			break;
		case 'p':
			plan->port = atoi(optarg);
			break;
		case 'P':
			plan->source_port = atoi(optarg);
			break;
		case 'n':
			plan->ports = atoi(optarg);
			break;
		case 's':
			plan->size = atoi(optarg);
			break;
		case 'g':
			plan->gso = atoi(optarg);
			break;
		case 'b':
			plan->burst = atoi(optarg);
			break;
		case 't':
			plan->seconds = atof(optarg);
			break;
		case 'c':
			plan->count = atoll(optarg);
			break;
		case 'r':
			plan->rate = atof(optarg);
			break;
		case 'i':
			plan->device = optarg;
			break;
		case 'x':
			plan->hex = optarg;
			break;
		default:
			exit(2);
		}
	}
	if (plan->size < 0 || plan->size > SIZE_MAX_BYTES)
		usage("--size is 0 to 65507");
	if (plan->burst < 1 || plan->burst > BURST_MAX || plan->ports < 1 || plan->ports > BURST_MAX)
		usage("--burst and --ports are 1 to 64");
}

int main(int argc, char **argv)
{
	static unsigned char payload[BURST_MAX][SIZE_MAX_BYTES + 1];
	static struct mmsghdr messages[BURST_MAX];
	static struct iovec vectors[BURST_MAX];
	static struct sockaddr_in to[BURST_MAX];
	struct plan plan = {.size = 64, .port = 9, .ports = 1, .burst = 32, .seconds = 0, .count = 0};

	if (argc < 2)
		usage("udp or raw?");
	parse(argc - 1, argv + 1, &plan);
	int raw = !strcmp(argv[1], "raw");
	if (raw ? !plan.device || !plan.hex : !plan.destination)
		usage(raw ? "raw needs --dev and --hex" : "udp needs --dst");
	int descriptor = raw ? open_raw(&plan) : open_udp(&plan, to);
	int length = raw ? unhex(plan.hex, payload[0]) : plan.size;
	for (int index = 0; index < plan.burst; index++) {
		for (int at = 8; !raw && at < length; at++)
			payload[index][at] = (unsigned char)(at * 7);
		if (raw && index)
			memcpy(payload[index], payload[0], (size_t)length);
		vectors[index] = (struct iovec){payload[index], (size_t)length};
		messages[index].msg_hdr.msg_iov = &vectors[index];
		messages[index].msg_hdr.msg_iovlen = 1;
	}
	if (!plan.count && plan.seconds <= 0)
		plan.seconds = 1;

	long long sent = 0, refused = 0;
	uint64_t begin = now(CLOCK_MONOTONIC), busy = now(CLOCK_THREAD_CPUTIME_ID), end = begin;
	for (;;) {
		int burst = plan.burst;
		if (plan.count && plan.count - sent < burst)
			burst = (int)(plan.count - sent);
		for (int index = 0; index < burst; index++) {
			uint64_t sequence = (uint64_t)(sent + index);
			for (int at = 0; !raw && length >= 8 && at < 8; at++)
				payload[index][at] = (unsigned char)(sequence >> (56 - 8 * at));
			if (plan.ports > 1) {
				messages[index].msg_hdr.msg_name = &to[sequence % (uint64_t)plan.ports];
				messages[index].msg_hdr.msg_namelen = sizeof(to[0]);
			}
		}
		int done = sendmmsg(descriptor, messages, (unsigned int)burst, 0);
		if (done < 0) {
			/* An ICMP that came back, or a full queue: counted, and tried again until the time is over. */
			if (errno != ECONNREFUSED && errno != ENOBUFS && errno != EAGAIN && errno != EINTR)
				fail("sendmmsg");
			refused++;
		} else {
			sent += done;
		}
		end = now(CLOCK_MONOTONIC);
		if (plan.rate > 0) {
			uint64_t due = begin + (uint64_t)((double)sent / plan.rate * 1e9);
			struct timespec wait = {.tv_sec = 0, .tv_nsec = 0};
			if (due > end) {
				wait.tv_sec = (time_t)((due - end) / 1000000000ull);
				wait.tv_nsec = (long)((due - end) % 1000000000ull);
				nanosleep(&wait, NULL);
			}
		}
		if ((plan.count && sent >= plan.count) ||
		    (plan.seconds > 0 && (double)(end - begin) >= plan.seconds * 1e9))
			break;
	}
	busy = now(CLOCK_THREAD_CPUTIME_ID) - busy;
	printf("{\"packets\": %lld, \"refused\": %lld, \"wall_ns\": %.2f, \"cpu_ns\": %.2f}\n", sent, refused,
	       sent ? (double)(end - begin) / (double)sent : 0.0, sent ? (double)busy / (double)sent : 0.0);
	return 0;
}
