// SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
// SPDX-License-Identifier: GPL-2.0-only
/* What goes the same way through a reuseport group or a listener: UDP, SYN cookies, TCP Fast Open, MPTCP. */
#define _GNU_SOURCE
#include <errno.h>

#include "fixture.h"

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif
#define BACKLOG 64
#define SAMPLE 12

FIXTURE(bystanders)
{
	struct group group;
};

FIXTURE_VARIANT(bystanders)
{
	enum ways way;
};

FIXTURE_VARIANT_ADD(bystanders, ipv4) { .way = IPV4 };
FIXTURE_VARIANT_ADD(bystanders, ipv6) { .way = IPV6 };

FIXTURE_SETUP(bystanders)
{
	NEED_FASTSOCKET();
	NEED_CPUS(2);
	group_init(&self->group, variant->way, 8000);
	ASSERT_EQ(0, file_write(LOCAL_LISTEN, "1"));
}

FIXTURE_TEARDOWN(bystanders)
{
	group_end(&self->group);
}

/* The receivers that get datagrams of a fixed list of flows, all sent from `cpu`. */
static void datagrams(struct __test_metadata *_metadata, struct group *group, int cpu, int chosen[SAMPLE])
{
	struct sockaddr_storage from;
	char byte = 'x';
	int i, fd;

	ASSERT_EQ(0, pin(cpu));
	for (i = 0; i < SAMPLE; i++) {
		memcpy(&from, &group->to, sizeof(from));
		((struct sockaddr_in *)&from)->sin_port = htons(22000 + 7 * i);	/* the same place in both families */
		fd = socket(group->to.ss_family, SOCK_DGRAM, 0);
		ASSERT_LE(0, fd);
		ASSERT_EQ(0, bind(fd, (void *)&from, group->to_len));
		ASSERT_EQ(1, sendto(fd, &byte, 1, 0, (void *)&group->to, group->to_len));
		chosen[i] = group_ready(group, PATIENCE);
		ASSERT_LE(0, chosen[i]);
		ASSERT_EQ(1, recv(group->fd[chosen[i]], &byte, 1, 0));
		close(fd);
	}
}

TEST_F(bystanders, udp)
{
	int on[SAMPLE], off[SAMPLE], slots, cpu;

	for (slots = 0; slots < 2; slots++) {
		for (cpu = 0; cpu < cpus(); cpu++)
			ASSERT_EQ(cpu, group_add(&self->group, SOCK_DGRAM, slots ? cpu : -1, 0));
		for (cpu = 0; cpu < 2; cpu++) {
			ASSERT_EQ(0, file_write(LOCAL_LISTEN, "0"));
			datagrams(_metadata, &self->group, cpu, off);
			ASSERT_EQ(0, file_write(LOCAL_LISTEN, "1"));
			datagrams(_metadata, &self->group, cpu, on);
			EXPECT_EQ(0, memcmp(on, off, sizeof(on)));
		}
		group_end(&self->group);
	}
	EXPECT_EQ(0, total(LOOKUPS_LOCAL) + total(LOOKUPS_FALLBACK));
}

/* With tcp_syncookies = 2 nothing is kept of a SYN: the ACK looks the listener up once more. */
TEST_F(bystanders, syn_cookies)
{
	int i, cpu;

	if (file_write("/proc/sys/net/ipv4/tcp_syncookies", "2"))
		SKIP(return, "no SYN cookies");
	ASSERT_EQ(0, group_fill(&self->group, cpus(), BACKLOG));
	for (cpu = 0; cpu < cpus(); cpu++)
		for (i = 0; i < SAMPLE; i++)
			ASSERT_EQ(cpu, choice(&self->group, cpu, 0));
	EXPECT_EQ(SAMPLE * cpus(), netstat("SyncookiesRecv"));
	EXPECT_EQ(0, netstat("SyncookiesFailed"));
	EXPECT_EQ(2 * SAMPLE * cpus(), total(LOOKUPS_LOCAL));
	/* The slot goes between SYN and ACK at worst, so another must know the cookie; here: all go elsewhere. */
	group_close(&self->group, 1);
	for (i = 0; i < SAMPLE; i++)
		ASSERT_LE(0, choice(&self->group, 1, 0));
	EXPECT_EQ(2 * SAMPLE, total(LOOKUPS_FALLBACK));
	EXPECT_EQ(0, netstat("SyncookiesFailed"));
}

/* Data in the SYN: the child is there, with its data, before the handshake ends. */
TEST_F(bystanders, fast_open)
{
	int i, cpu, fd, taken;
	char byte = 'x';

	/* Client and server, no cookie asked for on either side, on every listener. */
	ASSERT_EQ(0, file_write("/proc/sys/net/ipv4/tcp_fastopen", "1543"));
	ASSERT_EQ(0, group_fill(&self->group, cpus(), BACKLOG));
	for (cpu = 0; cpu < cpus(); cpu++) {
		for (i = 0; i < SAMPLE; i++) {
			ASSERT_EQ(0, pin(cpu));
			fd = socket(self->group.to.ss_family, SOCK_STREAM, 0);
			ASSERT_LE(0, fd);
			ASSERT_EQ(1, sendto(fd, &byte, 1, MSG_FASTOPEN, (void *)&self->group.to, self->group.to_len));
			ASSERT_EQ(cpu, group_ready(&self->group, PATIENCE));
			taken = accept(self->group.fd[cpu], NULL, NULL);
			ASSERT_LE(0, taken);
			ASSERT_EQ(1, recv(taken, &byte, 1, 0));
			abort_connection(taken);
			close(fd);
		}
	}
	EXPECT_EQ(SAMPLE * cpus(), netstat("TCPFastOpenPassive"));
	EXPECT_EQ(SAMPLE * cpus(), total(LOOKUPS_LOCAL));
	EXPECT_EQ(SAMPLE * cpus(), total(ACCEPTS_LOCAL));
	EXPECT_EQ(SAMPLE * cpus(), total(CONNECTS_LOCAL));
}

/* An MPTCP listener has a TCP listener inside; plain TCP clients come in through it too. */
TEST_F(bystanders, mptcp)
{
	int i, fd, taken, protocol;

	for (i = 0; i < cpus(); i++) {
		fd = socket(self->group.family, SOCK_STREAM | SOCK_NONBLOCK, IPPROTO_MPTCP);
		if (fd < 0 && !i)
			SKIP(return, "no MPTCP");
		ASSERT_LE(0, fd);
		ASSERT_EQ(0, setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &(int){ 1 }, sizeof(int)));
		ASSERT_EQ(0, set_cpu(fd, i));
		ASSERT_EQ(0, bind(fd, (void *)&self->group.at, self->group.at_len));
		ASSERT_EQ(0, listen(fd, BACKLOG));
		self->group.fd[self->group.n++] = fd;
	}
	for (protocol = 0; protocol <= IPPROTO_MPTCP; protocol += IPPROTO_MPTCP) {
		for (i = 0; i < SAMPLE; i++) {
			int index;

			ASSERT_EQ(0, pin(i % cpus()));
			fd = socket(self->group.to.ss_family, SOCK_STREAM, protocol);
			ASSERT_LE(0, fd);
			ASSERT_EQ(0, connect(fd, (void *)&self->group.to, self->group.to_len));
			taken = group_take(&self->group, &index);
			ASSERT_LE(0, taken);
			EXPECT_EQ(i % cpus(), index);
			close(fd);
			close(taken);
		}
	}
}

TEST_HARNESS_MAIN
