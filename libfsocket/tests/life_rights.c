/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A process that sees less of the system, or may do less, than when it started. */
#define _GNU_SOURCE
#include "life.h"

#include <linux/capability.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#define NOBODY 65534

/* Before and after: a listener of each, in epolls of each. */
static void across(void (*change)(void))
{
	struct sockaddr_in at, late;
	int l = listener(SOCK_NONBLOCK, &at), e = watch(l), m;

	served("before", e, l, &at);
	change();
	served("after, as it was", e, l, &at);
	close(e);
	served("after, a new epoll", watch(l), l, &at);
	m = listener(SOCK_NONBLOCK, &late);
	served("after, a new listener", watch(m), m, &late);
	say("uid %d\n", (int)geteuid());
	close(l);
	close(m);
	count_fds("both closed", 0);
}

static void change_root(void)
{
	char path[] = "/run/lifeXXXXXX";

	if (!mkdtemp(path) || chroot(path) || chdir("/"))
		die("chroot");
}

/* The switch is closed and out of reach. */
static void change_root_close(void)
{
	change_root();
	for (int fd = HIGH_FD; fd < 1024; fd++)
		close(fd);
}

static void change_setuid(void)
{
	if (setgid(NOBODY) || setuid(NOBODY))
		die("setuid");
}

static void change_raw(void)
{
	if (syscall(SYS_setresgid, NOBODY, NOBODY, NOBODY) || syscall(SYS_setresuid, NOBODY, NOBODY, NOBODY))
		die("setresuid");
}

/* Root without a capability. */
static void change_capset(void)
{
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct none[2];

	memset(none, 0, sizeof(none));
	for (int capability = 0; capability <= CAP_LAST_CAP; capability++)
		prctl(PR_CAPBSET_DROP, capability, 0, 0, 0);
	if (syscall(SYS_capset, &header, none))
		die("capset");
}

/* Another user with one capability, as servers that bind low ports later. */
static void change_keepcaps(void)
{
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct some[2];

	memset(some, 0, sizeof(some));
	some[0].permitted = some[0].effective = 1u << CAP_NET_BIND_SERVICE;
	if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) || setgid(NOBODY) || setuid(NOBODY) || syscall(SYS_capset, &header, some))
		die("keepcaps");
}

static void in_chroot(int unused)
{
	(void)unused;
	across(change_root);
}

static void in_chroot_closed(int unused)
{
	(void)unused;
	across(change_root_close);
}

static void by_setuid(int unused)
{
	(void)unused;
	across(change_setuid);
}

static void by_raw_setresuid(int unused)
{
	(void)unused;
	across(change_raw);
}

static void by_capset(int unused)
{
	(void)unused;
	across(change_capset);
}

static void by_keepcaps(int unused)
{
	(void)unused;
	across(change_keepcaps);
}

/* It must not matter to an exec, which is where it acts. */
static void no_new_privs(int unused)
{
	struct sockaddr_in at;
	int l = listener(SOCK_NONBLOCK, &at);

	(void)unused;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		die("no_new_privs");
	served("before exec", watch(l), l, &at);
	again("inherit", l, environ);
}

/* Makes a listener, gives its rights up, and execs: the next program has a listener of root's. */
static void handed_down(int unused)
{
	struct sockaddr_in at;
	int l = listener(SOCK_NONBLOCK, &at);

	(void)unused;
	change_raw();
	again("inherit", l, environ);
}

const struct habit rights_habits[] = {
	{ "chroot", in_chroot }, { "chroot-closed", in_chroot_closed }, { "setuid", by_setuid },
	{ "raw-setresuid", by_raw_setresuid }, { "capset", by_capset }, { "keepcaps", by_keepcaps },
	{ "no-new-privs", no_new_privs }, { "handed-down", handed_down },
	{ NULL, NULL },
};
