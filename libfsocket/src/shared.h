/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The memory all processes of a service share (the statistics file) and the
 * switch. Without write access to the file the memory is anonymous: the
 * workers of one master still share it, only nobody outside can read it.
 */
#ifndef FSOCKET_SHARED_H
#define FSOCKET_SHARED_H

#include <stddef.h>

#include "atomics.h"
#include "fsocket_abi.h"
#include "symbols.h"

/*
 * Rows: several listeners, twice over while a reload has both generations alive. Constant, as is the count of CPUs below:
 * workers without rights can write the memory, so no size is ever read back from it.
 */
#define LISTENER_ROWS 64
#define SLOT_ROWS_PER_CPU (2 * LISTENER_ROWS)

struct shared {
	struct fsocket_header *header;	/* NULL: the library stays out of the way */
	uint32_t cpu_count;
	struct fsocket_cpu *cpus;
	struct fsocket_listener *listeners;
	struct fsocket_slot *slots;
	char *orders;	/* of the groups' members, a row for each listener's: choose.h */
};

extern HIDDEN struct shared shared;

/* Map the statistics file of settings.name and open its switch. */
void shared_open(void);

/* DIR/NAME + suffix into path; 0 when it does not fit. */
int shared_path(char *path, size_t size, const char *suffix);

/* The clock of ticks and of the switch: CLOCK_MONOTONIC_COARSE, no system call. */
int64_t coarse_ms(void);

/* The switch, looked at again when the last look is FSOCKET_SWITCH_MS old. */
char switch_at(int64_t now);
/* When it is to be looked at again, ms. */
int64_t switch_due(void);

static inline int switch_on(void)
{
	return switch_at(coarse_ms()) == FSOCKET_SWITCH_ON;
}

/* Relaxed sums: a thread that is not pinned may share a line with another. */
#define COUNT(cpu, counter) \
	do { \
		if ((unsigned int)(cpu) < shared.cpu_count) \
			__atomic_fetch_add(&shared.cpus[cpu].counter, 1, __ATOMIC_RELAXED); \
	} while (0)
#define COUNT_ERROR(kind) \
	__atomic_fetch_add(&shared.header->errors[kind], 1, __ATOMIC_RELAXED)

/*
 * The lock of the tables: held while a slot is claimed or given up, never on
 * the accept or connect path. A holder that died is succeeded; the same thread may take it again.
 */
void shared_lock(void);
/* On the accept path nobody waits: 0 when somebody has it, and the next tick tries again. */
int shared_trylock(void);
void shared_unlock(void);

int pid_alive(int pid);

/* A slot's owner changes its state without the lock. */
static inline uint32_t slot_state(const struct fsocket_slot *row)
{
	return __atomic_load_n(&row->state, __ATOMIC_RELAXED);
}

static inline void slot_state_set(struct fsocket_slot *row, enum fsocket_state state)
{
	__atomic_store_n(&row->state, state, __ATOMIC_RELAXED);
}

/* Row of a listener by cookie, made when missing; NULL when the table is full. Locked. */
struct fsocket_listener *listener_row(uint64_t cookie);
/* Was it the first of its group? What its row says; 0 when it has none. */
int listener_sole(uint64_t cookie);
/* Another process listens there as well: no mode is anybody's to set any more. Was one, until now? Locked. */
int listener_shared(const struct fsocket_listener *row);
/* Row of a slot of the CPU: the owner's own or (pid 0) the orphan's; NULL: none. Locked. */
struct fsocket_slot *slot_row_free(int cpu);
/*
 * Row of one who serves a slot with the switch on, or that of an orphan, or NULL, and the accepts of all who do. No lock:
 * it is a guess.
 */
struct fsocket_slot *slot_served(uint64_t slot_cookie, int cpu, uint64_t *accepts);
/* A row of a live owner of a listener's slot on a CPU, in another process, or NULL. Locked. */
struct fsocket_slot *slot_predecessor(uint64_t listener_cookie, int cpu);
/* Live owners of a slot socket. Rows of the dead are freed on the way. Locked. */
int slot_owners(uint64_t slot_cookie);
/* Is one of them an owner whose successor has the slot as well? Locked. */
int slot_former(uint64_t slot_cookie, int cpu);
/* An orphan row of a listener on a CPU, or NULL. Locked. */
struct fsocket_slot *slot_orphan(uint64_t listener_cookie, int cpu);
void slot_row_clear(struct fsocket_slot *row);
/* Live owners of slots of one listener on one CPU. Locked. */
int cpu_owners(uint64_t listener_cookie, int cpu);
/* The same of all CPUs. */
int listener_owners(uint64_t listener_cookie);

#endif
