/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fds.h"
#include "handover.h"
#include "migrate.h"
#include "ports.h"
#include "real.h"
#include "settings.h"
#include "slots.h"
#include "thread.h"

#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18	/* linux/mman.h, Linux 4.14 */
#endif

struct real real;
/* Before the constructor: never known. */
static char unknown;
char *process_known = &unknown;
_Atomic uint32_t *fd_words;
unsigned int fd_count;

void real_find(void)
{
	void *symbol;

#define REAL(result, name, parameters) \
	symbol = dlsym(RTLD_NEXT, #name); \
	memcpy(&real.name, &symbol, sizeof(symbol));
	REAL_TABLE
#undef REAL
}

void fds_init(void)
{
	void *table = mmap(NULL, FD_TABLE * sizeof(*fd_words), PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (table == MAP_FAILED)
		return;
	fd_words = table;
	fd_count = FD_TABLE;
}

static void after_fork(void)
{
	*process_known = 1;
	thread_after_fork();
	slots_after_fork();
	listeners_after_fork();
}

/* glibc has it, no other C library. */
extern const char *gnu_get_libc_version(void) __attribute__((weak));

/*
 * A program of the other C library (glibc, musl) with our LD_PRELOAD in its environment. The calls work there, for every
 * symbol that only one of them has is weak (Makefile); the structs behind them need not be the same, so we stay away.
 */
static int other_libc(void)
{
	static const char line[] = "libfsocket: built for another C library than this program's: does nothing\n";
#ifdef __GLIBC__
	int other = !gnu_get_libc_version;
#else
	int other = gnu_get_libc_version != NULL;
#endif
	const char *log = other ? getenv("FSOCKET_LOG") : NULL;

	if (other && (!log || *log != '0') && write(STDERR_FILENO, line, sizeof(line) - 1) < 0)
		return 1;	/* nobody listens */
	return other;
}

#ifdef __GLIBC__
/* What pthread_atfork() is there; said by ourselves it can be weak. */
extern int __register_atfork(void (*before)(void), void (*parent)(void), void (*child)(void), void *library)
	__attribute__((weak));
extern void *__dso_handle __attribute__((visibility("hidden")));
#define at_fork(before, parent, child) __register_atfork(before, parent, child, __dso_handle)
#else
#define at_fork pthread_atfork
#endif

void process_begins(void)
{
	if (!real.epoll_ctl)
		real_find();
	if (process_known != &unknown)
		after_fork();
}

static void mark_process(void)
{
	static char always = 1;
	char *page = mmap(NULL, 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	/* An older kernel than 4.14: only libc's fork() is seen. */
	process_known = page == MAP_FAILED || madvise(page, 1, MADV_WIPEONFORK) ? &always : page;
	*process_known = 1;
}

__attribute__((constructor)) static void start(void)
{
	real_find();
	mark_process();
	/* ld.so drops us there already; if somebody put us into a trusted directory, we drop ourselves. */
	if (other_libc() || getauxval(AT_SECURE))
		return;
	settings_read(environ);
	fds_init();
	if (!fd_words)
		return;
	shared_open();
	if (!shared.header)
		return;
	migrate_init();
	ports_init();
	slots_init();
	/* Between binding and forking workers a service has taken all sockets it wants. */
	at_fork(handover_end, NULL, after_fork);
}
