/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sends damaged frames out of a pod and compares what arrives: at its peer every frame, unchanged and in order; at the
 * analyzer, through the GRE key n + 1, what libpcap's program n wants, byte for byte and once.
 *
 *   cross POD PEER ANALYZER SEED COUNT LONGEST <frames, programs        (network namespaces; the device is eth0)
 *
 * Prints one line of JSON: frames, copies, what differed.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "frames.h"

enum { BATCH = 32, OUTER = 42, PATIENCE_MS = 5000, RECEIVED_MAX = 4096 };

#ifndef PACKET_IGNORE_OUTGOING
#define PACKET_IGNORE_OUTGOING 23
#endif

static struct frame frames[BATCH];
static uint8_t missing[BATCH][PROGRAMS_MAX]; /* copies that have not come yet */
static uint32_t copies_missing;

static int open_in(const char *netns, int receives)
{
	char path[128];
	int one = 1, buffer = 64 << 20, home = open("/proc/self/ns/net", O_RDONLY);

	snprintf(path, sizeof(path), "/run/netns/%s", netns);
	int there = open(path, O_RDONLY);

	if (home < 0 || there < 0 || setns(there, CLONE_NEWNET))
		fail(path);
	struct sockaddr_ll link = {.sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex("eth0")};
	int descriptor = socket(AF_PACKET, SOCK_RAW, 0);

	link.sll_protocol = receives ? htons(ETH_P_ALL) : 0;
	if (descriptor < 0 || setsockopt(descriptor, SOL_SOCKET, receives ? SO_RCVBUFFORCE : SO_SNDBUFFORCE, &buffer,
					 sizeof(buffer)))
		fail("packet socket");
	if (receives && (setsockopt(descriptor, SOL_PACKET, PACKET_AUXDATA, &one, sizeof(one)) ||
			 setsockopt(descriptor, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof(one))))
		fail("packet socket");
	if (bind(descriptor, (struct sockaddr *)&link, sizeof(link)) || setns(home, CLONE_NEWNET))
		fail(netns);
	close(home);
	close(there);
	return descriptor;
}

/* The next frame as it was on the wire, its tag put back; 0: none is there. */
static int receive(int descriptor, struct frame *f)
{
	static uint8_t bytes[RECEIVED_MAX];
	uint8_t control[CMSG_SPACE(sizeof(struct tpacket_auxdata))] __attribute__((aligned(8)));
	struct iovec vector = {bytes, sizeof(bytes)};
	struct msghdr message = {
		.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	ssize_t length = recvmsg(descriptor, &message, MSG_DONTWAIT);

	if (length < 0)
		return 0;
	uint32_t at = 0;

	memset(f, 0, sizeof(*f));
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
		struct tpacket_auxdata *aux = (struct tpacket_auxdata *)CMSG_DATA(c);

		if (c->cmsg_level != SOL_PACKET || !(aux->tp_status & TP_STATUS_VLAN_VALID))
			continue;
		uint16_t tag[2] = {htons(aux->tp_status & TP_STATUS_VLAN_TPID_VALID ? aux->tp_vlan_tpid : 0x8100),
				   htons(aux->tp_vlan_tci)};
		memcpy(f->bytes + 12, tag, 4);
		at = 4;
	}
	if (length + at > FRAME_MAX)
		length = FRAME_MAX - at;
	memcpy(f->bytes, bytes, 12);
	memcpy(f->bytes + 12 + at, bytes + 12, (size_t)length - 12);
	f->length = (uint32_t)length + at;
	return 1;
}

/* A receiving kernel drops a frame that is cut in or just after its first tag, before any hook. */
static int reaches_hooks(const struct frame *f)
{
	uint32_t type = (uint32_t)f->bytes[12] << 8 | f->bytes[13];

	return f->length >= 20 || (type != 0x8100 && type != 0x88a8);
}

static int same(const struct frame *one, const struct frame *other)
{
	return one->length == other->length && !memcmp(one->bytes, other->bytes, one->length);
}

/* One outer frame: a copy that is missing, or a difference. */
static void take_copy(struct frame *outer)
{
	static struct frame inner;
	uint32_t key;

	if (outer->bytes[12] == 0x08 && outer->bytes[13] == 0x06) /* ARP of the underlay */
		return;
	memcpy(&key, outer->bytes + OUTER - 4, 4);
	key = ntohl(key) - 1;
	inner.length = outer->length - OUTER;
	memcpy(inner.bytes, outer->bytes + OUTER, inner.length);
	for (uint32_t n = 0; key < program_count && n < BATCH; n++) {
		if (missing[n][key] && same(&frames[n], &inner)) {
			missing[n][key] = 0;
			copies_missing--;
			return;
		}
	}
	differs("a copy of nothing", key, outer);
}

/* Sends a batch and waits for what must come of it. Returns the copies. */
static uint32_t cross(int pod, int peer, int analyzer, uint32_t count, uint32_t longest)
{
	struct pollfd wait[2] = {{.fd = peer, .events = POLLIN}, {.fd = analyzer, .events = POLLIN}};
	static struct frame got;
	uint32_t passed = 0, copies = 0, due[BATCH], dues = 0;

	copies_missing = 0;
	memset(missing, 0, sizeof(missing));
	for (uint32_t n = 0; n < count; n++) {
		draw_frame(&frames[n], longest);
		if (!reaches_hooks(&frames[n]))
			continue;
		due[dues++] = n;
		for (uint32_t p = 0; p < program_count; p++) {
			missing[n][p] = (uint8_t)is_wanted(p, &frames[n]);
			copies_missing += missing[n][p];
		}
	}
	copies = copies_missing;
	for (uint32_t n = 0; n < count; n++)
		if (send(pod, frames[n].bytes, frames[n].length, 0) < 0)
			differs(strerror(errno), 0, &frames[n]);
	while (passed < dues || copies_missing) {
		if (poll(wait, 2, PATIENCE_MS) <= 0)
			break;
		while (receive(peer, &got)) {
			if (passed >= dues || !same(&frames[due[passed]], &got))
				differs("production", passed < dues ? due[passed] : BATCH, &got);
			passed++;
		}
		while (receive(analyzer, &got))
			take_copy(&got);
	}
	for (uint32_t n = 0; n < count; n++)
		for (uint32_t p = 0; p < program_count; p++)
			if (missing[n][p])
				differs("no copy", p, &frames[n]);
	if (passed < dues)
		differs("production lost", due[passed], &frames[due[passed]]);
	return copies;
}

int main(int argc, char **argv)
{
	uint64_t copies = 0, count, sent = 0;

	if (argc != 7) {
		fprintf(stderr, "cross: wrong arguments\n");
		return 2;
	}
	int pod = open_in(argv[1], 0), peer = open_in(argv[2], 1), analyzer = open_in(argv[3], 1);

	read_input(strtoull(argv[4], NULL, 10));
	count = strtoull(argv[5], NULL, 10);
	while (sent < count) {
		uint32_t batch = count - sent < BATCH ? (uint32_t)(count - sent) : BATCH;

		copies += cross(pod, peer, analyzer, batch, (uint32_t)atoi(argv[6]));
		sent += batch;
	}
	printf("{\"frames\": %llu, \"copies\": %llu, ", (unsigned long long)sent, (unsigned long long)copies);
	print_differences();
	return 0;
}
