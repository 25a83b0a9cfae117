// SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
// SPDX-License-Identifier: GPL-2.0-only
/* The sysctls and /proc/net/fastsocket: what they say, who may write them, and that each network namespace has its own. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "fixture.h"

#define EACH 5

FIXTURE(interface)
{
	struct group group;
};

FIXTURE_SETUP(interface)
{
	NEED_FASTSOCKET();
	group_init(&self->group, IPV4, 8000);
}

FIXTURE_TEARDOWN(interface)
{
	group_end(&self->group);
}

/* Run `test` in a child, which may give up rights or namespaces; it returns 0 when all was well. */
static int in_child(int (*test)(void))
{
	int status;
	pid_t child = fork();

	if (!child)
		_exit(test());
	if (child < 0 || waitpid(child, &status, 0) != child)
		return -1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void expect_cell(struct __test_metadata *_metadata, int cpu, enum column column, long long value)
{
	struct counters counters;

	ASSERT_EQ(0, counters_read(&counters));
	EXPECT_EQ(value, counters.cell[cpu][column]) TH_LOG("CPU %d, column %d", cpu, column);
	EXPECT_EQ(value, total(column)) TH_LOG("all CPUs, column %d", column);
}

/* A connection of a client on CPU `from` that a thread on CPU `by` accepts. */
static void one(struct __test_metadata *_metadata, struct group *group, int from, int by)
{
	int fd = client(group, from, 0), taken;

	ASSERT_LE(0, fd);
	ASSERT_EQ(0, pin(by));
	taken = group_take(group, NULL);
	ASSERT_LE(0, taken);
	abort_connection(taken);
	close(fd);
}

TEST_F(interface, off_by_default)
{
	EXPECT_EQ(0, file_number(LOCAL_LISTEN));
	EXPECT_EQ(50, file_number(SPILL));
}

TEST_F(interface, values_out_of_range_are_refused)
{
	static const struct {
		const char *path, *text;
	} bad[] = {
		{ LOCAL_LISTEN, "2" }, { LOCAL_LISTEN, "-1" }, { LOCAL_LISTEN, "256" }, { LOCAL_LISTEN, "on" },
		{ SPILL, "0" }, { SPILL, "101" }, { SPILL, "-1" }, { SPILL, "306" }, { SPILL, "4294967346" }, { SPILL, "half" },
	};
	static const char * const good[] = { "1", "100", "37" };
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(bad); i++)
		EXPECT_EQ(-EINVAL, file_write(bad[i].path, bad[i].text)) TH_LOG("%s to %s", bad[i].text, bad[i].path);
	EXPECT_EQ(0, file_number(LOCAL_LISTEN));
	EXPECT_EQ(50, file_number(SPILL));
	for (i = 0; i < ARRAY_SIZE(good); i++) {
		EXPECT_EQ(0, file_write(SPILL, good[i]));
		EXPECT_EQ(atoi(good[i]), file_number(SPILL));
	}
	EXPECT_EQ(0, file_write(LOCAL_LISTEN, "1"));
	EXPECT_EQ(1, file_number(LOCAL_LISTEN));
}

TEST_F(interface, one_line_for_each_possible_cpu)
{
	struct counters counters;
	int first, last = 0;
	struct stat stat;
	FILE *possible;

	ASSERT_EQ(0, counters_read(&counters)) TH_LOG("the columns are not the documented ones");
	possible = fopen("/sys/devices/system/cpu/possible", "r");
	ASSERT_NE(NULL, possible);
	ASSERT_LE(1, fscanf(possible, "%d-%d", &first, &last));
	fclose(possible);
	EXPECT_EQ(last + 1, counters.lines);
	ASSERT_EQ(0, lstat("/proc/self/net/fastsocket", &stat));
	EXPECT_EQ(0644, stat.st_mode & 07777);
}

TEST_F(interface, accepts_are_local_remote_or_global)
{
	NEED_CPUS(2);
	ASSERT_EQ(0, group_add(&self->group, SOCK_STREAM, 0, 16));
	for (int i = 0; i < EACH; i++)
		one(_metadata, &self->group, 0, 0);
	expect_cell(_metadata, 0, ACCEPTS_LOCAL, EACH);
	expect_cell(_metadata, 0, ACCEPTS_REMOTE, 0);
	for (int i = 0; i < EACH; i++)
		one(_metadata, &self->group, 0, 1);
	expect_cell(_metadata, 0, ACCEPTS_LOCAL, EACH);
	expect_cell(_metadata, 1, ACCEPTS_REMOTE, EACH);
	expect_cell(_metadata, 0, ACCEPTS_GLOBAL, 0);
	group_end(&self->group);

	/* A listener of no CPU: its accepts are counted as global too. */
	ASSERT_EQ(0, group_add(&self->group, SOCK_STREAM, -1, 16));
	ASSERT_EQ(0, counters_reset());
	one(_metadata, &self->group, 1, 1);
	one(_metadata, &self->group, 0, 1);
	expect_cell(_metadata, 1, ACCEPTS_LOCAL, 1);
	expect_cell(_metadata, 1, ACCEPTS_REMOTE, 1);
	expect_cell(_metadata, 1, ACCEPTS_GLOBAL, 2);
}

/* The counters count with the feature off too: that is how stock and patched are compared. */
TEST_F(interface, connects_count_on_the_cpu_that_connects)
{
	int i, fd, port;

	NEED_CPUS(2);
	ASSERT_EQ(0, group_add(&self->group, SOCK_STREAM, -1, 16));
	for (i = 0; i < EACH; i++)
		one(_metadata, &self->group, 1, 0);
	expect_cell(_metadata, 1, CONNECTS_LOCAL, EACH);
	expect_cell(_metadata, 0, CONNECTS_REMOTE, 0);
	/* Non-blocking connects count as well ... */
	fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, pin(0));
	EXPECT_EQ(-1, connect(fd, (void *)&self->group.to, self->group.to_len));
	EXPECT_EQ(EINPROGRESS, errno);
	i = group_take(&self->group, NULL);
	ASSERT_LE(0, i);
	close(i);
	close(fd);
	EXPECT_EQ(EACH + 1, total(CONNECTS_LOCAL));
	/* ... refused ones do not. */
	group_end(&self->group);
	for (port = 0; port < EACH; port++)
		EXPECT_EQ(-ECONNREFUSED, client(&self->group, 0, 0));
	EXPECT_EQ(EACH + 1, total(CONNECTS_LOCAL));
	EXPECT_EQ(0, total(CONNECTS_REMOTE));
}

TEST_F(interface, any_write_resets)
{
	static const char * const text[] = { "0", "\n", "reset everything, please", " " };
	unsigned int i;
	int column;

	ASSERT_EQ(0, group_add(&self->group, SOCK_STREAM, -1, 16));
	for (i = 0; i < ARRAY_SIZE(text); i++) {
		one(_metadata, &self->group, 0, 0);
		EXPECT_EQ(1, total(ACCEPTS_LOCAL));
		ASSERT_EQ(0, file_write(COUNTERS, text[i]));
		for (column = 0; column < NR_COLUMNS; column++)
			EXPECT_EQ(0, total(column));
	}
}

TEST_F(interface, each_network_namespace_has_its_own)
{
	struct group inner;
	int home;

	ASSERT_EQ(0, group_add(&self->group, SOCK_STREAM, -1, 16));
	one(_metadata, &self->group, 0, 0);
	ASSERT_EQ(0, file_write(LOCAL_LISTEN, "1"));
	ASSERT_EQ(0, file_write(SPILL, "77"));
	home = open("/proc/self/ns/net", O_RDONLY);
	ASSERT_LE(0, home);

	ASSERT_EQ(0, fresh_netns());
	EXPECT_EQ(0, file_number(LOCAL_LISTEN));
	EXPECT_EQ(50, file_number(SPILL));
	EXPECT_EQ(0, total(ACCEPTS_LOCAL) + total(CONNECTS_LOCAL));
	group_init(&inner, IPV4, 8000);
	ASSERT_EQ(0, group_add(&inner, SOCK_STREAM, 0, 16));
	one(_metadata, &inner, 0, 0);
	one(_metadata, &inner, 0, 0);
	EXPECT_EQ(2, total(ACCEPTS_LOCAL));
	EXPECT_EQ(0, total(LOOKUPS_LOCAL) + total(LOOKUPS_FALLBACK));
	ASSERT_EQ(0, counters_reset());
	EXPECT_EQ(0, total(ACCEPTS_LOCAL));
	group_end(&inner);

	ASSERT_EQ(0, setns(home, CLONE_NEWNET));
	EXPECT_EQ(1, total(ACCEPTS_LOCAL));
	EXPECT_EQ(1, total(CONNECTS_LOCAL));
	EXPECT_EQ(1, file_number(LOCAL_LISTEN));
	EXPECT_EQ(77, file_number(SPILL));
}

/* Root without CAP_NET_ADMIN: may open, may not reset. */
static int reset_without_net_admin(void)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];
	int ret;

	if (syscall(SYS_capget, &head, data))
		return 100;
	data[0].effective &= ~(1u << CAP_NET_ADMIN);
	data[0].permitted &= ~(1u << CAP_NET_ADMIN);
	if (syscall(SYS_capset, &head, data))
		return 101;
	ret = counters_reset();
	return ret == -EPERM || ret == -EACCES ? 0 : 102;
}

static int write_as_nobody(void)
{
	static const char * const path[] = { COUNTERS, LOCAL_LISTEN, SPILL };
	unsigned int i;

	if (setgid(65534) || setuid(65534))
		return 100;
	for (i = 0; i < ARRAY_SIZE(path); i++) {
		int ret = file_write(path[i], "1");

		if (ret != -EPERM && ret != -EACCES)
			return 101 + i;
	}
	return total(ACCEPTS_LOCAL) == 1 ? 0 : 110;
}

/* Root of a user namespace has its rights over the network namespace that is its own, and over no other. */
static int write_in_user_namespace(void)
{
	struct group group;

	if (unshare(CLONE_NEWUSER))
		return 99;
	if (counters_reset() >= 0)
		return 100;
	if (fresh_netns())
		return 101;
	group_init(&group, IPV4, 8000);
	if (group_add(&group, SOCK_STREAM, 0, 16) || choice(&group, 0, 0) || total(ACCEPTS_LOCAL) + total(ACCEPTS_REMOTE) != 1)
		return 102;
	if (counters_reset() || total(ACCEPTS_LOCAL) + total(ACCEPTS_REMOTE))
		return 103;
	if (file_write(LOCAL_LISTEN, "1") || file_number(LOCAL_LISTEN) != 1)
		return 104;
	return 0;
}

TEST_F(interface, only_an_administrator_of_the_namespace_writes)
{
	ASSERT_EQ(0, group_add(&self->group, SOCK_STREAM, -1, 16));
	one(_metadata, &self->group, 0, 0);
	EXPECT_EQ(0, in_child(reset_without_net_admin));
	EXPECT_EQ(1, total(ACCEPTS_LOCAL));
	EXPECT_EQ(0, in_child(write_as_nobody));
	EXPECT_EQ(1, total(ACCEPTS_LOCAL));
	EXPECT_EQ(0, file_number(LOCAL_LISTEN));
	EXPECT_EQ(50, file_number(SPILL));
	EXPECT_EQ(0, in_child(write_in_user_namespace));
	EXPECT_EQ(1, total(ACCEPTS_LOCAL));
}

TEST_HARNESS_MAIN
