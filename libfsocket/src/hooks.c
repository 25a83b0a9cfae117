/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The intercepted calls. Each says in a line or two what differs from libc; all
 * of it is skipped when the library stays out of the way (shared.header is NULL).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fds.h"
#include "handover.h"
#include "inherit.h"
#include "kernel.h"
#include "ports.h"
#include "real.h"
#include "settings.h"
#include "shard.h"
#include "slots.h"
#include "steer.h"

#ifndef SYS_close_range
#define SYS_close_range 436	/* Linux 5.9 */
#endif

/* Not in the headers of an older libc, nor of musl. */
int close_range(unsigned int first, unsigned int last, int flags);
void closefrom(int first);

EXPORT int socket(int domain, int type, int protocol)
{
	int fd, tcp = (domain == AF_INET || domain == AF_INET6) &&
		      (type & ~(SOCK_NONBLOCK | SOCK_CLOEXEC)) == SOCK_STREAM &&
		      (protocol == 0 || protocol == IPPROTO_TCP);

	real_ready();
	fd = real.socket(domain, type, protocol);
	if (fd >= 0)
		fd_born(fd, tcp ? FD_FRESH : FD_OTHER);
	return fd;
}

/* A socket the predecessor already listened on is taken over instead. */
EXPORT int bind(int fd, const struct sockaddr *address, socklen_t length)
{
	int result;

	real_ready();
	if (!shared.header || fd_kind(fd_get(fd)) != FD_FRESH || !address)
		return real.bind(fd, address, length);
	result = handover_take(fd, address, length) ? 0 : real.bind(fd, address, length);
	if (!result)
		fd_set_kind(fd, FD_BOUND, 0);
	return result;
}

/*
 * Does another socket listen on fd's address? Only asked when the application
 * shares it with SO_REUSEPORT; without, its own bind() would have failed.
 */
static int alone(int fd)
{
	struct sockaddr_storage address = { .ss_family = AF_UNSPEC };
	socklen_t length = sizeof(address);
	int probe, one = 1, result;

	if (getsockname(fd, (struct sockaddr *)&address, &length))
		return 0;
	probe = real.socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_TCP);
	if (probe < 0)
		return 0;
	options_copy(fd, probe, BEFORE_BIND);
	setsockopt(probe, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	result = !real.bind(probe, (struct sockaddr *)&address, length);
	real.close(probe);
	return result;
}

/* A TCP listener gets a slot per CPU. SO_REUSEPORT comes after its bind(), so that one fails as ever. */
EXPORT int listen(int fd, int backlog)
{
	struct listener *known;
	int one = 1, shares, listens, sole, result, keep;

	real_ready();
	if (fd_kind(fd_get(fd)) == FD_OTHER || !shared.header || !settings.listen)
		return real.listen(fd, backlog);
	keep = errno;
	known = listener_find(fd);
	if (known)
		known->backlog = backlog;
	shares = socket_flag(fd, SO_REUSEPORT);
	if (known || (shares && listeners_programmed) || !socket_is_tcp(fd) || !steer_works() ||
	    !socket_here(fd)) {
		if (!known)
			fd_set_kind(fd, FD_OTHER, 0);
		errno = keep;
		return real.listen(fd, backlog);
	}
	/*
	 * Listening already: taken over from a predecessor, who had it alone. Of unknown descent, or shut down before: as
	 * was noted then.
	 */
	listens = socket_flag(fd, SO_ACCEPTCONN) == 1;
	sole = shares && (fd_kind(fd_get(fd)) == FD_UNKNOWN || listener_sole(socket_cookie(fd))) ? -1 :
	       !shares || listens || alone(fd);
	if (!shares && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)))
		shares = -1;
	errno = keep;
	result = real.listen(fd, backlog);
	if (result || shares < 0)
		return result;
	listener_prepare(fd, backlog, sole, !listens && fd_kind(fd_get(fd)) != FD_UNKNOWN);
	errno = keep;
	return 0;
}

static inline int is_program(int option)
{
	return option == SO_ATTACH_REUSEPORT_CBPF || option == SO_ATTACH_REUSEPORT_EBPF ||
	       option == SO_DETACH_REUSEPORT_BPF;
}

/* Of all options only those by which the application chooses in a group itself. */
EXPORT int setsockopt(int fd, int level, int option, const void *value, socklen_t length)
{
	real_ready();
	if (__builtin_expect(level == SOL_SOCKET && is_program(option), 0) && shared.header)
		listener_programmed(fd);
	return real.setsockopt(fd, level, option, value, length);
}

EXPORT int connect(int fd, const struct sockaddr *address, socklen_t length)
{
	enum fd_kind kind;

	real_ready();
	kind = fd_kind(fd_get(fd));
	if (kind < FD_FRESH || kind > FD_ACTIVE || !shared.header || !settings.connect ||
	    (kind != FD_ACTIVE && !switch_on()))
		return real.connect(fd, address, length);
	return ports_connect(fd, address, length);
}

__attribute__((noinline)) static int any_epoll_ctl(int epfd, int op, int fd, struct epoll_event *event)
{
	struct listener *l;

	real_ready();
	if (op == EPOLL_CTL_ADD && fd_kind(fd_get(fd)) == FD_UNKNOWN && shared.header && settings.listen) {
		int keep = errno;

		/* A listener that came over a socket or an exec. */
		if (socket_flag(fd, SO_ACCEPTCONN) == 1 && socket_is_tcp(fd))
			listener_adopt(fd);
		else
			fd_set_kind(fd, FD_OTHER, 0);
		errno = keep;
	}
	l = fd_kind(fd_get(fd)) == FD_LISTENER ? listener_find(fd) : NULL;
	return l ? slots_epoll(l, epfd, op, event) : real.epoll_ctl(epfd, op, fd, event);
}

/* Adding a listener to an epoll claims the slot of the thread's CPU. */
EXPORT int epoll_ctl(int epfd, int op, int fd, struct epoll_event *event)
{
	return __builtin_expect(fd_plain(fd), 1) ? real.epoll_ctl(epfd, op, fd, event) :
						   any_epoll_ctl(epfd, op, fd, event);
}

/*
 * A listener that comes from a predecessor, as HAProxy's at a reload: its slots
 * are taken over at once, before the predecessor is told to leave them.
 */
EXPORT ssize_t recvmsg(int fd, struct msghdr *message, int flags)
{
	ssize_t result;

	real_ready();
	result = real.recvmsg(fd, message, flags);
	if (__builtin_expect(result >= 0 && message->msg_controllen && shared.header && settings.listen, 0))
		inherit_message(message);
	return result;
}

__attribute__((noinline)) static void forget_ours(int fd, uint32_t word)
{
	enum fd_kind kind = fd_kind(word);
	int keep = errno;

	real_ready();
	if ((kind == FD_LISTENER || kind == FD_SLOT) && !listener_ours())
		return;
	if (kind == FD_LISTENER)
		listener_close(listener_find(fd));
	else if (kind == FD_SLOT)
		listener_lose_slot(fd);
	else if (kind == FD_ACTIVE && shared.header && switch_on())
		ports_closing(fd, fd_detail(word));
	fd_set_kind(fd, FD_UNKNOWN, 0);
	errno = keep;
}

/* What we knew of fd is over. */
static inline void forget(int fd)
{
	uint32_t word = fd_get(fd);

	if (__builtin_expect(fd_kind(word) >= FD_ACTIVE, 0))
		forget_ours(fd, word);
	else if (word)	/* not to touch a page for nothing */
		fd_set_kind(fd, FD_UNKNOWN, 0);
}

/* A listener that ends so listens no more by any of its slots; listen() can begin anew. */
__attribute__((noinline)) static void stop_listening(int fd)
{
	int keep = errno;
	struct listener *l = listener_ours() ? listener_accepts(fd) : NULL;

	if (l) {
		int own = l->fd;

		listener_close(l);
		fd_set_kind(own, FD_BOUND, 0);
	}
	errno = keep;
}

EXPORT int shutdown(int fd, int how)
{
	enum fd_kind kind;
	int result;

	real_ready();
	result = real.shutdown(fd, how);
	kind = fd_kind(fd_get(fd));
	if (__builtin_expect((kind == FD_UNKNOWN || kind > FD_ACTIVE) && !result && how != SHUT_WR && shared.header, 0))
		stop_listening(fd);
	return result;
}

__attribute__((noinline)) static int close_untracked(int fd)
{
	real_ready();
	return real.close(fd);
}

EXPORT int close(int fd)
{
	if (!fd_tracked(fd))
		return close_untracked(fd);
	forget(fd);
	return real.close(fd);
}

/* Of what goes at once, listeners and slots matter; no other word may be mistaken for the next with that number. */
static void forget_range(unsigned int first, unsigned int last)
{
	int keep = errno;

	for (int fd; (fd = listener_in(first, last)) >= 0 && listener_ours();)
		forget(fd);
	errno = keep;
}

EXPORT int close_range(unsigned int first, unsigned int last, int flags)
{
	real_ready();
	/* With a flag it closes nothing, or only in a table of this thread's own. */
	if (!flags)
		forget_range(first, last);
	return (int)syscall(SYS_close_range, first, last, flags);
}

EXPORT void closefrom(int first)
{
	real_ready();
	forget_range(first < 0 ? 0 : (unsigned int)first, ~0u);
	if (real.closefrom)
		real.closefrom(first);
	else	/* who calls it has a libc of its own for it */
		syscall(SYS_close_range, first < 0 ? 0 : first, ~0u, 0);
}

/* A dup2() that fails leaves `to` as it is: of a listener or a slot that matters. */
static inline void forget_replaced(int from, int to)
{
	int keep = errno, stays = __builtin_expect(fd_kind(fd_get(to)) >= FD_ACTIVE, 0) && fcntl(from, F_GETFD) < 0 &&
				  errno == EBADF;

	errno = keep;
	if (!stays)
		forget(to);
}

EXPORT int dup2(int from, int to)
{
	real_ready();
	if (from != to)
		forget_replaced(from, to);
	return real.dup2(from, to);
}

EXPORT int dup3(int from, int to, int flags)
{
	real_ready();
	if (from != to && !(flags & ~O_CLOEXEC))
		forget_replaced(from, to);
	return real.dup3(from, to, flags);
}

/*
 * The last moment with the rights to bind a sibling next to root's listener:
 * sockets of a reuseport group need one owner (net/ipv4/inet_connection_sock.c:
 * inet_csk_bind_conflict).
 */
static void before_identity(void)
{
	int keep = errno;

	if (shared.header && settings.listen && geteuid() == 0)
		listener_prepare_all();
	errno = keep;
}

EXPORT int setuid(uid_t uid)
{
	real_ready();
	before_identity();
	return real.setuid(uid);
}

EXPORT int setreuid(uid_t ruid, uid_t euid)
{
	real_ready();
	before_identity();
	return real.setreuid(ruid, euid);
}

EXPORT int setresuid(uid_t ruid, uid_t euid, uid_t suid)
{
	real_ready();
	before_identity();
	return real.setresuid(ruid, euid, suid);
}
