/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
#define _GNU_SOURCE
#include "spill.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include "kernel.h"
#include "real.h"
#include "settings.h"
#include "steer.h"

/* ms without an accept() while connections wait: the owner is stuck, or as good as that. */
#define STUCK_MS 250
/* More than so many wait on average: the worker does not keep up. */
#define WAITING 8

int queue_of(const struct listener *l, int fd, struct queue *q)
{
	struct tcp_info info;
	socklen_t length = sizeof(info);

	/* On a listener: queue length and backlog, net/ipv4/tcp.c:tcp_get_info. */
	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length))
		return 0;
	q->length = info.tcpi_unacked;
	q->backlog = info.tcpi_sacked < (uint32_t)l->backlog ? info.tcpi_sacked : (uint32_t)l->backlog;
	q->limit = (uint32_t)((uint64_t)q->backlog * (uint32_t)settings.spill / 100);
	return 1;
}

/*
 * No socket claims the CPU now: the kernel spreads by hash over all, which also wakes who sleeps. Who looks at the slot
 * from now on takes from its queue as well.
 */
static void hand_over(const struct listener *l, int cpu, struct fsocket_slot *row)
{
	if (steer_prefer(l, cpu, -1) || slot_state(row) == FSOCKET_SLOT_SPILLING)
		return;
	slot_state_set(row, FSOCKET_SLOT_SPILLING);
	COUNT(cpu, spills);
}

void spill_hold(struct claim *c, int64_t now)
{
	if (now < c->hold)
		return;
	if (now - c->hold > HOLD_MS)
		c->hold_ms = HOLD_MS;
	else if (c->hold_ms < HOLD_MOST_MS)
		c->hold_ms *= 2;
	c->hold = now + c->hold_ms;
}

int uneven(const struct listener *l, struct claim *c, const struct queue *q, int tick)
{
	unsigned int samples = c->samples + 1, queued = c->queued + q->length;
	uint64_t all = 0, mine = 0;
	int found;

	c->samples = samples;
	c->queued = queued;
	if (!tick)
		return 0;
	for (int cpu = 0; cpu < l->cpus; cpu++) {
		uint64_t accepts = __atomic_load_n(&shared.cpus[cpu].accepts, __ATOMIC_RELAXED);

		all += accepts;
		mine = cpu == c->cpu ? accepts : mine;
	}
	found = c->owned > 1 && queued / samples > WAITING &&
		(mine - c->mine) * c->owned * 2 > (all - c->all) * 3;
	c->mine = mine;
	c->all = all;
	c->samples = c->queued = 0;
	return found;
}

void spill_own(struct listener *l, struct claim *c, int64_t now, int tick)
{
	struct fsocket_slot *row = c->row;
	struct queue q;
	int found;

	if (!queue_of(l, l->slots[c->cpu], &q))
		return;
	__atomic_store_n(&row->queue, q.length, __ATOMIC_RELAXED);
	__atomic_store_n(&row->backlog, q.backlog, __ATOMIC_RELAXED);
	found = uneven(l, c, &q, tick) && q.limit;
	if (found)
		spill_hold(c, now);
	if (found || (q.limit && q.length > q.limit))
		hand_over(l, c->cpu, row);
	else if (slot_state(row) == FSOCKET_SLOT_SPILLING && q.length <= q.limit / SPILL_BACK && now >= c->hold &&
		 !steer_prefer(l, c->cpu, c->cpu))
		slot_state_set(row, FSOCKET_SLOT_ON);
}

int stuck(struct claim *c, uint64_t accepts, const struct queue *q, int64_t now)
{
	if (!q->length || !c->waiting_since || accepts != c->seen_accepts) {
		c->seen_accepts = accepts;
		c->waiting_since = q->length ? now : 0;
	}
	return c->waiting_since && now - c->waiting_since >= STUCK_MS;
}

/* The epoll may have been closed, and its number be another's, who would not know what our events are. */
static int still_polled(const struct listener *l, const struct claim *c)
{
	struct epoll_event event = { .events = c->events, .data.u64 = c->data };

	if (real.epoll_ctl(c->epfd, EPOLL_CTL_ADD, l->slots[c->cpu], &event))
		return errno == EEXIST;
	real.epoll_ctl(c->epfd, EPOLL_CTL_DEL, l->slots[c->cpu], &event);
	return 0;
}

static void help(struct listener *l, struct claim *c, int cpu)
{
	struct epoll_event event = { .events = c->events, .data.u64 = c->data };

	if (c->helped >= 0 || !event.events || !still_polled(l, c) ||
	    real.epoll_ctl(c->epfd, EPOLL_CTL_ADD, l->slots[cpu], &event))
		return;
	c->helped = cpu;
}

void spill_end_help(struct listener *l, struct claim *c)
{
	struct epoll_event unused = { 0 };

	if (c->helped < 0)
		return;
	if (l->slots[c->helped] >= 0)
		real.epoll_ctl(c->epfd, EPOLL_CTL_DEL, l->slots[c->helped], &unused);
	c->helped = -1;
}

void spill_pause_help(struct listener *l, struct claim *c)
{
	struct epoll_event unused = { 0 };

	if (c->helped >= 0 && l->slots[c->helped] >= 0)
		real.epoll_ctl(c->epfd, EPOLL_CTL_DEL, l->slots[c->helped], &unused);
}

void spill_resume_help(struct listener *l, struct claim *c)
{
	struct epoll_event event = { .events = c->events, .data.u64 = c->data };

	if (c->helped >= 0 && real.epoll_ctl(c->epfd, EPOLL_CTL_ADD, l->slots[c->helped], &event))
		c->helped = -1;
}

/* Where something waits it looks again; else at the next one. */
static int other(const struct listener *l, const struct claim *c)
{
	for (int step = !c->waiting_since; step <= l->cpus; step++) {
		int cpu = (c->looked_at + step) % l->cpus;

		if (cpu != c->cpu && l->slots[cpu] >= 0)
			return cpu;
	}
	return -1;
}

void spill_others(struct listener *l, struct claim *c, int64_t now)
{
	int cpu = c->helped >= 0 ? c->helped : other(l, c);
	struct fsocket_slot *row;
	uint64_t accepts;
	uint32_t state;
	struct queue q;

	if ((!settings.spill && !has_orphans(l->row)) || cpu < 0)
		return;
	if (cpu <= c->looked_at) {
		c->owned = c->counted + 1;
		c->counted = 0;
	}
	if (cpu != c->looked_at)
		c->waiting_since = 0;
	c->looked_at = cpu;
	row = slot_served(__atomic_load_n(&l->cookies[cpu], __ATOMIC_RELAXED), cpu, &accepts);
	state = row ? slot_state(row) : FSOCKET_SLOT_FREE;
	if (c->helped >= 0 && state != FSOCKET_SLOT_SPILLING && state != FSOCKET_SLOT_ORPHAN)
		spill_end_help(l, c);
	if (!row || !queue_of(l, l->slots[cpu], &q)) {
		c->waiting_since = 0;
		return;
	}
	c->counted += state != FSOCKET_SLOT_ORPHAN;
	__atomic_store_n(&row->queue, q.length, __ATOMIC_RELAXED);
	/* Who always finds something to accept, as nginx's only worker, never comes to look into an orphan. */
	if (state == FSOCKET_SLOT_ORPHAN && !q.length)
		spill_end_help(l, c);
	if (!settings.spill && state != FSOCKET_SLOT_ORPHAN)
		return;
	if (!stuck(c, accepts, &q, now) && !(q.limit && q.length > q.limit) && !(q.length && state != FSOCKET_SLOT_ON))
		return;
	if (state == FSOCKET_SLOT_ON)
		hand_over(l, cpu, row);
	help(l, c, cpu);
}
