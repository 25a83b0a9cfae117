/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
#define _GNU_SOURCE
#include "steer.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <sched.h>

#include "kernel.h"
#include "migrate.h"
#include "real.h"
#include "settings.h"

/* A group of two that chose by hash would come through the probe once in 2^PROBES. */
#define PROBES 10

static int detach(int fd)
{
	int none = 0;

	return real.setsockopt(fd, SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, &none, sizeof(none)) && errno != ENOENT ? -1 : 0;
}

/*
 * SLOTS: no program that chooses, SO_INCOMING_CPU decides (net/core/sock_reuseport.c:
 * reuseport_select_sock_by_hash). GLOBAL: a program that always answers 0, the
 * index of the group's first member: the application's own listener, as it
 * listened first. The slots stay open for the handshakes under way.
 */
static int mode_set(int fd, enum fsocket_mode mode)
{
	static struct sock_filter first = { BPF_RET | BPF_K, 0, 0, 0 };
	static struct sock_fprog program = { 1, &first };	/* static: no stack bytes in its padding */

	if (mode == FSOCKET_MODE_GLOBAL)
		return real.setsockopt(fd, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &program, sizeof(program));
	return migrate_attach(fd) ? detach(fd) : 0;
}

void steer_sync(const struct listener *l, int on)
{
	struct fsocket_listener *row = l->row;
	uint32_t want = on && !has_orphans(row) ? FSOCKET_MODE_SLOTS : FSOCKET_MODE_GLOBAL;
	uint32_t have = __atomic_load_n(&row->mode, __ATOMIC_RELAXED);

	/* SHARDED: an old worker still has a slot from before. */
	if (__builtin_expect(want == have, 1) || have == FSOCKET_MODE_SHARDED || !is_sole(row))
		return;
	/* Whoever changes the word changes the group. */
	if (!__atomic_compare_exchange_n(&row->mode, &have, want, 0, __ATOMIC_RELAXED,
					 __ATOMIC_RELAXED))
		return;
	if (mode_set(l->fd, (enum fsocket_mode)want))
		COUNT_ERROR(FSOCKET_ERR_MODE);
}

void steer_share(const struct listener *l)
{
	struct fsocket_listener *row = l->row;
	uint32_t was = __atomic_exchange_n(&row->mode, FSOCKET_MODE_SHARDED, __ATOMIC_RELAXED);

	/* A process without root's rights has no program: that of its master stays, but not GLOBAL's. */
	if (is_sole(row) && migrate_attach(l->fd) && was == FSOCKET_MODE_GLOBAL)
		detach(l->fd);
}

void steer_leave(const struct listener *l)
{
	if (!is_sole(l->row))
		return;
	__atomic_store_n(&l->row->sole, 0, __ATOMIC_RELAXED);
	detach(l->fd);
}

void steer_end(const struct listener *l, int slot)
{
	int global = is_sole(l->row) && __atomic_load_n(&l->row->mode, __ATOMIC_RELAXED) == FSOCKET_MODE_GLOBAL;

	/* With the program of GLOBAL nothing would be moved. */
	if (global)
		migrate_attach(l->fd);
	shutdown(slot, SHUT_RD);
	if (global)
		mode_set(l->fd, FSOCKET_MODE_GLOBAL);
}

static int probe_listener(struct sockaddr_in *a)
{
	int one = 1;
	socklen_t length = sizeof(*a);
	int fd = real.socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd >= 0 && (setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)) ||
			real.bind(fd, (struct sockaddr *)a, sizeof(*a)) || real.listen(fd, PROBES) ||
			getsockname(fd, (struct sockaddr *)a, &length))) {
		real.close(fd);
		fd = -1;
	}
	return fd;
}

/* One connection: 1 it came to the listener of its CPU, 0 to the other one, -1 not known. */
static int probe_once(const struct sockaddr_in *a, const int listeners[2])
{
	/* Over loopback the handshake is over when connect() returns; where a firewall drops it, nothing waits. */
	int fd = real.socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int here = -1, cpu = -1, found = -1;
	socklen_t length = sizeof(cpu);

	if (fd >= 0 && (!real.connect(fd, (const struct sockaddr *)a, sizeof(*a)) || errno == EINPROGRESS)) {
		here = real.accept4(listeners[0], NULL, NULL, SOCK_CLOEXEC);
		found = here >= 0;
		if (here < 0)
			here = real.accept4(listeners[1], NULL, NULL, SOCK_CLOEXEC);
	}
	if (here >= 0) {
		int wanted = -1;

		/* The thread may have moved on, or RPS spread the packets: then it tells nothing. */
		if (getsockopt(here, SOL_SOCKET, SO_INCOMING_CPU, &cpu, &length) ||
		    getsockopt(listeners[0], SOL_SOCKET, SO_INCOMING_CPU, &wanted, &length) || cpu != wanted)
			found = -1;
		real.close(here);
	} else {
		found = -1;
	}
	if (fd >= 0)
		real.close(fd);
	return found;
}

static int probe(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int listeners[2] = { -1, -1 }, works = 1, cpu = sched_getcpu();

	listeners[0] = probe_listener(&a);
	if (listeners[0] >= 0)
		listeners[1] = probe_listener(&a);
	if (listeners[1] >= 0) {
		works = !setsockopt(listeners[0], SOL_SOCKET, SO_INCOMING_CPU, &cpu, sizeof(cpu));
		for (int i = 0; i < PROBES && works; i++)
			works = probe_once(&a, listeners) != 0;
	}
	for (int i = 0; i < 2; i++)
		if (listeners[i] >= 0)
			real.close(listeners[i]);
	return works;
}

int steer_works(void)
{
	uint32_t known = __atomic_load_n(&shared.header->capabilities, __ATOMIC_RELAXED);
	int keep = errno;

	if (!(known & FSOCKET_CAP_PROBED)) {
		known = FSOCKET_CAP_PROBED | (probe() ? FSOCKET_CAP_INCOMING_CPU : 0u);
		__atomic_or_fetch(&shared.header->capabilities, known, __ATOMIC_RELAXED);
		if (!(known & FSOCKET_CAP_INCOMING_CPU))
			say(1, "this kernel does not choose by SO_INCOMING_CPU in a group: listeners keep one queue");
	}
	errno = keep;
	return (known & FSOCKET_CAP_INCOMING_CPU) != 0;
}
