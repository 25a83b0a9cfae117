/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * laterclock.so, preloaded behind the library: clock_later() puts the clock of its ticks on by so many seconds, and
 * clock_kills() makes the next sleep the last.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <string.h>
#include <time.h>

void clock_later(int seconds);
void clock_kills(void);

static int (*real)(clockid_t clock, struct timespec *now);
static int (*real_sleep)(const struct timespec *time, struct timespec *rest);
static time_t later;
static int kills;

__attribute__((constructor)) static void start(void)
{
	void *symbol = dlsym(RTLD_NEXT, "clock_gettime");

	memcpy(&real, &symbol, sizeof(symbol));
	symbol = dlsym(RTLD_NEXT, "nanosleep");
	memcpy(&real_sleep, &symbol, sizeof(symbol));
}

void clock_later(int seconds)
{
	later += seconds;
}

void clock_kills(void)
{
	kills = 1;
}

int nanosleep(const struct timespec *time, struct timespec *rest)
{
	if (kills)
		raise(SIGKILL);
	return real_sleep(time, rest);
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
