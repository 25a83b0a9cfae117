/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * accept() on a managed listener. While nothing is amiss, it costs the system
 * calls that it costs without us: what else is to be asked is asked once a tick.
 */
#define _GNU_SOURCE
#include <errno.h>

#include "fds.h"
#include "inherit.h"
#include "kernel.h"
#include "queues.h"
#include "real.h"
#include "slots.h"
#include "shard.h"
#include "spill.h"
#include "steer.h"
#include "thread.h"

/* Within a tick, one accept in so many looks at the clock; a thread that sleeps for long looks as it wakes up (wait.c). */
#define CLOCK_TURN 4

__thread struct quick quick[QUICK_LISTENERS] = { { .fd = -1 } };
static __thread struct looks looks;

int count_accept(int fd, enum source source, int64_t now)
{
	int cpu = counting_cpu(now), incoming = -1;
	socklen_t length = sizeof(incoming);

	COUNT(cpu, accepts);
	if (source == FROM_GLOBAL)
		COUNT(cpu, accepts_global);
	else if (source == FROM_OTHER)
		COUNT(cpu, accepts_helped);
	if (!looks_take(&looks, now) || getsockopt(fd, SOL_SOCKET, SO_INCOMING_CPU, &incoming, &length))
		return -1;
	if (incoming == cpu)
		COUNT(cpu, accepts_local);
	else
		COUNT(cpu, accepts_remote);
	return incoming;
}

/* No number that the application gives finds it: ~fd has its place elsewhere. */
static void quick_off(struct quick *q)
{
	int fd = q->fd;

	if (fd >= 0)
		q->fd = ~fd;
}

/*
 * Nothing is to be asked until the next tick: the accepts till then may take
 * the short way.
 */
static void quicken(const struct listener *l, struct claim *c, int64_t now)
{
	struct quick *q = &quick[(unsigned int)l->fd % QUICK_LISTENERS];
	int cpu = counting_cpu(now);
	int64_t until = c->next_tick < looks.until ? c->next_tick : looks.until;

	until = until < switch_due() ? until : switch_due();
	if (now >= until || c->global_turn || c->helped >= 0 || looks.left || !c->turns ||
	    (unsigned int)cpu >= shared.cpu_count)
		return;
	q->slot = l->slots[c->cpu];
	q->turns = c->turns;
	q->claim = c;
	q->accepts = &shared.cpus[cpu].accepts;
	q->until = until;
	c->quick = q;
	q->fd = l->fd;
	/* Another thread has ended the claim meanwhile: it may have come too early to see this. */
	if (c->tid != thread_tid()) {
		c->quick = NULL;
		quick_off(q);
	}
}

void quick_end(struct claim *c)
{
	struct quick *q = atomic_exchange(&c->quick, NULL);

	if (q)
		quick_off(q);
}

/* By its own thread. */
static void quick_leave(struct claim *c)
{
	const struct quick *q = c->quick;

	if (q)
		c->turns = q->turns;
	quick_end(c);
}

static int accept_on(struct listener *l, struct claim *c, struct sockaddr *address,
		     socklen_t *length, int flags, int refused, int64_t now)
{
	enum source source = FROM_SLOT;
	int tick = now >= c->next_tick, fd, keep;

	if (tick) {
		c->next_tick = now + FSOCKET_TICK_MS;
		c->global_turn = 1;
	}
	fd = accept_any(l, c, address, length, flags, refused, &source);
	keep = errno;
	if (fd >= 0) {
		struct fsocket_slot *row = c->row;
		int from = count_accept(fd, source, now);

		if (from >= 0 && source == FROM_SLOT)
			steer_sample(l, c, from, now);
		__atomic_store_n(&row->accepts, __atomic_load_n(&row->accepts, __ATOMIC_RELAXED) + 1,
				 __ATOMIC_RELAXED);
	}
	if (tick || !c->turns) {
		c->turns = QUEUE_TURN;
		spill_own(l, c, now, tick);
	}
	c->turns--;
	if (tick) {
		spill_others(l, c, now);
		steer_tick(l, now);
	}
	quicken(l, c, now);
	errno = keep;
	return fd;
}

static void turn(struct listener *l, struct claim *c, int on)
{
	slot_state_set(c->row, on ? FSOCKET_SLOT_ON : FSOCKET_SLOT_OFF);
	if (!on)
		spill_end_help(l, c);
	/* A group that others share cannot be told to pass the slot by: it gets its part by hash, as they do. */
	if (!is_sole(l->row))
		steer_prefer(l, c->cpu, on ? c->cpu : -1);
}

int slots_heed(struct listener *l, struct claim *c, int64_t now)
{
	int on = switch_at(now) == FSOCKET_SWITCH_ON, keep = errno;

	steer_sync(l, on);
	if (__builtin_expect(l->inherited, 0))
		inherit_look(l, now);
	if (c && (slot_state(c->row) != FSOCKET_SLOT_OFF) != on)
		turn(l, c, on);
	errno = keep;
	return on;
}

static int slots_accept(struct listener *l, struct sockaddr *address, socklen_t *length, int flags,
			int refused)
{
	struct claim *c = my_claim(l);
	int64_t now = coarse_ms();
	enum source source = FROM_GLOBAL;
	int on, fd, keep;

	if (c)
		quick_leave(c);
	on = slots_heed(l, c, now);
	if (c && !on)
		return accept_off(l, c, address, length, flags);
	if (c)
		return accept_on(l, c, address, length, flags, refused, now);
	fd = plain_accept(l->fd, address, length, flags);
	/* Also the thread pool's case: who accepts is not who added the listener to the epoll. */
	if (fd < 0 && errno == EAGAIN && (l->claimed || has_orphans(l->row))) {
		fd = accept_orphan(l, address, length, flags);
		source = FROM_OTHER;
	}
	if (fd >= 0 && on) {
		keep = errno;
		count_accept(fd, source, now);
		errno = keep;
	}
	return fd;
}

/* flags -1: accept(), else accept4(). refused: see accept_any(). */
__attribute__((noinline))
static int managed_accept(int fd, struct sockaddr *address, socklen_t *length, int flags, int refused)
{
	int result, keep = errno;
	struct listener *l;

	real_ready();
	l = listener_accepts(fd);
	errno = keep;
	if (!l)
		result = plain_accept(fd, address, length, flags);
	else if (l->sharded)
		result = shard_accept(l, address, length, flags);
	else
		result = slots_accept(l, address, length, flags, refused);
	if (result >= 0) {
		fd_born(result, FD_OTHER);
		errno = keep;
	}
	return result;
}

/* Looked at before: no listener of ours. */
static int plainly(int fd)
{
	enum fd_kind kind = fd_kind(fd_get(fd));

	return __builtin_expect(kind != FD_LISTENER && kind != FD_COPY && kind != FD_UNKNOWN, 1);
}

EXPORT int accept(int fd, struct sockaddr *address, socklen_t *length)
{
	int result;

	if (!plainly(fd))
		return managed_accept(fd, address, length, -1, 0);
	result = real.accept(fd, address, length);
	if (result >= 0)
		fd_born(result, FD_OTHER);
	return result;
}

/* Negative flags are the kernel's to refuse, and our mark for accept(). */
__attribute__((noinline))
static int refused_accept4(int fd, struct sockaddr *address, socklen_t *length, int flags)
{
	real_ready();
	return real.accept4(fd, address, length, flags);
}

__attribute__((noinline))
static int any_accept4(int fd, struct sockaddr *address, socklen_t *length, int flags)
{
	int result;

	if (!plainly(fd))
		return flags < 0 ? refused_accept4(fd, address, length, flags) :
				   managed_accept(fd, address, length, flags, 0);
	result = real.accept4(fd, address, length, flags);
	if (result >= 0)
		fd_born(result, FD_OTHER);
	return result;
}

__attribute__((noinline)) static void quick_look(struct quick *q)
{
	if (q->turns && coarse_ms() < q->until)
		return;
	quick_leave(q->claim);
	quick_off(q);
}

/*
 * The short way asks the slot, counts, and sees now and then whether the next
 * accept may take it too. What only the long way needs is volatile: written to
 * the stack is cheaper than kept in registers that have to be saved.
 */
EXPORT int accept4(int fd, struct sockaddr *address, socklen_t *length, int flags)
{
	struct quick *q = &quick[(unsigned int)fd % QUICK_LISTENERS];
	struct sockaddr *volatile kept_address = address;
	socklen_t *volatile kept_length = length;
	volatile int kept_fd = fd, kept_flags = flags;
	struct fsocket_slot *row;
	struct claim *c;
	int result;

	__asm__("" : "+r"(q));	/* found once, not at each use */
	if (__builtin_expect(atomic_load_explicit(&q->fd, memory_order_relaxed) != fd, 0))
		return any_accept4(fd, address, length, flags);
	result = real.accept4(q->slot, address, length, flags);
	if (__builtin_expect(result < 0, 0))
		return kept_flags < 0 ? -1 : managed_accept(kept_fd, kept_address, kept_length, kept_flags, errno);
	fd_born(result, FD_OTHER);
	c = q->claim;
	row = atomic_load_explicit(&c->row, memory_order_relaxed);
	__atomic_store_n(&row->accepts, __atomic_load_n(&row->accepts, __ATOMIC_RELAXED) + 1, __ATOMIC_RELAXED);
	__atomic_fetch_add(q->accepts, 1, __ATOMIC_RELAXED);
	atomic_store_explicit(&c->yielded, 1, memory_order_relaxed);
	if (__builtin_expect(--q->turns % CLOCK_TURN == 0, 0))
		quick_look(q);
	return result;
}
