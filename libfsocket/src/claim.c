/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
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
	static struct sock_filter first = { BPF_RET | BPF_K, 0, 0, 0 };
	static struct sock_fprog program = { 1, &first };	/* static: no stack bytes in its padding */
	int none = 0;

	if (mode == FSOCKET_MODE_GLOBAL)
		return setsockopt(fd, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &program, sizeof(program));
	if (!setsockopt(fd, SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, &none, sizeof(none)))
		return 0;
	return errno == ENOENT ? 0 : -1;
}

static int has_orphans(const struct fsocket_listener *row)
{
	return __atomic_load_n(&row->orphans, __ATOMIC_RELAXED) != 0;
}

static int is_sole(const struct fsocket_listener *row)
{
	return __atomic_load_n(&row->sole, __ATOMIC_RELAXED) != 0;
}

static void mode_sync(const struct listener *l, int on)
{
	struct fsocket_listener *row = l->row;
	uint32_t want = on && !has_orphans(row) ? FSOCKET_MODE_SLOTS : FSOCKET_MODE_GLOBAL;
	uint32_t have = __atomic_load_n(&row->mode, __ATOMIC_RELAXED);

	if (__builtin_expect(want == have, 1) || !is_sole(row))
		return;
	/* Whoever changes the word changes the group. */
	if (!__atomic_compare_exchange_n(&row->mode, &have, want, 0, __ATOMIC_RELAXED,
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
	return cpu < l->cpus && slot_intact(l, cpu) ? cpu : -1;
}

/*
 * Row of the slot. Orphans of the CPU end here: our slot's by this claim, those of a
 * process that made its own slots (HAProxy's before a reload) went with it. Locked.
 */
static struct fsocket_slot *claim_row(struct listener *l, int cpu)
{
	struct fsocket_slot *row;

	while ((row = slot_orphan(l->cookie, cpu))) {
		slot_row_clear(row);
		__atomic_fetch_sub(&l->row->orphans, 1, __ATOMIC_RELAXED);
	}
	return slot_row_free();
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
	struct fsocket_slot *row = NULL;
	int on = switch_on(), cpu;

	shared_lock();
	cpu = claim_cpu(l);
	if (cpu >= 0 && l->claims[cpu].tid) {
		COUNT_ERROR(FSOCKET_ERR_TAKEN);
		cpu = -1;
	}
	if (cpu >= 0) {
		c = &l->claims[cpu];
		row = claim_row(l, cpu);
		if (!row)
			COUNT_ERROR(FSOCKET_ERR_TABLE);
	}
	if (row) {
		row->listener = l->cookie;
		row->cookie = l->cookies[cpu];
		row->cpu = cpu;
		row->pid = getpid();
		row->tid = thread_tid();
		__atomic_store_n(&row->backlog, (uint32_t)l->backlog, __ATOMIC_RELAXED);
		slot_state_set(row, on ? FSOCKET_SLOT_ON : FSOCKET_SLOT_OFF);
		c->row = row;
		c->epfd = epfd;
		c->tid = thread_tid();
		if (claim_start(l, c, epfd, event)) {
			COUNT_ERROR(FSOCKET_ERR_CLAIM);
			say(1, "slot of CPU %d: %s", cpu, strerror(errno));
			slot_row_clear(row);
			c->tid = 0;
		}
		/* Now there is a group whose choice can be set. */
		mode_sync(l, on);
		l->claimed = 1;
	}
	shared_unlock();
}

static int blocks(int fd)
{
	int status = fcntl(fd, F_GETFL);

	return status >= 0 && !(status & O_NONBLOCK);
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
	int fd = l->slots[c->cpu], orphan = 0;

	if (!slot_intact(l, c->cpu))
		fd = -1;
	else if (leaving != l)
		real.epoll_ctl(c->epfd, EPOLL_CTL_DEL, fd, &unused);
	c->tid = 0;
	shared_lock();
	slot_state_set(row, FSOCKET_SLOT_FREE);
	if (fd >= 0 && !slot_owners(row->cookie)) {
		/*
		 * The last owner. Out of LISTEN, and the kernel moves the queue and the
		 * handshakes to the others (inet_connection_sock.c:inet_csk_listen_stop).
		 */
		orphan = !(shared.header->capabilities & FSOCKET_CAP_MIGRATE) &&
			 !cpu_owners(l->cookie, c->cpu);
		/* Another process has a slot of its own on this CPU: it cannot serve this one. */
		if (!orphan)
			shutdown(fd, SHUT_RD);
	}
	if (orphan) {
		slot_state_set(row, FSOCKET_SLOT_ORPHAN);
		/* Nothing would move them: no new ones, and who is left serves the queue. */
		row->pid = row->tid = 0;
		__atomic_fetch_add(&l->row->orphans, 1, __ATOMIC_RELAXED);
		mode_sync(l, 1);
	} else {
		slot_row_clear(row);
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

	/* Of several, only one can come back. */
	slots_before_wait();
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
	int result, keep = errno;

	/* A program may pin its threads any time before it adds listeners. */
	if (op == EPOLL_CTL_ADD && leaving != l) {
		thread_ask_again();
		l->blocking = blocks(l->fd);
	}
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
	errno = keep;
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
	struct fsocket_slot *row = c->row;
	uint32_t state = slot_state(row);
	struct tcp_info info;
	socklen_t length = sizeof(info);
	int fd = l->slots[c->cpu], none = -1;
	uint32_t limit;

	/* On a listener: queue length and backlog, net/ipv4/tcp.c:tcp_get_info. */
	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length))
		return;
	__atomic_store_n(&row->queue, info.tcpi_unacked, __ATOMIC_RELAXED);
	__atomic_store_n(&row->backlog, info.tcpi_sacked, __ATOMIC_RELAXED);
	limit = (uint32_t)((uint64_t)info.tcpi_sacked * (uint32_t)settings.spill / 100);
	if (!limit)
		return;
	if (state == FSOCKET_SLOT_ON && info.tcpi_unacked > limit) {
		/* No socket claims the CPU now: the kernel spreads by hash over all. */
		if (setsockopt(fd, SOL_SOCKET, SO_INCOMING_CPU, &none, sizeof(none)))
			return;
		slot_state_set(row, FSOCKET_SLOT_SPILLING);
		COUNT(c->cpu, spills);
	} else if (state == FSOCKET_SLOT_SPILLING && info.tcpi_unacked < limit / SPILL_BACK) {
		if (!setsockopt(fd, SOL_SOCKET, SO_INCOMING_CPU, &c->cpu, sizeof(c->cpu)))
			slot_state_set(row, FSOCKET_SLOT_ON);
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
			   socklen_t *length, int flags, int *from_slot)
{
	struct pollfd both[] = { { .fd = slot, .events = POLLIN }, { .fd = l->fd, .events = POLLIN } };

	if (poll(both, 2, -1) < 0)
		return -1;
	*from_slot = both[0].revents & POLLIN;
	return plain_accept(*from_slot ? slot : both[1].fd, address, length, flags);
}

static int accept_on(struct listener *l, struct claim *c, struct sockaddr *address,
		     socklen_t *length, int flags)
{
	int slot = l->slots[c->cpu], keep, fd;
	int slot_first = __atomic_fetch_add(&c->accepts, 1, __ATOMIC_RELAXED) % FAIR_TURN != FAIR_TURN - 1;
	int from_slot = slot_first;

	if (l->blocking && blocks(l->fd)) {
		fd = accept_blocking(l, slot, address, length, flags, &from_slot);
		goto accepted;
	}
	fd = plain_accept(slot_first ? slot : l->fd, address, length, flags);
	if (fd < 0 && slot_first && nothing(errno) && errno != EAGAIN)
		COUNT_ERROR(FSOCKET_ERR_ACCEPT);
	if (fd < 0 && nothing(errno)) {
		from_slot = !slot_first;
		fd = plain_accept(slot_first ? l->fd : slot, address, length, flags);
	}
	if (fd < 0 && errno == EAGAIN && has_orphans(l->row)) {
		from_slot = 1;
		fd = accept_orphan(l, address, length, flags);
	}
accepted:
	keep = errno;
	if (fd >= 0)
		count_accept(fd, !from_slot);
	if (__atomic_load_n(&c->accepts, __ATOMIC_RELAXED) % QUEUE_TURN == 0)
		spill_check(l, c);
	errno = keep;
	return fd;
}

/* As the plain libc; then what had already come to the slot. */
static int accept_off(struct listener *l, struct claim *c, struct sockaddr *address,
		      socklen_t *length, int flags)
{
	int fd, keep;

	slot_state_set(c->row, FSOCKET_SLOT_OFF);
	if (l->blocking && blocks(l->fd))
		return accept_blocking(l, l->slots[c->cpu], address, length, flags, &keep);
	fd = plain_accept(l->fd, address, length, flags);
	if (fd >= 0 || errno != EAGAIN)
		return fd;
	fd = plain_accept(l->slots[c->cpu], address, length, flags);
	if (fd >= 0 || !nothing(errno))
		return fd;
	keep = EAGAIN;
	if (!is_sole(l->row))
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
	if (c && slot_state(c->row) == FSOCKET_SLOT_OFF)
		slot_state_set(c->row, FSOCKET_SLOT_ON);
	if (c)
		return accept_on(l, c, address, length, flags);
	fd = plain_accept(l->fd, address, length, flags);
	/* Also the thread pool's case: who accepts is not who added the listener to the epoll. */
	if (fd < 0 && errno == EAGAIN && (l->claimed || has_orphans(l->row)))
		fd = accept_orphan(l, address, length, flags);
	if (fd >= 0 && on)
		count_accept(fd, 1);
	return fd;
}
