/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
#define _GNU_SOURCE
#include "choose.h"

#include <errno.h>
#include <string.h>

#include "kernel.h"
#include "listening.h"
#include "migrate.h"
#include "real.h"
#include "steer.h"

/* Samples that a judgement takes, and how many more of them than of all others must be of one CPU: three quarters. */
#define SAMPLES 16
#define MAJORITY 8

/* ---- the order, and the program it makes --------------------------------- */

/* A worker may write the memory: what it says is never more than there is. */
static size_t order_count(const struct order *o, size_t room)
{
	uint32_t count = __atomic_load_n(&o->count, __ATOMIC_RELAXED);

	return count < room ? count : room;
}

struct member *order_find(struct order *o, size_t room, uint64_t cookie)
{
	for (size_t i = 0; i < order_count(o, room); i++)
		if (o->members[i].cookie == cookie)
			return &o->members[i];
	return NULL;
}

struct member *order_append(struct order *o, size_t room, uint64_t cookie)
{
	size_t count = order_count(o, room);

	if (count == room)
		return NULL;
	o->members[count] = (struct member){ .cookie = cookie, .cpu = -1 };
	__atomic_store_n(&o->count, (uint32_t)count + 1, __ATOMIC_RELAXED);
	return &o->members[count];
}

void order_remove(struct order *o, size_t room, struct member *m)
{
	size_t last = order_count(o, room) - 1;

	*m = o->members[last];
	__atomic_store_n(&o->count, (uint32_t)last, __ATOMIC_RELAXED);
}

struct member *order_of_cpu(struct order *o, size_t room, int cpu)
{
	for (size_t i = order_count(o, room); i-- > 0;)
		if (o->members[i].cpu == cpu)
			return &o->members[i];
	return NULL;
}

unsigned int order_program(struct order *o, size_t room, uint32_t otherwise, struct sock_filter *program,
			   unsigned int length)
{
	unsigned int n = 0;

	program[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)(SKF_AD_OFF + SKF_AD_CPU));
	for (size_t i = order_count(o, room); i-- > 0 && n + 3 <= length;) {
		if (o->members[i].cpu < 0)
			continue;
		program[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)o->members[i].cpu, 0, 1);
		program[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, (uint32_t)i + 1);
	}
	if (n == 1)
		return 0;
	program[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, otherwise);
	return n;
}

/* ---- a listener's ---------------------------------------------------------- */

static size_t room(void)
{
	return ORDER_ROOM(shared.cpu_count);
}

static struct order *order_of(const struct listener *l)
{
	size_t row = (size_t)(l->row - shared.listeners);

	return (struct order *)(void *)(shared.orders + row * ORDER_SIZE(shared.cpu_count));
}

/* The row may have been another listener's. */
static struct order *order_mine(const struct listener *l)
{
	struct order *o = order_of(l);

	if (o->listener != l->cookie) {
		memset(o, 0, sizeof(*o));
		o->listener = l->cookie;
	}
	return o;
}

/*
 * A CPU without a slot that listens for it goes by hash, as on kernels that choose by SO_INCOMING_CPU: the
 * application's own listener, which all workers poll, would wake the same one first each time. While
 * a slot is without owner it is that listener all the same: the hash would choose such a slot, too.
 */
int choose_attach(const struct listener *l)
{
	static struct sock_filter code[BPF_MAXINSNS];	/* one thread at a time: locked */
	static struct sock_fprog program = { 0, code };
	struct order *o = order_mine(l);
	uint32_t otherwise = has_orphans(l->row) ? 0 : BY_HASH;
	int slots = is_sole(l->row) && __atomic_load_n(&l->row->mode, __ATOMIC_RELAXED) == FSOCKET_MODE_SLOTS;
	int64_t now = coarse_ms();

	if (slots && now < o->due)
		return 0;
	__atomic_store_n(&o->due, 0, __ATOMIC_RELAXED);
	if (!slots)
		return 0;
	__atomic_store_n(&o->changed, now, __ATOMIC_RELAXED);
	program.len = (unsigned short)order_program(o, room(), otherwise, code, BPF_MAXINSNS);
	if (!program.len && otherwise == BY_HASH && !migrate_attach(l->fd))
		return 0;
	if (!program.len) {
		code[0] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, otherwise);
		program.len = 1;
	}
	return real.setsockopt(l->fd, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &program, sizeof(program));
}

/* Forget members that the kernel does not know: the last process that had them was killed. How many? */
static int forget_gone(const struct listener *l, struct order *o)
{
	static uint64_t cookies[LISTENING_MOST];	/* locked */
	int listening = listening_cookies(&l->address, cookies), gone = 0;

	for (size_t i = order_count(o, room()); listening > 0 && i-- > 0;) {
		int k = 0;

		while (k < listening && cookies[k] != o->members[i].cookie)
			k++;
		if (k == listening) {
			order_remove(o, room(), &o->members[i]);
			gone++;
		}
	}
	return gone;
}

void choose_check(const struct listener *l)
{
	if (forget_gone(l, order_mine(l)) && choose_attach(l))
		COUNT_ERROR(FSOCKET_ERR_MODE);
}

int choose_prefer(const struct listener *l, int slot, int cpu)
{
	struct order *o = order_mine(l);
	struct member *m = order_find(o, room(), l->cookies[slot]);

	if (m && m->cpu == cpu)
		return 0;
	if (!m)
		m = order_append(o, room(), l->cookies[slot]);
	if (!m && forget_gone(l, o))
		m = order_append(o, room(), l->cookies[slot]);
	if (!m) {
		errno = ENOSPC;
		return -1;
	}
	m->cpu = cpu;
	return choose_attach(l);
}

void choose_remove(const struct listener *l, int slot)
{
	struct order *o = order_mine(l);
	struct member *m = order_find(o, room(), l->cookies[slot]);

	if (m)
		order_remove(o, room(), m);
}

void choose_wait(const struct listener *l)
{
	__atomic_store_n(&order_mine(l)->due, coarse_ms() + HANDSHAKE_MS, __ATOMIC_RELAXED);
}

void choose_again(const struct listener *l)
{
	__atomic_store_n(&order_mine(l)->due, coarse_ms(), __ATOMIC_RELAXED);
}

int choose_ended(const struct listener *l)
{
	struct order *o = order_mine(l);
	int64_t now = coarse_ms(), before = o->ended;

	__atomic_store_n(&o->ended, now, __ATOMIC_RELAXED);
	return before && now - before < HANDSHAKE_MS;
}

int choose_moment(const struct listener *l)
{
	return __atomic_load_n(&order_of(l)->moment, __ATOMIC_RELAXED) != 0;
}

void choose_moment_set(const struct listener *l, int on)
{
	__atomic_store_n(&order_mine(l)->moment, (uint32_t)on, __ATOMIC_RELAXED);
}

void choose_tick(const struct listener *l, int64_t now)
{
	int64_t due = __atomic_load_n(&order_of(l)->due, __ATOMIC_RELAXED);

	if (__builtin_expect(!due || now < due, 1))
		return;
	if (!shared_trylock())
		return;
	if (order_mine(l)->due && choose_attach(l))
		COUNT_ERROR(FSOCKET_ERR_MODE);
	shared_unlock();
}

/* ---- is it right? ----------------------------------------------------------- */

/*
 * Connections of CPU `from` (-1: of many) come to this thread's slot. The program named the index of the member
 * it has for `from`, so that is where the slot really is: they change places. Each time one
 * member more is where it is, so that comes to an end.
 */
static void heal(const struct listener *l, const struct claim *c, int from)
{
	struct order *o = order_mine(l);
	struct member *mine, *its;

	if (!forget_gone(l, o) && from >= 0) {
		mine = order_find(o, room(), l->cookies[c->cpu]);
		its = order_of_cpu(o, room(), from);
		if (mine && its) {
			struct member was = *mine;

			*mine = *its;
			*its = was;
		}
	}
	/* Also when nothing was wrong here: somebody else may have attached another one. */
	if (choose_attach(l))
		COUNT_ERROR(FSOCKET_ERR_MODE);
}

/* Some slot hands its share to the others, by hash: nothing can be told then. */
static int spills(const struct listener *l)
{
	return !has_orphans(l->row) && order_of_cpu(order_of(l), room(), -1);
}

/* The CPU with a majority, by one pass (Boyer and Moore). Judged are samples from after the last change alone. */
void choose_sample(const struct listener *l, struct claim *c, int cpu, int64_t now)
{
	int64_t changed = __atomic_load_n(&order_of(l)->changed, __ATOMIC_RELAXED);

	if (!c->looked++ || c->since <= changed) {
		c->since = now;
		c->looked = 1;
		c->votes = 0;
	}
	if (!c->votes)
		c->from = cpu;
	c->votes += cpu == c->from ? 1 : -1;
	if (c->looked < SAMPLES)
		return;
	c->looked = 0;
	if ((c->votes >= MAJORITY && c->from == c->cpu) || spills(l) || !shared_trylock())
		return;
	if (order_mine(l)->changed == changed)
		heal(l, c, c->votes >= MAJORITY ? c->from : -1);
	shared_unlock();
}
