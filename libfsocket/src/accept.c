/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * accept() on a managed listener. While nothing is amiss, it costs the system
 * calls that it costs without us: what else is to be asked is asked once a tick.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>

#include "kernel.h"
#include "migrate.h"
#include "real.h"
#include "slots.h"
#include "spill.h"
#include "steer.h"
#include "thread.h"

/* Within a tick, one accept in so many looks at the length of the queue. */
#define QUEUE_TURN 64

int plain_accept(int fd, struct sockaddr *address, socklen_t *length, int flags)
{
	return flags < 0 ? real.accept(fd, address, length) :
			   real.accept4(fd, address, length, flags);
}

/* Nothing there, not listening any more, or just closed: ask the next one. */
static int nothing(int error)
{
	return error == EAGAIN || error == EINVAL || error == EBADF || error == ENOTSOCK || error == EOPNOTSUPP;
}

void count_accept(int fd, enum source source, int64_t now)
{
	static __thread struct looks looks;
	int cpu = counting_cpu(now), incoming = -1;
	socklen_t length = sizeof(incoming);

	COUNT(cpu, accepts);
	if (source == FROM_GLOBAL)
		COUNT(cpu, accepts_global);
	else if (source == FROM_OTHER)
		COUNT(cpu, accepts_helped);
	if (!looks_take(&looks, now) || getsockopt(fd, SOL_SOCKET, SO_INCOMING_CPU, &incoming, &length))
		return;
	if (incoming == cpu)
		COUNT(cpu, accepts_local);
	else
		COUNT(cpu, accepts_remote);
}

/* Slots that their owner does not serve: whoever is awake takes what is left in them. */
static int accept_orphan(struct listener *l, struct sockaddr *address, socklen_t *length, int flags)
{
	for (int cpu = 0; cpu < l->cpus; cpu++) {
		int fd = l->slots[cpu] < 0 ? -1 : plain_accept(l->slots[cpu], address, length, flags);

		if (fd >= 0)
			return fd;
	}
	errno = EAGAIN;
	return -1;
}

/*
 * A listener that blocks, which is rare in an epoll: accept() on it would sleep
 * while a connection waits in the slot, so wait for both. Another thread may
 * take the listener's first: then this one sleeps there, as with libc.
 */
static int accept_blocking(const struct listener *l, int slot, struct sockaddr *address,
			   socklen_t *length, int flags, enum source *source)
{
	struct pollfd both[] = { { .fd = slot, .events = POLLIN }, { .fd = l->fd, .events = POLLIN } };

	if (poll(both, 2, -1) < 0)
		return -1;
	*source = both[0].revents & POLLIN ? FROM_SLOT : FROM_GLOBAL;
	return plain_accept(*source == FROM_SLOT ? slot : both[1].fd, address, length, flags);
}

/* What is asked first, and then the others. */
static int accept_any(struct listener *l, struct claim *c, struct sockaddr *address,
		      socklen_t *length, int flags, enum source *source)
{
	int slot = l->slots[c->cpu], global_first = c->global_turn == 1;
	int fd = plain_accept(global_first ? l->fd : slot, address, length, flags);

	*source = global_first ? FROM_GLOBAL : FROM_SLOT;
	if (fd < 0 && !global_first && nothing(errno) && errno != EAGAIN)
		COUNT_ERROR(FSOCKET_ERR_ACCEPT);
	/*
	 * Who accepts until nothing is left has had what was in the slot. The global listener
	 * has an event of its own, which comes again if it is not the edge-triggered kind.
	 */
	if (fd < 0 && !global_first && errno == EAGAIN && c->yielded && !(c->events & EPOLLET)) {
		c->yielded = 0;
		return -1;
	}
	if (fd < 0 && nothing(errno)) {
		*source = global_first ? FROM_SLOT : FROM_GLOBAL;
		fd = plain_accept(global_first ? slot : l->fd, address, length, flags);
	}
	/* While the global listener has something, every second turn is its own. */
	if (c->global_turn || *source == FROM_GLOBAL)
		c->global_turn = fd >= 0 && *source == FROM_GLOBAL ? 2 : c->global_turn == 2;
	if (c->yielded != (fd >= 0 && *source == FROM_SLOT))
		c->yielded = !c->yielded;
	if (fd >= 0 || errno != EAGAIN)
		return fd;
	*source = FROM_OTHER;
	if (c->helped >= 0)
		fd = plain_accept(l->slots[c->helped], address, length, flags);
	if (fd < 0 && has_orphans(l->row))
		fd = accept_orphan(l, address, length, flags);
	if (fd < 0 && nothing(errno))
		errno = EAGAIN;
	return fd;
}

static int accept_on(struct listener *l, struct claim *c, struct sockaddr *address,
		     socklen_t *length, int flags, int64_t now)
{
	enum source source = FROM_SLOT;
	int tick = now >= c->next_tick, fd, keep;

	if (tick) {
		c->next_tick = now + FSOCKET_TICK_MS;
		c->accepts = 0;
		c->global_turn = 1;
	}
	if (l->blocking && socket_blocks(l->fd))
		fd = accept_blocking(l, l->slots[c->cpu], address, length, flags, &source);
	else
		fd = accept_any(l, c, address, length, flags, &source);
	keep = errno;
	if (fd >= 0) {
		struct fsocket_slot *row = c->row;

		count_accept(fd, source, now);
		__atomic_store_n(&row->accepts, __atomic_load_n(&row->accepts, __ATOMIC_RELAXED) + 1,
				 __ATOMIC_RELAXED);
	}
	if (tick || ++c->accepts % QUEUE_TURN == 0)
		spill_own(l, c, now, tick);
	if (tick)
		spill_others(l, c, now);
	errno = keep;
	return fd;
}

/* As the plain libc; then what had already come to the slot. */
static int accept_off(struct listener *l, struct claim *c, struct sockaddr *address,
		      socklen_t *length, int flags)
{
	enum source source;
	int fd;

	slot_state_set(c->row, FSOCKET_SLOT_OFF);
	spill_end_help(l, c);
	if (l->blocking && socket_blocks(l->fd))
		return accept_blocking(l, l->slots[c->cpu], address, length, flags, &source);
	fd = plain_accept(l->fd, address, length, flags);
	if (fd >= 0 || errno != EAGAIN)
		return fd;
	fd = plain_accept(l->slots[c->cpu], address, length, flags);
	if (fd >= 0 || !nothing(errno))
		return fd;
	if (!is_sole(l->row) && migrate_works())
		/* The group cannot be told to pass the slot by, so the slot goes, its queue to the others. */
		claim_release(l, c);
	errno = EAGAIN;
	return -1;
}

int slots_accept(struct listener *l, struct sockaddr *address, socklen_t *length, int flags)
{
	struct claim *c = my_claim(l);
	int64_t now = coarse_ms();
	int on = switch_at(now) == FSOCKET_SWITCH_ON, fd, keep = errno;
	enum source source = FROM_GLOBAL;

	steer_sync(l, on);
	errno = keep;
	if (c && !on)
		return accept_off(l, c, address, length, flags);
	if (c && slot_state(c->row) == FSOCKET_SLOT_OFF)
		slot_state_set(c->row, FSOCKET_SLOT_ON);
	if (c)
		return accept_on(l, c, address, length, flags, now);
	fd = plain_accept(l->fd, address, length, flags);
	/* Also the thread pool's case: who accepts is not who added the listener to the epoll. */
	if (fd < 0 && errno == EAGAIN && (l->claimed || has_orphans(l->row))) {
		fd = accept_orphan(l, address, length, flags);
		source = FROM_OTHER;
	}
	if (fd >= 0 && on) {
		keep = errno;
		count_accept(fd, source, now);
		errno = keep;
	}
	return fd;
}
