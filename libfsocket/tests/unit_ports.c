/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <stdint.h>

#include "ports.h"
#include "tap.h"

/* The smallest block worth having; the plan may refuse less. */
#define LEAST 64

static uint32_t state = 1;

/* Numerical Recipes' linear congruence: the same numbers on every run. */
static unsigned int any(unsigned int below)
{
	state = state * 1664525u + 1013904223u;
	return (unsigned int)(((uint64_t)state * below) >> 32);
}

/* Could cpus blocks of this size stand side by side, aligned, in [low, high]? Tried one start after another. */
static int possible(unsigned int low, unsigned int high, unsigned int cpus, unsigned int size)
{
	for (unsigned int start = 0; start <= high; start += size)
		if (start >= low && start + (uint64_t)size * cpus - 1 <= high)
			return 1;
	return 0;
}

struct faults {
	int power, aligned, inside, disjoint, largest, past;
};

static void look(unsigned int low, unsigned int high, unsigned int cpus, struct faults *f)
{
	struct port_blocks b = ports_plan(low, high, cpus);
	unsigned int before = 0;

	if (!b.size) {
		f->largest += cpus && possible(low, high, cpus, LEAST);
		return;
	}
	f->power += (b.size & (b.size - 1)) != 0 || b.size < LEAST;
	f->aligned += b.first % b.size != 0;
	f->largest += b.size < 32768 && possible(low, high, cpus, b.size * 2);
	for (unsigned int cpu = 0; cpu < cpus; cpu++) {
		uint32_t range = ports_range(b, cpu);
		unsigned int from = range & 0xffff, to = range >> 16;

		f->inside += from < low || to > high || to - from + 1 != b.size;
		f->disjoint += cpu && from != before + 1;
		/* One value and one mask name the block: what a NIC rule needs. */
		f->aligned += (from & ~(b.size - 1)) != (to & ~(b.size - 1));
		before = to;
	}
	/* CPUs that came online later: none, or what follows, but never what begins again at 0. */
	for (unsigned int cpu = cpus; cpu < cpus + 1100; cpu += 1 + cpu % 7) {
		uint32_t range = ports_range(b, cpu);

		f->past += range && ((range & 0xffff) != b.first + b.size * cpu || range >> 16 < (range & 0xffff));
	}
}

void unit_ports(void)
{
	struct faults f = { 0 };
	struct port_blocks b;
	int count = 20000;

	for (int i = 0; i < count; i++) {
		unsigned int low = any(65536), high = low + any(65536 - low);

		/* Few CPUs most of the time, as in the world. */
		look(low, high, any(i % 2 ? 600 : 9), &f);
	}
	CHECK(!f.power, "%d plans: blocks are powers of two (%d wrong)", count, f.power);
	CHECK(!f.aligned, "%d plans: blocks are aligned to their size (%d wrong)", count, f.aligned);
	CHECK(!f.inside, "%d plans: blocks lie in the range (%d wrong)", count, f.inside);
	CHECK(!f.disjoint, "%d plans: blocks stand side by side (%d wrong)", count, f.disjoint);
	CHECK(!f.past, "%d plans: a CPU past the plan has what follows or nothing (%d wrong)", count, f.past);
	CHECK(!f.largest, "%d plans: no larger blocks would fit (%d wrong)", count, f.largest);

	b = ports_plan(32768, 60999, 4);
	CHECK(b.size == 4096 && !ports_range(b, 8) && !ports_range(b, 1 << 20), "the default range has no CPU 8 beside 4");
	b = ports_plan(32768, 60999, 2);
	CHECK(b.first == 32768 && b.size == 8192, "2 CPUs, default range: %u + 2 x %u", b.first, b.size);
	b = ports_plan(1024, 65535, 128);
	CHECK(b.first && b.size == 256, "128 CPUs, wide range: %u + 128 x %u", b.first, b.size);
	b = ports_plan(32768, 60999, 1024);
	CHECK(!b.size, "1024 CPUs: no blocks rather than tiny ones");
	b = ports_plan(32768, 60999, 0);
	CHECK(!b.size, "no CPUs: no blocks");
	b = ports_plan(40000, 40000, 1);
	CHECK(!b.size, "one port: no blocks");
	b = ports_plan(60999, 32768, 1);
	CHECK(!b.size, "a range that ends before it begins: no blocks");
	b = ports_plan(32768, 65535, 1);
	CHECK(b.size == 32768 && ports_range(b, 0) == (32768u | 65535u << 16), "the last port can be in a block");
}
