/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which socket of a reuseport group gets new connections.
 */
#ifndef FSOCKET_STEER_H
#define FSOCKET_STEER_H

#include "choose.h"
#include "slots.h"

/*
 * Make the group choose the slot of the CPU (on, and no slot is without owner, which only a program can pass
 * by), or give all to the application's own listener. Nothing to do but a comparison when it does so already.
 */
void steer_sync(const struct listener *l, int on);
/* The same for who has the lock of the tables. */
void steer_sync_locked(const struct listener *l, int on);

/* The slot of a CPU gets the connections of `cpu`; -1: of none, so that the group's are spread. 0 or -1. */
int steer_prefer(const struct listener *l, int slot, int cpu);
int steer_prefer_locked(const struct listener *l, int slot, int cpu);
/* The slot of a CPU does not listen after all. Locked. */
void steer_forget(const struct listener *l, int slot);
/* It listens, and has no owner: no connection may come to it. Locked. */
void steer_orphan(const struct listener *l, int slot);

/*
 * The application has several listeners in the group: the kernel chooses, and what waits in one that goes moves to the
 * others, unless a program of the application's own may be there.
 */
void steer_share(const struct listener *l);

/* l comes to listeners of other processes. The tables are locked. */
void steer_join(const struct listener *l);

/*
 * The choice is the application's from now on, of which ours may have a program only until the slots have ended, for
 * what waits in them; then steer_detach(). 0: there was none of ours.
 */
int steer_leave(const struct listener *l);
void steer_detach(int fd);

/*
 * End the slot of a CPU: out of LISTEN, and the kernel moves the queue and the handshakes to the others
 * (inet_connection_sock.c:inet_csk_listen_stop). New connections go to the application's listener for a moment before,
 * of which this waits 0.1 ms. Locked.
 */
void steer_end(const struct listener *l, int slot);

/* This process closes a slot, which leaves the group when no other has it. */
void steer_close(const struct listener *l, int fd);

/*
 * Does this kernel choose by SO_INCOMING_CPU inside a group, or by a program of ours? Tried once a
 * service, with connections over loopback: Linux 4.6 to 6.1 takes the option
 * and does not look at it there (net/core/sock_reuseport.c, 6.2 b261eda84ec1).
 * Where loopback is down or forbidden it counts as yes: nothing is lost but locality.
 */
int steer_works(void);

/* A program chooses: choose.h. */
static inline int steer_by_program(void)
{
	return (__atomic_load_n(&shared.header->capabilities, __ATOMIC_RELAXED) & FSOCKET_CAP_CBPF) != 0;
}

/* A connection in the own slot came to this CPU. */
static inline void steer_sample(const struct listener *l, struct claim *c, int cpu, int64_t now)
{
	if (steer_by_program())
		choose_sample(l, c, cpu, now);
}

/* Who ends a slot is in the moment before, or was killed in it: then the group is told anew what it is to do. */
void steer_again(const struct listener *l);

static inline void steer_tick(const struct listener *l, int64_t now)
{
	if (__builtin_expect(choose_moment(l), 0))
		steer_again(l);
	if (steer_by_program())
		choose_tick(l, now);
}

static inline int has_orphans(const struct fsocket_listener *row)
{
	return __atomic_load_n(&row->orphans, __ATOMIC_RELAXED) != 0;
}

static inline int is_sole(const struct fsocket_listener *row)
{
	return __atomic_load_n(&row->sole, __ATOMIC_RELAXED) != 0;
}

#endif
