/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
#define _GNU_SOURCE
#include <stdarg.h>
#include <unistd.h>

#include "leave.h"
#include "real.h"

/* With the switch on LEAVE the next program runs without us. system() and popen() do not come here: they go on with us. */
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

/* `first` and what follows it, NULL too, into argv if there is one; how many before NULL. */
static size_t take(const char **argv, const char *first, va_list *list)
{
	size_t count = 0;

	for (; first; first = va_arg(*list, const char *), count++)
		if (argv)
			argv[count] = first;
	if (argv)
		argv[count] = NULL;
	return count;
}

/* On the stack, as the environment. */
#define ARGUMENTS(argv, first) \
	va_list list; \
	va_start(list, first); \
	const char *argv[take(NULL, first, &list) + 1]; \
	va_end(list); \
	va_start(list, first); \
	take(argv, first, &list)

EXPORT int execl(const char *path, const char *first, ...)
{
	ARGUMENTS(argv, first);
	va_end(list);
	return execv(path, (char *const *)argv);
}

EXPORT int execlp(const char *file, const char *first, ...)
{
	ARGUMENTS(argv, first);
	va_end(list);
	return execvp(file, (char *const *)argv);
}

EXPORT int execle(const char *path, const char *first, ...)
{
	char *const *env;

	ARGUMENTS(argv, first);
	env = va_arg(list, char *const *);
	va_end(list);
	return execve(path, (char *const *)argv, env);
}

EXPORT int posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,
		       const posix_spawnattr_t *attributes, char *const argv[], char *const env[])
{
	LEAVE_ENVIRONMENT(clean, env);

	real_ready();
	return real.posix_spawn(pid, path, actions, attributes, argv, clean);
}

EXPORT int posix_spawnp(pid_t *pid, const char *file, const posix_spawn_file_actions_t *actions,
			const posix_spawnattr_t *attributes, char *const argv[], char *const env[])
{
	LEAVE_ENVIRONMENT(clean, env);

	real_ready();
	return real.posix_spawnp(pid, file, actions, attributes, argv, clean);
}
