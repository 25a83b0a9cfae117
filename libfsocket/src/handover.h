/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A restart without loss. While a service is restarted, the one who restarts it
 * holds the old process's listening sockets and offers them at
 * DIR/NAME.handover (fsocket_abi.h). bind() on the address of one of them
 * takes that socket over: connections that came meanwhile wait in its queue.
 */
#ifndef FSOCKET_HANDOVER_H
#define FSOCKET_HANDOVER_H

#include <sys/socket.h>

/* 1 when fd now is the predecessor's socket for this address, so bind() is done. */
int handover_take(int fd, const struct sockaddr *address, socklen_t length);
/* Close what nobody asked for: the configuration dropped an address. */
void handover_end(void);

#endif
