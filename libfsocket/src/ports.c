/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
#define _GNU_SOURCE
#include "ports.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/auxv.h>
#include <time.h>

#include "fds.h"
#include "kernel.h"
#include "real.h"
#include "rss.h"
#include "settings.h"
#include "shared.h"
#include "thread.h"

void ports_init(void)
{
	uint32_t whole = 0;
	int fd;

	if (!settings.connect)
		return;
	fd = real.socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return;
	if (!setsockopt(fd, IPPROTO_IP, IP_LOCAL_PORT_RANGE, &whole, sizeof(whole)))
		__atomic_fetch_or(&shared.header->capabilities, FSOCKET_CAP_PORT_RANGE, __ATOMIC_RELAXED);
	real.close(fd);
	if (!(shared.header->capabilities & FSOCKET_CAP_PORT_RANGE))
		return;
	plan_init();
}

/* ---- destinations ------------------------------------------------------ */

/* In the order in which they are tried, see ports.h. */
enum level { RSS_IN_BLOCK, RSS_IN_RANGE, BLOCK, WHOLE };
static const int level_tries[WHOLE] = { 4, 8, 1 };

/* What had no port is not tried for so long: the search of a full block is dear. */
#define PAUSE_MS 1000
/* So long we go by the source address that the last connection had. */
#define LEARNT_MS 10000
/* Of a thread; a destination that meets another in its place begins anew. */
#define DESTINATIONS 64

struct destination {
	uint64_t key;
	const struct rss_nic *nic;	/* NULL: not known, or RSS is no help */
	uint32_t base;			/* hash of a reply without our port */
	uint32_t learnt, paused;	/* when, ms; that they begin anew after 49 days does no harm */
	uint16_t next[2];		/* port from which the next single one of the block, of the range is looked for */
	uint8_t pause;			/* enum level to begin with after paused */
	uint8_t six;
};

static __thread struct destination destinations[DESTINATIONS];
/* The source address of the last connection, IPv4 and IPv6: a good guess for a destination that is new. */
static __thread struct in6_addr usual[2];

/* A few bits that an outsider cannot foresee are enough: as the kernel's own steps from port to port. */
static uint32_t any(void)
{
	static __thread uint32_t state;

	if (!state) {
		const void *seed = (const void *)getauxval(AT_RANDOM);
		struct timespec now;

		if (seed)
			memcpy(&state, seed, sizeof(state));
		clock_gettime(CLOCK_MONOTONIC, &now);
		state = (state ^ (uint32_t)now.tv_nsec ^ (uint32_t)thread_tid() << 12) | 1;
	}
	state ^= state << 13;
	state ^= state >> 17;
	state ^= state << 5;
	return state;
}

static uint64_t mix(uint64_t sum, const void *bytes, size_t length)
{
	for (size_t i = 0; i < length; i += 8) {
		uint64_t word = 0;

		memcpy(&word, (const char *)bytes + i, length - i < 8 ? length - i : 8);
		sum = (sum ^ word) * 0x9e3779b97f4a7c15u;
		sum ^= sum >> 29;
	}
	return sum;
}

/*
 * flow->local: the address the application has bound, all 0: none. With other nics, as
 * DIR/rss was read again, all destinations are new.
 */
static struct destination *find(const struct rss_flow *flow, const struct rss_nic *nics, uint32_t now)
{
	uint64_t key = mix(mix(1, &nics, sizeof(nics)), &flow->remote, sizeof(flow->remote));
	struct destination *d;

	key = mix(mix(key, &flow->local, sizeof(flow->local)), &flow->remote_port, sizeof(flow->remote_port)) | 1;
	d = &destinations[(key >> 32) % DESTINATIONS];
	if (d->key != key)
		*d = (struct destination){ .key = key, .learnt = now - LEARNT_MS, .paused = now - PAUSE_MS,
					   .next = { (uint16_t)any(), (uint16_t)any() } };
	return d;
}

/* Which NIC gets the replies, and how it hashes them. */
static void learn(struct destination *d, const struct rss_flow *flow, int cpu)
{
	int count;
	const struct rss_nic *nics = rss_now(&count);

	d->nic = rss_find(nics, count, &flow->local, cpu);
	d->six = !IN6_IS_ADDR_V4MAPPED(&flow->remote);
	if (d->nic)
		d->base = rss_base(d->nic, flow);
}

/* 1 and the address when fd has one; the port goes to *port. */
static int local_address(int fd, struct in6_addr *address, in_port_t *port)
{
	struct sockaddr_in6 own;
	socklen_t length = sizeof(own);

	return !getsockname(fd, (struct sockaddr *)&own, &length) &&
	       rss_address((struct sockaddr *)&own, address, port);
}

/* Neither 0.0.0.0 nor :: */
static int specific(const struct in6_addr *a)
{
	static const struct in6_addr any_four = { .s6_addr = { [10] = 0xff, [11] = 0xff } };

	return !IN6_IS_ADDR_UNSPECIFIED(a) && !IN6_ARE_ADDR_EQUAL(a, &any_four);
}

/* Before a connect(): the source address, where the application has not bound one, will be the usual one. */
static void expect(struct destination *d, struct rss_flow *flow, int cpu)
{
	if (!specific(&flow->local))
		flow->local = usual[!IN6_IS_ADDR_V4MAPPED(&flow->remote)];
	if (specific(&flow->local))
		learn(d, flow, cpu);
}

/* After it: was it? */
static void confirm(struct destination *d, struct rss_flow *flow, int fd, int cpu, uint32_t now)
{
	struct in6_addr expected = flow->local;
	in_port_t port;

	if (!local_address(fd, &flow->local, &port))
		return;
	if (!IN6_ARE_ADDR_EQUAL(&flow->local, &expected))
		learn(d, flow, cpu);
	usual[!IN6_IS_ADDR_V4MAPPED(&flow->remote)] = flow->local;
	d->learnt = now;
}

/* ---- connect() --------------------------------------------------------- */

struct attempt {
	struct destination *d;
	struct plan plan;
	int cpu;
	enum level level;
	int tries;		/* at this level */
};

/* The CPU's block as IP_LOCAL_PORT_RANGE takes it; 0: a CPU without one, such as one that came online later. */
static uint32_t block(const struct attempt *a)
{
	uint32_t range = ports_range((struct port_blocks){ a->plan.first, a->plan.size }, (unsigned int)a->cpu);

	return (range >> 16) <= a->plan.high ? range : 0;
}

/* A port from *next on that brings the replies to our CPU; -1: none. */
static int search(const struct attempt *a, uint32_t range, unsigned int next)
{
	unsigned int low = range & 0xffff, count = (range >> 16) - low + 1;

	return rss_port(a->d->nic, a->d->six, a->d->base, (unsigned int)a->cpu, low, count, next + 65536 - low);
}

/* One such port, of the block or of what is around it, as a range of its own; 0: none. */
static uint32_t single(const struct attempt *a)
{
	uint32_t mine = block(a), range = a->level == RSS_IN_BLOCK ? mine : a->plan.low | (uint32_t)a->plan.high << 16;
	uint16_t *next = &a->d->next[a->level];
	int port = range ? search(a, range, *next) : -1;

	/* Those of the block were tried before. */
	if (range != mine && port >= (int)(mine & 0xffff) && port <= (int)(mine >> 16)) {
		port = search(a, range, (mine >> 16) + 1);
		if (port >= (int)(mine & 0xffff) && port <= (int)(mine >> 16))
			port = -1;
	}
	if (port < 0)
		return 0;
	/* Not the very next one: who sees one port should not know the other. */
	*next = (uint16_t)(port + 1 + (int)(any() >> 29));
	return (uint32_t)port | (uint32_t)port << 16;
}

/* The next range to try; 0: the whole, and nothing comes after it. */
static uint32_t next_range(struct attempt *a)
{
	for (; a->level < WHOLE; a->level++, a->tries = 0) {
		uint32_t range = 0;

		if (a->tries++ < level_tries[a->level])
			range = a->level == BLOCK ? block(a) : single(a);
		if (range)
			return range;
	}
	return 0;
}

static enum level first_level(const struct attempt *a, uint32_t now)
{
	enum level level = a->d->nic ? RSS_IN_BLOCK : BLOCK;

	if (!block(a))
		level = a->d->nic ? RSS_IN_RANGE : WHOLE;
	return now - a->d->paused < PAUSE_MS && a->d->pause > level ? (enum level)a->d->pause : level;
}

static int set_range(int fd, uint32_t range)
{
	return setsockopt(fd, IPPROTO_IP, IP_LOCAL_PORT_RANGE, &range, sizeof(range));
}

static uint32_t get_range(int fd)
{
	uint32_t range = 0;
	socklen_t length = sizeof(range);

	/* Where it cannot be asked for it cannot be set either, and connect() is the plain one. */
	return getsockopt(fd, IPPROTO_IP, IP_LOCAL_PORT_RANGE, &range, &length) ? 0 : range;
}

/* The same host: nothing to steer, and not counted. Also what is for the kernel to judge. */
static int same_host(const struct sockaddr *address, socklen_t length, struct rss_flow *flow)
{
	size_t least = sizeof(struct sockaddr_in6);
	uint8_t *four = &flow->remote.s6_addr[12];

	if (!address || length < sizeof(struct sockaddr_in))
		return 1;
	if (address->sa_family == AF_INET)
		least = sizeof(struct sockaddr_in);
	if (length < least || !rss_address(address, &flow->remote, &flow->remote_port))
		return 1;
	if (IN6_IS_ADDR_V4MAPPED(&flow->remote))
		return *four == IN_LOOPBACKNET || !specific(&flow->remote);
	return IN6_IS_ADDR_LOOPBACK(&flow->remote) || !specific(&flow->remote);
}

/* On its way, or there: EINTR leaves a connect() to go on by itself. */
static int under_way(int result)
{
	return !result || errno == EINPROGRESS || errno == EINTR;
}

static int steered_connect(int fd, const struct sockaddr *address, socklen_t length, struct attempt *a, uint32_t now)
{
	enum level first = a->level;
	uint32_t range, set = 0;
	int result, keep = errno;

	do {
		range = next_range(a);
		if (range != set && set_range(fd, range)) {
			first = a->level = WHOLE;
			range = 0;
		}
		set = range;
		errno = keep;
		result = real.connect(fd, address, length);
	} while (result < 0 && errno == EADDRNOTAVAIL && range);
	keep = errno;
	if (a->level > first && a->level >= BLOCK) {
		a->d->pause = (uint8_t)a->level;
		a->d->paused = now;
		if (a->level == WHOLE && !(result < 0 && keep == EADDRNOTAVAIL))
			COUNT_ERROR(FSOCKET_ERR_PORTS);
	}
	/* What is set on a socket of ours stays ours to know only while it is FD_ACTIVE. */
	if (set && !under_way(result))
		set_range(fd, 0);
	errno = keep;
	return result;
}

/* connect() on a socket that we connected before: to ask how it stands, to end it, or anew. */
static int again(int fd, const struct sockaddr *address, socklen_t length)
{
	int result = real.connect(fd, address, length), keep = errno;

	if (!result && address && length >= sizeof(address->sa_family) && address->sa_family == AF_UNSPEC) {
		if (get_range(fd))
			set_range(fd, 0);
		/* With the address it was bound to, if it was: the next connect() asks. */
		fd_set_kind(fd, FD_BOUND, 0);
	} else if (result < 0 && keep == EADDRNOTAVAIL && get_range(fd)) {
		set_range(fd, 0);
		errno = keep;
		return real.connect(fd, address, length);
	}
	errno = keep;
	return result;
}

int ports_connect(int fd, const struct sockaddr *address, socklen_t length)
{
	enum fd_kind kind = fd_kind(fd_get(fd));
	const struct rss_nic *nics;
	int result, count, booked, steerable, keep = errno;
	struct attempt a = { .level = WHOLE };
	struct rss_flow flow = { .remote_port = 0 };
	int64_t ms = coarse_ms();
	uint32_t now = (uint32_t)ms;
	in_port_t port = 0;

	if (kind == FD_ACTIVE)
		return again(fd, address, length);
	if (same_host(address, length, &flow))
		return real.connect(fd, address, length);
	booked = counting_cpu(ms);
	/* A thread that was pinned, where it is now: an operator may have moved it. */
	a.cpu = thread_cpu() < 0 ? -1 : booked;
	a.plan = plan_at(ms);
	nics = rss_now(&count);
	/* Bound with a port, or with a range of the application's own: its choice. */
	steerable = a.cpu >= 0 && a.plan.high && (kind == FD_FRESH || (local_address(fd, &flow.local, &port) && !port)) &&
		    !get_range(fd);
	if (steerable) {
		a.d = find(&flow, nics, now);
		if (count && now - a.d->learnt >= LEARNT_MS)
			expect(a.d, &flow, a.cpu);
		a.level = first_level(&a, now);
	}
	errno = keep;
	result = steerable ? steered_connect(fd, address, length, &a, now) : real.connect(fd, address, length);
	if (result < 0 && !under_way(result))
		return result;
	keep = errno;
	if (a.d && count && now - a.d->learnt >= LEARNT_MS)
		confirm(a.d, &flow, fd, a.cpu, now);
	fd_set_kind(fd, FD_ACTIVE, (unsigned int)booked);
	if (a.level < WHOLE)
		COUNT(booked, connects_steered);
	else
		COUNT(booked, connects_unsteered);
	errno = keep;
	return result;
}

void ports_closing(int fd, unsigned int cpu)
{
	static __thread struct looks looks;
	int incoming = -1, keep = errno;
	socklen_t length = sizeof(incoming);

	if (!looks_take(&looks, coarse_ms()))
		return;
	/* -1: no packet ever came (refused in silence, or given up). */
	if (!getsockopt(fd, SOL_SOCKET, SO_INCOMING_CPU, &incoming, &length) && incoming >= 0) {
		if ((unsigned int)incoming == cpu)
			COUNT(cpu, connects_local);
		else
			COUNT(cpu, connects_remote);
	}
	errno = keep;
}
