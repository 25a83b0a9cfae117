// SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
// SPDX-License-Identifier: GPL-2.0-only
/*
 * Which listener of a reuseport group gets a connection when net.fastsocket.local_listen is on: the receiving CPU's
 * slot, and who instead when there is none. One client at a time, so each answer is exact.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>

#include "fixture.h"

#define BACKLOG 64
/* Connections by which a choice is judged. */
#define SAMPLE 12

FIXTURE(local_listen)
{
	struct group group;
	int last;		/* the highest CPU, index of its slot */
};

FIXTURE_VARIANT(local_listen)
{
	enum ways way;
};

FIXTURE_VARIANT_ADD(local_listen, ipv4) { .way = IPV4 };
FIXTURE_VARIANT_ADD(local_listen, ipv6) { .way = IPV6 };

FIXTURE_SETUP(local_listen)
{
	NEED_FASTSOCKET();
	NEED_CPUS(2);
	self->last = cpus() - 1;
	group_init(&self->group, variant->way, 8000);
	ASSERT_EQ(0, file_write(LOCAL_LISTEN, "1"));
	ASSERT_EQ(0, group_fill(&self->group, cpus(), BACKLOG));
}

FIXTURE_TEARDOWN(local_listen)
{
	group_end(&self->group);
}

/* `count` connections from `cpu` are all taken by listener `index`, by look-ups counted in `column` alone. */
static void expect_slot(struct __test_metadata *_metadata, struct group *group, int cpu, int index, enum column column)
{
	struct counters counters;
	int i;

	ASSERT_EQ(0, counters_reset());
	for (i = 0; i < SAMPLE; i++)
		ASSERT_EQ(index, choice(group, cpu, 0));
	ASSERT_EQ(0, counters_read(&counters));
	EXPECT_EQ(SAMPLE, counters.cell[cpu][column]);
	EXPECT_EQ(SAMPLE, total(LOOKUPS_LOCAL) + total(LOOKUPS_FALLBACK));
}

static void expect_local(struct __test_metadata *_metadata, struct group *group, int cpu, int index)
{
	expect_slot(_metadata, group, cpu, index, LOOKUPS_LOCAL);
}

/* Connections from `cpu` are all served, never by `gone`, and counted as fallbacks. */
static void expect_fallback(struct __test_metadata *_metadata, struct group *group, int cpu, int gone)
{
	struct counters counters;
	int i;

	ASSERT_EQ(0, counters_reset());
	for (i = 0; i < SAMPLE; i++) {
		int index = choice(group, cpu, 0);

		ASSERT_LE(0, index);
		ASSERT_NE(gone, index);
	}
	ASSERT_EQ(0, counters_read(&counters));
	EXPECT_EQ(SAMPLE, counters.cell[cpu][LOOKUPS_FALLBACK]);
	EXPECT_EQ(0, total(LOOKUPS_LOCAL));
}

/* The listeners that a fixed list of flows from CPU 0 is given to. */
static void flows(struct __test_metadata *_metadata, struct group *group, int chosen[SAMPLE])
{
	int i;

	for (i = 0; i < SAMPLE; i++) {
		chosen[i] = choice(group, 0, 21000 + 7 * i);
		ASSERT_LE(0, chosen[i]);
	}
}

TEST_F(local_listen, each_cpu_has_its_slot)
{
	int cpu;

	for (cpu = 0; cpu <= self->last; cpu++)
		expect_local(_metadata, &self->group, cpu, cpu);
}

TEST_F(local_listen, order_of_slots_does_not_matter)
{
	int i;

	group_end(&self->group);
	for (i = 0; i <= self->last; i++)
		ASSERT_EQ(i, group_add(&self->group, SOCK_STREAM, self->last - i, BACKLOG));
	expect_local(_metadata, &self->group, 0, self->last);
	expect_local(_metadata, &self->group, self->last, 0);
	/* Closing one moves the group's last member into its place: the slots must not move with it. */
	group_close(&self->group, 0);
	expect_local(_metadata, &self->group, 0, self->last);
	expect_fallback(_metadata, &self->group, self->last, 0);
}

TEST_F(local_listen, closed_listener_and_its_successor)
{
	int index;

	group_close(&self->group, 1);
	expect_fallback(_metadata, &self->group, 1, 1);
	expect_local(_metadata, &self->group, 0, 0);
	index = group_add(&self->group, SOCK_STREAM, 1, BACKLOG);
	ASSERT_EQ(self->last + 1, index);
	expect_local(_metadata, &self->group, 1, index);
}

/* With tcp_migrate_req a listener that was shut down stays in the group, out of LISTEN. */
TEST_F(local_listen, shut_down_and_listening_again)
{
	int migrate;

	for (migrate = 0; migrate < 2; migrate++) {
		ASSERT_EQ(0, file_write_number(MIGRATE, migrate));
		ASSERT_EQ(0, shutdown(self->group.fd[1], SHUT_RD));
		expect_fallback(_metadata, &self->group, 1, 1);
		ASSERT_EQ(0, listen(self->group.fd[1], BACKLOG));
		expect_local(_metadata, &self->group, 1, 1);
	}
}

/* A socket may be shut down, lose its CPU, and listen again on another port: nothing of it may stay in the group. */
TEST_F(local_listen, shut_down_and_moved_away)
{
	struct group other;

	ASSERT_EQ(0, file_write(MIGRATE, "1"));
	ASSERT_EQ(0, shutdown(self->group.fd[1], SHUT_RD));
	ASSERT_EQ(0, set_cpu(self->group.fd[1], 0));
	expect_local(_metadata, &self->group, 0, 0);
	expect_fallback(_metadata, &self->group, 1, 1);
	group_close(&self->group, 1);
	expect_local(_metadata, &self->group, 0, 0);

	group_init(&other, variant->way, 8001);
	ASSERT_EQ(0, group_add(&other, SOCK_STREAM, 1, BACKLOG));
	expect_fallback(_metadata, &self->group, 1, 1);
	expect_local(_metadata, &other, 1, 0);
	group_end(&other);
}

TEST_F(local_listen, two_sockets_of_one_cpu)
{
	int second = group_add(&self->group, SOCK_STREAM, 0, BACKLOG);
	int third = group_add(&self->group, SOCK_STREAM, 0, BACKLOG);
	int i, index;

	ASSERT_EQ(self->last + 1, second);
	for (i = 0; i < SAMPLE; i++) {
		index = choice(&self->group, 0, 0);
		ASSERT_TRUE(index == 0 || index == second || index == third);
	}
	/* Whichever goes, the others of that CPU take over. */
	group_close(&self->group, 0);
	for (i = 0; i < SAMPLE; i++) {
		index = choice(&self->group, 0, 0);
		ASSERT_TRUE(index == second || index == third);
	}
	group_close(&self->group, third);
	expect_local(_metadata, &self->group, 0, second);
	group_close(&self->group, second);
	expect_fallback(_metadata, &self->group, 0, 0);
}

TEST_F(local_listen, cpu_changed_while_listening)
{
	/* Swap two slots: for a moment both belong to one CPU. */
	ASSERT_EQ(0, set_cpu(self->group.fd[0], self->last));
	ASSERT_EQ(0, set_cpu(self->group.fd[self->last], 0));
	expect_local(_metadata, &self->group, 0, self->last);
	expect_local(_metadata, &self->group, self->last, 0);
	/* The same once more changes nothing. */
	ASSERT_EQ(0, set_cpu(self->group.fd[0], self->last));
	expect_local(_metadata, &self->group, self->last, 0);
	ASSERT_EQ(0, set_cpu(self->group.fd[0], -1));
	expect_fallback(_metadata, &self->group, self->last, -1);
	ASSERT_EQ(0, set_cpu(self->group.fd[0], self->last));
	expect_local(_metadata, &self->group, self->last, 0);
}

TEST_F(local_listen, cpus_that_do_not_exist)
{
	static const int absurd[] = { 63, 64, 127, 128, 8191, 8192, 65535, 65536, 1 << 30, 0x7fffffff, -2, -2147483647 - 1 };
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(absurd); i++) {
		ASSERT_EQ(0, set_cpu(self->group.fd[1], absurd[i]));
		ASSERT_LE(0, choice(&self->group, 1, 0));
		expect_local(_metadata, &self->group, 0, 0);
	}
	expect_fallback(_metadata, &self->group, 1, -1);
	ASSERT_EQ(0, set_cpu(self->group.fd[1], 1));
	expect_local(_metadata, &self->group, 1, 1);
}

/* The group's array of sockets starts with 128 and doubles. */
TEST_F(local_listen, more_listeners_than_cpus)
{
	int i;

	for (i = 0; i < 140; i++)
		ASSERT_LE(0, group_add(&self->group, SOCK_STREAM, -1, BACKLOG));
	expect_local(_metadata, &self->group, 0, 0);
	expect_local(_metadata, &self->group, self->last, self->last);
	ASSERT_EQ(0, set_cpu(self->group.fd[self->group.n - 1], 1));
	group_close(&self->group, 1);
	expect_local(_metadata, &self->group, 1, self->group.n - 1);
	for (i = self->last + 1; i < self->group.n - 1; i++)
		group_close(&self->group, i);
	expect_local(_metadata, &self->group, 1, self->group.n - 1);
	expect_local(_metadata, &self->group, 0, 0);
}

/* A listener on the very address comes before one on any address, whosever CPU. */
TEST_F(local_listen, address_before_cpu)
{
	struct group any;

	group_init(&any, variant->way, 8000);
	memset(&any.at, 0, sizeof(any.at));
	any.at.ss_family = any.family;
	((struct sockaddr_in *)&any.at)->sin_port = htons(8000);	/* the same place in both families */
	ASSERT_EQ(0, group_fill(&any, cpus(), BACKLOG));
	group_close(&self->group, 1);
	expect_fallback(_metadata, &self->group, 1, 1);
	group_end(&self->group);
	expect_local(_metadata, &any, 1, 1);
	group_end(&any);
}

TEST_F(local_listen, off_is_off)
{
	int off[SAMPLE], between[SAMPLE], again[SAMPLE];
	int cpu;

	ASSERT_EQ(0, file_write(LOCAL_LISTEN, "0"));
	ASSERT_EQ(0, counters_reset());
	/* SO_INCOMING_CPU alone is honoured by the stock kernel too, by walking the group. */
	for (cpu = 0; cpu <= self->last; cpu++)
		ASSERT_EQ(cpu, choice(&self->group, cpu, 0));
	/* A CPU without a slot: the hash decides. */
	group_close(&self->group, 0);
	flows(_metadata, &self->group, off);
	EXPECT_EQ(0, total(LOOKUPS_LOCAL) + total(LOOKUPS_FALLBACK));
	ASSERT_EQ(0, file_write(LOCAL_LISTEN, "1"));
	flows(_metadata, &self->group, between);
	EXPECT_EQ(SAMPLE, total(LOOKUPS_FALLBACK));
	ASSERT_EQ(0, file_write(LOCAL_LISTEN, "0"));
	flows(_metadata, &self->group, again);
	EXPECT_EQ(SAMPLE, total(LOOKUPS_FALLBACK));
	EXPECT_EQ(0, memcmp(off, again, sizeof(off)));
	EXPECT_EQ(0, memcmp(off, between, sizeof(off))) TH_LOG("the fallback is not the group's hash choice");
}

/* Without SO_INCOMING_CPU there is no slot: on or off, the hash decides, and both ways the same. */
TEST_F(local_listen, no_slots_is_the_hash)
{
	int off[SAMPLE], on[SAMPLE], again[SAMPLE];
	int i, differ = 0;

	for (i = 0; i <= self->last; i++)
		ASSERT_EQ(0, set_cpu(self->group.fd[i], -1));
	ASSERT_EQ(0, file_write(LOCAL_LISTEN, "0"));
	flows(_metadata, &self->group, off);
	ASSERT_EQ(0, file_write(LOCAL_LISTEN, "1"));
	flows(_metadata, &self->group, on);
	ASSERT_EQ(0, file_write(LOCAL_LISTEN, "0"));
	flows(_metadata, &self->group, again);
	EXPECT_EQ(0, memcmp(off, on, sizeof(off)));
	EXPECT_EQ(0, memcmp(off, again, sizeof(off)));
	EXPECT_EQ(0, total(LOOKUPS_LOCAL));
	for (i = 1; i < SAMPLE; i++)
		differ += off[i] != off[0];
	EXPECT_NE(0, differ) TH_LOG("one listener got everything: this shows nothing");
}

TEST_F(local_listen, program_before_cpu)
{
	struct sock_filter code[] = { { BPF_RET | BPF_K, 0, 0, 1 } };
	struct sock_fprog program = { .len = ARRAY_SIZE(code), .filter = code };
	int i;

	ASSERT_EQ(0, setsockopt(self->group.fd[0], SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &program, sizeof(program)));
	ASSERT_EQ(0, counters_reset());
	for (i = 0; i < SAMPLE; i++)
		ASSERT_EQ(1, choice(&self->group, 0, 0));
	EXPECT_EQ(0, total(LOOKUPS_LOCAL) + total(LOOKUPS_FALLBACK));
	/* An answer that is no member's index: as if there were no program. */
	code[0].k = 100000;
	ASSERT_EQ(0, setsockopt(self->group.fd[0], SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &program, sizeof(program)));
	expect_local(_metadata, &self->group, self->last, self->last);
	ASSERT_EQ(0, setsockopt(self->group.fd[0], SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, &(int){ 0 }, sizeof(int)));
	expect_local(_metadata, &self->group, 0, 0);
}

TEST_HARNESS_MAIN
