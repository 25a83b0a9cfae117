/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * clients ADDRESS PORT CPU RATE LIMIT COUNT
 *
 * Pinned to CPU, open RATE new connections a second by the clock, whatever
 * becomes of those before (RATE 0: LIMIT at a time, each as soon as one ends),
 * make one HTTP request on each, read to the end. At most LIMIT at once: what
 * was due beyond that is not opened but counted as late. After COUNT of them,
 * or SIGTERM, no more are opened; the open ones end, each within PATIENCE_MS.
 *
 * Prints "up", then one JSON object: how many were opened, how many of them
 * failed, by kind, and how many the server of each name (the first word of the
 * answer's body) has served. Each connection is in exactly one of the two.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* On CPUs that are emulated both are to be more. */
#ifndef PATIENCE_MS
#define PATIENCE_MS 5000
#endif
#define LIMIT_MAX 4096
#define SERVERS 256
/* By the clock: this often it is seen what is due. */
#ifndef STEP_MS
#define STEP_MS 2
#endif
static const char request[] = "GET / HTTP/1.0\r\n\r\n";

/* Kinds of failure. connect: before the connection stood; the others after. */
enum kind { REFUSED, RESET_CONNECT, TIMEOUT_CONNECT, RESET, EMPTY, CUT, STATUS, TIMEOUT, OTHER, KINDS };
static const char *const kinds[KINDS] = {
	"refused", "reset at connect", "timeout at connect", "reset", "empty", "cut", "status", "timeout", "other",
};

struct connection {
	int fd;			/* 0: none */
	int connected;
	int length;		/* of the answer so far */
	int64_t since;
	char answer[1024];	/* its beginning; our servers' answers fit */
};

/* Those in spare[open_now...] are free. */
static struct connection connections[LIMIT_MAX], *spare[LIMIT_MAX];
static struct { char name[16]; long served; } servers[SERVERS];
static long failed[KINDS], opened, late;
static int open_now, limit, epfd, other_errno;
static struct sockaddr_in to;
static volatile sig_atomic_t stop;

static void on_term(int number)
{
	(void)number;
	stop = 1;
}

static int64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void end(struct connection *c, int kind)
{
	if (kind >= 0)
		failed[kind]++;
	if (c->fd)
		close(c->fd);
	c->fd = 0;
	spare[--open_now] = c;
}

static void end_errno(struct connection *c, int error)
{
	static const struct { int error; enum kind before, after; } table[] = {
		{ ECONNREFUSED, REFUSED, RESET },
		{ ECONNRESET, RESET_CONNECT, RESET },
		{ EPIPE, RESET_CONNECT, RESET },
		{ ETIMEDOUT, TIMEOUT_CONNECT, TIMEOUT },
	};

	for (size_t i = 0; i < sizeof(table) / sizeof(*table); i++)
		if (table[i].error == error) {
			end(c, (int)(c->connected ? table[i].after : table[i].before));
			return;
		}
	other_errno = error;
	end(c, OTHER);
}

static void served_by(const char *name, size_t length)
{
	length = length < sizeof(servers->name) ? length : sizeof(servers->name) - 1;
	for (int i = 0; i < SERVERS; i++) {
		if (!*servers[i].name)
			memcpy(servers[i].name, name, length);
		if (strlen(servers[i].name) == length && !memcmp(servers[i].name, name, length)) {
			servers[i].served++;
			return;
		}
	}
	fprintf(stderr, "clients: more than %d servers\n", SERVERS);
	exit(1);
}

/* The peer has closed. */
static void judge(struct connection *c)
{
	const char *body, *size;

	c->answer[c->length] = '\0';
	body = strstr(c->answer, "\r\n\r\n");
	size = strcasestr(c->answer, "\r\ncontent-length:");
	if (!c->length) {
		end(c, EMPTY);
	} else if (!body || (size && size < body && atol(size + 17) > c->answer + c->length - body - 4)) {
		end(c, CUT);
	} else if (strncmp(c->answer + 8, " 200", 4)) {
		end(c, STATUS);
	} else {
		served_by(body + 4, strcspn(body + 4, " \r\n"));
		end(c, -1);
	}
}

static void on_event(struct connection *c, uint32_t events)
{
	struct epoll_event in = { .events = EPOLLIN, .data.ptr = c };
	int error = 0;
	socklen_t size = sizeof(error);

	if (!c->connected) {
		getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
		if (error) {
			end_errno(c, error);
			return;
		}
		c->connected = 1;
		if (send(c->fd, request, sizeof(request) - 1, MSG_NOSIGNAL) < 0) {
			end_errno(c, errno);
			return;
		}
		epoll_ctl(epfd, EPOLL_CTL_MOD, c->fd, &in);
		events &= ~(uint32_t)EPOLLOUT;
	}
	while (events) {
		/* What is longer than the buffer overwrites its end. */
		int room = (int)sizeof(c->answer) - 1 - c->length;
		char rest[4096];
		ssize_t n = recv(c->fd, room ? c->answer + c->length : rest, room ? (size_t)room : sizeof(rest),
				 MSG_DONTWAIT);

		if (n > 0 && room)
			c->length += (int)n;
		if (n > 0)
			continue;
		if (!n)
			judge(c);
		else if (errno != EAGAIN)
			end_errno(c, errno);
		return;
	}
}

static void begin(void)
{
	struct connection *c = spare[open_now++];
	struct epoll_event out = { .events = EPOLLOUT };

	c->connected = c->length = 0;
	c->since = now_us();
	opened++;
	c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (c->fd < 0) {
		c->fd = 0;
		end_errno(c, errno);
		return;
	}
	if (connect(c->fd, (struct sockaddr *)&to, sizeof(to)) && errno != EINPROGRESS) {
		end_errno(c, errno);
		return;
	}
	out.data.ptr = c;
	epoll_ctl(epfd, EPOLL_CTL_ADD, c->fd, &out);
}

static void end_the_old(int64_t now)
{
	for (int i = 0; i < LIMIT_MAX; i++)
		if (connections[i].fd && now - connections[i].since > PATIENCE_MS * 1000)
			end_errno(&connections[i], ETIMEDOUT);
}

static void run(long rate, long count)
{
	int64_t started = now_us(), swept = started;
	struct epoll_event events[256];

	for (;;) {
		int64_t now = now_us();
		long due = rate ? (long)((now - started) * rate / 1000000) : opened + late + limit - open_now;
		int n, ending = stop || (count && opened >= count);

		if (ending && !open_now)
			return;
		for (; !ending && opened + late < due && (!count || opened < count); ) {
			if (open_now < limit)
				begin();
			else
				late++;
		}
		n = epoll_wait(epfd, events, 256, STEP_MS);
		for (int i = 0; i < n; i++)
			on_event(events[i].data.ptr, events[i].events);
		if (now - swept > 100000) {
			end_the_old(now);
			swept = now;
		}
	}
}

static void print(double seconds)
{
	const char *comma = "";

	printf("{\"opened\": %ld, \"late\": %ld, \"seconds\": %.3f, \"errno\": %d, \"failed\": {", opened, late,
	       seconds, other_errno);
	for (int i = 0; i < KINDS; i++) {
		if (!failed[i])
			continue;
		printf("%s\"%s\": %ld", comma, kinds[i], failed[i]);
		comma = ", ";
	}
	comma = "";
	printf("}, \"served\": {");
	for (int i = 0; i < SERVERS && *servers[i].name; i++) {
		printf("%s\"%s\": %ld", comma, servers[i].name, servers[i].served);
		comma = ", ";
	}
	printf("}}\n");
}

int main(int argc, char **argv)
{
	cpu_set_t one;
	int64_t started;

	if (argc != 7 || inet_pton(AF_INET, argv[1], &to.sin_addr) != 1) {
		fprintf(stderr, "clients ADDRESS PORT CPU RATE LIMIT COUNT\n");
		return 2;
	}
	to.sin_family = AF_INET;
	to.sin_port = htons((uint16_t)atoi(argv[2]));
	CPU_ZERO(&one);
	CPU_SET(atoi(argv[3]), &one);
	limit = atoi(argv[5]) < LIMIT_MAX ? atoi(argv[5]) : LIMIT_MAX;
	if (sched_setaffinity(0, sizeof(one), &one)) {
		perror("clients: sched_setaffinity");
		return 2;
	}
	for (int i = 0; i < LIMIT_MAX; i++)
		spare[i] = &connections[i];
	signal(SIGTERM, on_term);
	epfd = epoll_create1(EPOLL_CLOEXEC);
	puts("up");
	fflush(stdout);
	started = now_us();
	run(atol(argv[4]), atol(argv[6]));
	print((double)(now_us() - started) / 1e6);
	return 0;
}
