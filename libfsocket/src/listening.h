/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef FSOCKET_LISTENING_H
#define FSOCKET_LISTENING_H

#include <stdint.h>
#include <sys/socket.h>

#define LISTENING_MOST 4096

/*
 * SO_COOKIE of the sockets that listen on the port of an address, in this network namespace, as sock_diag(7) tells.
 * How many; -1: not to be had, or more than LISTENING_MOST.
 */
int listening_cookies(const struct sockaddr_storage *address, uint64_t *cookies);

#endif
