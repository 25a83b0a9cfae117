/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
#define _GNU_SOURCE
#include "shared.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "choose.h"
#include "real.h"
#include "settings.h"

struct shared shared;

#define VERSION "0.2.0"
/* Our descriptor of the switch keeps out of the application's low numbers. */
#define SWITCH_FD_FLOOR 200

static const char *service_name(void)
{
	return *settings.name ? settings.name : program_invocation_short_name;
}

int shared_path(char *path, size_t size, const char *suffix)
{
	const char *name = service_name();
	int length;

	if (!*name || strchr(name, '/') || *name == '.')
		return 0;
	length = snprintf(path, size, "%s/%s%s", settings.dir, name, suffix);
	return length > 0 && (size_t)length < size;
}

/* ---- the file ---------------------------------------------------------- */

static uint32_t order_offset(const struct fsocket_header *h)
{
	return h->listener_offset + h->listener_count * h->listener_size;
}

static struct fsocket_header layout(void)
{
	struct fsocket_header h = {
		.magic = FSOCKET_MAGIC,
		.version = FSOCKET_ABI_VERSION,
		.header_size = sizeof(h),
		.cpu_size = sizeof(struct fsocket_cpu),
		.listener_count = LISTENER_ROWS,
		.listener_size = sizeof(struct fsocket_listener),
		.slot_size = sizeof(struct fsocket_slot),
		.library = VERSION,
	};
	long cpus = sysconf(_SC_NPROCESSORS_CONF);

	h.cpu_count = cpus > 0 ? (uint32_t)cpus : 1;
	h.slot_count = h.cpu_count * SLOT_ROWS_PER_CPU;
	/* Counters begin on a cache line of their own. */
	h.cpu_offset = (uint32_t)(sizeof(h) + 63) & ~63u;
	h.listener_offset = h.cpu_offset + h.cpu_count * h.cpu_size;
	/* Before the slots: the orders of the groups, which nobody else reads. */
	h.slot_offset = order_offset(&h) + (uint32_t)(h.listener_count * ORDER_SIZE(h.cpu_count));
	h.created = (uint64_t)time(NULL);
	return h;
}

static size_t layout_size(const struct fsocket_header *h)
{
	return h->slot_offset + (size_t)h->slot_count * h->slot_size;
}

static void adopt(void *memory, const struct fsocket_header *h)
{
	char *base = memory;

	shared.cpu_count = h->cpu_count;
	shared.cpus = (struct fsocket_cpu *)(void *)(base + h->cpu_offset);
	shared.listeners = (struct fsocket_listener *)(void *)(base + h->listener_offset);
	shared.slots = (struct fsocket_slot *)(void *)(base + h->slot_offset);
	shared.orders = base + order_offset(h);
	shared.header = memory;
}

/* A page without a block, when it is first written to on a file system that is full, is SIGBUS. */
static int fill(int fd, const struct fsocket_header *want)
{
	errno = posix_fallocate(fd, 0, (off_t)layout_size(want));
	return errno ? -1 : 0;
}

/* Where blocks are compressed or shared, their number tells nothing, and filling changes nothing. */
static int filled(int fd, const struct fsocket_header *want)
{
	struct stat st;

	return !fstat(fd, &st) && ((size_t)st.st_blocks * 512 >= layout_size(want) || !fill(fd, want));
}

/* A file that this very library would have made: same owner, size and layout. */
static int fits(int fd, const struct fsocket_header *want)
{
	struct fsocket_header have;
	struct stat st;

	return !fstat(fd, &st) && S_ISREG(st.st_mode) && st.st_uid == geteuid() &&
	       (size_t)st.st_size == layout_size(want) &&
	       pread(fd, &have, sizeof(have), 0) == (ssize_t)sizeof(have) &&
	       !memcmp(&have, want, offsetof(struct fsocket_header, capabilities));
}

/* Made under another name and linked, so that no process ever sees half a file. */
static int make_file(const char *path, const struct fsocket_header *want)
{
	char fresh[256];
	int fd;

	if (snprintf(fresh, sizeof(fresh), "%s.%d", path, getpid()) >= (int)sizeof(fresh))
		return -1;
	fd = open(fresh, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0644);
	if (fd < 0)
		return -1;
	if (fill(fd, want) || pwrite(fd, want, sizeof(*want), 0) != (ssize_t)sizeof(*want) || link(fresh, path)) {
		real.close(fd);
		fd = -1;
	}
	unlink(fresh);
	return fd;
}

static int open_file(const struct fsocket_header *want)
{
	char path[200];
	int fd;

	if (!shared_path(path, sizeof(path), ".stats"))
		return -1;
	for (int turn = 0; turn < 2; turn++) {
		fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
		if (fd >= 0 && fits(fd, want)) {
			if (filled(fd, want))
				return fd;
			/* A former library's, with holes. It is in use. */
			real.close(fd);
			return -1;
		}
		if (fd >= 0) {
			/* Another version's: whoever maps it keeps it, we begin anew. */
			real.close(fd);
			unlink(path);
		}
		fd = make_file(path, want);
		if (fd >= 0)
			return fd;
	}
	return -1;
}

/* ---- the switch -------------------------------------------------------- */

static int switch_fd = -1;
static dev_t switch_dev;
static ino_t switch_ino;
static _Atomic char switch_value = FSOCKET_SWITCH_OFF;
static _Atomic int64_t switch_next;

int64_t coarse_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void switch_open(void)
{
	char path[200], first = FSOCKET_SWITCH_ON;
	struct stat st;
	int fd;

	if (!shared_path(path, sizeof(path), ".switch"))
		return;
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0644);
	if (fd >= 0) {
		if (write(fd, &first, 1) != 1)
			unlink(path);
		real.close(fd);
	}
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return;
	switch_fd = fcntl(fd, F_DUPFD_CLOEXEC, SWITCH_FD_FLOOR);
	real.close(fd);
	if (switch_fd >= 0 && !fstat(switch_fd, &st)) {
		switch_dev = st.st_dev;
		switch_ino = st.st_ino;
	}
}

/*
 * read(2) and not a mapping: a person who types `echo 0 > NAME.switch` makes the file
 * empty for a moment, and a mapped byte past its end is a SIGBUS.
 * fstat(2), because a program may have closed and reused our descriptor.
 */
static void switch_look(void)
{
	struct stat st;
	char value;

	if (fstat(switch_fd, &st) || st.st_dev != switch_dev || st.st_ino != switch_ino) {
		switch_fd = -1;
		switch_open();
		if (switch_fd < 0) {
			/* Nobody could turn us off any more. */
			atomic_store_explicit(&switch_value, FSOCKET_SWITCH_OFF, memory_order_relaxed);
			return;
		}
	}
	if (pread(switch_fd, &value, 1, 0) == 1)
		atomic_store_explicit(&switch_value, value, memory_order_relaxed);
}

char switch_at(int64_t now)
{
	int64_t next = atomic_load_explicit(&switch_next, memory_order_relaxed);

	/* One thread looks; the others take what it found. */
	if (now >= next && atomic_compare_exchange_strong(&switch_next, &next, now + FSOCKET_SWITCH_MS)) {
		int keep = errno;

		switch_look();
		errno = keep;
	}
	return atomic_load_explicit(&switch_value, memory_order_relaxed);
}

int64_t switch_due(void)
{
	return atomic_load_explicit(&switch_next, memory_order_relaxed);
}

void shared_open(void)
{
	struct fsocket_header want = layout();
	size_t size = layout_size(&want);
	void *memory = MAP_FAILED;
	int fd;

	if (geteuid() == 0 && mkdir(settings.dir, 0755) && errno != EEXIST)
		say(1, "%s cannot be made: %s", settings.dir, strerror(errno));
	switch_open();
	if (switch_fd < 0) {
		say(1, "%s/%s.switch cannot be read (%s): staying off, as there would be no way back",
		    settings.dir, service_name(), strerror(errno));
		return;
	}
	/* Before there are threads: one that is not the first to look must not take the initial value. */
	switch_at(coarse_ms());
	fd = open_file(&want);
	if (fd >= 0) {
		memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		real.close(fd);
	}
	if (memory == MAP_FAILED) {
		say(1, "%s/%s.stats cannot be used (%s): statistics stay in this service",
		    settings.dir, service_name(), strerror(errno));
		memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		if (memory == MAP_FAILED)
			return;
		memcpy(memory, &want, sizeof(want));
	}
	adopt(memory, &want);
}
