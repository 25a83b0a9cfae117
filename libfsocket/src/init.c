/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fds.h"
#include "handover.h"
#include "ports.h"
#include "real.h"
#include "settings.h"
#include "slots.h"
#include "thread.h"

struct real real;
_Atomic uint32_t *fd_words;

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

	if (table != MAP_FAILED)
		fd_words = table;
}

static void probe(void)
{
	FILE *file = fopen("/proc/sys/net/ipv4/tcp_migrate_req", "re");

	if (!file)
		return;
	if (fgetc(file) == '1')
		shared.header->capabilities |= FSOCKET_CAP_MIGRATE;
	else
		shared.header->capabilities &= ~FSOCKET_CAP_MIGRATE;
	fclose(file);
}

static void after_fork(void)
{
	thread_after_fork();
	slots_after_fork();
	listeners_after_fork();
}

__attribute__((constructor)) static void start(void)
{
	real_find();
	/* ld.so drops us there already; if somebody put us into a trusted directory, we drop ourselves. */
	if (getauxval(AT_SECURE))
		return;
	settings_read(environ);
	fds_init();
	if (!fd_words)
		return;
	shared_open();
	if (!shared.header)
		return;
	probe();
	ports_init();
	/* Between binding and forking workers a service has taken all sockets it wants. */
	pthread_atfork(handover_end, NULL, after_fork);
}
