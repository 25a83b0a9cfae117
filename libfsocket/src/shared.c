/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
#define _GNU_SOURCE
#include "shared.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
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
/* Rows: several listeners, twice over while a reload has both generations alive. */
#define LISTENER_ROWS 64
#define SLOT_ROWS_PER_CPU (2 * LISTENER_ROWS)
/* Turns a waiter gives a live holder of the lock before it goes on without. */
#define LOCK_TURNS 100000
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

/* Workers without rights can write the memory, so no size is ever read back from it. */
static struct fsocket_header mine;

static void adopt(void *memory, const struct fsocket_header *h)
{
	char *base = memory;

	mine = *h;
	shared.cpu_count = h->cpu_count;
	shared.cpus = (struct fsocket_cpu *)(void *)(base + h->cpu_offset);
	shared.listeners = (struct fsocket_listener *)(void *)(base + h->listener_offset);
	shared.slots = (struct fsocket_slot *)(void *)(base + h->slot_offset);
	shared.orders = base + order_offset(h);
	shared.header = memory;
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
	if (ftruncate(fd, (off_t)layout_size(want)) ||
	    pwrite(fd, want, sizeof(*want), 0) != (ssize_t)sizeof(*want) || link(fresh, path)) {
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
		if (fd >= 0 && fits(fd, want))
			return fd;
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

/* ---- the tables -------------------------------------------------------- */

int pid_alive(int pid)
{
	/* EPERM, or what a security module says instead: it is there. */
	return pid > 0 && (!kill(pid, 0) || errno != ESRCH);
}

void shared_lock(void)
{
	uint32_t me = (uint32_t)getpid();

	for (int turn = 0; turn < LOCK_TURNS; turn++) {
		uint32_t holder = 0;

		if (__atomic_compare_exchange_n(&shared.header->lock, &holder, me, 0,
						__ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
			return;
		if (holder != me && !pid_alive((int)holder))
			__atomic_compare_exchange_n(&shared.header->lock, &holder, 0, 0,
						    __ATOMIC_RELAXED, __ATOMIC_RELAXED);
		sched_yield();
	}
	/* A holder stopped in a debugger must not stop the site. */
	COUNT_ERROR(FSOCKET_ERR_TABLE);
}

void shared_unlock(void)
{
	uint32_t me = (uint32_t)getpid();

	__atomic_compare_exchange_n(&shared.header->lock, &me, 0, 0, __ATOMIC_RELEASE,
				    __ATOMIC_RELAXED);
}

static int slot_rows(void)
{
	return (int)mine.slot_count;
}

/* Each CPU has rows of its own, so that who looks after a slot need not read all. */
#define FOR_ROWS(row, cpu) \
	for (struct fsocket_slot *row = shared.slots + (cpu) * SLOT_ROWS_PER_CPU, *row##_end = row + SLOT_ROWS_PER_CPU; \
	     row < row##_end; row++)

void slot_row_clear(struct fsocket_slot *row)
{
	slot_state_set(row, FSOCKET_SLOT_FREE);
	row->listener = 0;
	__atomic_store_n(&row->cookie, 0, __ATOMIC_RELAXED);
	row->cpu = row->pid = row->tid = row->fd = row->taken = 0;
	__atomic_store_n(&row->accepts, 0, __ATOMIC_RELAXED);
	__atomic_store_n(&row->queue, 0, __ATOMIC_RELAXED);
	__atomic_store_n(&row->backlog, 0, __ATOMIC_RELAXED);
}

/* Owned by a process that runs; a row whose owner died is freed. */
static int owned(struct fsocket_slot *row)
{
	if (slot_state(row) == FSOCKET_SLOT_FREE || slot_state(row) == FSOCKET_SLOT_ORPHAN)
		return 0;
	if (pid_alive(row->pid))
		return 1;
	slot_row_clear(row);
	return 0;
}

/* Nobody can come back to it: not who prepared it, not an owner of its slots. */
static int abandoned(const struct fsocket_listener *row)
{
	if (pid_alive(row->pid))
		return 0;
	for (int k = 0; k < slot_rows(); k++)
		if (shared.slots[k].listener == row->cookie && owned(&shared.slots[k]))
			return 0;
	return 1;
}

struct fsocket_listener *listener_row(uint64_t cookie)
{
	struct fsocket_listener *spare = NULL;

	for (uint32_t i = 0; i < mine.listener_count; i++) {
		struct fsocket_listener *row = &shared.listeners[i];

		if (row->cookie == cookie) {
			/* Handed over: it must not count as abandoned until its slots have owners. */
			if (!pid_alive(row->pid))
				row->pid = getpid();
			return row;
		}
		if (!spare && (!row->cookie || abandoned(row)))
			spare = row;
	}
	if (!spare)
		return NULL;
	/* The orphans of a listener that is gone are gone with it. */
	for (int k = 0; spare->cookie && k < slot_rows(); k++)
		if (shared.slots[k].listener == spare->cookie)
			slot_row_clear(&shared.slots[k]);
	memset(spare, 0, sizeof(*spare));
	spare->cookie = cookie;
	spare->pid = getpid();
	return spare;
}

int listener_sole(uint64_t cookie)
{
	int sole = 0;

	shared_lock();
	for (uint32_t i = 0; i < mine.listener_count; i++)
		if (shared.listeners[i].cookie == cookie)
			sole = shared.listeners[i].sole;
	shared_unlock();
	return sole;
}

int listener_shared(const struct fsocket_listener *row)
{
	int global = 0;

	for (uint32_t i = 0; i < mine.listener_count; i++) {
		struct fsocket_listener *other = &shared.listeners[i];

		if (!other->sole || other->port != row->port || strncmp(other->address, row->address, sizeof(row->address)))
			continue;
		__atomic_store_n(&other->sole, 0, __ATOMIC_RELAXED);
		global |= __atomic_load_n(&other->mode, __ATOMIC_RELAXED) == FSOCKET_MODE_GLOBAL;
	}
	return global;
}

struct fsocket_slot *slot_row_free(int cpu)
{
	FOR_ROWS(row, cpu)
		if (slot_state(row) == FSOCKET_SLOT_FREE || (slot_state(row) != FSOCKET_SLOT_ORPHAN && !owned(row)))
			return row;
	return NULL;
}

struct fsocket_slot *slot_served(uint64_t slot_cookie, int cpu, uint64_t *accepts)
{
	struct fsocket_slot *found = NULL;

	*accepts = 0;
	FOR_ROWS(row, cpu) {
		uint32_t state = slot_state(row);

		if ((state != FSOCKET_SLOT_ON && state != FSOCKET_SLOT_SPILLING && state != FSOCKET_SLOT_ORPHAN) ||
		    __atomic_load_n(&row->cookie, __ATOMIC_RELAXED) != slot_cookie)
			continue;
		found = row;
		*accepts += __atomic_load_n(&row->accepts, __ATOMIC_RELAXED);
	}
	return found;
}

struct fsocket_slot *slot_predecessor(uint64_t listener_cookie, int cpu)
{
	int me = getpid();

	FOR_ROWS(row, cpu)
		if (row->listener == listener_cookie && row->pid != me && owned(row))
			return row;
	return NULL;
}

int slot_owners(uint64_t slot_cookie)
{
	int owners = 0;

	/* Of all CPUs: a listener of the application's own may have changed hands. */
	for (int k = 0; k < slot_rows(); k++)
		if (shared.slots[k].cookie == slot_cookie)
			owners += owned(&shared.slots[k]);
	return owners;
}

struct fsocket_slot *slot_orphan(uint64_t listener_cookie, int cpu)
{
	FOR_ROWS(row, cpu)
		if (slot_state(row) == FSOCKET_SLOT_ORPHAN && row->listener == listener_cookie)
			return row;
	return NULL;
}

int cpu_owners(uint64_t listener_cookie, int cpu)
{
	int owners = 0;

	FOR_ROWS(row, cpu)
		if (row->listener == listener_cookie)
			owners += owned(row);
	return owners;
}
