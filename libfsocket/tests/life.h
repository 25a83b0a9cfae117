/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files of tests/life share: a listener, an epoll and a client in one process. See life.c */
#ifndef LIFE_H
#define LIFE_H

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define ROUNDS 20
#define PATIENCE_MS 700
#define HIGH_FD 40

/* Where all of them listen, port 0. */
extern struct sockaddr_in any_port;
extern char *no_environment[];

/* Printed at once, whatever becomes of the process and its buffers. */
#define say(...) dprintf(STDOUT_FILENO, __VA_ARGS__)

void die(const char *what) __attribute__((noreturn));
void where(int fd, struct sockaddr_in *at);
/* Listens at a free port, which goes to *at. */
int listener(int flags, struct sockaddr_in *at);
/* A new epoll with l in it. */
int watch(int l);
int client(const struct sockaddr_in *at);
/* `from` is the accepted end of c, and a byte goes through. Closes both. */
int joined(int from, int c);
/* A client comes, the epoll e says so, accept() on l takes it, and nobody else is there. */
int one(int e, int l, const struct sockaddr_in *at);
/* Says how many of ROUNDS went right before the first that did not. */
void served(const char *label, int e, int l, const struct sockaddr_in *at);
/* Waits for the child and says how it ended. */
void finished(pid_t child);
/* Says how many descriptors there are: the library may have a socket a listener and CPU, and its switch. */
void count_fds(const char *label, int listeners);
/* This program once more, as `life HABIT ADDRESS NUMBER`. */
void again(const char *habit, int number, char **environment) __attribute__((noreturn));

struct habit {
	const char *name;
	void (*run)(int number);
};

/* Each ends with a row without a name. */
extern const struct habit process_habits[], copy_habits[], rights_habits[], forbid_habits[],
	group_habits[];

#endif
