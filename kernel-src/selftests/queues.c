// SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
// SPDX-License-Identifier: GPL-2.0-only
/*
 * Nobody accepts on one CPU: where its connections go when its slot's queue is past net.fastsocket.spill or full, and
 * what becomes of a queue whose listener goes. Never is a connection lost or a SYN sent twice.
 */
#define _GNU_SOURCE
#include <netinet/tcp.h>

#include "fixture.h"

#define SMALL 20
/* One percent of it is more than any test here queues. */
#define LARGE 4096
#define MAX_CLIENTS (MAX_CPUS * (SMALL + 1))

FIXTURE(queues)
{
	struct group group;
	int clients, fd[MAX_CLIENTS];
	int taken[MAX_LISTENERS];	/* connections that each listener's queue held */
};

FIXTURE_VARIANT(queues)
{
	enum ways way;
};

FIXTURE_VARIANT_ADD(queues, ipv4) { .way = IPV4 };
FIXTURE_VARIANT_ADD(queues, ipv6) { .way = IPV6 };

FIXTURE_SETUP(queues)
{
	NEED_FASTSOCKET();
	NEED_CPUS(2);
	group_init(&self->group, variant->way, 8000);
	ASSERT_EQ(0, file_write(LOCAL_LISTEN, "1"));
	/* A full request queue must be an error here, not a reason for SYN cookies. */
	ASSERT_EQ(0, file_write("/proc/sys/net/ipv4/tcp_syncookies", "0"));
	ASSERT_EQ(0, counters_reset());
}

FIXTURE_TEARDOWN(queues)
{
	while (self->clients)
		close(self->fd[--self->clients]);
	group_end(&self->group);
}

/* Slot 0 with a small backlog, the others with a large one. */
static void small_and_large(struct __test_metadata *_metadata, FIXTURE_DATA(queues) *self)
{
	int cpu;

	for (cpu = 0; cpu < cpus(); cpu++)
		ASSERT_EQ(cpu, group_add(&self->group, SOCK_STREAM, cpu, cpu ? LARGE : SMALL));
}

/* `count` more clients on `cpu`, each of which says its number. */
static void connect_clients(struct __test_metadata *_metadata, FIXTURE_DATA(queues) *self, int cpu, int count)
{
	while (count--) {
		int i = self->clients;

		ASSERT_GT(MAX_CLIENTS, i);
		self->fd[i] = client(&self->group, cpu, 0);
		ASSERT_LE(0, self->fd[i]) TH_LOG("client %d of CPU %d: %s", i, cpu, strerror(-self->fd[i]));
		self->clients++;
		ASSERT_EQ((ssize_t)sizeof(i), send(self->fd[i], &i, sizeof(i), MSG_NOSIGNAL));
	}
}

/* Every client is in some queue and is answered; nothing was dropped or sent again on the way. */
static void expect_none_lost(struct __test_metadata *_metadata, FIXTURE_DATA(queues) *self)
{
	bool seen[MAX_CLIENTS] = {};
	int i, index, number;

	for (i = 0; i < self->clients; i++) {
		int fd = group_take(&self->group, &index);

		ASSERT_LE(0, fd) TH_LOG("%d of %d connections are in no queue", self->clients - i, self->clients);
		self->taken[index]++;
		ASSERT_EQ((ssize_t)sizeof(number), recv(fd, &number, sizeof(number), MSG_WAITALL));
		ASSERT_TRUE(number >= 0 && number < self->clients && !seen[number]);
		seen[number] = true;
		ASSERT_EQ((ssize_t)sizeof(number), send(fd, &number, sizeof(number), MSG_NOSIGNAL));
		close(fd);
	}
	for (i = 0; i < self->clients; i++) {
		EXPECT_EQ(0, client_retransmits(self->fd[i]));
		ASSERT_EQ((ssize_t)sizeof(number), recv(self->fd[i], &number, sizeof(number), MSG_WAITALL));
		EXPECT_EQ(i, number);
	}
	EXPECT_EQ(-1, group_ready(&self->group, 0));
	EXPECT_EQ(0, netstat("ListenOverflows"));
	EXPECT_EQ(0, netstat("ListenDrops"));
}

/* How many of CPU 0's connections its slot takes before the first goes elsewhere. */
static int kept(struct __test_metadata *_metadata, FIXTURE_DATA(queues) *self, int spill)
{
	int local;

	EXPECT_EQ(0, file_write_number(SPILL, spill));
	EXPECT_EQ(0, counters_reset());
	while (self->clients < SMALL + 5)
		connect_clients(_metadata, self, 0, 1);
	local = total(LOOKUPS_LOCAL);
	EXPECT_EQ(self->clients - local, total(LOOKUPS_FALLBACK));
	return local;
}

TEST_F(queues, spill_is_a_share_of_the_backlog)
{
	static const struct {
		int spill, kept;
	} table[] = { { 50, SMALL / 2 }, { 1, 1 }, { 25, SMALL / 4 }, { 100, SMALL } };
	unsigned int i;

	small_and_large(_metadata, self);
	for (i = 0; i < ARRAY_SIZE(table); i++) {
		EXPECT_EQ(table[i].kept, kept(_metadata, self, table[i].spill)) TH_LOG("spill %d", table[i].spill);
		expect_none_lost(_metadata, self);
		while (self->clients)
			abort_connection(self->fd[--self->clients]);
	}
}

/* Far more than CPU 0's slot can hold; the hash may name that full slot again. */
TEST_F(queues, full_queue)
{
	int i, others = 0;

	small_and_large(_metadata, self);
	ASSERT_EQ(0, file_write(SPILL, "100"));
	connect_clients(_metadata, self, 0, 4 * SMALL);
	expect_none_lost(_metadata, self);
	for (i = 1; i < self->group.n; i++)
		others += self->taken[i];
	EXPECT_LE(SMALL, self->taken[0]);
	EXPECT_GE(SMALL + 1, self->taken[0]);
	EXPECT_EQ(self->clients - self->taken[0], others);
}

/* While the others' slots go on with their own CPUs. */
TEST_F(queues, full_queue_of_one_is_not_the_others)
{
	int cpu;

	small_and_large(_metadata, self);
	connect_clients(_metadata, self, 0, 3 * SMALL);
	ASSERT_EQ(0, counters_reset());
	for (cpu = 1; cpu < cpus(); cpu++)
		connect_clients(_metadata, self, cpu, 1);
	EXPECT_EQ(cpus() - 1, total(LOOKUPS_LOCAL));
	expect_none_lost(_metadata, self);
	/* The queue is short again: its slot is used again. */
	ASSERT_EQ(0, choice(&self->group, 0, 0));
}

/* Every slot but one is full, whatever the hash says: the one that has room must be found. */
TEST_F(queues, room_in_one_listener_is_found)
{
	int cpu;

	for (cpu = 0; cpu < cpus(); cpu++)
		ASSERT_EQ(cpu, group_add(&self->group, SOCK_STREAM, cpu, cpu == 1 ? LARGE : 4));
	ASSERT_EQ(0, file_write(SPILL, "100"));
	for (cpu = 0; cpu < cpus(); cpu++)
		if (cpu != 1)
			connect_clients(_metadata, self, cpu, 5);
	connect_clients(_metadata, self, 0, SMALL);
	expect_none_lost(_metadata, self);
	EXPECT_LE(SMALL, self->taken[1]);
}

/* Where a CPU has two sockets, the other one comes before those of other CPUs. */
TEST_F(queues, the_other_socket_of_the_cpu_first)
{
	small_and_large(_metadata, self);
	ASSERT_EQ(cpus(), group_add(&self->group, SOCK_STREAM, 0, LARGE));
	/* Whoever says so last has the slot. */
	ASSERT_EQ(0, set_cpu(self->group.fd[0], 0));
	connect_clients(_metadata, self, 0, 4 * SMALL);
	EXPECT_EQ(4 * SMALL, total(LOOKUPS_LOCAL));
	EXPECT_EQ(0, total(LOOKUPS_FALLBACK));
	expect_none_lost(_metadata, self);
	EXPECT_EQ(SMALL / 2, self->taken[0]);
	EXPECT_EQ(4 * SMALL - SMALL / 2, self->taken[cpus()]);

	/* Both past their marks, it is another CPU's turn. */
	while (self->clients)
		abort_connection(self->fd[--self->clients]);
	ASSERT_EQ(0, listen(self->group.fd[cpus()], SMALL));
	ASSERT_EQ(0, counters_reset());
	connect_clients(_metadata, self, 0, 4 * SMALL);
	EXPECT_EQ(SMALL, total(LOOKUPS_LOCAL));
	EXPECT_EQ(3 * SMALL, total(LOOKUPS_FALLBACK));
	expect_none_lost(_metadata, self);
}

/*
 * A flood of SYNs is nothing that others must help with where SYN cookies answer it: more handshakes than the backlog,
 * which TCP_DEFER_ACCEPT keeps half open, and whoever comes then still stays on the CPU; up to the mark of its queue.
 */
TEST_F(queues, half_open_requests_fill_nothing_with_cookies)
{
	int i;

	small_and_large(_metadata, self);
	ASSERT_EQ(0, file_write("/proc/sys/net/ipv4/tcp_syncookies", "1"));
	ASSERT_EQ(0, setsockopt(self->group.fd[0], IPPROTO_TCP, TCP_DEFER_ACCEPT, &(int){ PATIENCE }, sizeof(int)));
	for (; self->clients <= SMALL; self->clients++) {
		self->fd[self->clients] = client(&self->group, 0, 0);
		ASSERT_LE(0, self->fd[self->clients]);
	}
	EXPECT_EQ(-1, group_ready(&self->group, 0));
	EXPECT_EQ(0, netstat("SyncookiesSent"));
	connect_clients(_metadata, self, 0, SMALL / 2);
	EXPECT_EQ(SMALL / 2, netstat("SyncookiesRecv"));
	/* A cookie is two look-ups. */
	EXPECT_EQ(SMALL + 1 + 2 * (SMALL / 2), total(LOOKUPS_LOCAL));
	EXPECT_EQ(0, total(LOOKUPS_FALLBACK));
	connect_clients(_metadata, self, 0, SMALL);
	EXPECT_EQ(SMALL, total(LOOKUPS_FALLBACK));
	/* Room for what was half open. */
	ASSERT_EQ(0, listen(self->group.fd[0], LARGE));
	for (i = 0; i <= SMALL; i++)
		ASSERT_EQ((ssize_t)sizeof(i), send(self->fd[i], &i, sizeof(i), MSG_NOSIGNAL));
	expect_none_lost(_metadata, self);
	EXPECT_EQ(SMALL + 1 + SMALL / 2, self->taken[0]);
}

/* Without cookies a SYN that finds more handshakes than the backlog would be dropped: others take it. */
TEST_F(queues, half_open_requests_fill_without_cookies)
{
	int i;

	small_and_large(_metadata, self);
	ASSERT_EQ(0, setsockopt(self->group.fd[0], IPPROTO_TCP, TCP_DEFER_ACCEPT, &(int){ PATIENCE }, sizeof(int)));
	for (; self->clients <= SMALL + 1; self->clients++) {
		self->fd[self->clients] = client(&self->group, 0, 0);
		ASSERT_LE(0, self->fd[self->clients]);
	}
	EXPECT_EQ(SMALL + 1, total(LOOKUPS_LOCAL));
	EXPECT_EQ(1, total(LOOKUPS_FALLBACK));
	for (i = 0; i <= SMALL + 1; i++)
		ASSERT_EQ((ssize_t)sizeof(i), send(self->fd[i], &i, sizeof(i), MSG_NOSIGNAL));
	expect_none_lost(_metadata, self);
}

/* Past the threshold everywhere is not full: every place in every queue can be used. */
TEST_F(queues, all_past_the_threshold)
{
	ASSERT_EQ(0, group_fill(&self->group, cpus(), 4));
	ASSERT_EQ(0, file_write(SPILL, "1"));
	connect_clients(_metadata, self, 0, 5 * cpus());
	expect_none_lost(_metadata, self);
}

static void expect_moved(struct __test_metadata *_metadata, FIXTURE_DATA(queues) *self, bool close_it)
{
	ASSERT_EQ(0, group_fill(&self->group, cpus(), LARGE));
	ASSERT_EQ(0, file_write(MIGRATE, "1"));
	connect_clients(_metadata, self, 1, 8);
	ASSERT_EQ(8, total(LOOKUPS_LOCAL));
	if (close_it)
		group_close(&self->group, 1);
	else
		ASSERT_EQ(0, shutdown(self->group.fd[1], SHUT_RD));
	EXPECT_EQ(8, netstat("TCPMigrateReqSuccess"));
	/* And as many that find the slot gone. */
	connect_clients(_metadata, self, 1, 8);
	EXPECT_EQ(8, total(LOOKUPS_FALLBACK));
	expect_none_lost(_metadata, self);
	EXPECT_EQ(0, netstat("TCPMigrateReqFailure"));
	EXPECT_EQ(0, self->taken[1]);
}

TEST_F(queues, moved_when_the_listener_is_closed)
{
	expect_moved(_metadata, self, true);
}

TEST_F(queues, moved_when_the_listener_is_shut_down)
{
	expect_moved(_metadata, self, false);
}

/* TCP_DEFER_ACCEPT leaves a request half open until data comes: its listener goes before that. */
TEST_F(queues, half_open_requests_move)
{
	int i;

	ASSERT_EQ(0, file_write(MIGRATE, "1"));
	ASSERT_EQ(0, group_fill(&self->group, cpus(), LARGE));
	for (i = 0; i < cpus(); i++)
		ASSERT_EQ(0, setsockopt(self->group.fd[i], IPPROTO_TCP, TCP_DEFER_ACCEPT, &(int){ PATIENCE }, sizeof(int)));
	for (i = 0; i < 8; i++) {
		self->fd[i] = client(&self->group, 1, 0);
		ASSERT_LE(0, self->fd[i]);
		self->clients++;
	}
	ASSERT_EQ(-1, group_ready(&self->group, 0));
	group_close(&self->group, 1);
	for (i = 0; i < 8; i++)
		ASSERT_EQ((ssize_t)sizeof(i), send(self->fd[i], &i, sizeof(i), MSG_NOSIGNAL));
	expect_none_lost(_metadata, self);
	EXPECT_EQ(8, netstat("TCPMigrateReqSuccess"));
}

/*
 * The same, but the clients give up: each request leaves the queue of the listener that had it. Stock takes it off the
 * heir's, whose length falls below 0: that listener passes for full and drops every SYN that comes.
 */
TEST_F(queues, half_open_requests_that_are_reset)
{
	int i, cpu;

	ASSERT_EQ(0, file_write(MIGRATE, "1"));
	ASSERT_EQ(0, group_fill(&self->group, cpus(), LARGE));
	ASSERT_EQ(0, setsockopt(self->group.fd[0], IPPROTO_TCP, TCP_DEFER_ACCEPT, &(int){ PATIENCE }, sizeof(int)));
	for (i = 0; i < 4 * cpus(); i++) {
		self->fd[i] = client(&self->group, 0, 0);
		ASSERT_LE(0, self->fd[i]);
		self->clients++;
	}
	group_close(&self->group, 0);
	while (self->clients)
		abort_connection(self->fd[--self->clients]);
	EXPECT_EQ(4 * cpus(), netstat("EmbryonicRsts"));
	ASSERT_EQ(0, counters_reset());
	for (cpu = 1; cpu < cpus(); cpu++)
		EXPECT_EQ(cpu, choice(&self->group, cpu, 0));
	EXPECT_EQ(0, total(LOOKUPS_FALLBACK));
	EXPECT_EQ(0, netstat("ListenDrops"));
}

/* What tcp_migrate_req = 0 does with a queue is stock: it is reset, and only it. */
TEST_F(queues, without_migration_only_the_queue_is_reset)
{
	char byte;
	int i;

	ASSERT_EQ(0, group_fill(&self->group, cpus(), LARGE));
	ASSERT_EQ(0, file_write(MIGRATE, "0"));
	connect_clients(_metadata, self, 1, 4);
	group_close(&self->group, 1);
	for (i = 0; i < 4; i++) {
		EXPECT_EQ(-1, recv(self->fd[i], &byte, 1, 0));
		EXPECT_EQ(ECONNRESET, errno);
		close(self->fd[i]);
	}
	self->clients = 0;
	connect_clients(_metadata, self, 1, 8);
	expect_none_lost(_metadata, self);
}

TEST_HARNESS_MAIN
