/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
#define _GNU_SOURCE
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "kernel.h"
#include "real.h"
#include "slots.h"

/* linux/socket.h, of SO_BUF_LOCK */
#define SNDBUF_LOCKED 1
#define RCVBUF_LOCKED 2

/*
 * Options a sibling takes over from the application's listener: what bind()
 * and the reuseport group look at, and what accepted sockets inherit
 * (net/core/sock.c:sk_clone_lock, net/ipv4/inet_connection_sock.c).
 */
static const struct {
	int level, name;
	enum options set;
} options[] = {
	{ SOL_SOCKET, SO_REUSEADDR, BEFORE_BIND },
	{ SOL_SOCKET, SO_BINDTODEVICE, BEFORE_BIND },
	{ SOL_SOCKET, SO_MARK, BEFORE_BIND },
	{ IPPROTO_IP, IP_FREEBIND, BEFORE_BIND },
	{ IPPROTO_IP, IP_TRANSPARENT, BEFORE_BIND },
	{ IPPROTO_IPV6, IPV6_V6ONLY, BEFORE_BIND },
	{ SOL_SOCKET, SO_RCVBUF, BUFFERS },
	{ SOL_SOCKET, SO_SNDBUF, BUFFERS },
	{ SOL_SOCKET, SO_KEEPALIVE, BEFORE_LISTEN },
	{ SOL_SOCKET, SO_LINGER, BEFORE_LISTEN },
	{ SOL_SOCKET, SO_PRIORITY, BEFORE_LISTEN },
	{ SOL_SOCKET, SO_BUSY_POLL, BEFORE_LISTEN },
	{ IPPROTO_IP, IP_TOS, BEFORE_LISTEN },
	{ IPPROTO_IP, IP_TTL, BEFORE_LISTEN },
	{ IPPROTO_IPV6, IPV6_TCLASS, BEFORE_LISTEN },
	{ IPPROTO_TCP, TCP_NODELAY, BEFORE_LISTEN },
	{ IPPROTO_TCP, TCP_MAXSEG, BEFORE_LISTEN },
	{ IPPROTO_TCP, TCP_KEEPIDLE, BEFORE_LISTEN },
	{ IPPROTO_TCP, TCP_KEEPINTVL, BEFORE_LISTEN },
	{ IPPROTO_TCP, TCP_KEEPCNT, BEFORE_LISTEN },
	{ IPPROTO_TCP, TCP_SYNCNT, BEFORE_LISTEN },
	{ IPPROTO_TCP, TCP_LINGER2, BEFORE_LISTEN },
	{ IPPROTO_TCP, TCP_DEFER_ACCEPT, BEFORE_LISTEN },
	{ IPPROTO_TCP, TCP_QUICKACK, BEFORE_LISTEN },
	{ IPPROTO_TCP, TCP_USER_TIMEOUT, BEFORE_LISTEN },
	{ IPPROTO_TCP, TCP_NOTSENT_LOWAT, BEFORE_LISTEN },
	{ IPPROTO_TCP, TCP_CONGESTION, BEFORE_LISTEN },
	{ IPPROTO_TCP, TCP_FASTOPEN, BEFORE_LISTEN },
};

static int same(const char *a, const char *b, socklen_t length)
{
	while (length--)
		if (*a++ != *b++)
			return 0;
	return 1;
}

void options_copy(int from, int to, int which)
{
	/* Sizes that somebody has set, SOCK_SNDBUF_LOCK and SOCK_RCVBUF_LOCK; -1: not known, before Linux 5.14. */
	int locked = which & BUFFERS ? socket_flag(from, SO_BUF_LOCK) : 0;

	for (unsigned int i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
		char have[IFNAMSIZ] = "", want[IFNAMSIZ] = "";
		socklen_t have_length = sizeof(have), want_length = sizeof(want);
		int level = options[i].level, name = options[i].name, *number = (int *)(void *)want;

		if (!(options[i].set & which) || getsockopt(from, level, name, want, &want_length) ||
		    getsockopt(to, level, name, have, &have_length))
			continue;
		/* One that nobody has set may differ all the same: tcp_wmem was another. */
		if (options[i].set == BUFFERS &&
		    !(locked < 0 ? which & UNKNOWN_BUFFERS : locked & (name == SO_SNDBUF ? SNDBUF_LOCKED : RCVBUF_LOCKED)))
			continue;
		/* Most are at their default: setting SO_RCVBUF, say, would turn autotuning off. */
		if (have_length == want_length && same(have, want, want_length))
			continue;
		/* The kernel doubles what is set: socket(7) SO_RCVBUF. */
		if (options[i].set == BUFFERS)
			*number /= 2;
		/* None was set: net/ipv4/tcp.c:do_tcp_getsockopt. */
		if (name == TCP_MAXSEG && level == IPPROTO_TCP && *number == TCP_MSS_DEFAULT)
			*number = 0;
		/* One that cannot be set here is one the accepted sockets do without. */
		(void)setsockopt(to, level, name, want, want_length);
	}
	/* Also one that was set to the default, and a slot that a former library has set. */
	if (which & BUFFERS && locked >= 0 && socket_flag(to, SO_BUF_LOCK) != locked)
		(void)setsockopt(to, SOL_SOCKET, SO_BUF_LOCK, &locked, sizeof(locked));
}

uint64_t socket_cookie(int fd)
{
	uint64_t cookie = 0;
	socklen_t length = sizeof(cookie);

	return getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &length) ? 0 : cookie;
}

int socket_flag(int fd, int option)
{
	int value = 0;
	socklen_t length = sizeof(value);

	return getsockopt(fd, SOL_SOCKET, option, &value, &length) ? -1 : value;
}

int socket_is_tcp(int fd)
{
	int domain = socket_flag(fd, SO_DOMAIN);

	return (domain == AF_INET || domain == AF_INET6) &&
	       socket_flag(fd, SO_TYPE) == SOCK_STREAM &&
	       socket_flag(fd, SO_PROTOCOL) == IPPROTO_TCP;
}

int socket_blocks(int fd)
{
	int status = fcntl(fd, F_GETFL);

	return status >= 0 && !(status & O_NONBLOCK);
}

/* Namespaces have no number before Linux 5.14, but a file each: which that is, the owner of the namespace may ask. */
static int namespace_file(int fd, struct stat *file)
{
	int namespace = ioctl(fd, SIOCGSKNS), known;

	if (namespace < 0)
		return 0;
	known = !fstat(namespace, file);
	real.close(namespace);
	return known;
}

static int same_namespace(int a, int b)
{
	uint64_t cookies[2] = { 0, 0 };
	socklen_t lengths[2] = { sizeof(cookies[0]), sizeof(cookies[1]) };
	struct stat files[2];

	if (!getsockopt(a, SOL_SOCKET, SO_NETNS_COOKIE, &cookies[0], &lengths[0]) &&
	    !getsockopt(b, SOL_SOCKET, SO_NETNS_COOKIE, &cookies[1], &lengths[1]))
		return cookies[0] == cookies[1];
	return !namespace_file(a, &files[0]) || !namespace_file(b, &files[1]) ||
	       (files[0].st_ino == files[1].st_ino && files[0].st_dev == files[1].st_dev);
}

int socket_here(int fd)
{
	int fresh = real.socket(socket_flag(fd, SO_DOMAIN), SOCK_STREAM | SOCK_CLOEXEC, 0), here;

	if (fresh < 0)
		return 1;
	here = same_namespace(fd, fresh);
	real.close(fresh);
	return here;
}
