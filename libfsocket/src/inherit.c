/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
#define _GNU_SOURCE
#include "inherit.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <unistd.h>

#include "fds.h"
#include "kernel.h"
#include "migrate.h"
#include "real.h"
#include "steer.h"

/* Inherited listeners have low numbers: this far listener_prepare_all() looks. */
#define INHERITED_FDS 4096

/* ---- listeners --------------------------------------------------------- */

static int inherited_backlog(int fd)
{
	struct tcp_info info;
	socklen_t length = sizeof(info);

	/* On a listener tcpi_sacked is the backlog: net/ipv4/tcp.c:tcp_get_info */
	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) || !info.tcpi_sacked)
		return SOMAXCONN;
	return (int)info.tcpi_sacked;
}

struct listener *listener_adopt(int fd)
{
	/* Without SO_REUSEPORT it is alone. Else whether it was the first, who made it has noted: -1, keep that. */
	int one = 1, sole = socket_flag(fd, SO_REUSEPORT) == 0 ? 1 : -1;

	if (!steer_works() || !socket_here(fd) || setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)))
		return NULL;
	return listener_prepare(fd, inherited_backlog(fd), sole, 0);
}

void listener_prepare_all(void)
{
	for (int fd = 0; fd < INHERITED_FDS; fd++)
		/* One taken over in bind() need not be told to listen. What is left alone is known to be something else. */
		if ((fd_kind(fd_get(fd)) == FD_UNKNOWN || fd_kind(fd_get(fd)) == FD_BOUND) &&
		    socket_flag(fd, SO_ACCEPTCONN) == 1 && socket_is_tcp(fd))
			listener_adopt(fd);
}

void inherit_message(struct msghdr *message)
{
	int keep = errno;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
		size_t bytes = c->cmsg_len - CMSG_LEN(0);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t at = 0; at + sizeof(int) <= bytes; at += sizeof(int)) {
			int one;

			memcpy(&one, CMSG_DATA(c) + at, sizeof(one));
			fd_set_kind(one, FD_UNKNOWN, 0);
			if (geteuid() == 0 && socket_flag(one, SO_ACCEPTCONN) == 1 && socket_is_tcp(one))
				listener_adopt(one);
		}
	}
	errno = keep;
}

/* ms between looks after slots that were a predecessor's. */
#define LOOK_MS 250

/* ---- slots ------------------------------------------------------------- */

/* Is fd a socket that listens where l does? What a row says is not to be trusted. */
static int listens_there(const struct listener *l, int fd)
{
	struct sockaddr_storage a;
	socklen_t length = sizeof(a);

	memset(&a, 0, sizeof(a));
	return socket_flag(fd, SO_ACCEPTCONN) == 1 && socket_is_tcp(fd) &&
	       !getsockname(fd, (struct sockaddr *)&a, &length) && length == l->address_length &&
	       !memcmp(&a, &l->address, length);
}

int inherit_slot(struct listener *l, int cpu)
{
	struct fsocket_slot *row;
	int keep = errno, fd = -1, process;

	shared_lock();
	row = slot_predecessor(l->cookie, cpu);
	process = row && may_try() ? (int)syscall(SYS_pidfd_open, row->pid, 0) : -1;
	if (process >= 0) {
		fd = (int)syscall(SYS_pidfd_getfd, process, row->fd, 0);
		real.close(process);
	}
	if (fd >= 0 && (socket_cookie(fd) != row->cookie || !listens_there(l, fd))) {
		real.close(fd);
		fd = -1;
	}
	if (fd >= 0) {
		row->taken = getpid();
		l->inherited = 1;
	}
	shared_unlock();
	errno = keep;
	return fd;
}

void inherit_look(struct listener *l, int64_t now)
{
	int keep = errno, more = 0;

	if (now < l->inherited_look || l->sharded || !shared_trylock())
		return;
	l->inherited_look = now + LOOK_MS;
	for (int cpu = 0; cpu < l->cpus; cpu++) {
		if (l->claims[cpu].tid || !slot_intact(l, cpu) || socket_flag(l->slots[cpu], SO_ACCEPTCONN) != 1)
			continue;
		more |= slot_former(l->cookies[cpu], cpu);
		if (!slot_owners(l->cookies[cpu]) && !slot_orphan(l->cookie, cpu))
			slot_abandon(l, cpu, slot_row_free(cpu));
	}
	l->inherited = more;
	shared_unlock();
	errno = keep;
}
