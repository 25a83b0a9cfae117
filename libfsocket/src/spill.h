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
