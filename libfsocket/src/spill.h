/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Spill-over: a slot whose queue grows too long, or whose owner does not come
 * any more, hands its share to the others until its owner has caught up.
 *
 * Nobody claims its CPU then, so the kernel spreads new connections over all
 * slots by hash. What waits already is taken by the thread that noticed: it has
 * the slot in its epoll besides its own. Threads that sleep notice nothing;
 * they have no connections to wait behind either.
 */
#ifndef FSOCKET_SPILL_H
#define FSOCKET_SPILL_H

#include "slots.h"

/* A spilling slot is short again below this part of the threshold. */
#define SPILL_BACK 4
/* ms of spilling for uneven load before it is tried without; twice as long each time that fails at once. */
#define HOLD_MS 2000
#define HOLD_MOST_MS 16000
/* Within a tick, one accept in so many looks at the length of the queue. */
#define QUEUE_TURN 64

struct queue {
	uint32_t length, backlog, limit;	/* limit 0: never too long */
};

/*
 * The queue of a listening socket; 0: not known. The backlog is the application's, as far as the kernel granted it: a
 * slot has room for more.
 */
int queue_of(const struct listener *l, int fd, struct queue *q);
/*
 * This CPU gets more than its share, and connections wait, so its worker is the slower one: its queue need not be
 * long for that. Others have time.
 */
int uneven(const struct listener *l, struct claim *c, const struct queue *q, int tick);
/* Spill for uneven load from now on, for a while. */
void spill_hold(struct claim *c, int64_t now);
/* Has the owner of another slot accepted nothing for a while, with connections waiting all the time? */
int stuck(struct claim *c, uint64_t accepts, const struct queue *q, int64_t now);

/* The owner looks at its slot. */
void spill_own(struct listener *l, struct claim *c, int64_t now, int tick);
/* It looks at the slot of another CPU, a different one each time. */
void spill_others(struct listener *l, struct claim *c, int64_t now);
/* It looks after its own only. */
void spill_end_help(struct listener *l, struct claim *c);
/* It leaves its epoll for a moment, and comes back. */
void spill_pause_help(struct listener *l, struct claim *c);
void spill_resume_help(struct listener *l, struct claim *c);

#endif
