/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef FSOCKET_THREAD_H
#define FSOCKET_THREAD_H

/* The calling thread's only CPU, or -1 when it may run on several. Asked of the kernel once. */
int thread_cpu(void);
/* The CPU to book to: the thread's own, else the one it runs on now. */
int counting_cpu(void);
int thread_tid(void);
/* Pin the calling thread; 0 or -1 with errno. */
int thread_pin(int cpu);
/* The affinity may have changed. */
void thread_ask_again(void);
/* In a forked child: a new thread id, and the affinity may be changed before first use. */
void thread_after_fork(void);

#endif
