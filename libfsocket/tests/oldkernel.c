/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * oldkernel.so, preloaded behind the library: SO_INCOMING_CPU does nothing, as in the reuseport groups of Linux 4.6 to
 * 6.1. OLDKERNEL names what is not there either: bpf(2) (nothing migrates, Linux before 5.14), pidfd (no descriptor is
 * taken from another process, Linux before 5.6), cbpf (no program of a group, Linux before 4.6), netns (no socket tells the
 * number of its network namespace, Linux before 5.14).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

/* A copy: nginx writes its title over its environment. */
static char missing[64];
static int (*real_setsockopt)(int fd, int level, int option, const void *value, socklen_t length);
static int (*real_getsockopt)(int fd, int level, int option, void *value, socklen_t *length);
static long (*real_syscall)(long number, ...);

static void find(void *function, const char *name)
{
	void *symbol = dlsym(RTLD_NEXT, name);

	memcpy(function, &symbol, sizeof(symbol));
}

__attribute__((constructor)) static void start(void)
{
	find(&real_setsockopt, "setsockopt");
	find(&real_getsockopt, "getsockopt");
	find(&real_syscall, "syscall");
	if (getenv("OLDKERNEL"))
		strncpy(missing, getenv("OLDKERNEL"), sizeof(missing) - 1);
}

/* A word of the list. */
static int lacks(const char *word)
{
	const char *at = strstr(missing, word);

	return at && (at == missing || at[-1] == ',');
}

int setsockopt(int fd, int level, int option, const void *value, socklen_t length)
{
	if (level == SOL_SOCKET && option == SO_INCOMING_CPU)
		return 0;
	if (level == SOL_SOCKET && option == SO_ATTACH_REUSEPORT_CBPF && lacks("cbpf")) {
		errno = ENOPROTOOPT;
		return -1;
	}
	if (!real_setsockopt)
		start();
	return real_setsockopt(fd, level, option, value, length);
}

int getsockopt(int fd, int level, int option, void *value, socklen_t *length)
{
	if (level == SOL_SOCKET && option == SO_NETNS_COOKIE && lacks("netns")) {
		errno = ENOPROTOOPT;
		return -1;
	}
	if (!real_getsockopt)
		start();
	return real_getsockopt(fd, level, option, value, length);
}

long syscall(long number, ...)
{
	long a[6];
	va_list more;

	if (!real_syscall)
		start();
	if ((number == SYS_bpf && lacks("bpf")) || (number == SYS_pidfd_open && lacks("pidfd"))) {
		errno = ENOSYS;
		return -1;
	}
	va_start(more, number);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(more, long);
	va_end(more);
	return real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
