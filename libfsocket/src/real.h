/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The C library's own functions behind the names we intercept, found once
 * with dlsym(RTLD_NEXT). REAL(result, name, parameters)
 */
#ifndef FSOCKET_REAL_H
#define FSOCKET_REAL_H

#include <spawn.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <time.h>

#include "symbols.h"

#define REAL_TABLE \
	REAL(int, socket, (int, int, int)) \
	REAL(int, bind, (int, const struct sockaddr *, socklen_t)) \
	REAL(int, listen, (int, int)) \
	REAL(int, accept, (int, struct sockaddr *, socklen_t *)) \
	REAL(int, accept4, (int, struct sockaddr *, socklen_t *, int)) \
	REAL(int, connect, (int, const struct sockaddr *, socklen_t)) \
	REAL(int, setsockopt, (int, int, int, const void *, socklen_t)) \
	REAL(int, shutdown, (int, int)) \
	REAL(int, close, (int)) \
	REAL(void, closefrom, (int)) \
	REAL(int, dup2, (int, int)) \
	REAL(int, dup3, (int, int, int)) \
	REAL(ssize_t, recvmsg, (int, struct msghdr *, int)) \
	REAL(int, epoll_ctl, (int, int, int, struct epoll_event *)) \
	REAL(int, epoll_wait, (int, struct epoll_event *, int, int)) \
	REAL(int, epoll_pwait, (int, struct epoll_event *, int, int, const sigset_t *)) \
	REAL(int, epoll_pwait2, (int, struct epoll_event *, int, const struct timespec *, const sigset_t *)) \
	REAL(int, setuid, (uid_t)) \
	REAL(int, setreuid, (uid_t, uid_t)) \
	REAL(int, setresuid, (uid_t, uid_t, uid_t)) \
	REAL(int, execve, (const char *, char *const[], char *const[])) \
	REAL(int, execvpe, (const char *, char *const[], char *const[])) \
	REAL(int, posix_spawn, (pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *, \
				char *const[], char *const[])) \
	REAL(int, posix_spawnp, (pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *, \
				 char *const[], char *const[]))

struct real {
#define REAL(result, name, parameters) result (*name) parameters;
	REAL_TABLE
#undef REAL
};

extern HIDDEN struct real real;

/* Fill the table. Constructors of other libraries may come before ours, so every hook asks first. */
void real_find(void);

/*
 * 1 in a process we know; the kernel wipes it in a child (MADV_WIPEONFORK), also in one of clone(2), which runs
 * no atfork handler. A vfork() child has its parent's.
 */
extern HIDDEN char *process_known;

/* The table is empty, or the process is new. */
void process_begins(void);

static inline void real_ready(void)
{
	if (__builtin_expect(!*process_known, 0))
		process_begins();
}

#endif
