/* SPDX-License-Identifier: GPL-2.0-only */
/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
#ifndef _FASTSOCKET_INTERNAL_H
#define _FASTSOCKET_INTERNAL_H

#include <linux/atomic.h>
#include <linux/percpu.h>
#include <net/net_namespace.h>

/* What one CPU counts in one network namespace. None of it is ever set back
 * (see base in struct fastsocket_net), so nothing gets lost.
 */
struct fastsocket_stats {
	/* Written by the CPU itself only: a cache line that no other takes. */
	unsigned long accepts_local;
	unsigned long accepts_remote;
	unsigned long accepts_global;
	unsigned long lookups_local;
	unsigned long lookups_fallback;
	/* Written by the CPU that received the SYN-ACK. */
	atomic_long_t connects_local ____cacheline_aligned_in_smp;
	atomic_long_t connects_remote;
} ____cacheline_aligned_in_smp;

/* Columns of /proc/net/fastsocket after the CPU, in this order. */
enum {
	FASTSOCKET_ACCEPTS_LOCAL,
	FASTSOCKET_ACCEPTS_REMOTE,
	FASTSOCKET_ACCEPTS_GLOBAL,
	FASTSOCKET_CONNECTS_LOCAL,
	FASTSOCKET_CONNECTS_REMOTE,
	FASTSOCKET_LOOKUPS_LOCAL,
	FASTSOCKET_LOOKUPS_FALLBACK,
	FASTSOCKET_COLUMNS
};

struct fastsocket_base {
	unsigned long column[FASTSOCKET_COLUMNS];
};

struct fastsocket_net {
	struct fastsocket_stats __percpu *stats;
	struct fastsocket_base __percpu *base;	/* stats at the last reset */
	struct ctl_table_header *sysctl;
	struct ctl_table *table;
	int spill;		/* percent of the backlog, 1..100 */
	u8 local_listen;
};

struct fastsocket_net *fastsocket_pernet(const struct net *net);

int fastsocket_stats_init(struct net *net);
void fastsocket_stats_exit(struct net *net);

#endif /* _FASTSOCKET_INTERNAL_H */
