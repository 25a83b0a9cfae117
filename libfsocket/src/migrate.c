/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
#define _GNU_SOURCE
#include "migrate.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernel.h"
#include "real.h"
#include "shared.h"

/* linux/bpf.h, by number, as for all that is younger than the headers */
#define BPF_PROG_LOAD 5
#define PROG_SK_REUSEPORT 21
#define SELECT_OR_MIGRATE 40
#define NO_ATTACH_TYPE 0xffffu
#define MOV_R0_IMM 0xb7
#define EXIT 0x95
#define PASS 1
/* Out of the application's low numbers. */
#define FD_FLOOR 200

struct instruction {
	uint8_t code, registers;
	int16_t offset;
	int32_t immediate;
};

struct load {
	uint32_t type, instruction_count;
	uint64_t instructions, license;
	uint32_t log_level, log_size;
	uint64_t log;
	uint32_t kernel, flags;
	char name[16];
	uint32_t interface, attach_type;
};

static int program = -1, tried;
/* net.ipv4.tcp_migrate_req was on at the start. */
static int by_sysctl;
/*
 * A client that resets a half-open connection whose listener was closed is
 * taken off the count of the heir, which falls below 0 and is compared unsigned:
 * the heir passes for full (Linux to 6.18 at least, tcp_minisocks.c:
 * tcp_check_req). With SYN cookies it serves on. Without them it gets no
 * connection ever again, so by our doing nothing migrates there.
 */
static int deafens;

static void note(void)
{
	if (migrate_works())
		__atomic_or_fetch(&shared.header->capabilities, FSOCKET_CAP_MIGRATE, __ATOMIC_RELAXED);
	else
		__atomic_and_fetch(&shared.header->capabilities, ~FSOCKET_CAP_MIGRATE, __ATOMIC_RELAXED);
}

/* The first character, or -1. No stdio: a close() in a signal handler asks, which may have interrupted malloc(). */
static int sysctl(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	char first;
	ssize_t length;

	if (fd < 0)
		return -1;
	length = read(fd, &first, 1);
	real.close(fd);
	return length == 1 ? first : -1;
}

void migrate_init(void)
{
	/* No behaviour hangs on it: who reads the statistics is to know which kernel the library met. */
	if (sysctl("/proc/sys/net/fastsocket/local_listen") != -1)
		__atomic_or_fetch(&shared.header->capabilities, FSOCKET_CAP_LOCAL_LISTEN, __ATOMIC_RELAXED);
	by_sysctl = sysctl("/proc/sys/net/ipv4/tcp_migrate_req") == '1';
	deafens = sysctl("/proc/sys/net/ipv4/tcp_syncookies") == '0';
	/* Else it is not known yet; this may be `nginx -s reload`, which is not to speak for the service. */
	if (by_sysctl)
		note();
}

/* 0: no filter of system calls; -1: nobody says so. No stdio: accept() does not allocate. */
static int filter_mode(void)
{
	int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
	char text[4096];
	const char *found;
	ssize_t length;

	if (fd < 0)
		return -1;
	length = read(fd, text, sizeof(text) - 1);
	real.close(fd);
	text[length > 0 ? length : 0] = 0;
	found = strstr(text, "\nSeccomp:");
	return found ? atoi(found + sizeof("\nSeccomp:") - 1) : -1;
}

int may_try(void)
{
	return filter_mode() == 0 && geteuid() == 0;
}

static int filter_at_load = -1;

int unfiltered(void)
{
	int mode = filter_mode();

	return (mode < 0 ? filter_at_load : mode) == 0;
}

static int load_pass(uint32_t attach_type)
{
#ifdef SYS_bpf
	static const struct instruction pass[] = { { MOV_R0_IMM, 0, 0, PASS }, { EXIT, 0, 0, 0 } };
	struct load load = {
		.type = PROG_SK_REUSEPORT,
		.instruction_count = sizeof(pass) / sizeof(*pass),
		.instructions = (uintptr_t)pass,
		.license = (uintptr_t)"GPL",
		.name = "fsocket_migrate",
		.attach_type = attach_type,
	};

	return (int)syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof(load));
#else
	(void)attach_type;
	return -1;
#endif
}

void migrate_load(void)
{
	int keep = errno, fd = -1;

	if (tried)
		return;
	tried = 1;
	filter_at_load = filter_mode();
	if (!deafens && may_try()) {
		/* Before Linux 5.14 the attach type is not looked at: any is taken, and nothing migrates. */
		fd = load_pass(NO_ATTACH_TYPE);
		if (fd >= 0)
			real.close(fd);
		fd = fd >= 0 ? -1 : load_pass(SELECT_OR_MIGRATE);
	}
	if (fd >= 0) {
		program = fcntl(fd, F_DUPFD_CLOEXEC, FD_FLOOR);
		real.close(fd);
	}
	note();
	errno = keep;
}

int migrate_works(void)
{
	return program >= 0 || by_sysctl;
}

int migrate_by_sysctl(void)
{
	return by_sysctl && sysctl("/proc/sys/net/ipv4/tcp_migrate_req") == '1';
}

int migrate_attach(int fd)
{
	return program < 0 ? -1 : real.setsockopt(fd, SOL_SOCKET, SO_ATTACH_REUSEPORT_EBPF, &program, sizeof(program));
}
