/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which of its queues a thread takes the next connection from: its slot's, the
 * application's own listener's, and those that it helps with. All of them
 * return as accept(2) does. flags -1: accept(), else accept4().
 */
#ifndef FSOCKET_QUEUES_H
#define FSOCKET_QUEUES_H

#include "slots.h"

enum source { FROM_SLOT, FROM_GLOBAL, FROM_OTHER };

int plain_accept(int fd, struct sockaddr *address, socklen_t *length, int flags);
/* What is asked first, and then the others. refused: errno of the slot, which was asked a moment ago, or 0. */
int accept_any(const struct listener *l, struct claim *c, struct sockaddr *address, socklen_t *length, int flags,
	       int refused, enum source *source);
/* Slots that their owner does not serve: whoever is awake takes what is left in them. */
int accept_orphan(const struct listener *l, struct sockaddr *address, socklen_t *length, int flags);
/* As the plain libc; then what had already come to the slot. */
int accept_off(const struct listener *l, const struct claim *c, struct sockaddr *address, socklen_t *length, int flags);
/* One accepted connection more. Returns the CPU that it came to, -1 when it was not looked at. */
int count_accept(int fd, enum source source, int64_t now);

#endif
