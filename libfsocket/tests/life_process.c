/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Forks, execs, threads. */
#define _GNU_SOURCE
#include "life.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>

#define STACK 65536

/* ---- after an exec ------------------------------------------------------ */

static void inherit(int l)
{
	struct sockaddr_in at;

	where(l, &at);
	served("after exec", watch(l), l, &at);
}

/* One client came before the exec. */
static void inherit_pending(int l)
{
	struct sockaddr_in at;
	struct epoll_event event;
	int e = watch(l);

	where(l, &at);
	say("who came before: %d\n", epoll_wait(e, &event, 1, PATIENCE_MS) == 1 && accept(l, NULL, NULL) >= 0);
	served("after exec", e, l, &at);
}

/* Each open descriptor and what it is, without the numbers of inodes. */
static void list_fds(int unused)
{
	char path[64], target[256];

	(void)unused;
	for (int fd = 0; fd < 1024; fd++) {
		long length;

		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		length = readlink(path, target, sizeof(target) - 1);
		if (length < 0)
			continue;
		target[length] = '\0';
		if (strchr(target, '['))
			*strchr(target, '[') = '\0';
		say("fd %d is %s\n", fd, target);
	}
}

/* sd_listen_fds(3): serves COUNT clients from outside on descriptor 3. */
static void activated(int count)
{
	const char *fds = getenv("LISTEN_FDS"), *pid = getenv("LISTEN_PID");
	struct epoll_event event;
	int e, fd;

	if (!fds || strcmp(fds, "1") || !pid || atoi(pid) != getpid())
		die("LISTEN_FDS, LISTEN_PID");
	fcntl(3, F_SETFL, O_NONBLOCK);
	for (e = watch(3); count > 0 && epoll_wait(e, &event, 1, 5000) == 1;)
		while ((fd = accept4(3, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
			count -= write(fd, "ok\n", 3) == 3;
			close(fd);
		}
	exit(count);
}

/* A `wait` service of inetd: the listener is descriptor 0; COUNT clients, then it goes. */
static void inetd_wait(int count)
{
	while (count-- > 0) {
		int fd = accept(0, NULL, NULL);

		if (fd < 0 || write(fd, "ok\n", 3) != 3)
			die("accept");
		close(fd);
	}
	exit(0);
}

/* ---- fork and its like -------------------------------------------------- */

static void forks(int unused)
{
	struct sockaddr_in at;
	int l = listener(SOCK_NONBLOCK, &at), e = watch(l);
	pid_t child;

	(void)unused;
	served("parent", e, l, &at);
	child = fork();
	if (!child) {
		count_fds("child", 1);
		served("child", watch(l), l, &at);
		close(l);
		count_fds("child, listener closed", 0);
		_exit(3);
	}
	finished(child);
	served("parent, child gone", e, l, &at);
}

/* fork(2) behind libc's back: no atfork handler runs, no thread id is new. */
static void raw_fork(int unused)
{
	struct sockaddr_in at;
	int l = listener(SOCK_NONBLOCK, &at), e = watch(l);
	pid_t child = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);

	(void)unused;
	if (!child) {
		served("child", watch(l), l, &at);
		close(l);
		_exit(3);
	}
	finished(child);
	served("parent", e, l, &at);
}

/* The child shares our memory until its exec: what it closes and opens is its own. */
static void vforks(int unused)
{
	struct sockaddr_in at;
	int l = listener(SOCK_NONBLOCK, &at), e = watch(l), s = client(&at);
	pid_t child;

	(void)unused;
	close(accept(l, NULL, NULL));
	child = vfork();
	if (!child) {
		dup2(2, l);
		close(e);
		close(s);
		close_range(3, 1023, 0);
		again("list-fds", 0, no_environment);
	}
	finished(child);
	served("parent", e, l, &at);
	child = vfork();
	if (!child) {
		/* At the listener's number, in a table of its own. */
		close(l);
		if (socket(AF_INET, SOCK_STREAM, 0) != l)
			_exit(9);
		_exit(3);
	}
	finished(child);
	served("parent, child had a socket there", e, l, &at);
}

static void spawns(int unused)
{
	char *argv[] = { "life", "list-fds", "0.0.0.0", NULL };
	posix_spawn_file_actions_t actions;
	struct sockaddr_in at;
	int l = listener(SOCK_NONBLOCK | SOCK_CLOEXEC, &at), e = watch(l);
	pid_t child;

	(void)unused;
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, 2, HIGH_FD);
	posix_spawn_file_actions_addclose(&actions, e);
	for (int kept = 0; kept < 2; kept++) {
		if (posix_spawn(&child, "/proc/self/exe", &actions, NULL, argv, kept ? environ : no_environment))
			die("posix_spawn");
		finished(child);
		served("parent", e, l, &at);
	}
}

/* An exec of the process itself or of a child, with its environment or none; the listener goes along. */
static void execs(int unused)
{
	(void)unused;
	for (int kept = 0; kept < 2; kept++) {
		struct sockaddr_in at;
		int l = listener(SOCK_NONBLOCK, &at);
		pid_t child = fork();

		if (!child)
			again("inherit", l, kept ? environ : no_environment);
		finished(child);
		served("parent", watch(l), l, &at);
		child = fork();
		if (!child)
			again("list-fds", l, kept ? environ : no_environment);
		finished(child);
		close(l);
	}
}

/* A server that starts itself anew: what waits at the listener is not lost. */
static void exec_pending(int unused)
{
	struct sockaddr_in at;
	int l = listener(SOCK_NONBLOCK, &at), e = watch(l), c;

	(void)unused;
	served("before exec", e, l, &at);
	c = client(&at);
	fcntl(c, F_SETFD, 0);
	again("inherit-pending", l, environ);
}

static void daemonises(int unused)
{
	struct sockaddr_in at;
	int l = listener(SOCK_NONBLOCK, &at), tell[2], e;
	char byte;

	(void)unused;
	if (pipe(tell))
		die("pipe");
	if (fork()) {
		/* Until the daemon has said all. */
		close(tell[1]);
		if (read(tell[0], &byte, 1))
			die("pipe");
		return;
	}
	setsid();
	if (fork())
		_exit(0);
	for (int fd = 3; fd < 1024; fd++)
		if (fd != l && fd != tell[1])
			close(fd);
	if (chdir("/") || dup2(open("/dev/null", O_RDWR), 0))
		die("/dev/null");
	e = watch(l);
	served("daemon", e, l, &at);
	count_fds("daemon", 1);
}

/* ---- threads ------------------------------------------------------------ */

static struct shared_listener {
	struct sockaddr_in at;
	int l;
	int served;
} of_threads;

static void *thread_serves(void *unused)
{
	int e = watch(of_threads.l);

	for (int i = 0; i < ROUNDS && one(e, of_threads.l, &of_threads.at); i++)
		of_threads.served++;
	return unused;
}

static int raw_thread(void *unused)
{
	return thread_serves(unused) != NULL;
}

/* One after the other, each with an epoll of its own, as long as the process lives; then main. */
static void threads(int unused)
{
	(void)unused;
	of_threads.l = listener(SOCK_NONBLOCK, &of_threads.at);
	for (int i = 0; i < 3; i++) {
		pthread_t thread;

		if (pthread_create(&thread, NULL, thread_serves, NULL) || pthread_join(thread, NULL))
			die("thread");
		say("thread %d: %d of %d\n", i, of_threads.served, (i + 1) * ROUNDS);
	}
	served("main", watch(of_threads.l), of_threads.l, &of_threads.at);
}

/* clone(2) by hand: a thread that libc knows nothing of, with main's thread-local memory. */
static void raw_threads(int unused)
{
	const int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM |
			  CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID;
	static char stack[STACK] __attribute__((aligned(16)));
	static volatile pid_t running = 1;

	(void)unused;
	of_threads.l = listener(SOCK_NONBLOCK, &of_threads.at);
	if (clone(raw_thread, stack + STACK, flags, NULL, &running, NULL, &running) < 0)
		die("clone");
	for (int i = 0; running && i < 10000; i++)
		usleep(1000);
	say("thread: %d of %d\n", of_threads.served, ROUNDS);
	served("main", watch(of_threads.l), of_threads.l, &of_threads.at);
}

/* ---- a signal's handler ------------------------------------------------- */

#define CLOSERS 6
#define CLOSER_MS 2000

static int to_close;
static volatile sig_atomic_t closed;

static void close_it(int unused)
{
	(void)unused;
	closed = !close(to_close);
}

static void *sleeps(void *unused)
{
	for (;;)
		pause();
	return unused;
}

/* Its last slot ends in a handler that has interrupted malloc(), most likely. */
static void closer(void)
{
	const struct itimerval soon = { { 0, 0 }, { 0, 20000 } };
	struct sockaddr_in at;
	sigset_t all;
	pthread_t thread;
	void *kept[64] = { NULL };

	/* With a second thread malloc() has a lock, and no lists that need none. */
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, NULL);
	if (pthread_create(&thread, NULL, sleeps, NULL))
		die("thread");
	pthread_sigmask(SIG_UNBLOCK, &all, NULL);
	to_close = listener(SOCK_NONBLOCK, &at);
	watch(to_close);
	for (size_t size = 16; size < 1040; size++)
		kept[0] = malloc(size);
	kept[0] = NULL;
	signal(SIGALRM, close_it);
	setitimer(ITIMER_REAL, &soon, NULL);
	for (unsigned int i = 0; !closed; i++) {
		free(kept[i % 64]);
		kept[i % 64] = malloc(2000 + i * 7919 % 60000);
	}
	_exit(0);
}

static void handlers(int unused)
{
	int ended = 0;

	(void)unused;
	for (int i = 0; i < CLOSERS; i++) {
		pid_t child = fork();
		int status = -1;

		if (!child)
			closer();
		for (int ms = 0; child > 0 && ms < CLOSER_MS && !waitpid(child, &status, WNOHANG); ms++)
			usleep(1000);
		ended += !status;
		if (status >= 0 || child <= 0)
			continue;
		kill(child, SIGKILL);
		waitpid(child, &status, 0);
	}
	say("closed in a handler: %d of %d\n", ended, CLOSERS);
}

const struct habit process_habits[] = {
	{ "inherit", inherit }, { "inherit-pending", inherit_pending }, { "list-fds", list_fds },
	{ "activated", activated }, { "inetd-wait", inetd_wait },
	{ "fork", forks }, { "raw-fork", raw_fork }, { "vfork", vforks }, { "spawn", spawns }, { "exec", execs },
	{ "exec-pending", exec_pending }, { "daemon", daemonises }, { "threads", threads }, { "raw-thread", raw_threads },
	{ "handlers", handlers },
	{ NULL, NULL },
};
