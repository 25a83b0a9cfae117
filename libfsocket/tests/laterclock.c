/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/* laterclock.so, preloaded behind the library: clock_later() puts the clock of its ticks on by so many seconds. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <string.h>
#include <time.h>

void clock_later(int seconds);

static int (*real)(clockid_t clock, struct timespec *now);
static time_t later;

__attribute__((constructor)) static void start(void)
{
	void *symbol = dlsym(RTLD_NEXT, "clock_gettime");

	memcpy(&real, &symbol, sizeof(symbol));
}

void clock_later(int seconds)
{
	later += seconds;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
	int result;

	if (!real)
		start();
	result = real(clock, now);
	if (clock == CLOCK_MONOTONIC_COARSE && !result)
		now->tv_sec += later;
	return result;
}
