/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
#define _GNU_SOURCE
#include "thread.h"

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NOT_ASKED (-2)
#define ASK_AGAIN_MS 1000

static __thread int my_cpu = NOT_ASKED;
static __thread int last_cpu = -1;
static __thread int now_cpu;
static __thread int64_t now_until;
static __thread int my_tid;

static int only_cpu(void)
{
	cpu_set_t allowed[16];	/* 16,384 CPUs */

	/* A filter that forbids to ask does not move the thread. */
	if (sched_getaffinity(0, sizeof(allowed), allowed))
		return last_cpu;
	if (CPU_COUNT_S(sizeof(allowed), allowed) != 1)
		return -1;
	for (int cpu = 0; cpu < (int)sizeof(allowed) * 8; cpu++)
		if (CPU_ISSET_S(cpu, sizeof(allowed), allowed))
			return cpu;
	return -1;
}

int thread_cpu(void)
{
	if (__builtin_expect(my_cpu == NOT_ASKED, 0))
		my_cpu = last_cpu = only_cpu();
	return my_cpu;
}

int counting_cpu(int64_t now)
{
	if (now >= now_until) {
		now_until = now + ASK_AGAIN_MS;
		now_cpu = only_cpu();
	}
	return now_cpu >= 0 ? now_cpu : sched_getcpu();
}

int thread_tid(void)
{
	if (__builtin_expect(!my_tid, 0))
		my_tid = (int)syscall(SYS_gettid);
	return my_tid;
}

int thread_pin(int cpu)
{
	cpu_set_t one[16];

	CPU_ZERO_S(sizeof(one), one);
	CPU_SET_S(cpu, sizeof(one), one);
	if (sched_setaffinity(0, sizeof(one), one))
		return -1;
	my_cpu = cpu;
	now_until = 0;
	return 0;
}

void thread_ask_again(void)
{
	my_cpu = NOT_ASKED;
	now_until = 0;
}

void thread_after_fork(void)
{
	thread_ask_again();
	my_tid = 0;
}
