/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What we know of each file descriptor: one 32-bit word, kind in the low byte, a
 * detail above it. A word may be stale when a descriptor was closed behind our
 * back (close_range, a raw system call): every use checks what it
 * relies on, so the worst case is one connection not steered or counted.
 */
#ifndef FSOCKET_FDS_H
#define FSOCKET_FDS_H

#include <stddef.h>
#include <stdint.h>

#include "atomics.h"
#include "symbols.h"

enum fd_kind {
	FD_UNKNOWN = 0,
	FD_OTHER,	/* looked at: neither listener nor connection of ours */
	FD_FRESH,	/* TCP socket from socket(), not bound */
	FD_BOUND,	/* TCP socket with a local address of the application's choice */
	FD_ACTIVE,	/* connected by us; detail: the CPU */
	FD_LISTENER,	/* detail: index of its struct listener */
	FD_SLOT,	/* our own; detail: index of its struct listener */
	FD_COPY,	/* of a listener (dup, fork and dup2), found by accept(); detail: index of its struct listener */
};

/* Descriptors above it are not tracked: they work as without us. */
#define FD_TABLE (1 << 20)

extern HIDDEN _Atomic uint32_t *fd_words;
/* How many there are: FD_TABLE, or none as long as nothing is tracked. */
extern HIDDEN unsigned int fd_count;

static inline int fd_tracked(int fd)
{
	return __builtin_expect((unsigned int)fd < fd_count, 1);
}

static inline uint32_t fd_get(int fd)
{
	return fd_tracked(fd) ? atomic_load_explicit(&fd_words[fd], memory_order_relaxed) : FD_UNKNOWN;
}

static inline enum fd_kind fd_kind(uint32_t word)
{
	return (enum fd_kind)(word & 0xff);
}

/* Known, and nothing but a number to us: no state of this process matters. */
static inline int fd_plain(int fd)
{
	uint32_t word = fd_get(fd);

	return fd_kind(word) != FD_UNKNOWN && fd_kind(word) < FD_ACTIVE;
}

static inline void fd_set_kind(int fd, enum fd_kind kind, unsigned int detail)
{
	if (fd_tracked(fd))
		atomic_store_explicit(&fd_words[fd], kind | (uint32_t)detail << 8, memory_order_relaxed);
}

static inline unsigned int fd_detail(uint32_t word)
{
	return word >> 8;
}

/* Reserve the table's address space; pages come as they are touched. */
void fds_init(void);

#endif
