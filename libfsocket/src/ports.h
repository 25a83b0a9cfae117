/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Source ports that name their CPU. Each CPU owns an aligned block, a power of
 * two long, of the ephemeral range: a masked NIC rule per block can bring the
 * replies back to its CPU.
 */
#ifndef FSOCKET_PORTS_H
#define FSOCKET_PORTS_H

#include <stdint.h>
#include <sys/socket.h>

struct port_blocks {
	unsigned int first;	/* first port of CPU 0's block */
	unsigned int size;	/* ports in a block; 0: no blocks */
};

/* The largest aligned blocks for cpus CPUs inside [low, high]. Pure. */
struct port_blocks ports_plan(unsigned int low, unsigned int high, unsigned int cpus);

/* What IP_LOCAL_PORT_RANGE takes for a CPU: low port, high port << 16. */
uint32_t ports_range(struct port_blocks blocks, unsigned int cpu);

/* Plan for this host (ip_local_port_range, online CPUs) and note it in the header. */
void ports_init(void);

/* connect() on an unbound TCP socket. */
int ports_connect(int fd, const struct sockaddr *address, socklen_t length);
/* Just before a socket of ports_connect() is closed: did its packets come home? */
void ports_closing(int fd, unsigned int cpu);

#endif
