/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
#define _GNU_SOURCE
#include "plan.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "atomics.h"
#include "real.h"
#include "rss.h"
#include "shared.h"

/* Fewer ports a CPU than this would only run full. */
#define BLOCK_LEAST 64

/* Of eight bytes: a thread sees all of a plan or all of another. */
static _Atomic struct plan plan;
static unsigned int cpus;

struct port_blocks ports_plan(unsigned int low, unsigned int high, unsigned int count)
{
	for (unsigned int size = 32768; count && size >= BLOCK_LEAST; size /= 2) {
		unsigned int first = (low + size - 1) / size * size;

		if ((uint64_t)first + (uint64_t)size * count <= (uint64_t)high + 1)
			return (struct port_blocks){ first, size };
	}
	return (struct port_blocks){ 0, 0 };
}

uint32_t ports_range(struct port_blocks b, unsigned int cpu)
{
	uint64_t low = b.first + (uint64_t)b.size * cpu, high = low + b.size - 1;

	return b.size && high <= 65535 ? (uint32_t)(low | high << 16) : 0;
}

/* Highest CPU id that is online, plus one: "0-3,8" is 9. */
static unsigned int online_cpus(void)
{
	FILE *file = fopen("/sys/devices/system/cpu/online", "re");
	unsigned int last = 0;
	int c, found = 0;

	while (file && (c = fgetc(file)) != EOF && c != '\n') {
		if (c < '0' || c > '9') {
			last = 0;
			continue;
		}
		last = last * 10 + (unsigned int)(c - '0');
		found = 1;
	}
	if (file)
		fclose(file);
	return found ? last + 1 : (unsigned int)sysconf(_SC_NPROCESSORS_ONLN);
}

/*
 * No stdio here: connect() does not allocate. In a chroot without /proc the plan stays; the
 * kernel keeps to the range of the day all the same.
 */
static void read_range(void)
{
	int fd = open("/proc/sys/net/ipv4/ip_local_port_range", O_RDONLY | O_CLOEXEC);
	unsigned int low, high;
	struct port_blocks b;
	struct plan fresh;
	char text[32];
	ssize_t length;

	if (fd < 0)
		return;
	length = read(fd, text, sizeof(text) - 1);
	real.close(fd);
	text[length > 0 ? length : 0] = 0;
	if (sscanf(text, "%u %u", &low, &high) != 2 || low > high || high > 65535)
		return;
	b = ports_plan(low, high, cpus);
	fresh = (struct plan){ (uint16_t)low, (uint16_t)high, (uint16_t)b.first, (uint16_t)b.size };
	atomic_store_explicit(&plan, fresh, memory_order_relaxed);
	shared.header->port_first = b.first;
	shared.header->port_block = b.size;
}

struct plan plan_at(int64_t now)
{
	static _Atomic int64_t looked = -1;
	static atomic_flag busy = ATOMIC_FLAG_INIT;

	/* 0: plan_init() was not called, as the kernel has no IP_LOCAL_PORT_RANGE. */
	if (cpus && atomic_load_explicit(&looked, memory_order_relaxed) != now / 1000 &&
	    !atomic_flag_test_and_set_explicit(&busy, memory_order_acquire)) {
		atomic_store_explicit(&looked, now / 1000, memory_order_relaxed);
		read_range();
		rss_look();
		atomic_flag_clear_explicit(&busy, memory_order_release);
	}
	return atomic_load_explicit(&plan, memory_order_relaxed);
}

void plan_init(void)
{
	cpus = online_cpus();
	plan_at(coarse_ms());
}
