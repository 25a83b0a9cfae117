/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Groups of listeners with a program of the application's own, which sends every connection to the second member. */
#define _GNU_SOURCE
#include "life.h"

#include <linux/bpf.h>
#include <linux/filter.h>
#include <poll.h>
#include <string.h>
#include <sys/syscall.h>

enum moment { BEFORE_BIND, BEFORE_LISTEN, ALONE, BOTH, MOMENTS };
static const char *const moments[] = { "before bind", "before listen", "while alone", "with both" };

static void classic(int fd)
{
	struct sock_filter second = BPF_STMT(BPF_RET | BPF_K, 1);
	struct sock_fprog program = { 1, &second };

	if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &program, sizeof(program)))
		die("SO_ATTACH_REUSEPORT_CBPF");
}

static void extended(int fd)
{
	struct bpf_insn second[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .imm = 1 }, { .code = BPF_JMP | BPF_EXIT },
	};
	union bpf_attr load;
	int program;

	memset(&load, 0, sizeof(load));
	load.prog_type = BPF_PROG_TYPE_SOCKET_FILTER;
	load.insn_cnt = 2;
	load.insns = (uintptr_t)second;
	load.license = (uintptr_t)"GPL";
	program = (int)syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof(load));
	if (program < 0 || setsockopt(fd, SOL_SOCKET, SO_ATTACH_REUSEPORT_EBPF, &program, sizeof(program)))
		die("SO_ATTACH_REUSEPORT_EBPF");
	close(program);
}

/* One more of those at *at; attach(), if there is one, comes at that moment. */
static int shared(struct sockaddr_in *at, enum moment moment, void (*attach)(int fd))
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), yes = 1;

	/* Servers set both, and only then the library can tell that nobody else listens there. */
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &yes, sizeof(yes)) ||
	    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)))
		die("SO_REUSEPORT");
	if (attach && moment == BEFORE_BIND)
		attach(fd);
	if (bind(fd, (struct sockaddr *)at, sizeof(*at)))
		die("bind");
	if (attach && moment == BEFORE_LISTEN)
		attach(fd);
	if (listen(fd, 64))
		die("listen");
	where(fd, at);
	return fd;
}

static void second_chosen(const char *label, int second, const struct sockaddr_in *at)
{
	int count = 0;

	for (int i = 0; i < ROUNDS; i++) {
		struct pollfd come = { .fd = second, .events = POLLIN };
		int c = client(at);

		/* On a busy CPU ksoftirqd ends the handshake, a moment later. */
		poll(&come, 1, 200);
		count += joined(accept(second, NULL, NULL), c);
	}
	say("%s: %d of %d to the second\n", label, count, ROUNDS);
}

static void detached(const char *label, int fd)
{
	int none = 0, result;

	errno = 0;
	result = setsockopt(fd, SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, &none, sizeof(none));
	say("%s: detached %d errno %d\n", label, result, errno);
}

static void group(const char *kind, enum moment moment, void (*attach)(int fd))
{
	struct sockaddr_in at = any_port;
	int first = shared(&at, moment, attach), second, e;

	say("%s %s\n", kind, moments[moment]);
	if (moment == ALONE)
		attach(first);
	e = watch(first);
	served("first alone", e, first, &at);
	close(e);
	second = shared(&at, moment, NULL);
	if (moment == BOTH)
		attach(first);
	second_chosen("not polled", second, &at);
	watch(first);
	watch(second);
	second_chosen("polled", second, &at);
	detached("own", second);
	detached("none", first);
	close(second);
	close(first);
}

static void own_program(int unused)
{
	(void)unused;
	for (enum moment moment = 0; moment < MOMENTS; moment++) {
		group("classic", moment, classic);
		group("extended", moment, extended);
	}
}

/* None of its own, so there is none to take away. */
static void no_program(int unused)
{
	struct sockaddr_in at = any_port;
	int first = shared(&at, MOMENTS, NULL), second = shared(&at, MOMENTS, NULL);

	(void)unused;
	watch(first);
	watch(second);
	detached("none", second);
	detached("still none", first);
	close(first);
	served("second alone", watch(second), second, &at);
}

/* The program attached last, then an exec: the group is inherited with it. */
static void program_exec(int second)
{
	struct sockaddr_in at = any_port;

	if (!second) {
		int first = shared(&at, MOMENTS, NULL);

		second = shared(&at, MOMENTS, NULL);
		watch(first);
		watch(second);
		classic(first);
		again("program-exec", second, environ);
	}
	where(second, &at);
	for (int fd = 3; fd <= second; fd++) {
		int listens = 0;
		socklen_t length = sizeof(listens);

		if (!getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &length) && listens)
			watch(fd);
	}
	second_chosen("after exec", second, &at);
}

const struct habit group_habits[] = {
	{ "own-program", own_program }, { "no-program", no_program }, { "program-exec", program_exec }, { NULL, NULL },
};
