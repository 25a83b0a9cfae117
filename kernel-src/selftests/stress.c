// SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
// SPDX-License-Identifier: GPL-2.0-only
/*
 * Everything at once for FASTSOCKET_STRESS_SECONDS (default 5): listeners come, change their CPU, are shut down,
 * listen again and go; groups grow past their array; sysctls toggle; counters are read and reset; programs come and
 * go; namespaces end with listeners in them; clients connect all the while. Connections of a listener that goes may be
 * reset meanwhile (tcp_migrate_req toggles, and stock resets the one whose handshake ends just then), so what this
 * looks for is what KASAN, lockdep and RCU say, hangs, and that all is in order afterwards.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <poll.h>
#include <pthread.h>
#include <time.h>

#include "fixture.h"

#define BACKLOG 64
#define SAMPLE 12

/* One busy thread. Work is a call of its `turn`, again and again until stop; each has random numbers of its own. */
struct actor {
	const char *name;
	void (*turn)(struct actor *actor);
	struct group *group;	/* the listeners that stay; read only */
	unsigned int seed;
	long turns;
	pthread_t thread;
};

static volatile bool stop;

static int dice(struct actor *actor, int sides)
{
	return rand_r(&actor->seed) % sides;
}

static void come_and_go(struct actor *actor)
{
	struct group own = *actor->group;
	int i = group_add(&own, SOCK_STREAM, dice(actor, cpus() + 1) - 1, 1 + dice(actor, BACKLOG));

	if (i < 0)
		return;
	usleep(dice(actor, 2000));
	if (dice(actor, 2))
		set_cpu(own.fd[i], dice(actor, cpus() + 1) - 1);
	while (dice(actor, 2)) {
		shutdown(own.fd[i], SHUT_RD);
		if (dice(actor, 2))
			set_cpu(own.fd[i], dice(actor, cpus() + 1) - 1);
		if (dice(actor, 2))
			listen(own.fd[i], BACKLOG);
		usleep(dice(actor, 1000));
	}
	group_close(&own, i);
}

/* Past 128 members and back. */
static void crowd(struct actor *actor)
{
	struct group own = *actor->group;
	int first = own.n, i;

	for (i = 0; i < 130 && !stop; i++)
		if (group_add(&own, SOCK_STREAM, dice(actor, 4) ? -1 : dice(actor, cpus()), BACKLOG) < 0)
			break;
	for (i = first; i < own.n; i++)
		group_close(&own, i);
	usleep(dice(actor, 20000));
}

static void change_cpus(struct actor *actor)
{
	set_cpu(actor->group->fd[dice(actor, actor->group->n)], dice(actor, cpus() + 2) - 1);
	usleep(dice(actor, 500));
}

static void toggle(struct actor *actor)
{
	file_write_number(LOCAL_LISTEN, dice(actor, 2));
	file_write_number(SPILL, 1 + dice(actor, 100));
	file_write_number(MIGRATE, dice(actor, 2));
	if (!dice(actor, 4))
		counters_reset();
	total(dice(actor, NR_COLUMNS));
	usleep(dice(actor, 1000));
}

static void program(struct actor *actor)
{
	struct sock_filter code[] = { { BPF_RET | BPF_K, 0, 0, dice(actor, 2 * actor->group->n) } };
	struct sock_fprog attached = { .len = ARRAY_SIZE(code), .filter = code };
	int fd = actor->group->fd[0];

	setsockopt(fd, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &attached, sizeof(attached));
	usleep(dice(actor, 2000));
	setsockopt(fd, SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, &(int){ 0 }, sizeof(int));
	usleep(dice(actor, 20000));
}

/* A namespace that ends with listeners, a full queue and the feature on. Only this thread moves. */
static void short_lived_namespace(struct actor *actor)
{
	struct group own;
	int fd[4], i, home = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);

	if (home < 0)
		return;
	if (!fresh_netns()) {
		file_write("/proc/thread-self/net/fastsocket", "0");
		file_write(LOCAL_LISTEN, "1");
		group_init(&own, dice(actor, 2) ? IPV4 : IPV6, 8000);
		group_fill(&own, cpus(), 2);
		for (i = 0; i < 4; i++)
			fd[i] = client(&own, -1, 0);
		for (i = 0; i < 4; i++)
			if (fd[i] >= 0)
				close(fd[i]);
		group_end(&own);
	}
	setns(home, CLONE_NEWNET);
	close(home);
	usleep(dice(actor, 50000));
}

static void connect_and_leave(struct actor *actor)
{
	int fd = socket(actor->group->to.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	struct pollfd polled = { .fd = fd, .events = POLLIN };

	pin(dice(actor, cpus()));
	if (!connect(fd, (void *)&actor->group->to, actor->group->to_len) || errno == EINPROGRESS) {
		send(fd, "x", 1, MSG_NOSIGNAL);
		poll(&polled, 1, dice(actor, 100));
	}
	if (dice(actor, 2))
		abort_connection(fd);
	else
		close(fd);
}

static void accept_all(struct actor *actor)
{
	int i, fd;

	if (group_ready(actor->group, 1) < 0)
		return;
	for (i = 0; i < actor->group->n; i++) {
		fd = accept4(actor->group->fd[i], NULL, NULL, SOCK_CLOEXEC);
		if (fd >= 0) {
			send(fd, "x", 1, MSG_NOSIGNAL);
			close(fd);
		}
	}
}

static void *act(void *arg)
{
	struct actor *actor = arg;

	for (; !stop; actor->turns++)
		actor->turn(actor);
	return NULL;
}

FIXTURE(stress)
{
	struct group group;
};

FIXTURE_VARIANT(stress)
{
	enum ways way;
};

FIXTURE_VARIANT_ADD(stress, ipv4) { .way = IPV4 };
FIXTURE_VARIANT_ADD(stress, ipv6) { .way = IPV6 };

FIXTURE_SETUP(stress)
{
	NEED_FASTSOCKET();
	NEED_CPUS(2);
	group_init(&self->group, variant->way, 8000);
	ASSERT_EQ(0, group_fill(&self->group, cpus(), BACKLOG));
}

FIXTURE_TEARDOWN(stress)
{
	group_end(&self->group);
}

TEST_F(stress, all_at_once)
{
	struct actor actor[] = {
		{ "come_and_go", come_and_go }, { "come_and_go", come_and_go }, { "crowd", crowd },
		{ "change_cpus", change_cpus }, { "toggle", toggle }, { "program", program },
		{ "namespaces", short_lived_namespace }, { "clients", connect_and_leave },
		{ "clients", connect_and_leave }, { "clients", connect_and_leave }, { "accept", accept_all },
	};
	const char *seconds = getenv("FASTSOCKET_STRESS_SECONDS");
	unsigned int i, seed = time(NULL);
	int cpu, fd;

	TH_LOG("seed %u", seed);
	for (i = 0; i < ARRAY_SIZE(actor); i++) {
		actor[i].group = &self->group;
		actor[i].seed = seed + i;
		ASSERT_EQ(0, pthread_create(&actor[i].thread, NULL, act, &actor[i]));
	}
	sleep(seconds ? atoi(seconds) : 5);
	stop = true;
	for (i = 0; i < ARRAY_SIZE(actor); i++) {
		ASSERT_EQ(0, pthread_join(actor[i].thread, NULL));
		TH_LOG("%-12s %ld turns", actor[i].name, actor[i].turns);
		EXPECT_LT(0, actor[i].turns);
	}

	/* Afterwards all is in order. */
	for (cpu = 0; cpu < cpus(); cpu++) {
		ASSERT_EQ(0, set_cpu(self->group.fd[cpu], cpu));
		while ((fd = accept(self->group.fd[cpu], NULL, NULL)) >= 0)
			close(fd);
		ASSERT_EQ(EAGAIN, errno);
	}
	ASSERT_EQ(0, file_write(LOCAL_LISTEN, "1"));
	ASSERT_EQ(0, file_write(SPILL, "50"));
	ASSERT_EQ(0, counters_reset());
	for (cpu = 0; cpu < cpus(); cpu++)
		for (i = 0; i < SAMPLE; i++)
			ASSERT_EQ(cpu, choice(&self->group, cpu, 0));
	EXPECT_EQ(SAMPLE * cpus(), total(LOOKUPS_LOCAL));
	EXPECT_EQ(0, total(LOOKUPS_FALLBACK));
}

TEST_HARNESS_MAIN
