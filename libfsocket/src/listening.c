/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
#define _GNU_SOURCE
#include "listening.h"

#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include "migrate.h"
#include "real.h"

/* What one recv() gives at most: linux/netlink.h NLMSG_GOODSIZE */
union message {
	struct nlmsghdr first;
	char bytes[8192];
};

/* Sockets of one message into cookies. 1: that was the last one, 0: more come, -1: an error, or too many. */
static int take(const struct nlmsghdr *h, size_t length, uint64_t *cookies, int *count)
{
	for (; NLMSG_OK(h, length); h = NLMSG_NEXT(h, length)) {
		const struct inet_diag_msg *m = NLMSG_DATA(h);

		if (h->nlmsg_type == NLMSG_DONE)
			return 1;
		if (h->nlmsg_type != SOCK_DIAG_BY_FAMILY || h->nlmsg_len < NLMSG_LENGTH(sizeof(*m)) ||
		    *count == LISTENING_MOST)
			return -1;
		cookies[(*count)++] = m->id.idiag_cookie[0] | (uint64_t)m->id.idiag_cookie[1] << 32;
	}
	return 0;
}

int listening_cookies(const struct sockaddr_storage *address, uint64_t *cookies)
{
	struct {
		struct nlmsghdr header;
		struct inet_diag_req_v2 of;
	} ask = {
		.header = { .nlmsg_len = sizeof(ask), .nlmsg_type = SOCK_DIAG_BY_FAMILY,
			    .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP },
		.of = { .sdiag_family = (uint8_t)address->ss_family, .sdiag_protocol = IPPROTO_TCP,
			.idiag_states = 1 << TCP_LISTEN },
	};
	int fd, count = 0, end = 0;
	union message m;

	/* The port stands at the same place in both kinds of address. */
	ask.of.id.idiag_sport = ((const struct sockaddr_in *)(const void *)address)->sin_port;
	if (!unfiltered())
		return -1;
	fd = real.socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
	if (fd < 0)
		return -1;
	if (send(fd, &ask, sizeof(ask), 0) != sizeof(ask))
		end = -1;
	while (!end) {
		ssize_t length = recv(fd, &m, sizeof(m), MSG_TRUNC);

		end = length > 0 && (size_t)length <= sizeof(m) ? take(&m.first, (size_t)length, cookies, &count) : -1;
	}
	real.close(fd);
	return end < 0 ? -1 : count;
}
