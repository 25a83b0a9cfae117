/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which socket of a reuseport group gets new connections.
 */
#ifndef FSOCKET_STEER_H
#define FSOCKET_STEER_H

#include "slots.h"

/*
 * Make the group choose by SO_INCOMING_CPU (on, and no slot is without owner), or give all to the
 * application's own listener. Nothing to do but a comparison when it does so already.
 */
void steer_sync(const struct listener *l, int on);

/*
 * The application has several listeners in the group: the kernel chooses, and what waits in one that goes moves to the
 * others, unless a program of the application's own may be there.
 */
void steer_share(const struct listener *l);

/* The choice is the application's from now on: no program of ours is left. */
void steer_leave(const struct listener *l);

/*
 * End a slot: out of LISTEN, and the kernel moves the queue and the handshakes to the others
 * (inet_connection_sock.c:inet_csk_listen_stop).
 */
void steer_end(const struct listener *l, int slot);

/*
 * Does this kernel choose by SO_INCOMING_CPU inside a group? Tried once a
 * service, with connections over loopback: Linux 4.6 to 6.1 takes the option
 * and does not look at it there (net/core/sock_reuseport.c, 6.2 b261eda84ec1).
 * Where loopback is down or forbidden it counts as yes: nothing is lost but locality.
 */
int steer_works(void);

static inline int has_orphans(const struct fsocket_listener *row)
{
	return __atomic_load_n(&row->orphans, __ATOMIC_RELAXED) != 0;
}

static inline int is_sole(const struct fsocket_listener *row)
{
	return __atomic_load_n(&row->sole, __ATOMIC_RELAXED) != 0;
}

#endif
