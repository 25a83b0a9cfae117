/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

#include "kernel.h"
#include "migrate.h"
#include "real.h"
#include "settings.h"
#include "shard.h"
#include "slots.h"
#include "spill.h"
#include "steer.h"
#include "thread.h"

/* ---- claim and release ------------------------------------------------- */

/* The least served CPU among those the thread may use and the listener has a slot for. */
static int pick_cpu(const struct listener *l)
{
	cpu_set_t allowed[16];
	int best = -1, least = 0;

	if (sched_getaffinity(0, sizeof(allowed), allowed))
		return -1;
	for (int cpu = 0; cpu < l->cpus; cpu++) {
		int owners;

		if (l->slots[cpu] < 0 || !CPU_ISSET_S(cpu, sizeof(allowed), allowed))
			continue;
		owners = cpu_owners(l->cookie, cpu);
		if (best < 0 || owners < least) {
			best = cpu;
			least = owners;
		}
	}
	return best;
}

/* The CPU whose slot this thread serves, pinning it if that is allowed; -1: none. Locked. */
static int claim_cpu(const struct listener *l)
{
	int cpu = thread_cpu();

	if (cpu < 0) {
		cpu = settings.pin ? pick_cpu(l) : -1;
		if (cpu < 0 || thread_pin(cpu)) {
			COUNT_ERROR(FSOCKET_ERR_UNPINNED);
			return -1;
		}
	}
	return cpu < l->cpus && slot_intact(l, cpu) ? cpu : -1;
}

/*
 * Orphans of the CPU end here: our slot's by this claim, those of a process
 * that made its own slots (HAProxy's before a reload) went with it.
 */
struct fsocket_slot *claim_row(struct listener *l, int cpu, uint64_t slot, int on)
{
	struct fsocket_slot *row;

	while ((row = slot_orphan(l->cookie, cpu))) {
		slot_row_clear(row);
		__atomic_fetch_sub(&l->row->orphans, 1, __ATOMIC_RELAXED);
	}
	row = slot_row_free(cpu);
	if (!row) {
		COUNT_ERROR(FSOCKET_ERR_TABLE);
		return NULL;
	}
	row->listener = l->cookie;
	__atomic_store_n(&row->cookie, slot, __ATOMIC_RELAXED);
	row->cpu = cpu;
	row->pid = getpid();
	row->tid = thread_tid();
	row->fd = l->slots[cpu];
	row->taken = 0;
	__atomic_store_n(&row->backlog, (uint32_t)l->backlog, __ATOMIC_RELAXED);
	slot_state_set(row, on ? FSOCKET_SLOT_ON : FSOCKET_SLOT_OFF);
	return row;
}

/*
 * All that come to one CPU wait in one slot until it spills, and a share of them after that: twice what the application
 * has for all workers, so that nothing overflows where its own queue would not.
 */
static int slot_backlog(const struct listener *l)
{
	return l->backlog > 0 && l->backlog <= INT_MAX / 2 ? 2 * l->backlog : l->backlog;
}

static int claim_start(struct listener *l, struct claim *c, int epfd, struct epoll_event *event)
{
	int fd = l->slots[c->cpu], listens, polled;

	options_copy(l->fd, fd, options_before_listen(l));
	/* A predecessor's, which gets connections whatever is forbidden here: it must be served. */
	listens = socket_flag(fd, SO_ACCEPTCONN) == 1;
	polled = (!steer_prefer_locked(l, c->cpu, c->cpu) || listens) && !real.epoll_ctl(epfd, EPOLL_CTL_ADD, fd, event);
	/* Last: from here on connections come, and the epoll above already waits. */
	if (polled && (!real.listen(fd, slot_backlog(l)) || listens))
		return 0;
	if (polled)
		real.epoll_ctl(epfd, EPOLL_CTL_DEL, fd, event);
	if (!listens)
		steer_forget(l, c->cpu);
	return -1;
}

static void claim_event(struct claim *c, const struct epoll_event *event)
{
	c->events = event->events;
	c->data = event->data.u64;
}

__thread int slots_watch;

/* Its destructor runs at the end of a thread that has claimed a slot. */
static pthread_key_t thread_key;
static int thread_key_made;

static void thread_ends(void *unused)
{
	(void)unused;
	slots_before_wait();
	listeners_release();
}

void slots_init(void)
{
	thread_key_made = !pthread_key_create(&thread_key, thread_ends);
}

void slots_thread_claimed(void)
{
	if (thread_key_made)
		pthread_setspecific(thread_key, &thread_key);
}

/* Without a claim the thread has the application's listener, as ever. */
static void claim(struct listener *l, int epfd, struct epoll_event *event)
{
	struct claim *c = NULL;
	struct fsocket_slot *row = NULL;
	int on = switch_on(), cpu;

	shared_lock();
	cpu = claim_cpu(l);
	if (cpu >= 0 && l->claims[cpu].tid) {
		COUNT_ERROR(FSOCKET_ERR_TAKEN);
		cpu = -1;
	}
	if (cpu >= 0) {
		c = &l->claims[cpu];
		/* In a shared group it is the first accept() that turns the slot off. */
		row = claim_row(l, cpu, l->cookies[cpu], on || !is_sole(l->row));
	}
	if (row) {
		c->row = row;
		c->epfd = epfd;
		c->next_tick = 0;
		c->waiting_since = 0;
		c->samples = c->queued = c->looked = 0;
		c->mine = c->all = 0;
		c->owned = c->counted = 0;
		c->hold = 0;
		slots_watch |= WATCH_SLOTS;
		c->global_turn = 0;
		c->yielded = 0;
		c->helped = -1;
		claim_event(c, event);
		c->tid = thread_tid();
		if (claim_start(l, c, epfd, event)) {
			COUNT_ERROR(FSOCKET_ERR_CLAIM);
			say(1, "slot of CPU %d: %s", cpu, strerror(errno));
			slot_row_clear(row);
			c->tid = 0;
		}
		/* Now there is a group whose choice can be set. */
		steer_sync_locked(l, on);
		l->claimed = 1;
		slots_thread_claimed();
	}
	shared_unlock();
}

/*
 * A listener taken out of epoll may come back at once: nginx does so every 16th
 * connection (ngx_reorder_accept_events). Only a thread that goes to wait
 * without it has left its slot.
 */
__thread struct listener *leaving;

static void set_leaving(struct listener *l)
{
	leaving = l;
	slots_watch = (slots_watch & ~WATCH_LEAVING) | (l ? WATCH_LEAVING : 0);
}

void slot_abandon(struct listener *l, int cpu, struct fsocket_slot *row)
{
	/* A successor that has not claimed yet does not know the mode; an end depends on it. */
	steer_sync_locked(l, switch_on());
	/*
	 * Out of LISTEN, and the kernel moves the queue and the handshakes to the others
	 * (inet_connection_sock.c:inet_csk_listen_stop). Where nothing would move them: no new ones, and who is left
	 * serves the queue. But another process that has a slot of its own on this CPU cannot serve this one.
	 */
	if (!row || migrate_works() || !is_sole(l->row) || cpu_owners(l->cookie, cpu)) {
		steer_end(l, cpu);
		if (row)
			slot_row_clear(row);
		return;
	}
	slot_row_clear(row);
	row->listener = l->cookie;
	__atomic_store_n(&row->cookie, l->cookies[cpu], __ATOMIC_RELAXED);
	row->cpu = cpu;
	__atomic_store_n(&row->backlog, (uint32_t)l->backlog, __ATOMIC_RELAXED);
	slot_state_set(row, FSOCKET_SLOT_ORPHAN);
	__atomic_fetch_add(&l->row->orphans, 1, __ATOMIC_RELAXED);
	steer_orphan(l, cpu);
}

void claim_release(struct listener *l, struct claim *c)
{
	struct fsocket_slot *row = c->row;
	struct epoll_event unused = { 0 };
	int fd = l->slots[c->cpu], owners, spilling;

	spill_end_help(l, c);
	if (!slot_intact(l, c->cpu))
		fd = -1;
	else if (leaving != l)
		real.epoll_ctl(c->epfd, EPOLL_CTL_DEL, fd, &unused);
	c->tid = 0;
	quick_end(c);
	shared_lock();
	spilling = slot_state(row) == FSOCKET_SLOT_SPILLING;
	slot_state_set(row, FSOCKET_SLOT_FREE);
	/* A successor that has taken it over does not count: it may have no thread for this CPU. If it has, that listens anew. */
	owners = slot_owners(row->cookie);
	/* Who stays knows nothing of our spilling. */
	if (fd >= 0 && owners && spilling)
		steer_prefer_locked(l, c->cpu, c->cpu);
	if (fd < 0 || owners)
		slot_row_clear(row);
	else
		slot_abandon(l, c->cpu, row);
	shared_unlock();
}

struct claim *my_claim(const struct listener *l)
{
	int cpu = thread_cpu();
	struct claim *c;

	if (cpu < 0 || cpu >= l->cpus)
		return NULL;
	if (!l->claims)
		__builtin_unreachable();	/* made with cpus: for the analyzer */
	c = &l->claims[cpu];
	return atomic_load_explicit(&c->tid, memory_order_relaxed) == thread_tid() ? c : NULL;
}

static void leave(struct listener *l, struct claim *c)
{
	struct epoll_event unused = { 0 };

	spill_pause_help(l, c);
	/* Of several, only one can come back. */
	slots_before_wait();
	real.epoll_ctl(c->epfd, EPOLL_CTL_DEL, l->slots[c->cpu], &unused);
	set_leaving(l);
}

static void come_back(struct listener *l, struct claim *c, int epfd, struct epoll_event *event)
{
	set_leaving(NULL);
	c->epfd = epfd;
	claim_event(c, event);
	if (real.epoll_ctl(epfd, EPOLL_CTL_ADD, l->slots[c->cpu], event))
		claim_release(l, c);
	else
		spill_resume_help(l, c);
}

void slots_before_wait(void)
{
	struct claim *c;
	int keep = errno;

	real_ready();
	c = leaving ? my_claim(leaving) : NULL;
	if (c)
		claim_release(leaving, c);
	set_leaving(NULL);
	errno = keep;
}

void slots_after_fork(void)
{
	slots_watch = 0;
	leaving = NULL;
}

/* Into another epoll: one made anew after its first was closed, or a second one. */
static void follow(struct listener *l, struct claim *c, int epfd, struct epoll_event *event)
{
	if (real.epoll_ctl(epfd, EPOLL_CTL_ADD, l->slots[c->cpu], event))
		return;
	/* What another slot has to say came to the first. */
	spill_end_help(l, c);
	c->epfd = epfd;
	claim_event(c, event);
}

int slots_epoll(struct listener *l, int epfd, int op, struct epoll_event *event)
{
	struct claim *c;
	int result, keep = errno;

	if (l->sharded)
		return shard_epoll(l, epfd, op, event);
	if (op == EPOLL_CTL_ADD && l->inherited)
		slots_watch |= WATCH_INHERITED;
	/* A program may pin its threads any time before it adds listeners. */
	if (op == EPOLL_CTL_ADD && leaving != l)
		thread_ask_again();
	c = my_claim(l);
	result = real.epoll_ctl(epfd, op, l->fd, event);
	if (result)
		return result;
	if (op != EPOLL_CTL_DEL && event->events & EPOLLONESHOT) {
		/* One event, and nobody else is woken until it is armed again: two sockets cannot do that. */
		if (c)
			claim_release(l, c);
	} else if (op == EPOLL_CTL_ADD && !c) {
		/* An accept() that blocks would have to sleep on two sockets. */
		if (!socket_blocks(l->fd))
			claim(l, epfd, event);
	} else if (op == EPOLL_CTL_ADD && leaving == l) {
		come_back(l, c, epfd, event);
	} else if (op == EPOLL_CTL_ADD) {
		follow(l, c, epfd, event);
	} else if (op == EPOLL_CTL_DEL && c && c->epfd == epfd) {
		leave(l, c);
	} else if (c && !real.epoll_ctl(epfd, op, l->slots[c->cpu], event) && c->epfd == epfd) {
		claim_event(c, event);	/* changed; else changed in, or out of, an epoll it was in before */
	}
	errno = keep;
	return result;
}
