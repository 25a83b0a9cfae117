/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
#define _GNU_SOURCE
#include "thread.h"

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NOT_ASKED (-2)
#define ASK_AGAIN_MS 250

static __thread int my_cpu = NOT_ASKED;
static __thread int home = -1;	/* its only CPU when that was asked for a slot */
static __thread int away;	/* seen without it since */
static __thread int now_cpu;
static __thread int64_t now_until;
static __thread int my_tid;

/*
 * A thread whose only CPU goes offline, or out of its cpuset, may run on all others from then on, and the kernel
 * leaves it so (kernel/sched/core.c:select_fallback_rq). One that was seen without its CPU and may now run there again
 * is pinned: who gives a thread more CPUs on purpose does not take its own away first.
 */
static int only_cpu(void)
{
	cpu_set_t allowed[16];	/* 16,384 CPUs */
	int was_away = away;

	/* A filter that forbids to ask does not move the thread. */
	if (sched_getaffinity(0, sizeof(allowed), allowed))
		return home;
	away = home >= 0 && !CPU_ISSET_S(home, sizeof(allowed), allowed);
	if (CPU_COUNT_S(sizeof(allowed), allowed) != 1)
		return was_away && !away && !thread_pin(home) ? home : -1;
	for (int cpu = 0; cpu < (int)sizeof(allowed) * 8; cpu++)
		if (CPU_ISSET_S(cpu, sizeof(allowed), allowed))
			return cpu;
	return -1;
}

static void live_at(int cpu)
{
	my_cpu = home = cpu;
	away = 0;
}

int thread_cpu(void)
{
	if (__builtin_expect(my_cpu == NOT_ASKED, 0)) {
		my_cpu = only_cpu();
		if (my_cpu >= 0 || !away)
			live_at(my_cpu);
	}
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
	live_at(cpu);
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
