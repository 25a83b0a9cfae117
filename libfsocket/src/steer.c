/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
#define _GNU_SOURCE
#include "steer.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <time.h>

#include "kernel.h"
#include "migrate.h"
#include "real.h"
#include "settings.h"

/* A softirq's work on a SYN or an ACK takes some microseconds. The locked table waits as long. */
#define HANDSHAKES_NS 100000
/* A group of two that chose by hash would come through the probe in one of 100 million cases. */
#define PROBES 40
/* Tries for so many that tell something. */
#define TRIES (10 * PROBES)
/* For which is waited so long in all. */
#define PATIENCE_MS 100
/* A thread that moved on with the SYN and back with the ACK has missed for nothing. */
#define MISSES 3

static int detach(int fd)
{
	int none = 0;

	return real.setsockopt(fd, SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, &none, sizeof(none)) && errno != ENOENT ? -1 : 0;
}

/*
 * SLOTS: no program that chooses, SO_INCOMING_CPU decides (net/core/sock_reuseport.c:
 * reuseport_select_sock_by_hash), or where it does not, the program of choose.h. GLOBAL: a program that always answers 0, the
 * index of the group's first member: the application's own listener, as it
 * listened first. The slots stay open for the handshakes under way.
 */
static int mode_set(const struct listener *l, enum fsocket_mode mode)
{
	static struct sock_filter first = { BPF_RET | BPF_K, 0, 0, 0 };
	static struct sock_fprog program = { 1, &first };	/* static: no stack bytes in its padding */
	int result = steer_by_program() ? choose_attach(l) : 0;

	if (mode == FSOCKET_MODE_GLOBAL)
		return real.setsockopt(l->fd, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &program, sizeof(program));
	if (steer_by_program())
		return result;
	return migrate_attach(l->fd) ? detach(l->fd) : 0;
}

/*
 * The group as the word says. Another process may change both meanwhile, in whatever order: who wrote to the group last
 * has looked at the word after that, and found what it wrote.
 */
static int mode_apply(const struct listener *l)
{
	uint32_t mode = __atomic_load_n(&l->row->mode, __ATOMIC_SEQ_CST), was;
	int result = 0;

	do {
		was = mode;
		if (was == FSOCKET_MODE_SLOTS || was == FSOCKET_MODE_GLOBAL)
			result = mode_set(l, (enum fsocket_mode)was);
		mode = __atomic_load_n(&l->row->mode, __ATOMIC_SEQ_CST);
	} while (mode != was);
	return result;
}

/*
 * The group could not be told. A thread may end after another one of its process has closed the listener: a process that
 * has it tells the group at its next look. Locked, where a program chooses.
 */
static void refused(const struct listener *l)
{
	if (socket_cookie(l->fd) == l->cookie)
		COUNT_ERROR(FSOCKET_ERR_MODE);
	else if (steer_by_program())
		choose_again(l);
}

static inline void sync_mode(const struct listener *l, int on, int locked)
{
	struct fsocket_listener *row = l->row;
	/* A program passes slots without owner by. */
	uint32_t want = on && (!has_orphans(row) || steer_by_program()) ? FSOCKET_MODE_SLOTS : FSOCKET_MODE_GLOBAL;
	uint32_t have = __atomic_load_n(&row->mode, __ATOMIC_RELAXED);

	/* SHARDED: an old worker still has a slot from before. */
	if (__builtin_expect(want == have, 1) || have == FSOCKET_MODE_SHARDED || !is_sole(row))
		return;
	/* Else without it, or a process that stands still would keep the others from turning off. */
	locked = locked || !steer_by_program();
	if (!locked && !shared_trylock())
		return;
	if (__atomic_compare_exchange_n(&row->mode, &have, want, 0, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED) &&
	    mode_apply(l))
		refused(l);
	if (!locked)
		shared_unlock();
}

void steer_sync(const struct listener *l, int on)
{
	sync_mode(l, on, 0);
}

void steer_sync_locked(const struct listener *l, int on)
{
	sync_mode(l, on, 1);
}

int steer_prefer_locked(const struct listener *l, int slot, int cpu)
{
	if (steer_by_program())
		return choose_prefer(l, slot, cpu);
	return setsockopt(l->slots[slot], SOL_SOCKET, SO_INCOMING_CPU, &cpu, sizeof(cpu));
}

int steer_prefer(const struct listener *l, int slot, int cpu)
{
	int by_program = steer_by_program(), result;

	if (by_program && !shared_trylock())
		return -1;
	result = steer_prefer_locked(l, slot, cpu);
	if (by_program)
		shared_unlock();
	return result;
}

void steer_forget(const struct listener *l, int slot)
{
	if (steer_by_program())
		choose_remove(l, slot);
}

void steer_orphan(const struct listener *l, int slot)
{
	if (!steer_by_program())
		steer_sync_locked(l, 1);
	else if (choose_prefer(l, slot, -1) || choose_attach(l))
		refused(l);
}

void steer_share(const struct listener *l)
{
	struct fsocket_listener *row = l->row;
	uint32_t was = __atomic_exchange_n(&row->mode, FSOCKET_MODE_SHARDED, __ATOMIC_RELAXED);

	/* A process without root's rights has no program: that of its master stays, but not one that chooses. */
	if (is_sole(row) && migrate_attach(l->fd) && (was == FSOCKET_MODE_GLOBAL || steer_by_program()))
		detach(l->fd);
}

void steer_join(const struct listener *l)
{
	/* A program of ours that chooses knows nothing of this one. */
	if (listener_shared(l->row) && migrate_attach(l->fd))
		detach(l->fd);
}

int steer_leave(const struct listener *l)
{
	if (!is_sole(l->row))
		return 0;
	__atomic_store_n(&l->row->sole, 0, __ATOMIC_RELAXED);
	if (migrate_attach(l->fd))
		detach(l->fd);
	return 1;
}

void steer_detach(int fd)
{
	detach(fd);
}

/* Nobody is left who would turn the switch for the group: who joins it later is to get its share. */
static int group_leave(const struct listener *l)
{
	__atomic_store_n(&l->row->mode, FSOCKET_MODE_UNKNOWN, __ATOMIC_RELAXED);
	return migrate_attach(l->fd) ? detach(l->fd) : 0;
}

static int global_again(const struct listener *l)
{
	return listener_owners(l->cookie) ? mode_apply(l) : group_leave(l);
}

/*
 * A handshake that one CPU completes in the microsecond in which another ends its listener is reset: it has chosen
 * before, and nothing moves it afterwards (net/ipv4/inet_connection_sock.c: inet_csk_reqsk_queue_add). A slot gets
 * handshakes of other CPUs while these have none. So new ones go to the application's listener first, and what
 * softirqs have in hand is waited for. 1: that is so.
 *
 * Not soon after another end, unless the sysctl moves what it left half open: the program that does is away for the
 * moment, and each ACK that comes in it finds no listener. At the same rate of connections those are a hundred times as
 * many, where a round trip takes longer than the moment.
 */
static int handshakes_end(const struct listener *l)
{
	const struct timespec moment = { .tv_nsec = HANDSHAKES_NS };

	choose_moment_set(l, 1);
	if (mode_set(l, FSOCKET_MODE_GLOBAL)) {
		choose_moment_set(l, 0);
		return 0;
	}
	nanosleep(&moment, NULL);
	return 1;
}

void steer_end(const struct listener *l, int slot)
{
	uint32_t mode = is_sole(l->row) ? __atomic_load_n(&l->row->mode, __ATOMIC_RELAXED) : FSOCKET_MODE_UNKNOWN;
	int global = mode == FSOCKET_MODE_GLOBAL, by_program = steer_by_program();
	int by_sysctl = migrate_by_sysctl(), late = choose_ended(l) && !by_sysctl;
	int quiet = mode == FSOCKET_MODE_SLOTS && migrate_works() && !late && handshakes_end(l), moves;

	/* With a program that chooses nothing would be moved, but by the sysctl. */
	moves = (global || quiet || by_program) && !by_sysctl && !migrate_attach(l->fd);
	real.shutdown(l->slots[slot], SHUT_RD);
	if (by_program)
		choose_remove(l, slot);
	/* In GLOBAL no handshake is under way to a slot. */
	if (by_program && !global && moves)
		choose_wait(l);
	if (global ? global_again(l) : by_program ? choose_attach(l) : quiet && mode_apply(l))
		refused(l);
	if (quiet)
		choose_moment_set(l, 0);
}

void steer_again(const struct listener *l)
{
	if (!shared_trylock())
		return;
	if (choose_moment(l) && is_sole(l->row) && mode_apply(l))
		refused(l);
	choose_moment_set(l, 0);
	shared_unlock();
}

void steer_close(const struct listener *l, int fd)
{
	/* One that an owner left has been ended, but for orphans. */
	int orphans = steer_by_program() && l->row && has_orphans(l->row);

	if (orphans)
		shared_lock();
	real.close(fd);
	if (orphans) {
		choose_check(l);
		shared_unlock();
	}
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

/* The connection from a port, and which listener it came to; -1: it has not come. Those of tries before, late, end. */
static int probe_accept(const int listeners[2], in_port_t port, int *which)
{
	for (*which = 0; *which < 2; ++*which) {
		struct sockaddr_in peer;
		socklen_t length = sizeof(peer);
		int fd;

		while ((fd = real.accept4(listeners[*which], (struct sockaddr *)&peer, &length, SOCK_CLOEXEC)) >= 0) {
			if (peer.sin_port == port)
				return fd;
			real.close(fd);
			length = sizeof(peer);
		}
	}
	return -1;
}

/* One connection: 1 it came to the CPU, and to the first listener, 0 to the other one, -1 not known. */
static int probe_once(const struct sockaddr_in *a, const int listeners[2], int wanted, int *patience)
{
	struct pollfd both[] = { { .fd = listeners[0], .events = POLLIN }, { .fd = listeners[1], .events = POLLIN } };
	int fd = real.socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int here = -1, cpu = -1, which, found = -1;
	struct sockaddr_in mine = { .sin_port = 0 };
	socklen_t length = sizeof(mine);

	if (fd >= 0 && (!real.connect(fd, (const struct sockaddr *)a, sizeof(*a)) || errno == EINPROGRESS) &&
	    !getsockname(fd, (struct sockaddr *)&mine, &length))
		/*
		 * Over loopback the handshake is over when connect() returns, but for a CPU so busy that ksoftirqd
		 * has to do it. Where a firewall drops it, nobody waits for long.
		 */
		while ((here = probe_accept(listeners, mine.sin_port, &which)) < 0 && *patience > 0 &&
		       poll(both, 2, 1) >= 0)
			--*patience;
	length = sizeof(cpu);
	if (here >= 0) {
		found = !which;
		/* The thread may have moved on, or RPS spread the packets: then it tells nothing. */
		if (getsockopt(here, SOL_SOCKET, SO_INCOMING_CPU, &cpu, &length) || cpu != wanted)
			found = -1;
		real.close(here);
	}
	if (fd >= 0)
		real.close(fd);
	return found;
}

/* From now on the first of the two is to get the connections of this CPU. */
static int prefer_by_option(const int listeners[2], int cpu)
{
	return setsockopt(listeners[0], SOL_SOCKET, SO_INCOMING_CPU, &cpu, sizeof(cpu));
}

/* The second member of the group is first here. */
static int prefer_by_program(const int listeners[2], int cpu)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)(SKF_AD_OFF + SKF_AD_CPU)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)cpu, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, 1),
		BPF_STMT(BPF_RET | BPF_K, 0),
	};
	struct sock_fprog program;

	memset(&program, 0, sizeof(program));	/* its padding, too */
	program.len = sizeof(code) / sizeof(*code);
	program.filter = code;
	return real.setsockopt(listeners[0], SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &program, sizeof(program));
}

/* A thread that is not pinned, on a busy machine, moves on all the time: each try is for the CPU of now. */
static int probe_all(const struct sockaddr_in *a, const int listeners[2], int (*prefer)(const int *, int))
{
	int known = 0, missed = 0, patience = PATIENCE_MS;

	for (int i = 0; i < TRIES && known < PROBES && missed <= MISSES; i++) {
		int cpu = sched_getcpu(), found;

		if (prefer(listeners, cpu))
			return 0;
		found = probe_once(a, listeners, cpu, &patience);
		known += found >= 0;
		missed += !found;
	}
	return missed <= MISSES;
}

/* FSOCKET_CAP_INCOMING_CPU, FSOCKET_CAP_CBPF or neither. */
static uint32_t probe(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int listeners[2] = { -1, -1 };
	uint32_t found = FSOCKET_CAP_INCOMING_CPU;

	listeners[0] = probe_listener(&a);
	if (listeners[0] >= 0)
		listeners[1] = probe_listener(&a);
	if (listeners[1] >= 0 && !probe_all(&a, listeners, prefer_by_option)) {
		const int swapped[] = { listeners[1], listeners[0] };

		found = probe_all(&a, swapped, prefer_by_program) ? FSOCKET_CAP_CBPF : 0;
	}
	for (int i = 0; i < 2; i++)
		if (listeners[i] >= 0)
			real.close(listeners[i]);
	return found;
}

int steer_works(void)
{
	uint32_t known = __atomic_load_n(&shared.header->capabilities, __ATOMIC_RELAXED);
	int keep = errno;

	if (!(known & FSOCKET_CAP_PROBED)) {
		known = FSOCKET_CAP_PROBED | probe();
		__atomic_or_fetch(&shared.header->capabilities, known, __ATOMIC_RELAXED);
		if (known & FSOCKET_CAP_CBPF)
			say(2, "this kernel does not choose by SO_INCOMING_CPU in a group: a program of ours does");
		else if (!(known & FSOCKET_CAP_INCOMING_CPU))
			say(1, "this kernel chooses neither by SO_INCOMING_CPU nor by a program in a group: "
			       "listeners keep one queue");
	}
	errno = keep;
	return (known & (FSOCKET_CAP_INCOMING_CPU | FSOCKET_CAP_CBPF)) != 0;
}
