/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
#define _GNU_SOURCE
#include "handover.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "real.h"
#include "settings.h"
#include "shared.h"
#include "slots.h"

#define OFFERS 256

/* s that a holder has for each answer: one that is stopped must not keep a service from its start. */
#define ANSWER_S 3

static int offers[OFFERS];
static int offer_count;
static int asked;

/* One socket from the holder; -1 at the end. */
static int receive(int from)
{
	char byte;
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec part = { &byte, 1 };
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1,
		.msg_control = &control, .msg_controllen = sizeof(control),
	};
	struct cmsghdr *c;
	ssize_t length;
	int fd;

	do
		length = real.recvmsg(from, &message, MSG_CMSG_CLOEXEC);
	while (length < 0 && errno == EINTR);
	if (length != 1)
		return -1;
	c = CMSG_FIRSTHDR(&message);
	if (!c || c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS ||
	    c->cmsg_len != CMSG_LEN(sizeof(int)))
		return -1;
	memcpy(&fd, CMSG_DATA(c), sizeof(fd));
	return fd;
}

static void ask(void)
{
	struct sockaddr_un holder = { .sun_family = AF_UNIX };
	const struct timeval patience = { .tv_sec = ANSWER_S };
	int from, fd, connected;

	asked = 1;
	/* Only root's restarts are answered, so nobody else asks. */
	if (geteuid() != 0 || !shared_path(holder.sun_path, sizeof(holder.sun_path), ".handover") ||
	    access(holder.sun_path, F_OK))
		return;
	from = real.socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (from < 0)
		return;
	/* The time to send is also that of connect(), which waits while the holder's backlog is full. */
	setsockopt(from, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	setsockopt(from, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	do
		connected = !real.connect(from, (struct sockaddr *)&holder, sizeof(holder));
	while (!connected && errno == EINTR);
	if (connected)
		while (offer_count < OFFERS && (fd = receive(from)) >= 0)
			offers[offer_count++] = fd;
	real.close(from);
}

/* Same family, address and port. */
static int same_address(int fd, const struct sockaddr *want, socklen_t length)
{
	struct sockaddr_storage have;
	socklen_t have_length = sizeof(have);
	const struct sockaddr_in *h4 = (const void *)&have, *w4 = (const void *)want;
	const struct sockaddr_in6 *h6 = (const void *)&have, *w6 = (const void *)want;

	memset(&have, 0, sizeof(have));
	if (getsockname(fd, (struct sockaddr *)&have, &have_length) ||
	    have.ss_family != want->sa_family || length < have_length)
		return 0;
	if (have.ss_family == AF_INET)
		return h4->sin_port == w4->sin_port && h4->sin_addr.s_addr == w4->sin_addr.s_addr;
	return h6->sin6_port == w6->sin6_port && h6->sin6_scope_id == w6->sin6_scope_id &&
	       IN6_ARE_ADDR_EQUAL(&h6->sin6_addr, &w6->sin6_addr);
}

/* Same value of an option; one that neither has is the same. */
static int same_option(int a, int b, int level, int name)
{
	char va[16] = "", vb[16] = "";	/* an int, or an interface's name (IFNAMSIZ) */
	socklen_t la = sizeof(va), lb = sizeof(vb);

	getsockopt(a, level, name, va, &la);
	getsockopt(b, level, name, vb, &lb);
	return !memcmp(va, vb, sizeof(va));
}

int handover_take(int fd, const struct sockaddr *address, socklen_t length)
{
	int keep = errno, taken = 0;

	if (!asked)
		ask();
	for (int i = 0; i < offer_count && !taken; i++) {
		int cloexec = fcntl(fd, F_GETFD) & FD_CLOEXEC ? O_CLOEXEC : 0;
		int status = fcntl(fd, F_GETFL);

		if (offers[i] < 0 || offers[i] == fd || !same_address(offers[i], address, length) ||
		    !same_option(offers[i], fd, IPPROTO_IPV6, IPV6_V6ONLY) ||
		    !same_option(offers[i], fd, SOL_SOCKET, SO_BINDTODEVICE))
			continue;
		/*
		 * The configuration may have changed, and been set before bind(), as HAProxy does. But not the sizes of buffers:
		 * one that nobody has set, or tcp_rmem was another one, would turn autotuning off.
		 */
		options_copy(fd, offers[i], BEFORE_BIND | BEFORE_LISTEN);
		/* Blocking or not is the application's choice, also when it made it before bind(). */
		if (real.dup3(offers[i], fd, cloexec) != fd || fcntl(fd, F_SETFL, status) < 0)
			continue;
		real.close(offers[i]);
		offers[i] = -1;
		taken = 1;
		say(2, "took over a listening socket");
	}
	errno = keep;
	return taken;
}

void handover_end(void)
{
	for (int i = 0; i < offer_count; i++)
		if (offers[i] >= 0)
			real.close(offers[i]);
	offer_count = 0;
	/* Whoever binds after the fork may ask again. */
	asked = 0;
}
