/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The order of a group's members, and the program made of it, on a real group: the kernel is the judge of both. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "choose.h"
#include "kernel.h"
#include "listening.h"
#include "tap.h"

#define ROOM 6
#define TURNS 300
#define CODE 64

static struct order *o;
static struct sockaddr_in where;
/* By the cookie: the socket, 0 when it does not listen. */
static int sockets[ROOM + 2];

static int member(int listens)
{
	socklen_t length = sizeof(where);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)) ||
	    bind(fd, (struct sockaddr *)&where, sizeof(where)) || (listens && listen(fd, 16)) ||
	    getsockname(fd, (struct sockaddr *)&where, &length))
		abort();
	return fd;
}

/* Who gets a connection from this CPU? Its socket. */
static int chosen(void)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0), found = -1;

	if (connect(fd, (struct sockaddr *)&where, sizeof(where)))
		abort();
	for (size_t i = 0; i < ROOM + 2; i++) {
		int got = sockets[i] ? accept(sockets[i], NULL, NULL) : -1;

		if (got < 0)
			continue;
		close(got);
		found = sockets[i];
	}
	close(fd);
	return found;
}

static void attach(uint32_t otherwise)
{
	struct sock_filter code[CODE];
	struct sock_fprog program;

	memset(&program, 0, sizeof(program));
	program.len = (unsigned short)order_program(o, ROOM, otherwise, code, CODE);
	program.filter = code;
	if (!program.len || setsockopt(sockets[0], SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &program, sizeof(program)))
		abort();
}

/* Of TURNS connections how many came to a socket. */
static int share(int fd)
{
	int hits = 0;

	for (int i = 0; i < TURNS; i++)
		hits += chosen() == fd;
	return hits;
}

/* A member for this CPU comes and goes, and so do others, at random: each time the program still finds it. */
static void follows(int cpu)
{
	int wrong = 0, changes = 0, asked = 0, full = 0;

	for (int turn = 0; turn < TURNS; turn++) {
		size_t cookie = 1 + (size_t)(random() % (ROOM + 1));
		struct member *m = order_find(o, ROOM, cookie);

		changes++;
		if (m) {
			close(sockets[cookie]);
			sockets[cookie] = 0;
			order_remove(o, ROOM, m);
		} else if ((m = order_append(o, ROOM, cookie))) {
			sockets[cookie] = member(1);
			/* Other CPUs' members must not get in the way. */
			m->cpu = random() % 2 ? cpu : cpu + 1 + (int)(random() % 3);
		} else {
			full++;
		}
		m = order_of_cpu(o, ROOM, cpu);
		if (!m)
			continue;
		asked++;
		attach(BY_HASH);
		wrong += chosen() != sockets[m->cookie];
	}
	CHECK(!wrong && asked > TURNS / 4 && full, "%d changes of a group (%d when full): %d of %d connections astray",
	      changes, full, wrong, asked);
}

static void otherwise(int cpu)
{
	int all, first;

	for (size_t i = 0; i < ROOM; i++)
		o->members[i].cpu = cpu + 1;
	if (!o->count) {
		order_append(o, ROOM, 1)->cpu = cpu + 1;
		sockets[1] = member(1);
	}
	attach(0);
	all = share(sockets[0]);
	attach(BY_HASH);
	first = share(sockets[0]);
	CHECK(all == TURNS && first > 0 && first < TURNS, "a CPU without a member: the listener %d of %d, by hash %d", all,
	      TURNS, first);
}

static void programs(void)
{
	struct sock_filter code[CODE];
	struct member *a, *b;
	unsigned int length;

	o->count = 0;
	CHECK(!order_program(o, ROOM, BY_HASH, code, CODE), "no member: no program");
	a = order_append(o, ROOM, 71);
	CHECK(a && a->cpu == -1 && !order_program(o, ROOM, BY_HASH, code, CODE), "no CPU has a member: no program");
	b = order_append(o, ROOM, 72);
	a->cpu = b->cpu = 5;
	length = order_program(o, ROOM, 0, code, CODE);
	CHECK(length == 6 && code[1].k == 5 && code[2].k == 2 && code[4].k == 1 && code[5].k == 0,
	      "of two members for one CPU the last is its");
	CHECK(order_of_cpu(o, ROOM, 5) == b && !order_of_cpu(o, ROOM, 4), "and that is what is said of it");
	CHECK(order_program(o, ROOM, 0, code, 4) == 4 && code[2].k == 2, "no room for all: the first ones");
	o->count = 0xffffffff;
	CHECK(!order_append(o, ROOM, 73) && order_program(o, ROOM, 0, code, CODE) <= 2 * ROOM + 2,
	      "a count that was written over: no more than there is room for");
}

static void listening(void)
{
	static uint64_t cookies[LISTENING_MOST];
	struct sockaddr_storage at;
	int late = member(0), count, found = 0;

	memset(&at, 0, sizeof(at));
	memcpy(&at, &where, sizeof(where));
	count = listening_cookies(&at, cookies);
	for (int i = 0; i < count; i++)
		found += cookies[i] == socket_cookie(sockets[0]);
	CHECK(count >= 1 && found == 1, "the kernel tells %d sockets that listen there, ours among them", count);
	for (int i = 0; i < count; i++)
		found += cookies[i] == socket_cookie(late);
	CHECK(found == 1, "and not one that is bound only");
	close(late);
}

void unit_choose(void)
{
	cpu_set_t before, one;
	int cpu = sched_getcpu();

	sched_getaffinity(0, sizeof(before), &before);
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	sched_setaffinity(0, sizeof(one), &one);
	o = calloc(1, sizeof(*o) + ROOM * sizeof(struct member));
	if (!o)
		abort();
	where = (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	sockets[0] = member(1);
	follows(cpu);
	otherwise(cpu);
	listening();
	programs();
	for (size_t i = 0; i < ROOM + 2; i++)
		if (sockets[i])
			close(sockets[i]);
	free(o);
	sched_setaffinity(0, sizeof(before), &before);
}
