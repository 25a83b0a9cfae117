/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fds.h"
#include "kernel.h"
#include "inherit.h"
#include "migrate.h"
#include "real.h"
#include "settings.h"
#include "shard.h"
#include "slots.h"
#include "steer.h"
#include "thread.h"

/* Listeners one process can have managed; the others work as without us. */
#define LISTENERS 64

static struct listener listeners[LISTENERS];
/* One more than the highest that was ever used: few programs have many. */
static _Atomic int ever;
/* No listener and no slot ever had a higher number. */
static _Atomic int highest;
static _Atomic pid_t owner_pid;
/* Two threads may meet an inherited listener at once. */
static pthread_mutex_t preparing = PTHREAD_MUTEX_INITIALIZER;

struct listener *listener_find(int fd)
{
	uint32_t word = fd_get(fd);

	return fd_kind(word) == FD_LISTENER ? &listeners[fd_detail(word)] : NULL;
}

/* Asked once a descriptor: who polls a listener and who accepts may have different numbers for it. */
static struct listener *find_copy(int fd)
{
	uint64_t cookie = socket_cookie(fd);

	for (int i = 0; cookie && i < ever; i++) {
		struct listener *l = &listeners[i];

		if (!l->used || l->cookie != cookie)
			continue;
		fd_set_kind(fd, FD_COPY, (unsigned int)i);
		if (fd >= l->copies)
			l->copies = fd + 1;
		return l;
	}
	fd_set_kind(fd, FD_OTHER, 0);
	return NULL;
}

struct listener *listener_accepts(int fd)
{
	uint32_t word = fd_get(fd);

	if (__builtin_expect(fd_kind(word) == FD_LISTENER || fd_kind(word) == FD_COPY, 1))
		return &listeners[fd_detail(word)];
	return fd_kind(word) == FD_UNKNOWN && owner_pid ? find_copy(fd) : NULL;
}

static void forget_copies(struct listener *l)
{
	for (int fd = 0; fd < l->copies; fd++)
		if (fd_kind(fd_get(fd)) == FD_COPY && &listeners[fd_detail(fd_get(fd))] == l)
			fd_set_kind(fd, FD_OTHER, 0);
	l->copies = 0;
}

static int port_of(const struct sockaddr_storage *a)
{
	return ntohs(a->ss_family == AF_INET6 ?
		     ((const struct sockaddr_in6 *)(const void *)a)->sin6_port :
		     ((const struct sockaddr_in *)(const void *)a)->sin_port);
}

static void describe(struct fsocket_listener *row, const struct sockaddr_storage *a)
{
	const void *address = a->ss_family == AF_INET6 ?
		(const void *)&((const struct sockaddr_in6 *)(const void *)a)->sin6_addr :
		(const void *)&((const struct sockaddr_in *)(const void *)a)->sin_addr;

	row->port = (uint16_t)port_of(a);
	inet_ntop(a->ss_family, address, row->address, sizeof(row->address));
}

/* A bound sibling of l, or -1. */
static int sibling(const struct listener *l)
{
	int one = 1;
	int fd = real.socket(l->address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC,
			     IPPROTO_TCP);

	if (fd < 0)
		return -1;
	options_copy(l->fd, fd, BEFORE_BIND);
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)) ||
	    real.bind(fd, (const struct sockaddr *)&l->address, l->address_length)) {
		real.close(fd);
		return -1;
	}
	/* While we are who we are: a worker without rights may not set all of them. */
	options_copy(l->fd, fd, options_before_listen(l));
	return fd;
}

/* Where a filter forbids to ask, the word we keep has to do. */
int slot_intact(const struct listener *l, int cpu)
{
	int fd = l->slots[cpu];
	uint64_t cookie = 0;
	socklen_t length = sizeof(cookie);

	if (fd < 0 || fd_kind(fd_get(fd)) != FD_SLOT)
		return 0;
	if (getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &length))
		return errno != EBADF && errno != ENOTSOCK;
	return cookie == l->cookies[cpu];
}

static void drop_slots(struct listener *l)
{
	for (int cpu = 0; cpu < l->cpus; cpu++) {
		int intact = slot_intact(l, cpu), fd = atomic_exchange(&l->slots[cpu], -1);

		if (intact) {
			fd_set_kind(fd, FD_UNKNOWN, 0);
			steer_close(l, fd);
		}
	}
}

static int make_arrays(struct listener *l)
{
	int cpus = (int)shared.cpu_count;

	if (l->slots)
		return 1;
	l->slots = calloc((size_t)cpus, sizeof(*l->slots));
	l->claims = calloc((size_t)cpus, sizeof(*l->claims));
	l->cookies = calloc((size_t)cpus, sizeof(*l->cookies));
	if (!l->slots || !l->claims || !l->cookies) {
		free((void *)l->slots);
		free(l->claims);
		free(l->cookies);
		l->slots = NULL;
		return 0;
	}
	for (int cpu = 0; cpu < cpus; cpu++) {
		l->slots[cpu] = -1;
		l->claims[cpu].cpu = cpu;
		l->claims[cpu].helped = -1;
	}
	l->cpus = cpus;
	return 1;
}

static int make_slots(struct listener *l)
{
	cpu_set_t usable[16];	/* 16,384 CPUs */
	int made = 0;

	if (sched_getaffinity(0, sizeof(usable), usable))
		return 0;
	for (int cpu = 0; cpu < l->cpus; cpu++) {
		int fd = CPU_ISSET_S(cpu, sizeof(usable), usable) ? inherit_slot(l, cpu) : -2;

		if (fd == -1)
			fd = sibling(l);
		if (fd == -1)
			COUNT_ERROR(FSOCKET_ERR_PREPARE);
		if (fd < 0)
			continue;
		fd_set_kind(fd, FD_SLOT, (unsigned int)(l - listeners));
		/* Another thread may look at the slots of who had the struct before. */
		__atomic_store_n(&l->cookies[cpu], socket_cookie(fd), __ATOMIC_RELAXED);
		l->slots[cpu] = fd;
		highest = fd > highest ? fd : highest;
		made++;
	}
	return made;
}

/* tid 0: of all threads. */
static void release_claims(struct listener *l, int tid)
{
	for (int cpu = 0; cpu < l->cpus; cpu++) {
		struct claim *c = &l->claims[cpu];

		if (!c->tid || (tid && c->tid != tid))
			continue;
		if (l->sharded)
			shard_release(l, c);
		else
			claim_release(l, c);
	}
}

static int same_address(const struct listener *a, const struct listener *b)
{
	return a->address_length == b->address_length && !memcmp(&a->address, &b->address, a->address_length);
}

/* Does the application have several listeners of one address? Then they need no siblings. */
static int sharded(const struct listener *l)
{
	int found = 0;

	for (int i = 0; i < ever; i++) {
		struct listener *other = &listeners[i];

		if (other == l || !other->used || !same_address(other, l))
			continue;
		found = 1;
		if (other->sharded)
			continue;
		release_claims(other, 0);
		other->sharded = 1;
		drop_slots(other);
		steer_share(other);
	}
	return found;
}

static int note(struct listener *l, int sole)
{
	struct fsocket_listener *row;

	shared_lock();
	row = listener_row(l->cookie);
	if (row) {
		describe(row, &l->address);
		if (sole >= 0)
			__atomic_store_n(&row->sole, (uint16_t)sole, __ATOMIC_RELAXED);
		/* What a predecessor told the group is not known: the first claim tells it anew. */
		__atomic_store_n(&row->mode, l->sharded ? FSOCKET_MODE_SHARDED : FSOCKET_MODE_UNKNOWN,
				 __ATOMIC_RELAXED);
		/* A thread may still look at the row of who had the struct before: never NULL. */
		l->row = row;
		if (!sole && (!l->sharded || steer_by_program()))
			steer_join(l);
	}
	shared_unlock();
	if (!row)
		COUNT_ERROR(FSOCKET_ERR_TABLE);
	return row != NULL;
}

/* Locked. */
static struct listener *prepare(int fd, int backlog, int sole, int made_here)
{
	struct listener *l = NULL;

	owner_pid = getpid();
	fd_set_kind(fd, FD_OTHER, 0);
	for (int i = 0; i < LISTENERS && !l; i++)
		if (!listeners[i].used)
			l = &listeners[i];
	if (!l) {
		say(1, "more than %d listeners: the rest keep one queue for all CPUs", LISTENERS);
		return NULL;
	}
	l->fd = fd;
	highest = fd > highest ? fd : highest;
	l->claimed = l->inherited = 0;
	l->inherited_look = 0;
	l->made_here = made_here;
	l->backlog = backlog;
	l->cookie = socket_cookie(fd);
	memset(&l->address, 0, sizeof(l->address));
	l->address_length = sizeof(l->address);
	if (!l->cookie || find_copy(fd) || getsockname(fd, (struct sockaddr *)&l->address, &l->address_length))
		return NULL;
	/* Not the first there: whose socket is which of the group's nobody knows, so a program could not choose. */
	l->sharded = sharded(l) || (steer_by_program() && (sole < 0 ? !listener_sole(l->cookie) : !sole));
	if (!make_arrays(l) || (!l->sharded && !make_slots(l))) {
		say(1, "no slots for port %d: %s", port_of(&l->address), strerror(errno));
		return NULL;
	}
	migrate_load();
	if (!note(l, sole)) {
		drop_slots(l);
		return NULL;
	}
	if (l - listeners >= ever)
		ever = (int)(l - listeners) + 1;
	l->used = 1;
	fd_set_kind(fd, FD_LISTENER, (unsigned int)(l - listeners));
	say(2, "port %d: %s", port_of(&l->address), l->sharded ? "one of several listeners" : "slots prepared");
	return l;
}

struct listener *listener_prepare(int fd, int backlog, int sole, int made_here)
{
	struct listener *l;

	pthread_mutex_lock(&preparing);
	l = listener_find(fd);
	if (!l)
		l = prepare(fd, backlog, sole, made_here);
	pthread_mutex_unlock(&preparing);
	return l;
}

int listeners_programmed;

void listener_programmed(int fd)
{
	struct listener *l = listener_find(fd);
	int keep = errno, ours = 0;

	if (socket_is_tcp(fd)) {
		listeners_programmed = 1;
		for (int i = 0; l && i < ever; i++)
			if (listeners[i].used && same_address(&listeners[i], l))
				ours |= steer_leave(&listeners[i]);
		if (l)
			listener_close(l);
		/* Not before: what waited in the slots has moved by it. */
		if (ours)
			steer_detach(fd);
		fd_set_kind(fd, FD_OTHER, 0);
	}
	errno = keep;
}

struct listener *listener_next(struct listener *l)
{
	for (l = l ? l + 1 : listeners; l < listeners + ever; l++)
		if (l->used)
			return l;
	return NULL;
}

struct listener *listener_beside(const struct listener *l, int from, int *at)
{
	for (int i = 0; i < ever; i++) {
		struct listener *other = &listeners[*at = (from + i) % ever];

		if (other != l && other->used && same_address(other, l))
			return other;
	}
	return NULL;
}

int listener_in(unsigned int first, unsigned int last)
{
	if (first > (unsigned int)highest)
		return -1;
	for (int i = 0; i < ever; i++) {
		const struct listener *l = &listeners[i];
		int fd = l->fd;

		if (!l->used)
			continue;
		if ((unsigned int)fd >= first && (unsigned int)fd <= last && fd_kind(fd_get(fd)) == FD_LISTENER)
			return fd;
		for (int cpu = 0; cpu < l->cpus; cpu++) {
			fd = l->slots[cpu];
			if (fd >= 0 && (unsigned int)fd >= first && (unsigned int)fd <= last &&
			    fd_kind(fd_get(fd)) == FD_SLOT)
				return fd;
		}
	}
	return -1;
}

int listener_ours(void)
{
	return getpid() == owner_pid;
}

void fd_born_again(int fd, enum fd_kind kind)
{
	if (listener_ours())
		fd_set_kind(fd, kind, 0);
}

void listener_close(struct listener *l)
{
	release_claims(l, 0);
	fd_set_kind(l->fd, FD_UNKNOWN, 0);
	forget_copies(l);
	drop_slots(l);
	l->used = 0;
}

void listener_lose_slot(int fd)
{
	struct listener *l = &listeners[fd_detail(fd_get(fd))];

	for (int cpu = 0; cpu < l->cpus; cpu++) {
		if (l->slots[cpu] != fd)
			continue;
		if (l->claims[cpu].tid)
			claim_release(l, &l->claims[cpu]);
		l->slots[cpu] = -1;
	}
}

void listeners_release(void)
{
	for (int i = 0; i < ever; i++)
		if (listeners[i].used)
			release_claims(&listeners[i], thread_tid());
}

void listeners_after_fork(void)
{
	owner_pid = getpid();
	preparing = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
	for (int i = 0; i < ever; i++)
		for (int cpu = 0; cpu < listeners[i].cpus; cpu++) {
			quick_end(&listeners[i].claims[cpu]);
			listeners[i].claims[cpu].tid = 0;
		}
}
