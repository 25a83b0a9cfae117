/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
#define _GNU_SOURCE
#include "shard.h"

#include <errno.h>

#include "kernel.h"
#include "queues.h"
#include "real.h"
#include "settings.h"
#include "spill.h"
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
	c->next_tick = c->waiting_since = c->hold = 0;
	c->samples = c->queued = c->owned = c->counted = c->turns = 0;
	c->mine = c->all = 0;
	c->tid = thread_tid();
	slots_watch |= WATCH_SLOTS;
	slots_thread_claimed();
}

void shard_release(struct listener *l, struct claim *c)
{
	int spilling = slot_state(c->row) == FSOCKET_SLOT_SPILLING, owners;

	c->tid = 0;
	shared_lock();
	slot_row_clear(c->row);
	owners = slot_owners(l->cookie);
	/* nginx's old worker ends after the new one, which has the same socket, has begun, and knows nothing of our spilling. */
	if ((!owners || spilling) && socket_cookie(l->fd) == l->cookie)
		prefer(l, owners ? c->cpu : -1);
	shared_unlock();
}

/* ---- spill-over: spill.h ----------------------------------------------- */

static void hand_over(const struct listener *l, int cpu, struct fsocket_slot *row)
{
	if (slot_state(row) == FSOCKET_SLOT_SPILLING || prefer(l, -1))
		return;
	slot_state_set(row, FSOCKET_SLOT_SPILLING);
	COUNT(cpu, spills);
}

static void look_at_own(const struct listener *l, struct claim *c, int64_t now, int tick)
{
	struct fsocket_slot *row = c->row;
	struct queue q;

	if (!queue_of(l, l->fd, &q))
		return;
	__atomic_store_n(&row->queue, q.length, __ATOMIC_RELAXED);
	__atomic_store_n(&row->backlog, q.backlog, __ATOMIC_RELAXED);
	if ((uneven(l, c, &q, tick) && q.limit) || (q.limit && q.length > q.limit)) {
		spill_hold(c, now);
		hand_over(l, c->cpu, row);
	} else if (slot_state(row) == FSOCKET_SLOT_SPILLING && q.length <= q.limit / SPILL_BACK && now >= c->hold &&
		   !prefer(l, c->cpu)) {
		slot_state_set(row, FSOCKET_SLOT_ON);
	}
}

/* One a tick; where something waits it looks again. */
static void look_at_other(const struct listener *l, struct claim *c, int64_t now)
{
	int at, cpu;
	const struct listener *other = listener_beside(l, c->looked_at + !c->waiting_since, &at);
	struct fsocket_slot *row;
	uint64_t accepts;
	struct queue q;

	if (!other || !settings.spill)
		return;
	if (at <= c->looked_at) {
		c->owned = c->counted + 1;
		c->counted = 0;
	}
	if (at != c->looked_at)
		c->waiting_since = 0;
	c->looked_at = at;
	cpu = socket_flag(other->fd, SO_INCOMING_CPU);
	row = cpu >= 0 && cpu < l->cpus ? slot_served(other->cookie, cpu, &accepts) : NULL;
	if (!row || !queue_of(other, other->fd, &q)) {
		c->waiting_since = 0;
		return;
	}
	c->counted++;
	if (stuck(c, accepts, &q, now) || (q.limit && q.length > q.limit))
		hand_over(other, cpu, row);
}

/* What the switch says, to the listener as well. */
static int heed(const struct listener *l, struct claim *c, int64_t now)
{
	int on = switch_at(now) == FSOCKET_SWITCH_ON, keep = errno;

	if (c && (slot_state(c->row) != FSOCKET_SLOT_OFF) != on && !prefer(l, on ? c->cpu : -1))
		slot_state_set(c->row, on ? FSOCKET_SLOT_ON : FSOCKET_SLOT_OFF);
	errno = keep;
	return on;
}

void shard_look(struct listener *l, struct claim *c, int64_t now, int tick)
{
	if (!heed(l, c, now))
		return;
	look_at_own(l, c, now, tick);
	if (tick)
		look_at_other(l, c, now);
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
	int on = heed(l, c, now), fd, keep;

	fd = plain_accept(l->fd, address, length, flags);
	if (!on)
		return fd;
	keep = errno;
	if (fd >= 0)
		count_accept(fd, c ? FROM_SLOT : FROM_GLOBAL, now);
	if (c) {
		struct fsocket_slot *row = c->row;
		int tick = now >= c->next_tick;

		__atomic_store_n(&row->accepts, __atomic_load_n(&row->accepts, __ATOMIC_RELAXED) + (fd >= 0),
				 __ATOMIC_RELAXED);
		if (tick)
			c->next_tick = now + FSOCKET_TICK_MS;
		if (tick || !c->turns) {
			c->turns = QUEUE_TURN;
			shard_look(l, c, now, tick);
		}
		c->turns--;
	}
	errno = keep;
	return fd;
}
