/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * For ThreadSanitizer, linked with the library's sources: pinned threads with an epoll each and one shared
 * listener, clients, the switch turned, and the listener closed and opened again while others accept.
 * usage: threads SECONDS SWITCH-FILE ADDRESS
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SERVERS 4	/* two a CPU on two CPUs: the second of each finds its slot taken */
#define CLIENTS 2

static _Atomic int listen_fd = -1, generation, stop;
static _Atomic long accepted, answered, given_up;
static struct sockaddr_in address;

static void nap(long ms)
{
	struct timespec wait = { ms / 1000, ms % 1000 * 1000000 };

	nanosleep(&wait, NULL);
}

static void pin(long number)
{
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET((size_t)number % (size_t)sysconf(_SC_NPROCESSORS_ONLN), &one);
	pthread_setaffinity_np(pthread_self(), sizeof(one), &one);
}

static void *server(void *number)
{
	int seen = -1, e = epoll_create1(EPOLL_CLOEXEC);

	pin((long)number);
	while (!stop) {
		struct epoll_event event = { .events = EPOLLIN };
		int fd, now = generation;

		if (now != seen) {
			/* Fails when it was closed this very moment; the next turn finds the new one. */
			epoll_ctl(e, EPOLL_CTL_ADD, listen_fd, &event);
			seen = now;
		}
		epoll_wait(e, &event, 1, 20);
		while ((fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
			accepted++;
			if (write(fd, "x", 1) < 0)
				given_up++;
			close(fd);
		}
	}
	close(e);
	return NULL;
}

static void *client(void *number)
{
	struct timeval wait = { 0, 200000 };
	char byte;

	pin((long)number);
	while (!stop) {
		int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

		setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
		if (!connect(fd, (struct sockaddr *)&address, sizeof(address)) && read(fd, &byte, 1) == 1)
			answered++;
		else
			nap(1);
		close(fd);
	}
	return NULL;
}

static void reopen(void)
{
	int old = listen_fd, one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (old >= 0)
		close(old);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	/* A thread that is in accept() this moment keeps the old socket for as long. */
	for (int turn = 0; bind(fd, (struct sockaddr *)&address, sizeof(address)); turn++) {
		if (turn == 200) {
			perror("bind");
			exit(1);
		}
		nap(1);
	}
	if (listen(fd, 128)) {
		perror("listen");
		exit(1);
	}
	listen_fd = fd;
	generation++;
}

int main(int argc, char **argv)
{
	pthread_t threads[SERVERS + CLIENTS];
	int turns, toggle;

	if (argc != 4 || (toggle = open(argv[2], O_WRONLY | O_CLOEXEC)) < 0)
		return 2;
	address = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons(8099) };
	inet_pton(AF_INET, argv[3], &address.sin_addr);
	reopen();
	for (long i = 0; i < SERVERS + CLIENTS; i++)
		pthread_create(&threads[i], NULL, i < SERVERS ? server : client, (void *)i);
	turns = atoi(argv[1]) * 4;
	for (int i = 0; i < turns; i++) {
		nap(250);
		if (pwrite(toggle, i % 4 == 1 ? "0" : "1", 1, 0) != 1)
			return 1;
		if (i % 2)
			reopen();
	}
	stop = 1;
	for (int i = 0; i < SERVERS + CLIENTS; i++)
		pthread_join(threads[i], NULL);
	printf("%ld accepted, %ld answered, over %d listeners\n", (long)accepted, (long)answered, (int)generation);
	return answered < 100;
}
