/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The ephemeral ports of this host, dealt out to its CPUs: an aligned block, a power of
 * two long, for each, which one value and one mask name.
 */
#ifndef FSOCKET_PLAN_H
#define FSOCKET_PLAN_H

#include <stdint.h>

struct port_blocks {
	unsigned int first;	/* first port of CPU 0's block */
	unsigned int size;	/* ports in a block; 0: no blocks */
};

/* The largest aligned blocks for cpus CPUs inside [low, high]. Pure. */
struct port_blocks ports_plan(unsigned int low, unsigned int high, unsigned int cpus);

/* What IP_LOCAL_PORT_RANGE takes for a CPU: low port, high port << 16. */
uint32_t ports_range(struct port_blocks blocks, unsigned int cpu);

/* ip_local_port_range as it is now, and the blocks in it. */
struct plan {
	uint16_t low, high;	/* high 0: no plan */
	uint16_t first, size;	/* struct port_blocks */
};

/* Plan for the CPUs that are online, and note the blocks in the header. */
void plan_init(void);
/* The plan; what it comes from, and DIR/rss, is looked at again once a second. now: coarse_ms() */
struct plan plan_at(int64_t now);

#endif
