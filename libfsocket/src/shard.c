/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
#define _GNU_SOURCE
#include "shard.h"

#include <errno.h>

#include "kernel.h"
#include "real.h"
#include "thread.h"

/* cpu -1: no CPU is preferred, as with libc alone. */
static int prefer(const struct listener *l, int cpu)
{
	return setsockopt(l->fd, SOL_SOCKET, SO_INCOMING_CPU, &cpu, sizeof(cpu));
}

static int served(const struct listener *l)
{
	for (int cpu = 0; cpu < l->cpus; cpu++)
		if (l->claims[cpu].tid)
			return 1;
	return 0;
}

/* One thread can have it: of several that share a listener, none has its CPU alone. Locked. */
static void claim(struct listener *l, int epfd, int on)
{
	int cpu = thread_cpu();
	struct fsocket_slot *row;
	struct claim *c;

	if (cpu < 0 || cpu >= l->cpus) {
		COUNT_ERROR(FSOCKET_ERR_UNPINNED);
		return;
	}
	if (served(l)) {
		COUNT_ERROR(FSOCKET_ERR_TAKEN);
		return;
	}
	row = claim_row(l, cpu, l->cookie, on);
	if (!row)
		return;
	if (on && prefer(l, cpu)) {
		COUNT_ERROR(FSOCKET_ERR_CLAIM);
		slot_row_clear(row);
		return;
	}
	c = &l->claims[cpu];
	c->row = row;
	c->epfd = epfd;
	c->tid = thread_tid();
	slots_thread_claimed();
}

void shard_release(struct listener *l, struct claim *c)
{
	c->tid = 0;
	shared_lock();
	slot_row_clear(c->row);
	/* nginx's old worker ends after the new one, which has the same socket, has begun. */
	if (!slot_owners(l->cookie) && socket_cookie(l->fd) == l->cookie)
		prefer(l, -1);
	shared_unlock();
}

int shard_epoll(struct listener *l, int epfd, int op, struct epoll_event *event)
{
	int result = real.epoll_ctl(epfd, op, l->fd, event), keep = errno;
	struct claim *c;

	if (result)
		return result;
	if (op == EPOLL_CTL_ADD)
		thread_ask_again();
	c = my_claim(l);
	if (op == EPOLL_CTL_ADD && !c) {
		shared_lock();
		claim(l, epfd, switch_on());
		shared_unlock();
	} else if (op == EPOLL_CTL_DEL && c && c->epfd == epfd) {
		shard_release(l, c);
	}
	errno = keep;
	return result;
}

int shard_accept(struct listener *l, struct sockaddr *address, socklen_t *length, int flags)
{
	struct claim *c = my_claim(l);
	int64_t now = coarse_ms();
	uint32_t state = switch_at(now) == FSOCKET_SWITCH_ON ? FSOCKET_SLOT_ON : FSOCKET_SLOT_OFF;
	int fd, keep = errno;

	if (c && slot_state(c->row) != state && !prefer(l, state == FSOCKET_SLOT_ON ? c->cpu : -1))
		slot_state_set(c->row, state);
	errno = keep;
	fd = plain_accept(l->fd, address, length, flags);
	if (fd >= 0 && state == FSOCKET_SLOT_ON) {
		keep = errno;
		count_accept(fd, c ? FROM_SLOT : FROM_GLOBAL, now);
		errno = keep;
	}
	return fd;
}
