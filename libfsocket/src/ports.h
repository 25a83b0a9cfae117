/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Source ports that name their CPU. Each CPU owns an aligned block, a power of
 * two long, of the ephemeral range: a masked NIC rule per block can bring the
 * replies back to its CPU. Where the NICs' hash is known (rss.h) the port is one
 * whose reply the NIC hashes to this CPU: in the block if it can be, else anywhere in the range.
 *
 * What is tried, until the kernel finds a free port (EADDRNOTAVAIL: it has none):
 *
 *   1. RSS known: a few single ports of the block
 *   2. RSS known: a few single ports of the whole range
 *   3. any port of the block
 *   4. any port, as without us
 *
 * Where the first two, or the third, found nothing, they are not tried again for a second, by
 * this thread and for this destination.
 * The kernel keeps to ip_local_port_range and ip_local_reserved_ports inside of what we
 * ask for (net/ipv4: inet_sk_get_local_port_range, __inet_hash_connect). Left alone: a port the
 * application has bound, a range it has set itself, a connection to this host.
 */
#ifndef FSOCKET_PORTS_H
#define FSOCKET_PORTS_H

#include <sys/socket.h>

#include "plan.h"

/* Plan for this host (ip_local_port_range, online CPUs) and note it in the header. */
void ports_init(void);

/* connect() on a TCP socket of kind FD_FRESH, FD_BOUND or FD_ACTIVE. */
int ports_connect(int fd, const struct sockaddr *address, socklen_t length);
/* Just before a socket of ports_connect() is closed: did its packets come home? */
void ports_closing(int fd, unsigned int cpu);

#endif
