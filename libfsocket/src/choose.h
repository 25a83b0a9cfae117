/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Kernels that take SO_INCOMING_CPU and do not look at it inside a reuseport group (Linux 4.6 to
 * 6.1): a classic BPF program on the group chooses. It knows the CPU that it runs on and answers with an
 * index of the group's array, so the order of that array is kept here, in the shared memory, and the program
 * is made anew with each change. The kernel appends who listens and moves the last member into the hole of
 * one that leaves (net/core/sock_reuseport.c).
 *
 * Each member listens and has an owner, so a wrong index costs locality, never a connection.
 */
#ifndef FSOCKET_CHOOSE_H
#define FSOCKET_CHOOSE_H

#include <linux/filter.h>

#include "slots.h"

struct member {
	uint64_t cookie;	/* SO_COOKIE of a slot that listens */
	int32_t cpu;		/* whose connections it gets, -1: no CPU's */
	int32_t seen;		/* it listens, the kernel says */
};

/* Members of a listener's group, behind the listener itself, which is first. */
struct order {
	uint64_t listener;	/* its cookie; another one's: nothing is known yet */
	int64_t changed;	/* ms: the program was attached */
	int64_t due;		/* ms: attach it then, 0: it is */
	int64_t ended;		/* ms: a slot did, 0: none yet */
	uint32_t count;
	uint32_t moment;	/* a slot is about to end, and the group told to pass all by */
	struct member members[];
};

/* Several generations of slots, while reloads overlap. */
#define ORDER_ROOM(cpus) (4 * (size_t)(cpus))
#define ORDER_SIZE(cpus) (sizeof(struct order) + ORDER_ROOM(cpus) * sizeof(struct member))

/* ms that a handshake takes, with a SYN-ACK sent again (net/ipv4: TCP_TIMEOUT_INIT). */
#define HANDSHAKE_MS 2000

/* An index that no member has: the kernel chooses by hash. */
#define BY_HASH 0xffffffffu

/* Pure: members of the order, at most `room`. */
struct member *order_find(struct order *o, size_t room, uint64_t cookie);
struct member *order_append(struct order *o, size_t room, uint64_t cookie);
void order_remove(struct order *o, size_t room, struct member *m);
/* Of several members for one CPU the last is its: the index is the position behind the listener. */
struct member *order_of_cpu(struct order *o, size_t room, int cpu);
/*
 * Pure: the program, for at most length / 2 - 1 members, each before the ones ahead of it; who has
 * none goes to `otherwise`. Returns its length; 0: no CPU has a member.
 */
unsigned int order_program(struct order *o, size_t room, uint32_t otherwise, struct sock_filter *program,
			   unsigned int length);

/* All of them where groups choose by the program, and (but the last two) locked. */

/* The slot of a CPU gets the connections of `cpu`, or of none (-1); it is a member from now on. 0 or -1. */
int choose_prefer(const struct listener *l, int slot, int cpu);
/* It is a member no more. */
void choose_remove(const struct listener *l, int slot);
/* Members may have left with a process. */
void choose_check(const struct listener *l);
/* Attach the program, if connections are to go to slots; not before `due` when that is not over. 0 or -1. */
int choose_attach(const struct listener *l);
/* What else is attached stays so for a moment: handshakes of a slot that ended are still under way. */
void choose_wait(const struct listener *l);
/* It could not be attached here: who ticks next does. Locked. */
void choose_again(const struct listener *l);
/* A slot ends. Did one before it whose handshakes may be under way still? On all kernels; locked. */
int choose_ended(const struct listener *l);
/* On all kernels: the group is in the moment before an end. Set locked. */
int choose_moment(const struct listener *l);
void choose_moment_set(const struct listener *l, int on);
/* Attach what is due. */
void choose_tick(const struct listener *l, int64_t now);
/* A connection in the own slot came to this CPU: what should not be, if the order is right. */
void choose_sample(const struct listener *l, struct claim *c, int cpu, int64_t now);

#endif
