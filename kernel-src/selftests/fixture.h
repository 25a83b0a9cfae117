/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-only */
/* The harness, and what every fixture begins with: a fresh network namespace on a kernel that has the feature. */
#ifndef FASTSOCKET_SELFTEST_FIXTURE_H
#define FASTSOCKET_SELFTEST_FIXTURE_H

#include "../../kselftest_harness.h"
#include "lib.h"

/* The harness's 30 seconds are for real machines. The tests' macros read this where they are used. */
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT TEST_LIMIT

#define NEED_FASTSOCKET() do {								\
	struct counters now;								\
											\
	if (access(COUNTERS, R_OK))							\
		SKIP(return, "no " COUNTERS ": a kernel without CONFIG_FASTSOCKET");	\
	if (counters_read(&now) == -E2BIG)						\
		SKIP(return, "the tests know %d CPUs", MAX_CPUS);			\
	ASSERT_EQ(0, fresh_netns());							\
} while (0)

#define NEED_CPUS(count) do {								\
	if (cpus() < (count))								\
		SKIP(return, "needs %d CPUs", (count));					\
} while (0)

#endif
