/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
#define _GNU_SOURCE
#include "ports.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "fds.h"
#include "real.h"
#include "settings.h"
#include "shared.h"
#include "thread.h"

#ifndef IP_LOCAL_PORT_RANGE
#define IP_LOCAL_PORT_RANGE 51	/* include/uapi/linux/in.h, Linux 6.3 */
#endif

/* Fewer ports a CPU than this would only run full. */
#define BLOCK_LEAST 64
/* After a full block its CPU uses the whole range for so long: the search of a full block is dear. */
#define FULL_PAUSE_S 1

static struct port_blocks blocks;
static __thread time_t full_until;

struct port_blocks ports_plan(unsigned int low, unsigned int high, unsigned int cpus)
{
	for (unsigned int size = 32768; cpus && size >= BLOCK_LEAST; size /= 2) {
		unsigned int first = (low + size - 1) / size * size;

		if ((uint64_t)first + (uint64_t)size * cpus <= (uint64_t)high + 1)
			return (struct port_blocks){ first, size };
	}
	return (struct port_blocks){ 0, 0 };
}

uint32_t ports_range(struct port_blocks b, unsigned int cpu)
{
	uint32_t low = b.first + b.size * cpu;

	return low | (low + b.size - 1) << 16;
}

/* Highest CPU id that is online, plus one: "0-3,8" is 9. */
static unsigned int online_cpus(void)
{
	FILE *file = fopen("/sys/devices/system/cpu/online", "re");
	unsigned int last = 0;
	int c, found = 0;

	while (file && (c = fgetc(file)) != EOF && c != '\n') {
		if (c < '0' || c > '9') {
			last = 0;
			continue;
		}
		last = last * 10 + (unsigned int)(c - '0');
		found = 1;
	}
	if (file)
		fclose(file);
	return found ? last + 1 : (unsigned int)sysconf(_SC_NPROCESSORS_ONLN);
}

void ports_init(void)
{
	unsigned int low = 0, high = 0;
	uint32_t whole = 0;
	FILE *file;
	int fd;

	if (!settings.connect)
		return;
	fd = real.socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return;
	if (!setsockopt(fd, IPPROTO_IP, IP_LOCAL_PORT_RANGE, &whole, sizeof(whole)))
		shared.header->capabilities |= FSOCKET_CAP_PORT_RANGE;
	real.close(fd);
	if (!(shared.header->capabilities & FSOCKET_CAP_PORT_RANGE))
		return;
	file = fopen("/proc/sys/net/ipv4/ip_local_port_range", "re");
	if (file && fscanf(file, "%u %u", &low, &high) == 2)
		blocks = ports_plan(low, high, online_cpus());
	if (file)
		fclose(file);
	shared.header->port_first = blocks.first;
	shared.header->port_block = blocks.size;
}

/* The same host: nothing to steer, and not counted. */
static int loopback(const struct sockaddr *a, socklen_t length)
{
	const struct sockaddr_in6 *six = (const void *)a;
	const struct sockaddr_in *four = (const void *)a;

	if (a->sa_family == AF_INET && length >= sizeof(*four))
		return ntohl(four->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
	if (a->sa_family == AF_INET6 && length >= sizeof(*six))
		return IN6_IS_ADDR_LOOPBACK(&six->sin6_addr);
	return 1;	/* AF_UNSPEC, or too short: for the kernel to judge */
}

static time_t coarse_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	return now.tv_sec;
}

/* 1 when the socket now searches its CPU's block only. */
static int steer(int fd, int cpu)
{
	uint32_t range;

	if (!blocks.size || cpu < 0 || (full_until && coarse_s() < full_until))
		return 0;
	range = ports_range(blocks, (unsigned int)cpu);
	/* A CPU that came online after the start has no block. */
	if ((range >> 16) < (range & 0xffff))
		return 0;
	return !setsockopt(fd, IPPROTO_IP, IP_LOCAL_PORT_RANGE, &range, sizeof(range));
}

int ports_connect(int fd, const struct sockaddr *address, socklen_t length)
{
	int cpu, steered, result, keep = errno;
	uint32_t whole = 0;

	if (!address || loopback(address, length))
		return real.connect(fd, address, length);
	cpu = thread_cpu();
	steered = steer(fd, cpu);
	errno = keep;
	result = real.connect(fd, address, length);
	if (result < 0 && errno == EADDRNOTAVAIL && steered) {
		full_until = coarse_s() + FULL_PAUSE_S;
		COUNT_ERROR(FSOCKET_ERR_PORTS);
		setsockopt(fd, IPPROTO_IP, IP_LOCAL_PORT_RANGE, &whole, sizeof(whole));
		errno = keep;
		steered = 0;
		result = real.connect(fd, address, length);
	}
	if (result < 0 && errno != EINPROGRESS)
		return result;
	keep = errno;
	if (cpu < 0)
		cpu = counting_cpu(coarse_ms());
	fd_set_kind(fd, FD_ACTIVE, (unsigned int)cpu);
	if (steered)
		COUNT(cpu, connects_steered);
	else
		COUNT(cpu, connects_unsteered);
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

