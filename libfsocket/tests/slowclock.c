/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * slowclock.so, preloaded behind the library: the clocks of its ticks and of the program's seconds go a thousand
 * times slower. Under callgrind and strace a program is as much slower than it is: a tick would come with every few
 * connections, and a second, for which nginx writes its dates anew, with every few hundred.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

#define SLOWER 1000
#define SECOND 1000000000LL

static int (*real)(clockid_t clock, struct timespec *now);

__attribute__((constructor)) static void start(void)
{
	void *symbol = dlsym(RTLD_NEXT, "clock_gettime");

	memcpy(&real, &symbol, sizeof(symbol));
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
	int result;
	int64_t ns;

	if (!real)
		start();
	result = real(clock, now);
	if (clock != CLOCK_MONOTONIC_COARSE || result)
		return result;
	ns = (now->tv_sec * SECOND + now->tv_nsec) / SLOWER;
	now->tv_sec = ns / SECOND;
	now->tv_nsec = ns % SECOND;
	return 0;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
	struct timespec t;
	int64_t us;

	(void)zone;
	if (clock_gettime(CLOCK_REALTIME, &t))
		return -1;
	us = (t.tv_sec * SECOND + t.tv_nsec) / 1000 / SLOWER;
	now->tv_sec = us / 1000000;
	now->tv_usec = us % 1000000;
	return 0;
}
