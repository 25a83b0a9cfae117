/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What libfsocket shares with the world: the statistics file and the switch.
 *
 * This header is the one description of both. The Python reader
 * (plugins/module_utils/stats.py) is tested against it field by field.
 * All integers are in the byte order of the host.
 *
 * DIR/NAME.stats   struct fsocket_header, then at the offsets it names: one
 *                  struct fsocket_cpu per possible CPU, struct
 *                  fsocket_listener rows, struct fsocket_slot rows. What
 *                  stands between them is the library's own.
 * DIR/NAME.switch  one byte, see FSOCKET_SWITCH_*. Written in place
 *                  by root; read by every process at most every
 *                  FSOCKET_SWITCH_MS. An empty file keeps the last value.
 * DIR/rss          what the NICs hash and where it leads, see src/rss.h. Not there: ports
 *                  are chosen by block only.
 * DIR/NAME.handover  a SOCK_SEQPACKET socket, there only during a restart without loss:
 *                  who connects gets the predecessor's listening sockets
 *                  as SCM_RIGHTS in messages of one byte, then EOF.
 */
#ifndef FSOCKET_ABI_H
#define FSOCKET_ABI_H

#include <stdint.h>

#define FSOCKET_MAGIC "FSOCKET\n"
#define FSOCKET_ABI_VERSION 2

#define FSOCKET_SWITCH_ON '1'
#define FSOCKET_SWITCH_OFF '0'
/* Off, and the next exec() goes on without the preload. */
#define FSOCKET_SWITCH_LEAVE '-'
#define FSOCKET_SWITCH_MS 100

/* Failures by kind; each is a count since the file was made. */
enum fsocket_error {
	FSOCKET_ERR_PREPARE,	/* a slot socket could not be made or bound */
	FSOCKET_ERR_CLAIM,	/* a slot could not be put to work */
	FSOCKET_ERR_UNPINNED,	/* a thread on several CPUs, pinning not allowed */
	FSOCKET_ERR_TAKEN,	/* a second thread of a process on one CPU */
	FSOCKET_ERR_ACCEPT,	/* accept() on a slot failed unexpectedly */
	FSOCKET_ERR_MODE,	/* the listener's choice of socket could not be changed */
	FSOCKET_ERR_PORTS,	/* no port left in a CPU's block */
	FSOCKET_ERR_TABLE,	/* no free row */
	FSOCKET_ERR_COUNT
};

/* Capabilities, found by trying, never by version. */
#define FSOCKET_CAP_INCOMING_CPU 1u	/* reuseport groups choose by SO_INCOMING_CPU */
#define FSOCKET_CAP_PORT_RANGE 2u	/* IP_LOCAL_PORT_RANGE can be set */
#define FSOCKET_CAP_MIGRATE 4u		/* what waits in a slot moves on at its end: tcp_migrate_req, or our program */
#define FSOCKET_CAP_PROBED 8u		/* FSOCKET_CAP_INCOMING_CPU was tried */
#define FSOCKET_CAP_CBPF 16u		/* they do not, but by a program of ours (SO_ATTACH_REUSEPORT_CBPF) */
#define FSOCKET_CAP_LOCAL_LISTEN 32u	/* the kernel is ours: it has net.fastsocket.local_listen */

struct fsocket_header {
	char magic[8];
	uint32_t version;
	uint32_t header_size;
	uint32_t cpu_count;	/* CPU ids 0 .. cpu_count - 1 */
	uint32_t cpu_offset;	/* bytes from the start of the file, as all offsets */
	uint32_t cpu_size;
	uint32_t listener_count;
	uint32_t listener_offset;
	uint32_t listener_size;
	uint32_t slot_count;
	uint32_t slot_offset;
	uint32_t slot_size;
	uint32_t capabilities;
	uint32_t port_first;	/* first port of CPU 0's block; 0: no blocks */
	uint32_t port_block;	/* ports in one CPU's block, a power of two */
	uint64_t created;	/* seconds since the epoch */
	uint64_t errors[FSOCKET_ERR_COUNT];
	uint32_t lock;		/* pid that edits the tables, 0: nobody */
	uint32_t reserved;
	char library[24];	/* version of the library that made the file */
};

/*
 * Two cache lines a CPU. Sums since the file was made; they never go back.
 *
 * Where a connection's packets came to is a question to the kernel, a system
 * call, so it is asked for the first FSOCKET_LOOKS connections of a thread in
 * each tick of FSOCKET_TICK_MS: *_local and *_remote are a sample, the share of
 * one in both is the measured locality. Below FSOCKET_LOOKS connections a tick
 * it is all of them, but for up to three after a tick with more.
 */
#define FSOCKET_TICK_MS 100
#define FSOCKET_LOOKS 4

struct fsocket_cpu {
	uint64_t accepts;		/* accepted connections */
	uint64_t accepts_local;		/* looked at: SO_INCOMING_CPU was the acceptor's CPU */
	uint64_t accepts_remote;	/* looked at: it was another */
	uint64_t accepts_global;	/* of accepts: taken from the global listener */
	uint64_t connects_local;	/* looked at before close(): the last packet came to the connector's CPU */
	uint64_t connects_remote;	/* looked at: it came to another */
	uint64_t connects_steered;	/* source port chosen for the CPU: of its block, or by RSS */
	uint64_t connects_unsteered;	/* any source port, or the application's own */
	uint64_t spills;		/* times the CPU's slot handed its share to the others */
	uint64_t accepts_helped;	/* of accepts: from the slot of another CPU, which is shared */
	uint64_t reserved[6];
};

enum fsocket_mode {
	FSOCKET_MODE_UNKNOWN = 0,	/* not set yet, or (sole is 0) not ours to set */
	FSOCKET_MODE_SLOTS = 1,		/* new connections go to the slot of their CPU */
	FSOCKET_MODE_GLOBAL = 2,	/* new connections go to the application's own listener */
	FSOCKET_MODE_SHARDED = 3,	/* the application has several listeners there, each is its thread's slot */
};

struct fsocket_listener {
	uint64_t cookie;	/* SO_COOKIE of the application's listener, 0: free */
	uint32_t mode;		/* enum fsocket_mode */
	uint32_t orphans;	/* slots with no owner that still listen */
	int32_t pid;		/* who prepared it */
	uint16_t port;		/* host byte order */
	uint16_t sole;		/* 1: first of its reuseport group, no program of the application's own: mode can change */
	char address[48];	/* numeric, NUL-terminated */
};

enum fsocket_state {
	FSOCKET_SLOT_FREE = 0,
	FSOCKET_SLOT_ON = 1,		/* serving its CPU */
	FSOCKET_SLOT_OFF = 2,		/* its owner has seen the switch off */
	FSOCKET_SLOT_SPILLING = 3,	/* too long a queue, a worker that does not come, or uneven load: the others help */
	FSOCKET_SLOT_ORPHAN = 4,	/* listening, owner gone */
};

struct fsocket_slot {
	uint64_t listener;	/* cookie of the listener */
	uint64_t cookie;	/* SO_COOKIE of the slot's own socket */
	uint32_t state;		/* enum fsocket_state */
	int32_t cpu;
	int32_t pid;
	int32_t tid;
	uint32_t queue;		/* accept queue length when last looked at */
	uint32_t backlog;
	uint64_t accepts;	/* by its owner: does it still come? */
	int32_t fd;		/* the slot's socket in its owner */
	int32_t taken;		/* pid of the successor that has it as well */
	uint64_t reserved[1];
};

#endif
