/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A thread that waits for events sleeps in parts: each time nothing came it looks
 * after the slots of the others, as a worker that is stuck cannot say so, and
 * who has nothing to do could help.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "real.h"
#include "shard.h"
#include "slots.h"
#include "spill.h"
#include "steer.h"
#include "thread.h"

/* ms after which a thread that has nothing to do looks after the slots of the others. */
#define IDLE_MS 250

static void look_around(void)
{
	int64_t now = coarse_ms();
	int inherited = 0;

	/* No connection comes to a CPU that is offline: who has lost its own would not see that in accept(). */
	counting_cpu(now);
	for (struct listener *l = listener_next(NULL); l; l = listener_next(l)) {
		struct claim *c = my_claim(l);

		inherited |= l->inherited;
		if (!c) {
			if (l->inherited && !l->sharded)
				slots_heed(l, NULL, now);
			continue;
		}
		quick_end(c);
		if (l->sharded) {
			shard_look(l, c, now, 1);
		} else if (slots_heed(l, c, now)) {
			spill_own(l, c, now, 1);
			spill_others(l, c, now);
			steer_tick(l, now);
		}
	}
	if (!inherited)
		slots_watch &= ~WATCH_INHERITED;
}

/* All but those that a fault of this very thread raises. 0, or an error number where a filter forbids it. */
static int signals_wait(sigset_t *before)
{
	static const int faults[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT };
	sigset_t set;

	sigfillset(&set);
	for (unsigned int i = 0; i < sizeof(faults) / sizeof(faults[0]); i++)
		sigdelset(&set, faults[i]);
	return pthread_sigmask(SIG_BLOCK, &set, before);
}

/*
 * A wait in parts; gone: its first one, in which nothing came. mask NULL: of epoll_wait().
 *
 * A handler that runs while we look around would end no wait: signals have to come in one, with EINTR. That one which
 * comes as a part ends comes in the next one, as epoll_pwait() blocks them again. The first part goes without, as two
 * system calls more for each wait are too dear; but for a thread that was idle, which has the time.
 */
__attribute__((noinline))
static int wait_on(int epfd, struct epoll_event *events, int count, int timeout, const sigset_t *mask, int gone)
{
	int part, keep = errno, error, result, looked = 0, blocked;
	const sigset_t *during = mask;
	sigset_t before;

	real_ready();
	blocked = !signals_wait(&before);
	if (blocked && !mask)
		during = &before;
	do {
		if (gone) {
			timeout -= timeout < 0 ? 0 : IDLE_MS;
			look_around();
			looked = 1;
		}
		gone = 1;
		part = timeout < 0 || timeout > IDLE_MS ? IDLE_MS : timeout;
		errno = keep;
		result = real.epoll_pwait(epfd, events, count, part, during);
	} while (!result && part != timeout);
	error = errno;
	if (blocked)
		pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (looked)
		slots_watch |= WATCH_IDLE;
	else if (result > 0)
		slots_watch &= ~WATCH_IDLE;
	/* A filter that knows epoll_wait() only. */
	if (result < 0 && !mask && (error == ENOSYS || error == EPERM)) {
		errno = keep;
		return real.epoll_wait(epfd, events, count, timeout);
	}
	errno = error;
	return result;
}

__attribute__((noinline))
static int any_wait(int epfd, struct epoll_event *events, int count, int timeout, const sigset_t *mask, int pwait)
{
	int cut, result = 0;

	real_ready();
	if (slots_watch & WATCH_LEAVING)
		slots_before_wait();
	cut = slots_watch && (unsigned int)timeout > IDLE_MS;
	if (!cut || !(slots_watch & WATCH_IDLE))
		result = pwait ? real.epoll_pwait(epfd, events, count, cut ? IDLE_MS : timeout, mask) :
				 real.epoll_wait(epfd, events, count, cut ? IDLE_MS : timeout);
	return result || !cut ? result : wait_on(epfd, events, count, timeout, mask, !(slots_watch & WATCH_IDLE));
}

/* volatile: see accept4(). */
EXPORT int epoll_wait(int epfd, struct epoll_event *events, int count, int timeout)
{
	volatile int kept_epfd = epfd, kept_count = count, kept_timeout = timeout;
	struct epoll_event *volatile kept_events = events;
	int result;

	if (slots_watch != WATCH_SLOTS || (unsigned int)timeout <= IDLE_MS)
		return any_wait(epfd, events, count, timeout, NULL, 0);
	result = real.epoll_wait(epfd, events, count, IDLE_MS);
	return __builtin_expect(result, 1) ? result :
					     wait_on(kept_epfd, kept_events, kept_count, kept_timeout, NULL, 1);
}

EXPORT int epoll_pwait(int epfd, struct epoll_event *events, int count, int timeout,
		       const sigset_t *mask)
{
	return any_wait(epfd, events, count, timeout, mask, 1);
}

/* Linux 5.11, glibc 2.35: not in older headers, and real.epoll_pwait2 is NULL there. */
#ifndef SYS_epoll_pwait2
#define SYS_epoll_pwait2 441
#endif
/* Of a kernel's sigset_t. */
#define SIGNALS_SIZE 8

int epoll_pwait2(int epfd, struct epoll_event *events, int count, const struct timespec *timeout, const sigset_t *mask);

static int pwait2(int epfd, struct epoll_event *events, int count, const struct timespec *timeout, const sigset_t *mask)
{
	return real.epoll_pwait2 ? real.epoll_pwait2(epfd, events, count, timeout, mask) :
				   (int)syscall(SYS_epoll_pwait2, epfd, events, count, timeout, mask, SIGNALS_SIZE);
}

/* One that is long enough to be cut is in ms, rounded up; a shorter one is as exact as ever. */
EXPORT int epoll_pwait2(int epfd, struct epoll_event *events, int count, const struct timespec *timeout,
			const sigset_t *mask)
{
	int64_t ms = -1;

	real_ready();
	if (slots_watch & WATCH_LEAVING)
		slots_before_wait();
	if (timeout && timeout->tv_sec >= 0 && timeout->tv_sec < INT32_MAX / 1000 - 1 && timeout->tv_nsec >= 0 &&
	    timeout->tv_nsec < 1000000000)
		ms = (int64_t)timeout->tv_sec * 1000 + (timeout->tv_nsec + 999999) / 1000000;
	if (!slots_watch || (timeout && ms <= IDLE_MS))
		return pwait2(epfd, events, count, timeout, mask);
	return any_wait(epfd, events, count, (int)ms, mask, 1);
}
