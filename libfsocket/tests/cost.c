/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * cost N: under callgrind, each intercepted call N times and then 2 N times on a descriptor that is none of the
 * library's business. After each round callgrind writes its counts, named "CALL ROUNDS". What a call needs around it is
 * done by raw system calls, which nobody intercepts.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>
#include <valgrind/callgrind.h>

static const struct sockaddr_un unnamed = { .sun_family = AF_UNIX };
static struct sockaddr_un name = { .sun_family = AF_UNIX, .sun_path = "\0cost" };
static int epoll, event, spare, listener, managed, pair[2];
static struct epoll_event events[4];

#define NAME ((struct sockaddr *)&name)
#define NAME_LENGTH ((socklen_t)(sizeof(sa_family_t) + 5))

static int must(long result)
{
	if (result < 0) {
		perror("cost");
		exit(1);
	}
	return (int)result;
}

static int raw_socket(void)
{
	return must(syscall(SYS_socket, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
}

static void raw_close(int fd)
{
	must(syscall(SYS_close, fd));
}

/* A client that waits in the listener's queue. */
static int raw_client(void)
{
	int fd = raw_socket();

	must(syscall(SYS_connect, fd, NAME, NAME_LENGTH));
	return fd;
}

static void call_socket_unix(void) { raw_close(must(socket(AF_UNIX, SOCK_STREAM, 0))); }
static void call_socket_udp(void) { raw_close(must(socket(AF_INET, SOCK_DGRAM, 0))); }
static void call_close(void) { must(close(must(syscall(SYS_dup, event)))); }
static void call_close_unix(void) { must(close(raw_socket())); }
static void call_dup2(void) { must(dup2(event, spare)); }
static void call_dup3(void) { must(dup3(event, spare, O_CLOEXEC)); }
static void call_epoll_mod(void) { must(epoll_ctl(epoll, EPOLL_CTL_MOD, event, events)); }
static void call_epoll_wait(void) { must(epoll_wait(epoll, events, 4, 0)); }
static void call_epoll_pwait(void) { must(epoll_pwait(epoll, events, 4, 0, NULL)); }

static void call_epoll_add_del(void)
{
	must(syscall(SYS_epoll_ctl, epoll, EPOLL_CTL_DEL, event, NULL));
	must(epoll_ctl(epoll, EPOLL_CTL_ADD, event, events));
}

static void call_epoll_del(void)
{
	must(epoll_ctl(epoll, EPOLL_CTL_DEL, event, NULL));
	must(syscall(SYS_epoll_ctl, epoll, EPOLL_CTL_ADD, event, events));
}

static void call_bind(void)
{
	int fd = raw_socket();

	/* No name: the kernel gives one. */
	must(bind(fd, (const struct sockaddr *)&unnamed, sizeof(sa_family_t)));
	raw_close(fd);
}

static void call_setsockopt(void)
{
	int one = 1;

	must(setsockopt(managed, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)));
}

/* Where nothing is open. */
static void call_close_range(void) { must(close_range(100000, 100010, 0)); }
static void call_closefrom(void) { closefrom(100000); }
static void call_shutdown(void) { must(shutdown(pair[0], SHUT_RD)); }

static void call_recvmsg(void)
{
	char byte;
	struct iovec part = { &byte, 1 };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };

	must(syscall(SYS_write, pair[1], "x", 1));
	must(recvmsg(pair[0], &message, 0));
}

static void call_listen(void) { must(listen(listener, 5)); }

static void call_accept(void)
{
	int client = raw_client();

	raw_close(must(accept(listener, NULL, NULL)));
	raw_close(client);
}

static void call_accept4(void)
{
	int client = raw_client();

	raw_close(must(accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)));
	raw_close(client);
}

static void call_connect(void)
{
	int client = raw_socket();

	must(connect(client, NAME, NAME_LENGTH));
	raw_close(must(syscall(SYS_accept, listener, NULL, NULL)));
	raw_close(client);
}

static const struct {
	const char *name;
	void (*call)(void);
} calls[] = {
	{ "socket-unix", call_socket_unix }, { "socket-udp", call_socket_udp }, { "close", call_close },
	{ "close-unix", call_close_unix }, { "dup2", call_dup2 }, { "dup3", call_dup3 },
	{ "epoll_ctl-mod", call_epoll_mod }, { "epoll_ctl-add", call_epoll_add_del },
	{ "epoll_ctl-del", call_epoll_del }, { "epoll_wait", call_epoll_wait }, { "epoll_pwait", call_epoll_pwait },
	{ "bind", call_bind }, { "listen", call_listen }, { "accept", call_accept }, { "accept4", call_accept4 },
	{ "connect", call_connect }, { "setsockopt", call_setsockopt }, { "recvmsg", call_recvmsg },
	{ "shutdown", call_shutdown }, { "close_range", call_close_range }, { "closefrom", call_closefrom },
};

/* A pinned server with a TCP listener of its own, so that the library is at work in it. */
static void serve(void)
{
	struct sockaddr_in any = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(sched_getcpu(), &one);
	must(sched_setaffinity(0, sizeof(one), &one));
	managed = must(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
	must(bind(managed, (struct sockaddr *)&any, sizeof(any)));
	must(listen(managed, 5));
	must(epoll_ctl(epoll, EPOLL_CTL_ADD, managed, events));
}

int main(int argc, char **argv)
{
	int rounds = argc == 2 ? atoi(argv[1]) : 0;
	char title[64];

	if (rounds <= 0) {
		fprintf(stderr, "usage: cost N\n");
		return 2;
	}
	events[0].events = EPOLLIN;
	epoll = must(epoll_create1(EPOLL_CLOEXEC));
	serve();
	event = must(eventfd(0, EFD_CLOEXEC));
	spare = must(dup(event));
	must(epoll_ctl(epoll, EPOLL_CTL_ADD, event, events));
	must(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	listener = must(socket(AF_UNIX, SOCK_STREAM, 0));
	must(bind(listener, NAME, NAME_LENGTH));
	must(listen(listener, 5));
	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++)
		for (int times = rounds; times <= 2 * rounds; times += rounds) {
			CALLGRIND_ZERO_STATS;
			for (int n = 0; n < times; n++)
				calls[i].call();
			snprintf(title, sizeof(title), "%s %d", calls[i].name, times);
			CALLGRIND_DUMP_STATS_AT(title);
		}
	puts("done");
	return 0;
}
