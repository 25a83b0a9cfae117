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

/* SAMPLE plain TCP clients on each CPU are given to the listener that has it. */
static void expect_homes(struct __test_metadata *_metadata, struct group *group, const int home[])
{
	int i, cpu;

	for (cpu = 0; cpu < cpus(); cpu++) {
		for (i = 0; i < SAMPLE; i++) {
			ASSERT_EQ(home[cpu], choice(group, cpu, 0)) TH_LOG("CPU %d", cpu);
		}
	}
}

/*
 * SO_INCOMING_CPU of MPTCP sockets that listen already. The group must hear of it: our slots, and stock's count of
 * members that have a CPU, which went below 0 when such a listener was closed; the next that came made it 0.
 */
TEST_F(bystanders, mptcp_cpu_after_listen)
{
	int i, fd, on, home[MAX_CPUS], last = cpus() - 1;

	for (on = 0; on < 2; on++) {
		ASSERT_EQ(0, file_write_number(LOCAL_LISTEN, on));
		for (i = 0; i <= last; i++) {
			fd = socket(self->group.family, SOCK_STREAM | SOCK_NONBLOCK, IPPROTO_MPTCP);
			if (fd < 0 && !i)
				SKIP(return, "no MPTCP");
			ASSERT_LE(0, fd);
			ASSERT_EQ(0, setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &(int){ 1 }, sizeof(int)));
			ASSERT_EQ(0, bind(fd, (void *)&self->group.at, self->group.at_len));
			ASSERT_EQ(0, listen(fd, BACKLOG));
			self->group.fd[self->group.n++] = fd;
		}
		for (i = 0; i <= last; i++) {
			ASSERT_EQ(0, set_cpu(self->group.fd[i], i));
			home[i] = i;
		}
		ASSERT_EQ(0, counters_reset());
		expect_homes(_metadata, &self->group, home);
		/* Changed: two swap. */
		ASSERT_EQ(0, set_cpu(self->group.fd[0], last));
		ASSERT_EQ(0, set_cpu(self->group.fd[last], 0));
		home[0] = last;
		home[last] = 0;
		expect_homes(_metadata, &self->group, home);
		/* Gone, and a plain TCP listener in its place. */
		group_close(&self->group, last);
		home[0] = group_add(&self->group, SOCK_STREAM, 0, BACKLOG);
		ASSERT_EQ(last + 1, home[0]);
		expect_homes(_metadata, &self->group, home);
		EXPECT_EQ(on ? 3 * SAMPLE * cpus() : 0, total(LOOKUPS_LOCAL));
		EXPECT_EQ(0, total(LOOKUPS_FALLBACK));
		group_end(&self->group);
	}
}

TEST_HARNESS_MAIN
