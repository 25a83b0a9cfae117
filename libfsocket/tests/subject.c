/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Servers of unusual habits, one a word. Each listens at 127.0.0.1, prints
 * "port N", answers "ok" to as many connections as it is told, prints what it has to say, ends.
 * usage: subject HABIT CONNECTIONS
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define CLOSED_TO 1024

static void die(const char *what)
{
	perror(what);
	exit(1);
}

/* port 0: a free one. Returns a listener and says where. */
static int listener(int type, int shared, unsigned short port)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(port) };
	socklen_t length = sizeof(at);
	int fd = socket(AF_INET, SOCK_STREAM | type, 0), one = 1;

	at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (shared && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)))
		die("SO_REUSEPORT");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (bind(fd, (struct sockaddr *)&at, sizeof(at)) || listen(fd, 512) ||
	    getsockname(fd, (struct sockaddr *)&at, &length))
		die("listen");
	if (!port) {
		printf("port %d\n", ntohs(at.sin_port));
		fflush(stdout);
	}
	return fd;
}

static unsigned short port_of(int fd)
{
	struct sockaddr_in at;
	socklen_t length = sizeof(at);

	if (getsockname(fd, (struct sockaddr *)&at, &length))
		die("getsockname");
	return ntohs(at.sin_port);
}

static int answer(int fd)
{
	if (fd < 0)
		return 0;
	if (write(fd, "ok\n", 3) != 3)
		die("write");
	shutdown(fd, SHUT_WR);
	close(fd);
	return 1;
}

static int watch(const int *fds, int count)
{
	int e = epoll_create1(EPOLL_CLOEXEC);

	for (int i = 0; i < count; i++) {
		struct epoll_event event = { .events = EPOLLIN, .data.fd = fds[i] };

		if (epoll_ctl(e, EPOLL_CTL_ADD, fds[i], &event))
			die("epoll_ctl");
	}
	return e;
}

/* Serve from an epoll: one accept a wake-up when the listener blocks, else until EAGAIN. */
static void serve(int e, int connections, int blocks)
{
	struct epoll_event event;
	int fd, one = 0;
	socklen_t length = sizeof(one);

	while (connections > 0) {
		if (epoll_wait(e, &event, 1, 10000) != 1)
			die("nobody came");
		do {
			fd = accept(event.data.fd, NULL, NULL);
			if (fd >= 0 && (fcntl(fd, F_GETFL) & O_NONBLOCK))
				printf("an accepted socket does not block\n");
			if (fd >= 0 && (getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, &length) || !one))
				printf("an accepted socket lacks TCP_NODELAY\n");
			connections -= answer(fd);
		} while (fd >= 0 && !blocks);
		if (fd < 0 && errno != EAGAIN)
			die("accept");
	}
}

static void pin(int number)
{
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(number, &one);
	if (sched_setaffinity(0, sizeof(one), &one))
		die("pin");
}

static void usual(int connections)
{
	int l = listener(SOCK_NONBLOCK, 0, 0);

	serve(watch(&l, 1), connections, 0);
}

/* No epoll at all. */
static void blocking(int connections)
{
	int l = listener(0, 0, 0);

	while (connections > 0)
		connections -= answer(connections % 2 ? accept(l, NULL, NULL) : accept4(l, NULL, NULL, SOCK_CLOEXEC));
}

/* poll(2) on the listener. */
static void polling(int connections)
{
	int l = listener(SOCK_NONBLOCK, 0, 0);
	struct pollfd wait = { .fd = l, .events = POLLIN };

	while (connections > 0 && poll(&wait, 1, 10000) == 1)
		connections -= answer(accept(l, NULL, NULL));
}

/* A listener that blocks in an epoll: one accept() for each event. */
static void blocking_epoll(int connections)
{
	int l = listener(0, 0, 0);

	serve(watch(&l, 1), connections, 1);
}

/* Its own sharding: two listeners of one address. */
static void sharded(int connections)
{
	int two[2];

	two[0] = listener(SOCK_NONBLOCK, 1, 0);
	two[1] = listener(SOCK_NONBLOCK, 1, port_of(two[0]));
	serve(watch(two, 2), connections, 0);
}

/* The listener moves to another number: the first one is closed. */
static void moved(int connections)
{
	int l = listener(SOCK_NONBLOCK, 0, 0), copy = dup(l);

	close(l);
	serve(watch(&copy, 1), connections, 0);
}

/* A copy of the listener is kept beside it (as inetd-like supervisors do). */
static void copied(int connections)
{
	int l = listener(SOCK_NONBLOCK, 0, 0), copy = dup(l);

	serve(watch(&copy, 1), connections / 2, 0);
	serve(watch(&l, 1), connections - connections / 2, 0);
}

/*
 * A daemon that closes all it does not know, one by one or behind libc's
 * back, then uses the numbers for itself. None of its own may be touched.
 */
static void closing(int connections, int by_one)
{
	enum { OWN = 64 };
	int l = listener(SOCK_NONBLOCK, 0, 0), own[OWN], e, lost = 0;

	if (by_one)
		for (int fd = 3; fd < CLOSED_TO; fd++) {
			if (fd != l)
				close(fd);
		}
	else if ((l > 3 && syscall(SYS_close_range, 3, l - 1, 0)) || syscall(SYS_close_range, l + 1, CLOSED_TO - 1, 0))
		die("close_range");
	/* Sockets that a slot's number could be mistaken for. */
	for (int i = 0; i < OWN; i++)
		own[i] = i % 2 ? (int)syscall(SYS_socket, AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0) :
				 socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	e = watch(&l, 1);
	serve(e, connections, 0);
	close(l);
	for (int i = 0; i < OWN; i++) {
		int listens = 0;
		socklen_t length = sizeof(listens);

		lost += getsockopt(own[i], SOL_SOCKET, SO_ACCEPTCONN, &listens, &length) || listens;
	}
	printf("own descriptors touched: %d\n", lost);
}

static void close_each(int connections)
{
	closing(connections, 1);
}

static void close_range_(int connections)
{
	closing(connections, 0);
}

/* In and out of the epoll all the time, as nginx with accept_mutex. */
static void mutex(int connections)
{
	int l = listener(SOCK_NONBLOCK, 0, 0), e = epoll_create1(EPOLL_CLOEXEC);

	while (connections > 0) {
		struct epoll_event event = { .events = EPOLLIN, .data.fd = l };
		int fd;

		if (epoll_ctl(e, EPOLL_CTL_ADD, l, &event))
			die("ADD");
		if (epoll_wait(e, &event, 1, 10000) != 1)
			die("nobody came");
		if (epoll_ctl(e, EPOLL_CTL_DEL, l, NULL))
			die("DEL");
		while ((fd = accept(l, NULL, NULL)) >= 0)
			connections -= answer(fd);
	}
}

/*
 * Two pinned processes, the first far too slow for what comes to its CPU. They
 * share the connections as they can: each says how many it had.
 */
static void slow(int connections)
{
	int l = listener(SOCK_NONBLOCK, 0, 0), *left, status, mine = 0;
	pid_t child;

	left = mmap(NULL, sizeof(*left), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	*left = connections;
	child = fork();
	pin(child ? 0 : 1);
	for (int e = watch(&l, 1); __atomic_load_n(left, __ATOMIC_RELAXED) > 0;) {
		struct epoll_event event;

		if (epoll_wait(e, &event, 1, 50) == 1 && answer(accept(l, NULL, NULL))) {
			mine++;
			__atomic_sub_fetch(left, 1, __ATOMIC_RELAXED);
			usleep(child ? 3000 : 0);
		}
	}
	if (!child) {
		printf("fast %d\n", mine);
		fflush(stdout);
		_exit(0);
	}
	waitpid(child, &status, 0);
	printf("slow %d\n", mine);
}

/* Of two pinned processes one takes both its listeners out of its epoll and waits: the other serves all. */
static void leaves(int connections)
{
	int two[2] = { listener(SOCK_NONBLOCK, 0, 0), listener(SOCK_NONBLOCK, 0, 0) }, status, e;
	struct epoll_event event;
	pid_t child = fork();

	pin(child ? 0 : 1);
	e = watch(two, 2);
	if (!child) {
		serve(e, connections, 0);
		_exit(0);
	}
	usleep(100000);
	epoll_ctl(e, EPOLL_CTL_DEL, two[0], NULL);
	epoll_ctl(e, EPOLL_CTL_DEL, two[1], NULL);
	epoll_wait(e, &event, 1, 1);
	printf("left\n");
	fflush(stdout);
	waitpid(child, &status, 0);
}

static const struct {
	const char *name;
	void (*run)(int connections);
} habits[] = {
	{ "usual", usual }, { "blocking", blocking }, { "polling", polling }, { "blocking-epoll", blocking_epoll },
	{ "sharded", sharded }, { "moved", moved }, { "copied", copied }, { "close-each", close_each },
	{ "close-range", close_range_ }, { "mutex", mutex }, { "slow", slow }, { "leaves", leaves },
};

/* exec WAY: /usr/bin/env by that call. */
static void exec_env(const char *way)
{
	char *argv[] = { "env", NULL };
	pid_t child = -1;
	int status = 1;

	if (!strcmp(way, "posix_spawn"))
		posix_spawn(&child, "/usr/bin/env", NULL, NULL, argv, environ);
	else if (!strcmp(way, "posix_spawnp"))
		posix_spawnp(&child, "env", NULL, NULL, argv, environ);
	if (child > 0 && waitpid(child, &status, 0) == child)
		exit(status);
	if (!strcmp(way, "execve"))
		execve("/usr/bin/env", argv, environ);
	else if (!strcmp(way, "execv"))
		execv("/usr/bin/env", argv);
	else if (!strcmp(way, "execvp"))
		execvp("env", argv);
	else if (!strcmp(way, "execl"))
		execl("/usr/bin/env", "env", NULL);
	else if (!strcmp(way, "execle"))
		execle("/usr/bin/env", "env", NULL, environ);
	else if (!strcmp(way, "execlp"))
		execlp("env", "env", NULL);
	else
		execvpe("env", argv, environ);
	die(way);
}

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	if (!strcmp(argv[1], "exec"))
		exec_env(argv[2]);
	for (unsigned int i = 0; i < sizeof(habits) / sizeof(habits[0]); i++)
		if (!strcmp(argv[1], habits[i].name)) {
			habits[i].run(atoi(argv[2]));
			printf("done\n");
			return 0;
		}
	return 2;
}
