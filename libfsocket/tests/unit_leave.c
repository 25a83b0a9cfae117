/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "leave.h"
#include "shared.h"
#include "tap.h"

/* LD_PRELOAD before and after; NULL: the variable goes. */
static const struct {
	const char *before, *after;
} lists[] = {
	{ "libfsocket.so", NULL },
	{ "/usr/lib/fastsocket/libfsocket.so", NULL },
	{ "/usr/lib/fastsocket/libfsocket.so.0.1.0", NULL },
	{ ":/a/libfsocket.so: ", NULL },
	{ "/a/libfsocket.so:/b/libfsocket.so.1", NULL },
	{ "/a/libjemalloc.so.2:/a/libfsocket.so", "/a/libjemalloc.so.2" },
	{ "/a/libfsocket.so /a/libjemalloc.so.2", "/a/libjemalloc.so.2" },
	{ "/a/one.so /a/libfsocket.so:/a/two.so", "/a/one.so:/a/two.so" },
	{ "  /a/one.so::/a/libfsocket.so.0.1.0  /a/two.so:", "/a/one.so:/a/two.so" },
	{ "/opt/libfsocket.so/other.so:/a/libfsocket.so", "/opt/libfsocket.so/other.so" },
	{ "/a/notlibfsocket.so:/a/libfsocket.so", "/a/notlibfsocket.so" },
	{ "x:/a/libfsocket.so", "x" },
	{ "/a/odd= /a/two.so:/a/libfsocket.so", "/a/odd=:/a/two.so" },
};

static const char *find(char *const *environment, const char *name)
{
	size_t length = strlen(name);

	for (; *environment; environment++)
		if (!strncmp(*environment, name, length) && (*environment)[length] == '=')
			return *environment + length + 1;
	return NULL;
}

static void turn(char value)
{
	struct timespec wait = { 0, (FSOCKET_SWITCH_MS + 20) * 1000000L };
	char path[200];
	int fd;

	if (!shared_path(path, sizeof(path), ".switch") || (fd = open(path, O_WRONLY)) < 0 ||
	    write(fd, &value, 1) != 1)
		abort();
	close(fd);
	nanosleep(&wait, NULL);
}

void unit_leave(void)
{
	char entry[256];
	char *environment[] = { "A=1", "FSOCKET_DIR=/x", entry, "FSOCKET_NAME=y", "FSOCKET=kept", "Z=", NULL };
	char *without[] = { "A=1", "FSOCKET_DIR=/x", NULL };

	CHECK(shared.header != NULL, "the library linked in is up");
	if (!shared.header)
		return;
	snprintf(entry, sizeof(entry), "LD_PRELOAD=/a/libfsocket.so");
	for (const char *value = "10x"; *value; value++) {
		turn(*value);
		CHECK(!leave_size(environment), "switch '%c': the environment stays", *value);
	}
	turn(FSOCKET_SWITCH_LEAVE);
	for (unsigned int i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
		char *const *clean;
		const char *got;
		size_t size;
		void *memory;

		snprintf(entry, sizeof(entry), "LD_PRELOAD=%s", lists[i].before);
		size = leave_size(environment);
		/* Exactly so much: the ASan build of this test sees a byte too many. */
		memory = malloc(size ? size : 1);
		if (!memory)
			abort();
		clean = size ? leave_clean(environment, memory) : environment;
		got = find(clean, "LD_PRELOAD");
		CHECK(size && (lists[i].after ? got && !strcmp(got, lists[i].after) : !got), "\"%s\" becomes \"%s\"",
		      lists[i].before, got ? got : "(gone)");
		CHECK(!find(clean, "FSOCKET_DIR") && !find(clean, "FSOCKET_NAME") && find(clean, "A") &&
		      find(clean, "Z") && find(clean, "FSOCKET"), "our settings go, all others stay");
		free(memory);
	}
	snprintf(entry, sizeof(entry), "LD_PRELOAD=/a/one.so:/a/two.so");
	CHECK(!leave_size(environment), "nothing of ours in LD_PRELOAD: nothing to clean");
	CHECK(!leave_size(without), "no LD_PRELOAD: nothing to clean");
	CHECK(!leave_size(NULL), "no environment: nothing to clean");
	turn(FSOCKET_SWITCH_ON);
}
