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
#include "slots.h"
#include "spill.h"

static void look_around(void)
{
	int64_t now = coarse_ms();

	for (struct listener *l = listener_next(NULL); l; l = listener_next(l)) {
		struct claim *c = my_claim(l);

		if (c && slot_state(c->row) != FSOCKET_SLOT_OFF) {
			spill_own(l, c, now, 1);
			spill_others(l, c, now);
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

int slots_wait(int epfd, struct epoll_event *events, int count, int timeout, const sigset_t *mask)
{
	int part = SLOTS_IDLE_MS, keep = errno, result;
	sigset_t before;

	result = mask ? real.epoll_pwait(epfd, events, count, part, mask) :
			real.epoll_wait(epfd, events, count, part);
	if (result)
		return result;
	/* A handler that runs while we look around would end no wait: signals have to come in one, with EINTR. */
	signals_wait(&before);
	do {
		timeout -= timeout < 0 ? 0 : part;
		look_around();
		part = timeout < 0 || timeout > SLOTS_IDLE_MS ? SLOTS_IDLE_MS : timeout;
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
