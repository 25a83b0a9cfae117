/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A seccomp filter that forbids one system call which the library makes, from some moment on. */
#define _GNU_SOURCE
#include "life.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

/* Not on every machine: a filter that forbids nothing. */
#ifndef SYS_poll
#define SYS_poll -1
#define SYS_epoll_wait -1
#define SYS_link -1
#define SYS_mkdir -1
#define SYS_unlink -1
#endif

/* What it calls from its constructor to its last close(). */
static const struct {
	const char *name;
	long number;
} calls[] = {
	{ "accept", SYS_accept }, { "accept4", SYS_accept4 }, { "bind", SYS_bind }, { "close", SYS_close },
	{ "clock_nanosleep", SYS_clock_nanosleep }, { "connect", SYS_connect }, { "epoll_ctl", SYS_epoll_ctl },
	{ "epoll_pwait", SYS_epoll_pwait }, { "epoll_wait", SYS_epoll_wait }, { "fallocate", SYS_fallocate },
	{ "ioctl", SYS_ioctl }, { "link", SYS_link }, { "madvise", SYS_madvise }, { "mkdir", SYS_mkdir },
	{ "pwrite64", SYS_pwrite64 }, { "rt_sigprocmask", SYS_rt_sigprocmask }, { "unlink", SYS_unlink },
	{ "fcntl", SYS_fcntl }, { "fstat", SYS_fstat },
	{ "newfstatat", SYS_newfstatat }, { "getpid", SYS_getpid }, { "getsockname", SYS_getsockname },
	{ "getsockopt", SYS_getsockopt }, { "gettid", SYS_gettid }, { "geteuid", SYS_geteuid }, { "kill", SYS_kill },
	{ "listen", SYS_listen }, { "openat", SYS_openat }, { "poll", SYS_poll }, { "pread64", SYS_pread64 },
	{ "sched_getaffinity", SYS_sched_getaffinity }, { "sched_setaffinity", SYS_sched_setaffinity },
	{ "sched_yield", SYS_sched_yield }, { "setsockopt", SYS_setsockopt }, { "shutdown", SYS_shutdown },
	{ "socket", SYS_socket }, { "dup3", SYS_dup3 },
};
#define CALLS (int)(sizeof(calls) / sizeof(calls[0]))

/* Who comes from this host is there at once, or not at all. */
#define WAIT_MS 50
/* Longer than the parts that the library cuts a wait into. */
#define LONG_MS 300

static const int errors[] = { EPERM, ENOSYS };

static void forbid(long number, int error)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned int)number, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned int)error),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof(filter) / sizeof(filter[0]), filter };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
		die("seccomp");
}

#define TRY(label, call) \
	do { \
		long r_; \
		errno = 0; \
		r_ = (long)(call); \
		say("%-20s %ld errno %d\n", label, r_ > 0 ? 1 : r_, errno); \
	} while (0)

/* What matters to who waits; for the others nobody has to wait so long. */
static int waits(long number)
{
	return number == SYS_epoll_pwait || number == SYS_epoll_wait || number == SYS_rt_sigprocmask;
}

/* A server's calls in their order, the call forbidden before the moment'th; each says what it returned. */
static void server(long number, int error, int moment)
{
	struct sockaddr_in at = any_port;
	struct epoll_event event = { .events = EPOLLIN };
	socklen_t length = sizeof(at);
	int l = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), e = epoll_create1(0), c = -1, a;
	/* What the program itself needs for its client is made before. */
	int clients[4];

	for (int i = 0; i < 4; i++)
		clients[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	for (int step = 0; step < 8; step++) {
		if (step == moment)
			forbid(number, error);
		switch (step) {
		case 0:
			TRY("bind", bind(l, (struct sockaddr *)&at, sizeof(at)));
			break;
		case 1:
			TRY("listen", listen(l, 64));
			break;
		case 2:
			TRY("epoll_ctl ADD", epoll_ctl(e, EPOLL_CTL_ADD, l, &event));
			break;
		case 3:
		case 4:
			TRY("getsockname", getsockname(l, (struct sockaddr *)&at, &length));
			c = clients[step - 3];
			TRY("connect", connect(c, (struct sockaddr *)&at, sizeof(at)));
			TRY("epoll_wait", epoll_wait(e, &event, 1, WAIT_MS));
			TRY("accept", a = step == 3 ? accept(l, NULL, NULL) : accept4(l, NULL, NULL, SOCK_CLOEXEC));
			TRY("accept, nobody", accept(l, NULL, NULL));
			if (waits(number) && step == 4)
				TRY("epoll_wait, long", epoll_wait(e, &event, 1, LONG_MS));
			TRY("write", write(a, "y", 1));
			TRY("close", close(a));
			TRY("close", close(c));
			break;
		case 5:
			/* One waits while the listener leaves the epoll and comes again. */
			TRY("connect", connect(clients[2], (struct sockaddr *)&at, sizeof(at)));
			TRY("epoll_ctl DEL", epoll_ctl(e, EPOLL_CTL_DEL, l, NULL));
			TRY("epoll_wait", epoll_wait(e, &event, 1, 0));
			TRY("epoll_ctl ADD", epoll_ctl(e, EPOLL_CTL_ADD, l, &event));
			TRY("epoll_wait", epoll_wait(e, &event, 1, WAIT_MS));
			TRY("accept", accept(l, NULL, NULL));
			break;
		case 6:
			TRY("dup2", dup2(l, HIGH_FD));
			TRY("connect", connect(clients[3], (struct sockaddr *)&at, sizeof(at)));
			TRY("epoll_wait", epoll_wait(e, &event, 1, WAIT_MS));
			TRY("accept", accept(l, NULL, NULL));
			break;
		default:
			TRY("close", close(l));
			TRY("close", close(HIGH_FD));
		}
	}
}

/* All of them, each in a child. moment 8: from before the program starts. */
static void forbids(int call)
{
	for (unsigned int k = 0; k < sizeof(errors) / sizeof(errors[0]); k++)
		for (int moment = 0; moment <= 8; moment++) {
			pid_t child;

			say("-- %s %s before step %d\n", calls[call].name, strerrorname_np(errors[k]), moment);
			child = fork();
			if (!child && moment == 8) {
				forbid(calls[call].number, errors[k]);
				again("unforbidden", call, environ);
			}
			if (!child) {
				server(calls[call].number, errors[k], moment);
				_exit(3);
			}
			finished(child);
		}
}

static void unforbidden(int unused)
{
	(void)unused;
	server(0, 0, -1);
}

static void names(int unused)
{
	(void)unused;
	for (int i = 0; i < CALLS; i++)
		say("%s\n", calls[i].name);
}

const struct habit forbid_habits[] = {
	{ "forbid", forbids }, { "unforbidden", unforbidden }, { "forbidden-calls", names },
	{ NULL, NULL },
};
