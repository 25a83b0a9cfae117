/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * An application that shares one address among several listeners of its own
 * (nginx `reuseport`, HAProxy `shards`) has slots already: each of them gets
 * SO_INCOMING_CPU of the thread that adds it to its epoll. Nothing else changes;
 * the option is taken back when the switch is off or the thread leaves.
 */
#ifndef FSOCKET_SHARD_H
#define FSOCKET_SHARD_H

#include "slots.h"

int shard_epoll(struct listener *l, int epfd, int op, struct epoll_event *event);
int shard_accept(struct listener *l, struct sockaddr *address, socklen_t *length, int flags);
/*
 * Once in a while: a listener whose queue grows too long, or whose owner does not come any more, gives its CPU up until
 * the owner has caught up; the kernel spreads what comes there, as without us.
 */
void shard_look(struct listener *l, struct claim *c, int64_t now, int tick);
void shard_release(struct listener *l, struct claim *c);

#endif
