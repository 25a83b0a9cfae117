// SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
// SPDX-License-Identifier: GPL-2.0-only
/* See lib.h. A function that fails returns a negative errno, unless it says otherwise. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/tcp.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/sysinfo.h>
#include <sys/time.h>
#include <unistd.h>

#include "lib.h"

#ifndef SO_INCOMING_CPU
#define SO_INCOMING_CPU 49
#endif

static const char header[] = "cpu accepts_local accepts_remote accepts_global connects_local connects_remote "
			     "lookups_local lookups_fallback\n";

int cpus(void)
{
	return get_nprocs();
}

int pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	return sched_setaffinity(0, sizeof(set), &set) ? -errno : 0;
}

int unpin(void)
{
	cpu_set_t set;

	memset(&set, 0xff, sizeof(set));
	return sched_setaffinity(0, sizeof(set), &set) ? -errno : 0;
}

int file_write(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);
	int ret = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, text, strlen(text)) < 0)
		ret = -errno;
	close(fd);
	return ret;
}

int file_write_number(const char *path, long long number)
{
	char text[32];

	snprintf(text, sizeof(text), "%lld", number);
	return file_write(path, text);
}

/* -1 when it cannot be read. */
long long file_number(const char *path)
{
	long long number = -1;
	FILE *file = fopen(path, "r");

	if (!file)
		return -1;
	if (fscanf(file, "%lld", &number) != 1)
		number = -1;
	fclose(file);
	return number;
}

int counters_read(struct counters *counters)
{
	char line[512];
	FILE *file = fopen(COUNTERS, "r");
	int ret = -EPROTO;

	memset(counters, 0, sizeof(*counters));
	if (!file)
		return -errno;
	if (!fgets(line, sizeof(line), file) || strcmp(line, header))
		goto out;
	while (fgets(line, sizeof(line), file)) {
		char *at = line, *end;
		unsigned long cpu = strtoul(at, &end, 10);
		int column;

		if (end == at)
			goto out;
		if (cpu >= MAX_CPUS) {
			ret = -E2BIG;
			goto out;
		}
		for (column = 0; column < NR_COLUMNS; column++) {
			at = end;
			counters->cell[cpu][column] = strtoll(at, &end, 10);
			if (end == at)
				goto out;
		}
		if (strcmp(end, "\n"))
			goto out;
		counters->lines++;
	}
	ret = 0;
out:
	fclose(file);
	return ret;
}

int counters_reset(void)
{
	return file_write(COUNTERS, "0\n");
}

/* Sum of a column over the CPUs, -1 when the counters cannot be read. */
long long total(enum column column)
{
	struct counters counters;
	long long sum = 0;
	int cpu;

	if (counters_read(&counters))
		return -1;
	for (cpu = 0; cpu < MAX_CPUS; cpu++)
		sum += counters.cell[cpu][column];
	return sum;
}

/* A counter of the TcpExt lines of /proc/net/netstat, -1 when there is none of that name. */
long long netstat(const char *name)
{
	static char names[8192], values[8192];
	FILE *file = fopen("/proc/net/netstat", "r");
	long long found = -1;

	if (!file)
		return -1;
	if (fgets(names, sizeof(names), file) && fgets(values, sizeof(values), file)) {
		char *n, *v, *next_n, *next_v;

		n = strtok_r(names, " \n", &next_n);
		v = strtok_r(values, " \n", &next_v);
		for (; n && v; n = strtok_r(NULL, " \n", &next_n), v = strtok_r(NULL, " \n", &next_v))
			if (!strcmp(n, name))
				found = strtoll(v, NULL, 10);
	}
	fclose(file);
	return found;
}

int fresh_netns(void)
{
	struct ifreq lo = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	int fd, ret = 0;

	if (unshare(CLONE_NEWNET))
		return -errno;
	fd = socket(AF_INET, SOCK_DGRAM, 0);
	if (fd < 0)
		return -errno;
	if (ioctl(fd, SIOCSIFFLAGS, &lo))
		ret = -errno;
	close(fd);
	return ret;
}

int steer_loopback(int cpu)
{
	static bool mounted;
	char mask[32];

	if (!mounted) {
		if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
		    mount("sysfs", "/sys", "sysfs", 0, NULL))
			return -errno;
		mounted = true;
	}
	/* Words of 32 CPUs; more words than the machine has CPUs for are refused. */
	snprintf(mask, sizeof(mask), "%x%s", cpu < 0 ? 0 : 1u << (cpu % 32), cpu < 32 ? "" : ",00000000");
	return file_write("/sys/class/net/lo/queues/rx-0/rps_cpus", mask);
}

static socklen_t address(struct sockaddr_storage *to, int family, const char *text, int port)
{
	struct sockaddr_in *v4 = (void *)to;
	struct sockaddr_in6 *v6 = (void *)to;

	memset(to, 0, sizeof(*to));
	to->ss_family = family;
	if (family == AF_INET) {
		v4->sin_port = htons(port);
		inet_pton(family, text, &v4->sin_addr);
		return sizeof(*v4);
	}
	v6->sin6_port = htons(port);
	inet_pton(family, text, &v6->sin6_addr);
	return sizeof(*v6);
}

void group_init(struct group *group, enum ways way, int port)
{
	memset(group, 0, sizeof(*group));
	group->family = way == IPV4 ? AF_INET : AF_INET6;
	group->at_len = address(&group->at, group->family, way == IPV4 ? "127.0.0.1" : way == IPV6 ? "::1" : "::", port);
	group->to_len = way == IPV6 ? address(&group->to, AF_INET6, "::1", port) :
				      address(&group->to, AF_INET, "127.0.0.1", port);
}

int set_cpu(int fd, int cpu)
{
	return setsockopt(fd, SOL_SOCKET, SO_INCOMING_CPU, &cpu, sizeof(cpu)) ? -errno : 0;
}

/*
 * One more listener (SOCK_STREAM) or receiver (SOCK_DGRAM), the slot of `cpu`, of none when cpu < 0.
 * Returns its index in the group.
 */
int group_add(struct group *group, int type, int cpu, int backlog)
{
	int fd, ret;

	if (group->n == MAX_LISTENERS)
		return -ENOSPC;
	fd = socket(group->family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &(int){ 1 }, sizeof(int)) || (cpu >= 0 && set_cpu(fd, cpu)) ||
	    bind(fd, (void *)&group->at, group->at_len) || (type == SOCK_STREAM && listen(fd, backlog))) {
		ret = -errno;
		close(fd);
		return ret;
	}
	group->fd[group->n] = fd;
	return group->n++;
}

/* A listener for each of the first `count` CPUs: index = CPU. */
int group_fill(struct group *group, int count, int backlog)
{
	int cpu, ret = 0;

	for (cpu = 0; cpu < count && ret >= 0; cpu++)
		ret = group_add(group, SOCK_STREAM, cpu, backlog);
	return ret < 0 ? ret : 0;
}

void group_close(struct group *group, int index)
{
	if (group->fd[index] >= 0)
		close(group->fd[index]);
	group->fd[index] = -1;
}

void group_end(struct group *group)
{
	int i;

	for (i = 0; i < group->n; i++)
		group_close(group, i);
	group->n = 0;
}

int group_ready(struct group *group, int seconds)
{
	struct pollfd polled[MAX_LISTENERS];
	int i;

	for (i = 0; i < group->n; i++)
		polled[i] = (struct pollfd){ .fd = group->fd[i], .events = POLLIN };
	if (poll(polled, group->n, seconds * 1000) <= 0)
		return -1;
	/* A socket that was shut down says POLLHUP without POLLIN. */
	for (i = 0; i < group->n; i++)
		if (polled[i].revents & POLLIN)
			return i;
	return -1;
}

/* Accept one connection, whoever has it. Returns its descriptor; *index is the listener it came from. */
int group_take(struct group *group, int *index)
{
	int fd, i = group_ready(group, PATIENCE);

	if (index)
		*index = i;
	if (i < 0)
		return -ETIMEDOUT;
	fd = accept4(group->fd[i], NULL, NULL, SOCK_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* Connect from `cpu` (-1: from wherever we run) and source port `port` (0: any). Returns a blocking socket. */
int client(struct group *group, int cpu, int port)
{
	struct timeval patience = { .tv_sec = PATIENCE };
	struct sockaddr_storage from;
	socklen_t len;
	int fd, ret;

	if (cpu >= 0) {
		ret = pin(cpu);
		if (ret)
			return ret;
	}
	fd = socket(group->to.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	len = address(&from, group->to.ss_family, group->to.ss_family == AF_INET ? "127.0.0.1" : "::1", port);
	if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) ||
	    (port && (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof(int)) ||
		      bind(fd, (void *)&from, len))) ||
	    connect(fd, (void *)&group->to, group->to_len)) {
		ret = -errno;
		close(fd);
		return ret;
	}
	return fd;
}

/* Segments sent again, the SYN included. */
int client_retransmits(int fd)
{
	struct tcp_info info = { 0 };
	socklen_t len = sizeof(info);

	return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) ? -errno : (int)info.tcpi_total_retrans;
}

/* Close with a reset: nothing of the connection stays, its port is free at once. */
void abort_connection(int fd)
{
	struct linger now = { .l_onoff = 1 };

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	close(fd);
}

int choice(struct group *group, int cpu, int port)
{
	int index, taken, fd = client(group, cpu, port);

	if (fd < 0)
		return fd;
	taken = group_take(group, &index);
	abort_connection(fd);
	if (taken < 0)
		return taken;
	close(taken);
	return index;
}
