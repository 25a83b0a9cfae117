/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/* listens: a server in a few lines, for other compilers and C libraries. Serves one connection of its own, pinned. */
#define _GNU_SOURCE
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static int must(int result)
{
	if (result < 0) {
		perror("listens");
		exit(1);
	}
	return result;
}

int main(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t length = sizeof(address);
	struct epoll_event event = { .events = EPOLLIN };
	cpu_set_t one;
	int server, client, epoll;

	CPU_ZERO(&one);
	CPU_SET(must(sched_getcpu()), &one);
	must(sched_setaffinity(0, sizeof(one), &one));
	server = must(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
	must(bind(server, (struct sockaddr *)&address, length));
	must(listen(server, 5));
	must(getsockname(server, (struct sockaddr *)&address, &length));
	epoll = must(epoll_create1(0));
	must(epoll_ctl(epoll, EPOLL_CTL_ADD, server, &event));
	client = must(socket(AF_INET, SOCK_STREAM, 0));
	must(connect(client, (struct sockaddr *)&address, length));
	must(epoll_wait(epoll, &event, 1, 5000) - 1);
	must(accept4(server, NULL, NULL, SOCK_CLOEXEC));
	puts("served");
	return 0;
}
