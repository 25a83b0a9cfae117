/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A harness of a few lines: CHECK prints one TAP line, DONE the plan. */
#ifndef TAP_H
#define TAP_H

#include <stdio.h>

extern int tap_count, tap_failed;

/* ok(condition, name with arguments): what it saw goes into the name. */
#define CHECK(condition, ...) \
	do { \
		int good_ = !!(condition); \
		tap_failed += !good_; \
		printf("%sok %d - ", good_ ? "" : "not ", ++tap_count); \
		printf(__VA_ARGS__); \
		putchar('\n'); \
		if (!good_) \
			printf("# %s:%d: %s\n", __FILE__, __LINE__, #condition); \
	} while (0)

void unit_settings(void);
void unit_ports(void);
void unit_rss(void);
void unit_leave(void);
void unit_options(void);
void unit_choose(void);
void unit_table(void);

#endif
