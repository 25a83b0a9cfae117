/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Copies of a listener's descriptor, and descriptors that go and come. */
#define _GNU_SOURCE
#include "life.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <string.h>
#include <sys/syscall.h>

static int copy_dup(int l) { return dup(l); }
static int copy_dup2(int l) { return dup2(l, HIGH_FD); }
static int copy_dup3(int l) { return dup3(l, HIGH_FD, O_CLOEXEC); }
static int copy_fcntl(int l) { return fcntl(l, F_DUPFD, HIGH_FD); }
static int copy_cloexec(int l) { return fcntl(l, F_DUPFD_CLOEXEC, HIGH_FD); }

static const struct {
	const char *name;
	int (*copy)(int l);
} copies[] = {
	{ "dup", copy_dup }, { "dup2", copy_dup2 }, { "dup3", copy_dup3 }, { "F_DUPFD", copy_fcntl },
	{ "F_DUPFD_CLOEXEC", copy_cloexec },
};

/* By the copy, with and without the first; and polled by one, accepted by the other. */
static void dups(int unused)
{
	(void)unused;
	for (unsigned int i = 0; i < sizeof(copies) / sizeof(copies[0]); i++) {
		struct sockaddr_in at;
		int l = listener(SOCK_NONBLOCK, &at), copy = copies[i].copy(l), e = watch(copy);

		say("%s\n", copies[i].name);
		served("copy", e, copy, &at);
		close(e);
		e = watch(l);
		served("first", e, l, &at);
		served("polled by the first, accepted by the copy", e, copy, &at);
		close(e);
		close(l);
		served("copy alone", watch(copy), copy, &at);
		close(copy);
		count_fds("all closed", 0);
	}
}

/* The same listener in one epoll after the other, and in two. */
static void epolls(int unused)
{
	struct sockaddr_in at;
	int l = listener(SOCK_NONBLOCK, &at), e = watch(l), other;

	(void)unused;
	served("first epoll", e, l, &at);
	close(e);
	e = watch(l);
	served("first closed, second epoll", e, l, &at);
	other = watch(l);
	served("in both, by the third", other, l, &at);
	served("in both, by the second", e, l, &at);
	epoll_ctl(e, EPOLL_CTL_DEL, l, NULL);
	served("out of the second, by the third", other, l, &at);
}


static int cloexec_range(void)
{
	return close_range(3, ~0u, CLOSE_RANGE_CLOEXEC);
}

/* All descriptors closed at once; what has their numbers next is served as itself. */
static void closes(int unused)
{
	struct sockaddr_in at, other;
	int l = listener(SOCK_NONBLOCK, &at), m, kept, e = watch(l);

	(void)unused;
	served("first", e, l, &at);
	if (cloexec_range())
		die("close_range");
	served("all marked close-on-exec", e, l, &at);
	m = listener(SOCK_NONBLOCK, &other);
	kept = fcntl(m, F_DUPFD, 1000);
	closefrom(3);
	close_range(3, 900, 0);
	kept = kept == 1000 ? listener(SOCK_NONBLOCK, &at) : -1;
	served("a new one after closefrom", watch(kept), kept, &at);
	count_fds("at the end", 1);
}

/* Listeners that come by other ways than socket(2) of libc at the numbers of those closed. */
static void reborn(int unused)
{
	struct sockaddr_in at, one_at[8];
	int l = listener(SOCK_NONBLOCK, &at), e = watch(l);

	(void)unused;
	served("first", e, l, &at);
	close_range(3, ~0u, 0);
	for (int i = 0; i < 8; i++) {
		int fd = (int)syscall(SYS_socket, AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), yes = 1;

		if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)) ||
		    syscall(SYS_bind, fd, &any_port, sizeof(any_port)) || syscall(SYS_listen, fd, 64))
			die("listener");
		where(fd, &one_at[i]);
	}
	for (int i = 0; i < 8; i++) {
		char label[32];
		int c = client(&one_at[(i + 1) % 8]), d = client(&one_at[i]), a;

		/* Somebody waits at the next one; accept() on this one must not take him. */
		a = accept(3 + i, NULL, NULL);
		snprintf(label, sizeof(label), "listener %d", i);
		say("%s: its own client %d\n", label, joined(a, d));
		close(accept(3 + (i + 1) % 8, NULL, NULL));
		close(c);
		e = watch(3 + i);
		served(label, e, 3 + i, &one_at[i]);
		close(e);
	}
}

static int send_fd(int to, int fd)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control = { .header = { CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS } };
	struct iovec part = { "x", 1 };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control,
				  .msg_controllen = sizeof(control) };

	memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
	return sendmsg(to, &message, 0) == 1;
}

static int receive_fd(int from)
{
	char byte;
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec part = { &byte, 1 };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control,
				  .msg_controllen = sizeof(control) };
	int fd;

	if (recvmsg(from, &message, 0) != 1 || !CMSG_FIRSTHDR(&message))
		die("recvmsg");
	memcpy(&fd, CMSG_DATA(&control.header), sizeof(fd));
	return fd;
}

/* A listener sent to another process, which had one of its own at that number; the sender closes it. */
static void scm_rights(int unused)
{
	struct sockaddr_in at, own_at;
	int pair[2], l, own;
	pid_t child;
	char byte;

	(void)unused;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair))
		die("socketpair");
	child = fork();
	if (!child) {
		own = listener(SOCK_NONBLOCK, &own_at);
		served("the receiver's own", watch(own), own, &own_at);
		if (write(pair[1], "x", 1) != 1)
			die("write");
		close_range((unsigned int)own, ~0u, 0);
		l = receive_fd(pair[1]);
		where(l, &at);
		served("received", watch(l), l, &at);
		count_fds("receiver", 1);
		_exit(3);
	}
	/* Its line first. */
	if (read(pair[0], &byte, 1) != 1)
		die("read");
	l = listener(SOCK_NONBLOCK, &at);
	served("the sender's", watch(l), l, &at);
	if (!send_fd(pair[0], l))
		die("sendmsg");
	close(l);
	finished(child);
}

const struct habit copy_habits[] = {
	{ "dups", dups }, { "epolls", epolls }, { "closes", closes }, { "reborn", reborn }, { "scm-rights", scm_rights },
	{ NULL, NULL },
};
