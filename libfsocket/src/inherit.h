/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What comes from another process: listeners over exec or a socket, and the
 * slots of a predecessor.
 */
#ifndef FSOCKET_INHERIT_H
#define FSOCKET_INHERIT_H

#include <sys/socket.h>

#include "slots.h"

/* The listeners among the descriptors of a message that was received. */
void inherit_message(struct msghdr *message);
/*
 * The slot a predecessor of ours serves, for instance HAProxy's old worker at a
 * reload, so that nothing has to end under load: what ends loses now and then
 * a handshake, whatever the kernel does about it. -1: none, or not to be had.
 */
int inherit_slot(struct listener *l, int cpu);
/*
 * A predecessor that is killed gives up nothing: its slots, which we keep open, would listen on. Those that no thread
 * here serves either end. A few times a second, while there is a predecessor.
 */
void inherit_look(struct listener *l, int64_t now);

#endif
