/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
#define _GNU_SOURCE
#include <unistd.h>

#include "leave.h"
#include "real.h"

/* With the switch on LEAVE the next program runs without us. */
EXPORT int execve(const char *path, char *const argv[], char *const env[])
{
	LEAVE_ENVIRONMENT(clean, env);

	real_ready();
	return real.execve(path, argv, clean);
}

EXPORT int execv(const char *path, char *const argv[])
{
	LEAVE_ENVIRONMENT(clean, environ);

	real_ready();
	return real.execve(path, argv, clean);
}

EXPORT int execvpe(const char *file, char *const argv[], char *const env[])
{
	LEAVE_ENVIRONMENT(clean, env);

	real_ready();
	return real.execvpe(file, argv, clean);
}

EXPORT int execvp(const char *file, char *const argv[])
{
	LEAVE_ENVIRONMENT(clean, environ);

	real_ready();
	return real.execvpe(file, argv, clean);
}
