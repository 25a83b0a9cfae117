/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What becomes of a listener in the life of a process: forks, execs, threads, copies, other rights. One habit a word;
 * each says on stdout what it saw, and the driver compares that with and without the library.
 * usage: life HABIT ADDRESS [NUMBER], an IPv4 address of this host
 */
#define _GNU_SOURCE
#include "life.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define LIMIT_S 30

struct sockaddr_in any_port = { .sin_family = AF_INET };
char *no_environment[] = { NULL };
static char *address;

void die(const char *what)
{
	perror(what);
	_exit(1);
}

void where(int fd, struct sockaddr_in *at)
{
	socklen_t length = sizeof(*at);

	if (getsockname(fd, (struct sockaddr *)at, &length))
		die("getsockname");
}

int listener(int flags, struct sockaddr_in *at)
{
	int fd = socket(AF_INET, SOCK_STREAM | flags, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&any_port, sizeof(any_port)) || listen(fd, 64))
		die("listener");
	where(fd, at);
	return fd;
}

int watch(int l)
{
	struct epoll_event event = { .events = EPOLLIN, .data.fd = l };
	int e = epoll_create1(EPOLL_CLOEXEC);

	if (epoll_ctl(e, EPOLL_CTL_ADD, l, &event))
		die("epoll_ctl");
	return e;
}

int client(const struct sockaddr_in *at)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || connect(fd, (const struct sockaddr *)at, sizeof(*at)))
		die("client");
	return fd;
}

int joined(int from, int c)
{
	struct sockaddr_in peer = { 0 }, mine;
	socklen_t length = sizeof(peer);
	char byte = 0;
	int good = from >= 0 && !getpeername(from, (struct sockaddr *)&peer, &length);

	where(c, &mine);
	good = good && peer.sin_port == mine.sin_port && write(from, "y", 1) == 1 && read(c, &byte, 1) == 1;
	if (from >= 0)
		close(from);
	close(c);
	return good && byte == 'y';
}

int one(int e, int l, const struct sockaddr_in *at)
{
	int c = client(at);
	struct epoll_event event;

	if (epoll_wait(e, &event, 1, PATIENCE_MS) != 1) {
		close(c);
		return 0;
	}
	return joined(accept(l, NULL, NULL), c) && accept(l, NULL, NULL) < 0 && errno == EAGAIN;
}

void served(const char *label, int e, int l, const struct sockaddr_in *at)
{
	int count = 0;

	while (count < ROUNDS && one(e, l, at))
		count++;
	say("%s: %d of %d served\n", label, count, ROUNDS);
}

void finished(pid_t child)
{
	int status = -1;

	if (child < 0 || waitpid(child, &status, 0) != child)
		die("child");
	say("child: exit %d signal %d\n", WEXITSTATUS(status), WTERMSIG(status));
}

void count_fds(const char *label, int listeners)
{
	DIR *dir = opendir("/proc/self/fd");
	int sockets = 0, others = 0;
	struct dirent *entry;

	while (dir && (entry = readdir(dir))) {
		struct stat st;

		if (*entry->d_name == '.' || atoi(entry->d_name) == dirfd(dir) || fstat(atoi(entry->d_name), &st))
			continue;
		*(S_ISSOCK(st.st_mode) ? &sockets : &others) += 1;
	}
	if (dir)
		closedir(dir);
	say("fds, %s: %d sockets of %d listeners, %d others\n", label, sockets, listeners, others);
}

void again(const char *habit, int number, char **environment)
{
	char text[16], name[32], *argv[] = { name, name, address, text, NULL };

	snprintf(text, sizeof(text), "%d", number);
	snprintf(name, sizeof(name), "%s", habit);
	execve("/proc/self/exe", argv, environment);
	die("exec");
}

int main(int argc, char **argv)
{
	const struct habit *tables[] = { process_habits, copy_habits, rights_habits, forbid_habits, group_habits };

	if (argc < 3 || inet_pton(AF_INET, argv[2], &any_port.sin_addr) != 1)
		return 2;
	address = argv[2];
	alarm(LIMIT_S);
	for (unsigned int i = 0; i < sizeof(tables) / sizeof(tables[0]); i++)
		for (const struct habit *h = tables[i]; h->name; h++)
			if (!strcmp(argv[1], h->name)) {
				h->run(argc > 3 ? atoi(argv[3]) : 0);
				return 0;
			}
	return 2;
}
