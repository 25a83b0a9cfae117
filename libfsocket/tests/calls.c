/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Every intercepted call, rightly and wrongly made; one line a call: what it returned and errno.
 * The driver compares the lines without the library, with it off and with it on.
 * usage: calls ADDRESS, an IPv4 address of this host that is not 127/8
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

/* A call that returns 0 or -1, and one that returns a descriptor, whose number does not matter. */
#define TRY(label, call) \
	do { \
		long r_; \
		errno = 0; \
		r_ = (long)(call); \
		printf("%-44s %2ld errno %d\n", label, r_, errno); \
	} while (0)
#define TRY_FD(label, call) fd_line(label, (errno = 0, (call)))
/* The connection is on its way: on a busy CPU ksoftirqd ends the handshake after connect() has returned. */
#define TRY_COME(label, listener, call) \
	(poll(&(struct pollfd){ .fd = (listener), .events = POLLIN }, 1, 1000), TRY_FD(label, call))

static struct sockaddr_in any_port, far_away;
static const int bad = 999;

static int fd_line(const char *label, int fd)
{
	int keep = errno;

	printf("%-44s %s errno %d", label, fd >= 0 ? "fd" : "-1", keep);
	if (fd >= 0)
		printf(" cloexec %d nonblock %d", !!(fcntl(fd, F_GETFD) & FD_CLOEXEC), !!(fcntl(fd, F_GETFL) & O_NONBLOCK));
	putchar('\n');
	return fd;
}

static const struct sockaddr *sa(const void *address)
{
	return address;
}

static int tcp(int flags)
{
	return socket(AF_INET, SOCK_STREAM | flags, 0);
}

/* A listener at a free port of 127.0.0.1; where it listens goes to address. */
static int listener(int flags, struct sockaddr_in *address)
{
	socklen_t length = sizeof(*address);
	int fd = tcp(flags);

	if (bind(fd, sa(&any_port), sizeof(any_port)) || listen(fd, 64) ||
	    getsockname(fd, (struct sockaddr *)address, &length))
		abort();
	return fd;
}

static void sockets_and_binds(void)
{
	struct sockaddr_in other, none = any_port;
	struct sockaddr_in6 six = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT };
	struct sockaddr_un local = { .sun_family = AF_UNIX };
	int pipes[2], l = listener(0, &other), s, udp = socket(AF_INET, SOCK_DGRAM, 0), u, v6;

	if (pipe(pipes))
		abort();
	inet_pton(AF_INET, "203.0.113.9", &none.sin_addr);
	TRY_FD("socket: TCP", tcp(0));
	TRY_FD("socket: TCP, both flags", tcp(SOCK_CLOEXEC | SOCK_NONBLOCK));
	TRY_FD("socket: family -1", socket(-1, SOCK_STREAM, 0));
	TRY_FD("socket: type 99", socket(AF_INET, 99, 0));
	TRY_FD("socket: protocol 9999", socket(AF_INET, SOCK_STREAM, 9999));
	TRY_FD("socket: stream of UDP", socket(AF_INET, SOCK_STREAM, IPPROTO_UDP));
	s = tcp(0);
	TRY("bind: fd -1", bind(-1, sa(&any_port), sizeof(any_port)));
	TRY("bind: closed fd", bind(bad, sa(&any_port), sizeof(any_port)));
	TRY("bind: pipe", bind(pipes[0], sa(&any_port), sizeof(any_port)));
	TRY("bind: NULL", bind(s, NULL, sizeof(any_port)));
	TRY("bind: too short", bind(s, sa(&any_port), 4));
	TRY("bind: too long", bind(s, sa(&any_port), 4096));
	TRY("bind: family of another kind", bind(s, sa(&local), sizeof(local)));
	TRY("bind: address of nobody here", bind(s, sa(&none), sizeof(none)));
	TRY("bind: port in use", bind(s, sa(&other), sizeof(other)));
	TRY("bind: free port, after all that", bind(s, sa(&any_port), sizeof(any_port)));
	TRY("bind: again", bind(s, sa(&any_port), sizeof(any_port)));
	v6 = socket(AF_INET6, SOCK_STREAM, 0);
	TRY("bind: ::1", bind(v6, sa(&six), sizeof(six)));
	TRY("listen: ::1", listen(v6, 5));
	TRY("bind: UDP", bind(udp, sa(&any_port), sizeof(any_port)));

	TRY("listen: fd -1", listen(-1, 5));
	TRY("listen: closed fd", listen(bad, 5));
	TRY("listen: pipe", listen(pipes[0], 5));
	TRY("listen: UDP", listen(udp, 5));
	u = socket(AF_UNIX, SOCK_STREAM, 0);
	TRY("listen: unix, unbound", listen(u, 5));
	TRY("listen: bound", listen(s, 5));
	TRY("listen: again, other backlog", listen(s, 50));
	TRY("listen: negative backlog", listen(s, -1));
	TRY("listen: not bound", listen(tcp(0), 5));
	TRY("connect: a listener", connect(l, sa(&other), sizeof(other)));
	TRY("shutdown: listener", shutdown(s, SHUT_RD));
	TRY_FD("accept: after shutdown", accept(s, NULL, NULL));
	TRY("listen: after shutdown", listen(s, 5));
	TRY("close", close(s));
	TRY("close: again", close(s));
	TRY("close: -1", close(-1));
	TRY("close: pipe", close(pipes[0]));
	TRY("close: listener", close(l));
	TRY("connect: where nobody listens any more", connect(tcp(0), sa(&other), sizeof(other)));
}

static void accepts(void)
{
	struct sockaddr_in where, peer, mine;
	socklen_t length = sizeof(peer), negative = (socklen_t)-1, small = 4;
	int pipes[2], l = listener(SOCK_NONBLOCK, &where), udp = socket(AF_INET, SOCK_DGRAM, 0), c, a;

	if (pipe(pipes))
		abort();
	TRY_FD("accept: fd -1", accept(-1, NULL, NULL));
	TRY_FD("accept: closed fd", accept(bad, NULL, NULL));
	TRY_FD("accept: pipe", accept(pipes[0], NULL, NULL));
	TRY_FD("accept: UDP", accept(udp, NULL, NULL));
	TRY_FD("accept: does not listen", accept(tcp(0), NULL, NULL));
	TRY_FD("accept: nobody there", accept(l, NULL, NULL));
	TRY_FD("accept4: fd -1", accept4(-1, NULL, NULL, 0));
	TRY_FD("accept4: flags 1", accept4(l, NULL, NULL, 1));
	TRY_FD("accept4: flags -1", accept4(l, NULL, NULL, -1));
	TRY_FD("accept4: flags -1, closed fd", accept4(bad, NULL, NULL, -1));
	TRY_FD("accept4: flags -1, pipe", accept4(pipes[0], NULL, NULL, -1));
	TRY_FD("accept4: nobody there", accept4(l, NULL, NULL, SOCK_CLOEXEC));
	for (int flags = 0; flags < 4; flags++) {
		int want = (flags & 1 ? SOCK_CLOEXEC : 0) | (flags & 2 ? SOCK_NONBLOCK : 0);

		c = tcp(0);
		TRY("connect: listener", connect(c, sa(&where), sizeof(where)));
		length = sizeof(peer);
		a = TRY_COME("accept4: one there", l, accept4(l, (struct sockaddr *)&peer, &length, want));
		length = sizeof(mine);
		getsockname(c, (struct sockaddr *)&mine, &length);
		printf("the peer is who connected: %d\n", peer.sin_port == mine.sin_port);
		TRY("connect: connected", connect(c, sa(&where), sizeof(where)));
		TRY("listen: connected", listen(c, 5));
		close(a);
		close(c);
	}
	c = tcp(0);
	TRY("connect: listener", connect(c, sa(&where), sizeof(where)));
	a = TRY_COME("accept: room for a part of the address", l, accept(l, (struct sockaddr *)&peer, &small));
	printf("its true length: %u\n", (unsigned int)small);
	close(a);
	close(c);
	c = tcp(0);
	TRY("connect: listener", connect(c, sa(&where), sizeof(where)));
	TRY_COME("accept: length -1", l, accept(l, (struct sockaddr *)&peer, &negative));
	TRY_FD("accept: nobody left", accept(l, NULL, NULL));
	close(c);
	c = tcp(0);
	TRY("connect: listener", connect(c, sa(&where), sizeof(where)));
	TRY_COME("accept: length NULL", l, accept(l, (struct sockaddr *)&peer, NULL));
	close(c);
}

static void connects(const char *text)
{
	struct sockaddr_in nobody = far_away, off = any_port, unspecified = { .sin_family = AF_UNSPEC }, l4, from;
	struct sockaddr_in6 six = { .sin6_family = AF_INET6, .sin6_port = htons(1) };
	socklen_t length = sizeof(int);
	struct pollfd wait = { .events = POLLOUT };
	int pipes[2], s, error, udp = socket(AF_INET, SOCK_DGRAM, 0), l = listener(0, &l4);

	if (pipe(pipes))
		abort();
	nobody.sin_port = htons(1);
	off.sin_port = htons(1);
	inet_pton(AF_INET6, "::1", &six.sin6_addr);
	TRY("connect: fd -1", connect(-1, sa(&off), sizeof(off)));
	TRY("connect: closed fd", connect(bad, sa(&off), sizeof(off)));
	TRY("connect: pipe", connect(pipes[0], sa(&off), sizeof(off)));
	TRY("connect: NULL", connect(tcp(0), NULL, sizeof(off)));
	TRY("connect: too short", connect(tcp(0), sa(&nobody), 4));
	TRY("connect: another family", connect(tcp(0), sa(&six), sizeof(six)));
	TRY("connect: AF_UNSPEC", connect(tcp(0), sa(&unspecified), sizeof(unspecified)));
	TRY("connect: UDP", connect(udp, sa(&nobody), sizeof(nobody)));
	TRY("connect: refused, loopback", connect(tcp(0), sa(&off), sizeof(off)));
	TRY("connect: refused, ::1", connect(socket(AF_INET6, SOCK_STREAM, 0), sa(&six), sizeof(six)));
	s = tcp(0);
	TRY("connect: refused, own address", connect(s, sa(&nobody), sizeof(nobody)));
	TRY("connect: refused, once more", connect(s, sa(&nobody), sizeof(nobody)));
	inet_pton(AF_INET, "203.0.113.9", &nobody.sin_addr);
	TRY("connect: no route", connect(tcp(0), sa(&nobody), sizeof(nobody)));
	inet_pton(AF_INET, text, &nobody.sin_addr);
	s = tcp(SOCK_NONBLOCK);
	TRY("connect: not blocking, refused", connect(s, sa(&nobody), sizeof(nobody)));
	wait.fd = s;
	TRY("poll", poll(&wait, 1, 1000));
	getsockopt(s, SOL_SOCKET, SO_ERROR, &error, &length);
	printf("SO_ERROR: %d\n", error);
	close(l);
	l = tcp(0);
	far_away.sin_port = 0;
	if (bind(l, sa(&far_away), sizeof(far_away)) || listen(l, 5))
		abort();
	length = sizeof(l4);
	getsockname(l, (struct sockaddr *)&l4, &length);
	s = tcp(SOCK_NONBLOCK);
	TRY("connect: not blocking, own address", connect(s, sa(&l4), sizeof(l4)));
	wait.fd = s;
	TRY("poll", poll(&wait, 1, 1000));
	TRY("connect: not blocking, again", connect(s, sa(&l4), sizeof(l4)));
	TRY("connect: not blocking, once more", connect(s, sa(&l4), sizeof(l4)));
	s = tcp(0);
	TRY("bind: before connect", bind(s, sa(&far_away), sizeof(far_away)));
	TRY("connect: bound", connect(s, sa(&l4), sizeof(l4)));
	length = sizeof(from);
	getpeername(s, (struct sockaddr *)&from, &length);
	printf("the peer is the listener: %d\n", from.sin_port == l4.sin_port);
}

static void epolls(void)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = 0x1234567890abcdef }, got[8];
	struct sockaddr_in where;
	int l = listener(SOCK_NONBLOCK, &where), e = epoll_create1(EPOLL_CLOEXEC), c, a, accepted = 0;
	int plain = open("/proc/self/exe", O_RDONLY), other = tcp(0);

	TRY("epoll_ctl: epfd -1", epoll_ctl(-1, EPOLL_CTL_ADD, l, &event));
	TRY("epoll_ctl: epfd is no epoll", epoll_ctl(plain, EPOLL_CTL_ADD, l, &event));
	TRY("epoll_ctl: epfd is the listener", epoll_ctl(l, EPOLL_CTL_ADD, l, &event));
	TRY("epoll_ctl: fd -1", epoll_ctl(e, EPOLL_CTL_ADD, -1, &event));
	TRY("epoll_ctl: closed fd", epoll_ctl(e, EPOLL_CTL_ADD, bad, &event));
	TRY("epoll_ctl: itself", epoll_ctl(e, EPOLL_CTL_ADD, e, &event));
	TRY("epoll_ctl: a file", epoll_ctl(e, EPOLL_CTL_ADD, plain, &event));
	TRY("epoll_ctl: op 77", epoll_ctl(e, 77, l, &event));
	TRY("epoll_ctl: MOD before ADD", epoll_ctl(e, EPOLL_CTL_MOD, l, &event));
	TRY("epoll_ctl: DEL before ADD", epoll_ctl(e, EPOLL_CTL_DEL, l, &event));
	TRY("epoll_ctl: ADD, no event", epoll_ctl(e, EPOLL_CTL_ADD, l, NULL));
	TRY("epoll_ctl: ADD", epoll_ctl(e, EPOLL_CTL_ADD, l, &event));
	TRY("epoll_ctl: ADD again", epoll_ctl(e, EPOLL_CTL_ADD, l, &event));
	TRY("epoll_ctl: ADD another", epoll_ctl(e, EPOLL_CTL_ADD, other, &event));
	TRY("epoll_ctl: DEL another", epoll_ctl(e, EPOLL_CTL_DEL, other, NULL));
	TRY("epoll_wait: nobody there", epoll_wait(e, got, 8, 0));
	for (int i = 0; i < 200; i++) {
		c = tcp(0);
		if (connect(c, sa(&where), sizeof(where)) || epoll_wait(e, got, 8, 1000) != 1 ||
		    got[0].events != EPOLLIN || got[0].data.u64 != event.data.u64)
			break;
		a = accept(l, NULL, NULL);
		accepted += a >= 0 && accept(l, NULL, NULL) < 0 && errno == EAGAIN;
		close(a);
		close(c);
	}
	printf("one event a connection, then EAGAIN: %d of 200\n", accepted);
	event.data.u64++;
	TRY("epoll_ctl: MOD, other data", epoll_ctl(e, EPOLL_CTL_MOD, l, &event));
	c = tcp(0);
	TRY("connect", connect(c, sa(&where), sizeof(where)));
	TRY("epoll_wait: one there", epoll_wait(e, got, 8, 1000));
	printf("the other data: %d\n", got[0].data.u64 == event.data.u64);
	TRY("epoll_wait: still there", epoll_wait(e, got, 8, 0));
	TRY("epoll_ctl: DEL", epoll_ctl(e, EPOLL_CTL_DEL, l, &event));
	TRY("epoll_wait: taken out", epoll_wait(e, got, 8, 0));
	TRY("epoll_ctl: DEL again", epoll_ctl(e, EPOLL_CTL_DEL, l, &event));
	TRY_FD("accept: who came before", accept(l, NULL, NULL));
	TRY_FD("accept: nobody left", accept(l, NULL, NULL));
	event.events = EPOLLIN | EPOLLEXCLUSIVE;
	TRY("epoll_ctl: ADD, exclusive", epoll_ctl(e, EPOLL_CTL_ADD, l, &event));
	TRY("epoll_ctl: MOD, exclusive", epoll_ctl(e, EPOLL_CTL_MOD, l, &event));
	TRY("close: listener in epoll", close(l));
	TRY("epoll_wait: it is gone", epoll_wait(e, got, 8, 0));
	TRY("connect: it is gone", connect(tcp(0), sa(&where), sizeof(where)));
}

static void dups(void)
{
	struct sockaddr_in where;
	int l = listener(SOCK_NONBLOCK, &where), copy = dup(l), s = tcp(0);

	printf("dup2: on itself %d\n", dup2(l, l) == l);
	TRY("dup2: closed on itself", dup2(bad, bad));
	TRY("dup2: from a closed one", dup2(bad, l));
	TRY("dup2: to -1", dup2(l, -1));
	TRY("dup2: to 1 << 30", dup2(l, 1 << 30));
	TRY("dup3: on itself", dup3(l, l, 0));
	TRY("dup3: flags 1", dup3(s, l, 1));
	TRY("dup3: from a closed one", dup3(bad, l, 0));
	TRY("connect: it still listens", connect(tcp(0), sa(&where), sizeof(where)));
	TRY_COME("accept: by the copy", copy, accept(copy, NULL, NULL));
	TRY("connect: it still listens", connect(tcp(0), sa(&where), sizeof(where)));
	TRY_COME("accept: by the first", l, accept(l, NULL, NULL));
	printf("dup3: over the listener %d\n", dup3(s, l, O_CLOEXEC) == l);
	TRY_FD("accept: no listener now", accept(l, NULL, NULL));
	TRY("connect: the copy still listens", connect(tcp(0), sa(&where), sizeof(where)));
	TRY_COME("accept: by the copy", copy, accept(copy, NULL, NULL));
	TRY("close: the copy", close(copy));
	TRY("connect: nobody listens", connect(tcp(0), sa(&where), sizeof(where)));
}

static int finished(pid_t child)
{
	int status = -1;

	waitpid(child, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void execs(void)
{
	char *no[] = { "sh", "-c", "exit 7", NULL };
	char *env[] = { "A=1", NULL };
	const char *volatile nothing = NULL;	/* the compiler need not know */
	pid_t child;

	TRY("setuid: -1", setuid((uid_t)-1));
	TRY("setreuid: as it is", setreuid((uid_t)-1, (uid_t)-1));
	TRY("setresuid: as it is", setresuid((uid_t)-1, (uid_t)-1, (uid_t)-1));
	TRY("setuid: own", setuid(getuid()));
	TRY("execve: no such file", execve("/nonexistent", no, env));
	TRY("execve: a directory", execve("/", no, env));
	TRY("execve: NULL path", execve(nothing, no, env));
	TRY("execv: no such file", execv("/nonexistent", no));
	TRY("execvp: no such file", execvp("nonexistent-program", no));
	TRY("execvp: empty", execvp("", no));
	TRY("execvpe: no such file", execvpe("nonexistent-program", no, env));
	TRY("execl: no such file", execl("/nonexistent", "sh", "-c", NULL));
	TRY("execlp: no such file", execlp("nonexistent-program", "sh", NULL));
	TRY("execle: no such file", execle("/nonexistent", "sh", NULL, env));
	TRY("posix_spawn: no such file", posix_spawn(&child, "/nonexistent", NULL, NULL, no, env));
	TRY("posix_spawnp: no such file", posix_spawnp(&child, "nonexistent-program", NULL, NULL, no, env));
	TRY("posix_spawn", posix_spawn(&child, "/bin/sh", NULL, NULL, no, env));
	printf("spawned: status %d\n", finished(child));
	TRY("posix_spawnp", posix_spawnp(NULL, "sh", NULL, NULL, no, env));
	printf("spawned: status %d\n", finished(-1));
	for (int way = 0; way < 7; way++) {
		fflush(stdout);
		child = fork();
		if (!child) {
			way == 0 ? execve("/bin/sh", no, env) : way == 1 ? execv("/bin/sh", no) :
			way == 2 ? execvp("sh", no) : way == 3 ? execvpe("sh", no, env) :
			way == 4 ? execl("/bin/sh", "sh", "-c", "exit 8", NULL) :
			way == 5 ? execlp("sh", "sh", "-c", "exit 9", NULL) :
			execle("/bin/sh", "sh", "-c", "exit $A", NULL, env);
			_exit(99);
		}
		printf("exec %d in a fork: status %d\n", way, finished(child));
	}
	fflush(stdout);
	child = vfork();
	if (!child) {
		execve("/bin/sh", no, env);
		_exit(99);
	}
	printf("execve in a vfork: status %d\n", finished(child));
	printf("an environment of NULL: ");
	fflush(stdout);
	child = fork();
	if (!child) {
		execve("/bin/sh", no, NULL);
		_exit(99);
	}
	printf("status %d\n", finished(child));
}

int main(int argc, char **argv)
{
	any_port.sin_family = far_away.sin_family = AF_INET;
	any_port.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (argc != 2 || inet_pton(AF_INET, argv[1], &far_away.sin_addr) != 1)
		return 2;
	sockets_and_binds();
	accepts();
	connects(argv[1]);
	epolls();
	dups();
	execs();
	return 0;
}
