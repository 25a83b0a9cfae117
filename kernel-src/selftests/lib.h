/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the tests share: groups of listeners, clients pinned to a CPU, and the kernel's counters.
 *
 * Everything is loopback inside a network namespace of the test's own. A loopback packet is received on the CPU that
 * sent it, so a client that is pinned to CPU k is a client whose packets arrive on CPU k (test rps moves them).
 */
#ifndef FASTSOCKET_SELFTEST_LIB_H
#define FASTSOCKET_SELFTEST_LIB_H

#include <netinet/in.h>
#include <stdbool.h>
#include <sys/socket.h>

#define COUNTERS "/proc/net/fastsocket"
#define LOCAL_LISTEN "/proc/sys/net/fastsocket/local_listen"
#define SPILL "/proc/sys/net/fastsocket/spill"
#define MIGRATE "/proc/sys/net/ipv4/tcp_migrate_req"

#define MAX_CPUS 64
#define MAX_LISTENERS 320
/* Seconds that something may take before it counts as lost: an emulated machine on a loaded one is slow. */
#define PATIENCE 60
/* Seconds for one test. */
#define TEST_LIMIT 600

enum column {
	ACCEPTS_LOCAL, ACCEPTS_REMOTE, ACCEPTS_GLOBAL, CONNECTS_LOCAL, CONNECTS_REMOTE, LOOKUPS_LOCAL, LOOKUPS_FALLBACK,
	NR_COLUMNS
};

/* One reading of COUNTERS; cell[NR cpu][column], zero for a CPU that has no line. */
struct counters {
	int lines;
	long long cell[MAX_CPUS][NR_COLUMNS];
};

/* A reuseport group: fd[i] listens, -1 where a listener has gone. All of them are non-blocking. */
struct group {
	int family;			/* of the listeners */
	struct sockaddr_storage at;	/* where they listen */
	struct sockaddr_storage to;	/* where a client connects to */
	socklen_t at_len, to_len;
	int n, fd[MAX_LISTENERS];
};

/* Address families of a test: IPv4, IPv6, IPv4 clients of IPv6 listeners. */
enum ways { IPV4, IPV6, MAPPED };

int cpus(void);
int pin(int cpu);
int unpin(void);

int file_write(const char *path, const char *text);
int file_write_number(const char *path, long long number);
long long file_number(const char *path);

/* -E2BIG: a CPU beyond MAX_CPUS. */
int counters_read(struct counters *counters);
int counters_reset(void);
long long total(enum column column);
long long netstat(const char *name);

int fresh_netns(void);
/* Lets CPU `cpu` alone receive what is sent over loopback, -1: the CPU that sends. Makes a mount namespace. */
int steer_loopback(int cpu);

void group_init(struct group *group, enum ways way, int port);
int group_add(struct group *group, int type, int cpu, int backlog);
int group_fill(struct group *group, int cpus, int backlog);
void group_close(struct group *group, int index);
void group_end(struct group *group);
/* Index of a listener that has a connection or a datagram, -1 when none comes within `seconds`. */
int group_ready(struct group *group, int seconds);
int group_take(struct group *group, int *index);
int set_cpu(int fd, int cpu);

int client(struct group *group, int cpu, int port);
int client_retransmits(int fd);
void abort_connection(int fd);

/* Which listener gets the connection of a client on `cpu` from source port `port` (0: any); it is closed again. */
int choice(struct group *group, int cpu, int port);

#endif
