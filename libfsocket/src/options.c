/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
#define _GNU_SOURCE
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include "kernel.h"
#include "slots.h"

/*
 * Options a sibling takes over from the application's listener: what bind()
 * and the reuseport group look at, and what accepted sockets inherit
 * (net/core/sock.c:sk_clone_lock, net/ipv4/inet_connection_sock.c).
 */
static const struct {
	int level, name;
	enum when when;
	int halve;	/* the kernel doubles what is set: socket(7) SO_RCVBUF */
} options[] = {
	{ SOL_SOCKET, SO_REUSEADDR, BEFORE_BIND, 0 },
	{ SOL_SOCKET, SO_BINDTODEVICE, BEFORE_BIND, 0 },
	{ SOL_SOCKET, SO_MARK, BEFORE_BIND, 0 },
	{ IPPROTO_IP, IP_FREEBIND, BEFORE_BIND, 0 },
	{ IPPROTO_IP, IP_TRANSPARENT, BEFORE_BIND, 0 },
	{ IPPROTO_IPV6, IPV6_V6ONLY, BEFORE_BIND, 0 },
	{ SOL_SOCKET, SO_RCVBUF, BEFORE_LISTEN, 1 },
	{ SOL_SOCKET, SO_SNDBUF, BEFORE_LISTEN, 1 },
	{ SOL_SOCKET, SO_KEEPALIVE, BEFORE_LISTEN, 0 },
	{ SOL_SOCKET, SO_LINGER, BEFORE_LISTEN, 0 },
	{ SOL_SOCKET, SO_PRIORITY, BEFORE_LISTEN, 0 },
	{ SOL_SOCKET, SO_BUSY_POLL, BEFORE_LISTEN, 0 },
	{ IPPROTO_IP, IP_TOS, BEFORE_LISTEN, 0 },
	{ IPPROTO_IP, IP_TTL, BEFORE_LISTEN, 0 },
	{ IPPROTO_IPV6, IPV6_TCLASS, BEFORE_LISTEN, 0 },
	{ IPPROTO_TCP, TCP_NODELAY, BEFORE_LISTEN, 0 },
	{ IPPROTO_TCP, TCP_MAXSEG, BEFORE_LISTEN, 0 },
	{ IPPROTO_TCP, TCP_KEEPIDLE, BEFORE_LISTEN, 0 },
	{ IPPROTO_TCP, TCP_KEEPINTVL, BEFORE_LISTEN, 0 },
	{ IPPROTO_TCP, TCP_KEEPCNT, BEFORE_LISTEN, 0 },
	{ IPPROTO_TCP, TCP_SYNCNT, BEFORE_LISTEN, 0 },
	{ IPPROTO_TCP, TCP_LINGER2, BEFORE_LISTEN, 0 },
	{ IPPROTO_TCP, TCP_DEFER_ACCEPT, BEFORE_LISTEN, 0 },
	{ IPPROTO_TCP, TCP_QUICKACK, BEFORE_LISTEN, 0 },
	{ IPPROTO_TCP, TCP_USER_TIMEOUT, BEFORE_LISTEN, 0 },
	{ IPPROTO_TCP, TCP_NOTSENT_LOWAT, BEFORE_LISTEN, 0 },
	{ IPPROTO_TCP, TCP_CONGESTION, BEFORE_LISTEN, 0 },
	{ IPPROTO_TCP, TCP_FASTOPEN, BEFORE_LISTEN, 0 },
};

static int same(const char *a, const char *b, socklen_t length)
{
	while (length--)
		if (*a++ != *b++)
			return 0;
	return 1;
}

void options_copy(int from, int to, enum when when)
{
	for (unsigned int i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
		char have[IFNAMSIZ] = "", want[IFNAMSIZ] = "";
		socklen_t have_length = sizeof(have), want_length = sizeof(want);
		int level = options[i].level, name = options[i].name;

		if (options[i].when != when || getsockopt(from, level, name, want, &want_length) ||
		    getsockopt(to, level, name, have, &have_length))
			continue;
		/* Most are at their default: setting SO_RCVBUF, say, would turn autotuning off. */
		if (have_length == want_length && same(have, want, want_length))
			continue;
		if (options[i].halve)
			*(int *)(void *)want /= 2;
		/* One that cannot be set here is one the accepted sockets do without. */
		(void)setsockopt(to, level, name, want, want_length);
	}
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
