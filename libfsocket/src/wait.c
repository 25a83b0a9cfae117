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

	/* No connection comes to a CPU that is offline: who has lost its own would not see that in accept(). */
	counting_cpu(now);
	for (struct listener *l = listener_next(NULL); l; l = listener_next(l)) {
		struct claim *c = my_claim(l);

		if (!c)
			continue;
		quick_end(c);
		if (l->sharded) {
			shard_look(l, c, now, 1);
		} else if (slots_heed(l, c, now)) {
			spill_own(l, c, now, 1);
			spill_others(l, c, now);
			steer_tick(l, now);
		}
	}
}

/* All but those that a fault of this very thread raises. */
static void signals_wait(sigset_t *before)
{
	static const int faults[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT };
	sigset_t set;

	sigfillset(&set);
	for (unsigned int i = 0; i < sizeof(faults) / sizeof(faults[0]); i++)
		sigdelset(&set, faults[i]);
	pthread_sigmask(SIG_BLOCK, &set, before);
}

/* The rest of a wait: nothing came in its first part. mask NULL: of epoll_wait(). */
__attribute__((noinline))
static int wait_on(int epfd, struct epoll_event *events, int count, int timeout, const sigset_t *mask)
{
	int part = IDLE_MS, keep = errno, result;
	sigset_t before;

	real_ready();
	/* A handler that runs while we look around would end no wait: signals have to come in one, with EINTR. */
	signals_wait(&before);
	do {
		timeout -= timeout < 0 ? 0 : part;
		look_around();
		part = timeout < 0 || timeout > IDLE_MS ? IDLE_MS : timeout;
		errno = keep;
		result = real.epoll_pwait(epfd, events, count, part, mask ? mask : &before);
	} while (!result && part != timeout);
	keep = errno;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	errno = keep;
	/* A filter that knows epoll_wait() only. */
	if (result < 0 && !mask && (errno == ENOSYS || errno == EPERM))
		return real.epoll_wait(epfd, events, count, timeout);
	return result;
}

/* Before a wait: is it one to be cut? timeout < 0: for ever. */
static int watchful(int timeout)
{
	real_ready();
	if (slots_watch & WATCH_LEAVING)
		slots_before_wait();
	return slots_watch && (unsigned int)timeout > IDLE_MS;
}

__attribute__((noinline))
static int any_wait(int epfd, struct epoll_event *events, int count, int timeout)
{
	int part = watchful(timeout) ? IDLE_MS : timeout;
	int result = real.epoll_wait(epfd, events, count, part);

	return result || part == timeout ? result : wait_on(epfd, events, count, timeout, NULL);
}

/* volatile: see accept4(). */
EXPORT int epoll_wait(int epfd, struct epoll_event *events, int count, int timeout)
{
	volatile int kept_epfd = epfd, kept_count = count, kept_timeout = timeout;
	struct epoll_event *volatile kept_events = events;
	int result;

	if (slots_watch != WATCH_SLOTS || (unsigned int)timeout <= IDLE_MS)
		return any_wait(epfd, events, count, timeout);
	result = real.epoll_wait(epfd, events, count, IDLE_MS);
	return __builtin_expect(result, 1) ? result :
					     wait_on(kept_epfd, kept_events, kept_count, kept_timeout, NULL);
}

EXPORT int epoll_pwait(int epfd, struct epoll_event *events, int count, int timeout,
		       const sigset_t *mask)
{
	int part = watchful(timeout) ? IDLE_MS : timeout;
	int result = real.epoll_pwait(epfd, events, count, part, mask);

	return result || part == timeout ? result : wait_on(epfd, events, count, timeout, mask);
}
