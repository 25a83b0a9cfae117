/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The rows of listeners and slots that the processes of a service share, and their lock. */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "shared.h"

/* Turns that a waiter for the lock gives away, and ms that it then sleeps of before it goes on without. */
#define LOCK_TURNS 100
#define LOCK_MS 2000

int pid_alive(int pid)
{
	/* EPERM, or what a security module says instead: it is there. */
	return pid > 0 && (!kill(pid, 0) || errno != ESRCH);
}

/* How often this thread has it: a signal's handler may close a listener while what it interrupts gives up a slot. */
static __thread int held;

int shared_trylock(void)
{
	uint32_t holder = 0;

	if (held)
		return 0;
	if (__atomic_compare_exchange_n(&shared.header->lock, &holder, (uint32_t)getpid(), 0, __ATOMIC_ACQUIRE,
					__ATOMIC_RELAXED)) {
		held = 1;
		return 1;
	}
	if (!pid_alive((int)holder))
		__atomic_compare_exchange_n(&shared.header->lock, &holder, 0, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
	return 0;
}

void shared_lock(void)
{
	static const struct timespec ms = { 0, 1000000 };

	if (held) {
		held++;
		return;
	}
	for (int turn = 0; turn < LOCK_TURNS + LOCK_MS; turn++) {
		if (shared_trylock())
			return;
		/* Who only yields keeps the holder from a CPU where there are few. */
		if (turn < LOCK_TURNS)
			sched_yield();
		else
			nanosleep(&ms, NULL);
	}
	/* A holder stopped in a debugger must not stop the site. */
	COUNT_ERROR(FSOCKET_ERR_TABLE);
	held = 1;
}

void shared_unlock(void)
{
	uint32_t me = (uint32_t)getpid();

	if (!--held)
		__atomic_compare_exchange_n(&shared.header->lock, &me, 0, 0, __ATOMIC_RELEASE, __ATOMIC_RELAXED);
}

#define FOR_ALL_ROWS(row) \
	for (struct fsocket_slot *row = shared.slots, *row##_end = row + shared.cpu_count * SLOT_ROWS_PER_CPU; \
	     row < row##_end; row++)

/* Each CPU has rows of its own, so that who looks after a slot need not read all. */
#define FOR_ROWS(row, cpu) \
	for (struct fsocket_slot *row = shared.slots + (cpu) * SLOT_ROWS_PER_CPU, *row##_end = row + SLOT_ROWS_PER_CPU; \
	     row < row##_end; row++)

void slot_row_clear(struct fsocket_slot *row)
{
	slot_state_set(row, FSOCKET_SLOT_FREE);
	row->listener = 0;
	__atomic_store_n(&row->cookie, 0, __ATOMIC_RELAXED);
	row->cpu = row->pid = row->tid = row->fd = row->taken = 0;
	__atomic_store_n(&row->accepts, 0, __ATOMIC_RELAXED);
	__atomic_store_n(&row->queue, 0, __ATOMIC_RELAXED);
	__atomic_store_n(&row->backlog, 0, __ATOMIC_RELAXED);
}

/* Owned by a process that runs; a row whose owner died is freed. */
static int owned(struct fsocket_slot *row)
{
	if (slot_state(row) == FSOCKET_SLOT_FREE || slot_state(row) == FSOCKET_SLOT_ORPHAN)
		return 0;
	if (pid_alive(row->pid))
		return 1;
	slot_row_clear(row);
	return 0;
}

/* Nobody can come back to it: not who prepared it, not an owner of its slots. */
static int abandoned(const struct fsocket_listener *row)
{
	if (pid_alive(row->pid))
		return 0;
	FOR_ALL_ROWS(slot)
		if (slot->listener == row->cookie && owned(slot))
			return 0;
	return 1;
}

struct fsocket_listener *listener_row(uint64_t cookie)
{
	struct fsocket_listener *spare = NULL;

	for (int i = 0; i < LISTENER_ROWS; i++) {
		struct fsocket_listener *row = &shared.listeners[i];

		if (row->cookie == cookie) {
			/* Handed over: it must not count as abandoned until its slots have owners. */
			if (!pid_alive(row->pid))
				row->pid = getpid();
			return row;
		}
		if (!spare && (!row->cookie || abandoned(row)))
			spare = row;
	}
	if (!spare)
		return NULL;
	/* The orphans of a listener that is gone are gone with it. */
	if (spare->cookie)
		FOR_ALL_ROWS(slot)
			if (slot->listener == spare->cookie)
				slot_row_clear(slot);
	memset(spare, 0, sizeof(*spare));
	spare->cookie = cookie;
	spare->pid = getpid();
	return spare;
}

int listener_sole(uint64_t cookie)
{
	int sole = 0;

	shared_lock();
	for (int i = 0; i < LISTENER_ROWS; i++)
		if (shared.listeners[i].cookie == cookie)
			sole = shared.listeners[i].sole;
	shared_unlock();
	return sole;
}

int listener_shared(const struct fsocket_listener *row)
{
	int found = 0;

	for (int i = 0; i < LISTENER_ROWS; i++) {
		struct fsocket_listener *other = &shared.listeners[i];

		if (!other->sole || other->port != row->port || strncmp(other->address, row->address, sizeof(row->address)))
			continue;
		__atomic_store_n(&other->sole, 0, __ATOMIC_RELAXED);
		found = 1;
	}
	return found;
}

struct fsocket_slot *slot_row_free(int cpu)
{
	FOR_ROWS(row, cpu)
		if (slot_state(row) == FSOCKET_SLOT_FREE || (slot_state(row) != FSOCKET_SLOT_ORPHAN && !owned(row)))
			return row;
	return NULL;
}

struct fsocket_slot *slot_served(uint64_t slot_cookie, int cpu, uint64_t *accepts)
{
	struct fsocket_slot *found = NULL;

	*accepts = 0;
	FOR_ROWS(row, cpu) {
		uint32_t state = slot_state(row);

		if ((state != FSOCKET_SLOT_ON && state != FSOCKET_SLOT_SPILLING && state != FSOCKET_SLOT_ORPHAN) ||
		    __atomic_load_n(&row->cookie, __ATOMIC_RELAXED) != slot_cookie)
			continue;
		found = row;
		*accepts += __atomic_load_n(&row->accepts, __ATOMIC_RELAXED);
	}
	return found;
}

struct fsocket_slot *slot_predecessor(uint64_t listener_cookie, int cpu)
{
	int me = getpid();

	FOR_ROWS(row, cpu)
		if (row->listener == listener_cookie && row->pid != me && owned(row))
			return row;
	return NULL;
}

int slot_owners(uint64_t slot_cookie)
{
	int owners = 0;

	/* Of all CPUs: a listener of the application's own may have changed hands. */
	FOR_ALL_ROWS(slot)
		if (slot->cookie == slot_cookie)
			owners += owned(slot);
	return owners;
}

int slot_former(uint64_t slot_cookie, int cpu)
{
	int former = 0;

	FOR_ROWS(row, cpu)
		if (row->cookie == slot_cookie && row->taken)
			former |= owned(row);
	return former;
}

struct fsocket_slot *slot_orphan(uint64_t listener_cookie, int cpu)
{
	FOR_ROWS(row, cpu)
		if (slot_state(row) == FSOCKET_SLOT_ORPHAN && row->listener == listener_cookie)
			return row;
	return NULL;
}

int listener_owners(uint64_t listener_cookie)
{
	int owners = 0;

	FOR_ALL_ROWS(row)
		if (row->listener == listener_cookie)
			owners += owned(row);
	return owners;
}

int cpu_owners(uint64_t listener_cookie, int cpu)
{
	int owners = 0;

	FOR_ROWS(row, cpu)
		if (row->listener == listener_cookie)
			owners += owned(row);
	return owners;
}
