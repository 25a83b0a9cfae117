/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A program that reloads by exec of itself (HAProxy's master) keeps its
 * environment for ever. When the switch says LEAVE we take ourselves out of it.
 */
#ifndef FSOCKET_LEAVE_H
#define FSOCKET_LEAVE_H

#include <alloca.h>
#include <stddef.h>

/* Bytes the cleaned environment needs; 0: nothing to clean. */
size_t leave_size(char *const *environment);
/* The environment without our LD_PRELOAD entry and our settings, built in memory. */
char *const *leave_clean(char *const *environment, void *memory);

/* On the caller's stack: exec may run in a vfork() child, where malloc is not ours to use. */
#define LEAVE_ENVIRONMENT(clean, environment) \
	size_t clean##_size = leave_size(environment); \
	char *const *clean = clean##_size ? \
		leave_clean(environment, alloca(clean##_size)) : (environment)

#endif
