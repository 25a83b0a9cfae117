/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef FSOCKET_THREAD_H
#define FSOCKET_THREAD_H

#include <stdint.h>

#include "fsocket_abi.h"

/* The calling thread's only CPU, or -1 when it may run on several. Asked of the kernel once. */
int thread_cpu(void);
/*
 * The CPU to book to: the thread's only one, asked again every 250 ms as an operator or a
 * cpuset may have moved it; else the one it runs on now. now: coarse_ms(). A thread that had
 * lost its CPU and may run there again is pinned to it.
 */
int counting_cpu(int64_t now);
int thread_tid(void);
/* Pin the calling thread; 0 or -1 with errno. */
int thread_pin(int cpu);
/* The affinity may have changed. */
void thread_ask_again(void);
/* In a forked child: a new thread id, and the affinity may be changed before first use. */
void thread_after_fork(void);

/* What a thread may ask the kernel for statistics: FSOCKET_LOOKS times a tick. Zeroed before use. */
struct looks {
	int64_t until;	/* ms */
	unsigned int left;
};

static inline int looks_take(struct looks *l, int64_t now)
{
	if (now >= l->until) {
		l->until = now + FSOCKET_TICK_MS;
		l->left = FSOCKET_LOOKS;
	}
	if (!l->left)
		return 0;
	l->left--;
	return 1;
}

#endif
