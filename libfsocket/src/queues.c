/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
#define _GNU_SOURCE
#include "queues.h"

#include <errno.h>
#include <poll.h>

#include "kernel.h"
#include "real.h"
#include "steer.h"

int plain_accept(int fd, struct sockaddr *address, socklen_t *length, int flags)
{
	return flags < 0 ? real.accept(fd, address, length) :
			   real.accept4(fd, address, length, flags);
}

/* Nothing there, not listening any more, or just closed: ask the next one. */
static int nothing(int error)
{
	return error == EAGAIN || error == EINVAL || error == EBADF || error == ENOTSOCK || error == EOPNOTSUPP;
}

int accept_orphan(const struct listener *l, struct sockaddr *address, socklen_t *length, int flags)
{
	for (int cpu = 0; cpu < l->cpus; cpu++) {
		int fd = l->slots[cpu] < 0 ? -1 : plain_accept(l->slots[cpu], address, length, flags);

		if (fd >= 0)
			return fd;
	}
	errno = EAGAIN;
	return -1;
}

/* A slot that does not listen has nothing. */
static int accept_slot(int slot, struct sockaddr *address, socklen_t *length, int flags)
{
	int fd = plain_accept(slot, address, length, flags);

	if (fd < 0 && nothing(errno))
		errno = EAGAIN;
	return fd;
}

static int accept_own(const struct listener *l, const struct claim *c, struct sockaddr *address,
		      socklen_t *length, int flags, int refused, enum source *source)
{
	int slot = l->slots[c->cpu], fd = -1;

	if (c->global_turn == 1) {
		*source = FROM_GLOBAL;
		fd = plain_accept(l->fd, address, length, flags);
		if (fd >= 0 || !nothing(errno))
			return fd;
		*source = FROM_SLOT;
		return accept_slot(slot, address, length, flags);
	}
	*source = FROM_SLOT;
	if (refused)
		errno = refused;
	else
		fd = plain_accept(slot, address, length, flags);
	if (fd < 0 && nothing(errno) && errno != EAGAIN) {
		COUNT_ERROR(FSOCKET_ERR_ACCEPT);
		errno = EAGAIN;
	}
	/*
	 * Who accepts until nothing is left has had what was in the slot. The global listener
	 * has an event of its own, which comes again if it is not the edge-triggered kind.
	 */
	if (fd >= 0 || errno != EAGAIN || (c->yielded && !(c->events & EPOLLET)))
		return fd;
	*source = FROM_GLOBAL;
	return plain_accept(l->fd, address, length, flags);
}

/*
 * Who helps is woken by three queues, not told by which, and often after another has taken what came. One look into all
 * of them is cheaper than an accept() in vain, which makes a file and throws it away (net/socket.c: do_accept).
 */
static int accept_helping(const struct listener *l, const struct claim *c, struct sockaddr *address,
			  socklen_t *length, int flags, enum source *source)
{
	int helped = c->helped;
	const enum source order[2][3] = {
		{ FROM_SLOT, FROM_GLOBAL, FROM_OTHER },
		{ FROM_GLOBAL, FROM_SLOT, FROM_OTHER },
	};
	struct pollfd queues[] = {
		[FROM_SLOT] = { .fd = l->slots[c->cpu], .events = POLLIN },
		[FROM_GLOBAL] = { .fd = l->fd, .events = POLLIN },
		[FROM_OTHER] = { .fd = helped < 0 ? -1 : l->slots[helped], .events = POLLIN },
	};
	/* Where a filter forbids it, each is asked. */
	int known = poll(queues, 3, 0) >= 0, fd = -1;

	errno = EAGAIN;
	for (int i = 0; i < 3 && fd < 0 && nothing(errno); i++) {
		const struct pollfd *q = &queues[*source = order[c->global_turn == 1][i]];

		if (known && !q->revents)
			continue;
		fd = *source == FROM_GLOBAL ? plain_accept(q->fd, address, length, flags) :
					      accept_slot(q->fd, address, length, flags);
	}
	return fd;
}

int accept_any(const struct listener *l, struct claim *c, struct sockaddr *address, socklen_t *length, int flags,
	       int refused, enum source *source)
{
	int fd = c->helped >= 0 ? accept_helping(l, c, address, length, flags, source) :
				  accept_own(l, c, address, length, flags, refused, source);

	/* While the global listener has something, every second turn is its own. */
	if (c->global_turn || *source == FROM_GLOBAL)
		c->global_turn = fd >= 0 && *source == FROM_GLOBAL ? 2 : c->global_turn == 2;
	if (c->yielded != (fd >= 0 && *source == FROM_SLOT))
		c->yielded = !c->yielded;
	if (fd < 0 && errno == EAGAIN && has_orphans(l->row)) {
		*source = FROM_OTHER;
		fd = accept_orphan(l, address, length, flags);
	}
	return fd;
}

int accept_off(const struct listener *l, const struct claim *c, struct sockaddr *address, socklen_t *length, int flags)
{
	int fd = plain_accept(l->fd, address, length, flags);

	if (fd >= 0 || errno != EAGAIN)
		return fd;
	return accept_slot(l->slots[c->cpu], address, length, flags);
}
