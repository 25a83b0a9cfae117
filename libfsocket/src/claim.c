/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

#include "fds.h"
#include "real.h"
#include "settings.h"
#include "slots.h"
#include "thread.h"

/* One accept in so many asks the other queue first, so that neither starves. */
#define FAIR_TURN 64
/* One accept in so many looks at the length of the queue. */
#define QUEUE_TURN 64
/* A spilling slot is short again below this part of the threshold. */
#define SPILL_BACK 4

/* ---- which socket of the group gets new connections -------------------- */

/*
 * SLOTS: no program, SO_INCOMING_CPU decides (net/core/sock_reuseport.c:
 * reuseport_select_sock_by_hash). GLOBAL: a program that always answers 0, the
 * index of the group's first member: the application's own listener, as it
 * listened first. The slots stay open for the handshakes under way.
 */
static int mode_set(int fd, enum fsocket_mode mode)
{
	struct sock_filter first = { BPF_RET | BPF_K, 0, 0, 0 };
	struct sock_fprog program = { 1, &first };
	int none = 0;

	if (mode == FSOCKET_MODE_GLOBAL)
		return setsockopt(fd, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &program, sizeof(program));
	if (!setsockopt(fd, SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, &none, sizeof(none)))
		return 0;
	return errno == ENOENT ? 0 : -1;
}

static void mode_sync(const struct listener *l, int on)
{
	uint32_t want = on && !l->row->orphans ? FSOCKET_MODE_SLOTS : FSOCKET_MODE_GLOBAL;
	uint32_t have = __atomic_load_n(&l->row->mode, __ATOMIC_RELAXED);

	if (__builtin_expect(want == have, 1) || !l->row->sole)
		return;
	/* Whoever changes the word changes the group. */
	if (!__atomic_compare_exchange_n(&l->row->mode, &have, want, 0, __ATOMIC_RELAXED,
					 __ATOMIC_RELAXED))
		return;
	if (mode_set(l->fd, (enum fsocket_mode)want))
		COUNT_ERROR(FSOCKET_ERR_MODE);
}

/* ---- claim and release ------------------------------------------------- */

/* The least served CPU among those the thread may use and the listener has a slot for. */
static int pick_cpu(const struct listener *l)
{
	cpu_set_t allowed[16];
	int best = -1, least = 0;

	if (sched_getaffinity(0, sizeof(allowed), allowed))
		return -1;
	for (int cpu = 0; cpu < l->cpus; cpu++) {
		int owners;

		if (l->slots[cpu] < 0 || !CPU_ISSET_S(cpu, sizeof(allowed), allowed))
			continue;
		owners = cpu_owners(l->cookie, cpu);
		if (best < 0 || owners < least) {
			best = cpu;
			least = owners;
		}
	}
	return best;
}

/* The CPU whose slot this thread serves, pinning it if that is allowed; -1: none. Locked. */
static int claim_cpu(const struct listener *l)
{
	int cpu = thread_cpu();

	if (cpu < 0) {
		cpu = settings.pin ? pick_cpu(l) : -1;
		if (cpu < 0 || thread_pin(cpu)) {
			COUNT_ERROR(FSOCKET_ERR_UNPINNED);
			return -1;
		}
	}
	return cpu < l->cpus && l->slots[cpu] >= 0 ? cpu : -1;
}

/* Row of the slot, the orphan's if there is one. Locked. */
static struct fsocket_slot *claim_row(struct listener *l, uint64_t cookie)
{
	struct fsocket_slot *row = slot_orphan(cookie);

	if (row)
		__atomic_fetch_sub(&l->row->orphans, 1, __ATOMIC_RELAXED);
	else
		row = slot_row_free();
	return row;
}

static int claim_start(struct listener *l, struct claim *c, int epfd, struct epoll_event *event)
{
	int fd = l->slots[c->cpu];

	options_copy(l->fd, fd, BEFORE_LISTEN);
	if (setsockopt(fd, SOL_SOCKET, SO_INCOMING_CPU, &c->cpu, sizeof(c->cpu)) ||
	    real.epoll_ctl(epfd, EPOLL_CTL_ADD, fd, event))
		return -1;
	/* Last: from here on connections come, and the epoll above already waits. */
	if (!real.listen(fd, l->backlog))
		return 0;
	real.epoll_ctl(epfd, EPOLL_CTL_DEL, fd, event);
	return -1;
}

/* Without a claim the thread has the application's listener, as ever. */
static void claim(struct listener *l, int epfd, struct epoll_event *event)
{
	struct claim *c = NULL;
	int on = switch_on(), cpu;

	shared_lock();
	cpu = claim_cpu(l);
	if (cpu >= 0 && l->claims[cpu].tid) {
		COUNT_ERROR(FSOCKET_ERR_TAKEN);
		cpu = -1;
	}
	if (cpu >= 0) {
		c = &l->claims[cpu];
		c->row = claim_row(l, socket_cookie(l->slots[cpu]));
		if (!c->row)
			COUNT_ERROR(FSOCKET_ERR_TABLE);
	}
	if (c && c->row) {
		*c->row = (struct fsocket_slot){
			.listener = l->cookie, .cookie = socket_cookie(l->slots[cpu]),
			.state = on ? FSOCKET_SLOT_ON : FSOCKET_SLOT_OFF, .cpu = cpu,
			.pid = getpid(), .tid = thread_tid(), .backlog = (uint32_t)l->backlog,
		};
		c->epfd = epfd;
		c->accepts = 0;
		c->tid = thread_tid();
		if (claim_start(l, c, epfd, event)) {
			COUNT_ERROR(FSOCKET_ERR_CLAIM);
			say(1, "slot of CPU %d: %s", cpu, strerror(errno));
			memset(c->row, 0, sizeof(*c->row));
			c->tid = 0;
		}
		/* Now there is a group whose choice can be set. */
		mode_sync(l, on);
	}
	shared_unlock();
}

/*
 * A listener taken out of epoll may come back at once: nginx does so every 16th
 * connection (ngx_reorder_accept_events). Only a thread that goes to wait
 * without it has left its slot.
 */
static __thread struct listener *leaving;

void claim_release(struct listener *l, struct claim *c)
{
	struct fsocket_slot *row = c->row;
	struct epoll_event unused = { 0 };
	int fd = l->slots[c->cpu];

	if (leaving != l)
		real.epoll_ctl(c->epfd, EPOLL_CTL_DEL, fd, &unused);
	c->tid = 0;
	shared_lock();
	row->state = FSOCKET_SLOT_FREE;
	if (!slot_owners(row->cookie)) {
		/*
		 * The last owner. Out of LISTEN, and the kernel moves the queue and the
		 * handshakes to the others (inet_connection_sock.c:inet_csk_listen_stop).
		 */
		if (shared.header->capabilities & FSOCKET_CAP_MIGRATE)
			shutdown(fd, SHUT_RD);
		else if (!cpu_owners(l->cookie, c->cpu))
			row->state = FSOCKET_SLOT_ORPHAN;
	}
	if (row->state == FSOCKET_SLOT_ORPHAN) {
		/* Nothing would move them: no new ones, and who is left serves the queue. */
		row->pid = row->tid = 0;
		__atomic_fetch_add(&l->row->orphans, 1, __ATOMIC_RELAXED);
		mode_sync(l, 1);
	} else {
		memset(row, 0, sizeof(*row));
	}
	shared_unlock();
}

static struct claim *my_claim(const struct listener *l)
{
	int cpu = thread_cpu();
	struct claim *c;

	if (cpu < 0 || cpu >= l->cpus)
		return NULL;
	c = &l->claims[cpu];
	return atomic_load_explicit(&c->tid, memory_order_relaxed) == thread_tid() ? c : NULL;
}

static void leave(struct listener *l, struct claim *c)
{
	struct epoll_event unused = { 0 };

	real.epoll_ctl(c->epfd, EPOLL_CTL_DEL, l->slots[c->cpu], &unused);
	leaving = l;
}

static void come_back(struct listener *l, struct claim *c, int epfd, struct epoll_event *event)
{
	leaving = NULL;
	c->epfd = epfd;
	if (real.epoll_ctl(epfd, EPOLL_CTL_ADD, l->slots[c->cpu], event))
		claim_release(l, c);
}

void slots_before_wait(void)
{
	struct claim *c;

	if (__builtin_expect(!leaving, 1))
		return;
	c = my_claim(leaving);
	if (c)
		claim_release(leaving, c);
	leaving = NULL;
}

void slots_after_fork(void)
{
	leaving = NULL;
}

int slots_epoll(struct listener *l, int epfd, int op, struct epoll_event *event)
{
	struct claim *c;
	int result;

	/* A program may pin its threads any time before it adds listeners. */
	if (op == EPOLL_CTL_ADD && leaving != l)
		thread_ask_again();
	c = my_claim(l);
	result = real.epoll_ctl(epfd, op, l->fd, event);
	if (result)
		return result;
	if (op == EPOLL_CTL_ADD && !c)
		claim(l, epfd, event);
	else if (op == EPOLL_CTL_ADD && leaving == l)
		come_back(l, c, epfd, event);
	else if (op == EPOLL_CTL_DEL && c && c->epfd == epfd)
		leave(l, c);
	else if (op == EPOLL_CTL_MOD && c && c->epfd == epfd)
		real.epoll_ctl(epfd, op, l->slots[c->cpu], event);
	return result;
}

/* ---- accept ------------------------------------------------------------ */

static int plain_accept(int fd, struct sockaddr *address, socklen_t *length, int flags)
{
	return flags < 0 ? real.accept(fd, address, length) :
			   real.accept4(fd, address, length, flags);
}

/* Nothing there, not listening any more, or just closed: ask the next one. */
static int nothing(int error)
{
	return error == EAGAIN || error == EINVAL || error == EBADF;
}

static void spill_check(struct listener *l, struct claim *c)
{
	struct tcp_info info;
	socklen_t length = sizeof(info);
	int fd = l->slots[c->cpu], none = -1;
	uint32_t limit;

	/* On a listener: queue length and backlog, net/ipv4/tcp.c:tcp_get_info. */
	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length))
		return;
	c->row->queue = info.tcpi_unacked;
	c->row->backlog = info.tcpi_sacked;
	limit = info.tcpi_sacked / 100 * (uint32_t)settings.spill;
	if (!limit)
		return;
	if (c->row->state == FSOCKET_SLOT_ON && info.tcpi_unacked > limit) {
		/* No socket claims the CPU now: the kernel spreads by hash over all. */
		if (setsockopt(fd, SOL_SOCKET, SO_INCOMING_CPU, &none, sizeof(none)))
			return;
		c->row->state = FSOCKET_SLOT_SPILLING;
		COUNT(c->cpu, spills);
	} else if (c->row->state == FSOCKET_SLOT_SPILLING && info.tcpi_unacked < limit / SPILL_BACK) {
		if (!setsockopt(fd, SOL_SOCKET, SO_INCOMING_CPU, &c->cpu, sizeof(c->cpu)))
			c->row->state = FSOCKET_SLOT_ON;
	}
}

static void count_accept(int fd, int from_global)
{
	int cpu = counting_cpu(), incoming = -1;
	socklen_t length = sizeof(incoming);

	if (getsockopt(fd, SOL_SOCKET, SO_INCOMING_CPU, &incoming, &length))
		return;
	if (incoming == cpu)
		COUNT(cpu, accepts_local);
	else
		COUNT(cpu, accepts_remote);
	if (from_global)
		COUNT(cpu, accepts_global);
}

/* Slots whose owners are gone: whoever is awake takes what is left in them. */
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

static int accept_on(struct listener *l, struct claim *c, struct sockaddr *address,
		     socklen_t *length, int flags)
{
	int slot = l->slots[c->cpu], keep, fd;
	int slot_first = c->accepts++ % FAIR_TURN != FAIR_TURN - 1;
	int from_slot = slot_first;

	fd = plain_accept(slot_first ? slot : l->fd, address, length, flags);
	if (fd < 0 && nothing(errno)) {
		from_slot = !slot_first;
		fd = plain_accept(slot_first ? l->fd : slot, address, length, flags);
	}
	if (fd < 0 && errno == EAGAIN && l->row->orphans) {
		from_slot = 1;
		fd = accept_orphan(l, address, length, flags);
	}
	keep = errno;
	if (fd >= 0)
		count_accept(fd, !from_slot);
	if (c->accepts % QUEUE_TURN == 0)
		spill_check(l, c);
	errno = keep;
	return fd;
}

/* As the plain libc; then what had already come to the slot. */
static int accept_off(struct listener *l, struct claim *c, struct sockaddr *address,
		      socklen_t *length, int flags)
{
	int fd, keep;

	c->row->state = FSOCKET_SLOT_OFF;
	fd = plain_accept(l->fd, address, length, flags);
	if (fd >= 0 || errno != EAGAIN)
		return fd;
	fd = plain_accept(l->slots[c->cpu], address, length, flags);
	if (fd >= 0 || !nothing(errno))
		return fd;
	keep = EAGAIN;
	if (!l->row->sole)
		/* The group cannot be told to pass the slot by, so the slot goes. */
		claim_release(l, c);
	errno = keep;
	return -1;
}

int slots_accept(struct listener *l, struct sockaddr *address, socklen_t *length, int flags)
{
	struct claim *c = my_claim(l);
	int on = switch_on(), fd, keep = errno;

	mode_sync(l, on);
	errno = keep;
	if (c && !on)
		return accept_off(l, c, address, length, flags);
	if (c && c->row->state == FSOCKET_SLOT_OFF)
		c->row->state = FSOCKET_SLOT_ON;
	if (c)
		return accept_on(l, c, address, length, flags);
	fd = plain_accept(l->fd, address, length, flags);
	if (fd >= 0 && on)
		count_accept(fd, 1);
	return fd;
}
