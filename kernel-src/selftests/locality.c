// SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
// SPDX-License-Identifier: GPL-2.0-only
/*
 * The sentence itself, with a thread of server and one of clients on every CPU at the same time: a connection is
 * accepted on the CPU where it arrived. Then the same with arrival moved away from the sender (RPS), and with CPUs that
 * go and come back.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>

#include "fixture.h"

/* Connections of each client thread. */
#define EACH 25
#define LARGE 512
#define SMALL 8

/* One CPU's server and client. */
struct worker {
	struct group *group;
	int cpu;
	pthread_t server, client;
	int accepted, connected, reset, limit;
	int client_error, server_error;
};

/*
 * Servers go when nothing is left after `finished`; clients at their limit or when it is `enough`. The server of CPU 0
 * does nothing while it is `stuck`.
 */
static volatile bool finished, enough, stuck;
/* All clients of all CPUs are connected. */
static pthread_barrier_t connected;

static int serve(int listener)
{
	char byte;
	int ret = 0, fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

	if (fd < 0)
		return errno == EAGAIN ? 0 : -errno;
	if (recv(fd, &byte, 1, 0) != 1 || send(fd, &byte, 1, MSG_NOSIGNAL) != 1)
		ret = -errno ?: -EPIPE;
	close(fd);
	return ret ?: 1;
}

static void *server(void *arg)
{
	struct worker *worker = arg;
	struct pollfd polled = { .fd = worker->group->fd[worker->cpu], .events = POLLIN };

	pin(worker->cpu);
	while (stuck && !worker->cpu)
		usleep(1000);
	while (!worker->server_error) {
		bool last_look = finished;
		int ret = 0;

		if (poll(&polled, 1, 50) > 0)
			ret = serve(polled.fd);
		else if (last_look)
			break;
		if (ret < 0)
			worker->server_error = ret;
		else
			worker->accepted += ret;
	}
	return NULL;
}

/* One connection: connect, say a byte, hear it, close. */
static int visit(struct group *group)
{
	char byte = 'x';
	int ret = 0, fd = client(group, -1, 0);

	if (fd < 0)
		return fd;
	if (send(fd, &byte, 1, MSG_NOSIGNAL) != 1 || recv(fd, &byte, 1, 0) != 1)
		ret = -errno ?: -EPIPE;
	close(fd);
	return ret;
}

static void *clients(void *arg)
{
	struct worker *worker = arg;

	pin(worker->cpu);
	while (!enough && worker->connected < worker->limit && !worker->client_error) {
		int ret = visit(worker->group);

		/* Those are lost, and counted. */
		if (ret == -ECONNRESET)
			worker->reset++;
		else
			worker->client_error = ret;
		worker->connected += !ret;
	}
	return NULL;
}

/* The same, EACH at a time: all connect and say a byte before any is heard. */
static void *crowd(void *arg)
{
	struct worker *worker = arg;
	int fd[EACH], count, i;
	char byte = 'x';

	pin(worker->cpu);
	for (count = 0; count < EACH && !worker->client_error; count++) {
		fd[count] = client(worker->group, -1, 0);
		if (fd[count] < 0)
			worker->client_error = fd[count];
		else if (send(fd[count], &byte, 1, MSG_NOSIGNAL) != 1)
			worker->client_error = -errno;
	}
	pthread_barrier_wait(&connected);
	for (i = 0; i < count; i++) {
		if (fd[i] < 0)
			continue;
		if (recv(fd[i], &byte, 1, 0) == 1)
			worker->connected++;
		else
			worker->client_error = -errno ?: -EPIPE;
		close(fd[i]);
	}
	return NULL;
}

FIXTURE(locality)
{
	struct group group;
	struct worker worker[MAX_CPUS];
};

FIXTURE_VARIANT(locality)
{
	enum ways way;
};

FIXTURE_VARIANT_ADD(locality, ipv4) { .way = IPV4 };
FIXTURE_VARIANT_ADD(locality, ipv6) { .way = IPV6 };
FIXTURE_VARIANT_ADD(locality, ipv4_to_ipv6) { .way = MAPPED };

FIXTURE_SETUP(locality)
{
	NEED_FASTSOCKET();
	NEED_CPUS(2);
	group_init(&self->group, variant->way, 8000);
	ASSERT_EQ(0, file_write(LOCAL_LISTEN, "1"));
	ASSERT_EQ(0, group_fill(&self->group, cpus(), LARGE));
	ASSERT_EQ(0, counters_reset());
}

FIXTURE_TEARDOWN(locality)
{
	group_end(&self->group);
}

static void start(struct __test_metadata *_metadata, FIXTURE_DATA(locality) *self, void *(*client)(void *), int limit)
{
	int cpu;

	finished = enough = false;
	for (cpu = 0; cpu < self->group.n; cpu++) {
		struct worker *worker = &self->worker[cpu];

		*worker = (struct worker){ .group = &self->group, .cpu = cpu, .limit = limit };
		ASSERT_EQ(0, pthread_create(&worker->server, NULL, server, worker));
		ASSERT_EQ(0, pthread_create(&worker->client, NULL, client, worker));
	}
}

/* Waits for clients, then servers: everything that was connected was accepted. Returns the number of connections. */
static int gather(struct __test_metadata *_metadata, FIXTURE_DATA(locality) *self)
{
	int cpu, connected = 0, accepted = 0;

	for (cpu = 0; cpu < self->group.n; cpu++)
		pthread_join(self->worker[cpu].client, NULL);
	finished = true;
	for (cpu = 0; cpu < self->group.n; cpu++) {
		struct worker *worker = &self->worker[cpu];

		pthread_join(worker->server, NULL);
		EXPECT_EQ(0, worker->client_error) TH_LOG("CPU %d: %s", cpu, strerror(-worker->client_error));
		EXPECT_EQ(0, worker->reset) TH_LOG("CPU %d: of %d clients", cpu, worker->connected + worker->reset);
		EXPECT_EQ(0, worker->server_error) TH_LOG("CPU %d: %s", cpu, strerror(-worker->server_error));
		connected += worker->connected;
		accepted += worker->accepted;
	}
	EXPECT_EQ(connected, accepted);
	return connected;
}

/* And nothing was sent twice for want of room. */
static int finish(struct __test_metadata *_metadata, FIXTURE_DATA(locality) *self)
{
	int connected = gather(_metadata, self);

	EXPECT_EQ(0, netstat("ListenOverflows"));
	EXPECT_EQ(0, netstat("ListenDrops"));
	return connected;
}

TEST_F(locality, every_connection_is_accepted_where_it_arrived)
{
	struct counters counters;
	int cpu;

	start(_metadata, self, clients, EACH);
	EXPECT_EQ(EACH * self->group.n, finish(_metadata, self));
	ASSERT_EQ(0, counters_read(&counters));
	for (cpu = 0; cpu < self->group.n; cpu++) {
		long long *cell = counters.cell[cpu];

		EXPECT_EQ(EACH, self->worker[cpu].accepted);
		EXPECT_EQ(EACH, cell[ACCEPTS_LOCAL]);
		EXPECT_EQ(0, cell[ACCEPTS_REMOTE]);
		EXPECT_EQ(0, cell[ACCEPTS_GLOBAL]);
		EXPECT_EQ(EACH, cell[CONNECTS_LOCAL]);
		EXPECT_EQ(0, cell[CONNECTS_REMOTE]);
		EXPECT_EQ(EACH, cell[LOOKUPS_LOCAL]);
		EXPECT_EQ(0, cell[LOOKUPS_FALLBACK]);
	}
	TH_LOG("%d connections on %d CPUs, %lld accepted locally, %lld remotely", EACH * self->group.n, self->group.n,
	       total(ACCEPTS_LOCAL), total(ACCEPTS_REMOTE));
}

/* RPS gives all that is sent over loopback to one CPU: that CPU's slot is chosen, not the sender's. */
TEST_F(locality, the_receiving_cpu_decides)
{
	const int sender[] = { 0, 1, self->group.n - 1 }, receiver[] = { self->group.n - 1, 0 };
	unsigned int s, r;
	int i, fd, taken;

	i = steer_loopback(-1);
	if (i)
		SKIP(return, "no receive packet steering: %s", strerror(-i));
	for (r = 0; r < ARRAY_SIZE(receiver); r++) {
		ASSERT_EQ(0, steer_loopback(receiver[r]));
		for (s = 0; s < ARRAY_SIZE(sender); s++) {
			bool same = sender[s] == receiver[r];
			struct counters counters;

			ASSERT_EQ(0, counters_reset());
			for (i = 0; i < EACH; i++) {
				fd = client(&self->group, sender[s], 0);
				ASSERT_LE(0, fd);
				ASSERT_EQ(receiver[r], group_ready(&self->group, PATIENCE));
				ASSERT_EQ(0, pin(receiver[r]));
				taken = accept(self->group.fd[receiver[r]], NULL, NULL);
				ASSERT_LE(0, taken);
				abort_connection(taken);
				close(fd);
			}
			ASSERT_EQ(0, counters_read(&counters));
			EXPECT_EQ(EACH, counters.cell[receiver[r]][LOOKUPS_LOCAL]);
			EXPECT_EQ(0, total(LOOKUPS_FALLBACK));
			EXPECT_EQ(EACH, counters.cell[receiver[r]][ACCEPTS_LOCAL]);
			EXPECT_EQ(0, total(ACCEPTS_REMOTE));
			EXPECT_EQ(same ? EACH : 0, counters.cell[sender[s]][CONNECTS_LOCAL]);
			EXPECT_EQ(same ? 0 : EACH, counters.cell[sender[s]][CONNECTS_REMOTE]);
			EXPECT_EQ(EACH, total(CONNECTS_LOCAL) + total(CONNECTS_REMOTE));
		}
	}
	ASSERT_EQ(0, steer_loopback(-1));
}

/* Traffic on all CPUs while the last goes off and on. Its threads are moved by the kernel, then by us back home. */
TEST_F(locality, cpu_taken_offline)
{
	int cpu = self->group.n - 1, round, i;
	struct counters counters;
	char online[64];

	snprintf(online, sizeof(online), "/sys/devices/system/cpu/cpu%d/online", cpu);
	if (access(online, W_OK))
		SKIP(return, "no CPU hotplug");
	start(_metadata, self, clients, INT_MAX);
	for (round = 0; round < 2; round++) {
		usleep(200000);
		ASSERT_EQ(0, file_write(online, "0"));
		ASSERT_EQ(0, counters_read(&counters)) TH_LOG("the counters of an offline CPU must stay");
		usleep(200000);
		ASSERT_EQ(0, file_write(online, "1"));
	}
	enough = true;
	EXPECT_LT(0, finish(_metadata, self));
	EXPECT_EQ(total(ACCEPTS_LOCAL) + total(ACCEPTS_REMOTE), total(CONNECTS_LOCAL) + total(CONNECTS_REMOTE));
	/* Back, it is served by its own slot again. */
	ASSERT_EQ(0, counters_reset());
	for (i = 0; i < EACH; i++)
		ASSERT_EQ(cpu, choice(&self->group, cpu, 0));
	EXPECT_EQ(EACH, total(LOOKUPS_LOCAL));
}

/*
 * Clients on all CPUs at once, and a server that does nothing before all of them are connected. Where several find the
 * last place at the same time a final ACK comes too late, and again with the data: ListenOverflows, and no error.
 */
TEST_F(locality, stuck_server_among_others)
{
	int cookies;

	for (cookies = 0; cookies < 2; cookies++) {
		long long overflows = netstat("ListenOverflows");

		ASSERT_EQ(0, file_write_number("/proc/sys/net/ipv4/tcp_syncookies", cookies));
		ASSERT_EQ(0, listen(self->group.fd[0], SMALL));
		ASSERT_EQ(0, counters_reset());
		ASSERT_EQ(0, pthread_barrier_init(&connected, NULL, self->group.n + 1));
		stuck = true;
		start(_metadata, self, crowd, 0);
		pthread_barrier_wait(&connected);
		stuck = false;
		EXPECT_EQ(EACH * self->group.n, gather(_metadata, self));
		pthread_barrier_destroy(&connected);
		/* What it did not take the others did. */
		EXPECT_LE(SMALL / 2, self->worker[0].accepted);
		EXPECT_GT(EACH, self->worker[0].accepted);
		EXPECT_LE(EACH - SMALL - 1, total(LOOKUPS_FALLBACK));
		TH_LOG("cookies %d: the stuck one took %d of %d, %lld overflows", cookies, self->worker[0].accepted,
		       EACH * self->group.n, netstat("ListenOverflows") - overflows);
	}
}

TEST_HARNESS_MAIN
