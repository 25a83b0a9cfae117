/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The table of listeners and slots against a model of it: owners come, go, die and leave orphans behind, in an order
 * that a seed gives; after each step every question the library asks is asked of both.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shared.h"
#include "tap.h"

#define CPUS 3
#define STEPS 20000
#define ROWS (CPUS * SLOT_ROWS_PER_CPU)
/* Few sockets, that rows meet; more listeners than there are rows for. */
#define LISTENERS 5
#define COOKIES (LISTENER_ROWS + 30)

/* Two that live, this one and a child, and one that has been. */
static int alive[2], dead;
static uint32_t state = 7;

/* Numerical Recipes' linear congruence: the same numbers on every run. */
static unsigned int any(unsigned int below)
{
	state = state * 1664525u + 1013904223u;
	return (unsigned int)(((uint64_t)state * below) >> 32);
}

static int child(int lives)
{
	int pid = fork();

	if (pid < 0)
		abort();
	if (!pid) {
		if (lives)
			pause();
		_exit(0);
	}
	if (!lives)
		waitpid(pid, NULL, 0);
	return pid;
}

/* ---- slots ------------------------------------------------------------- */

/* What a row holds, by the model; pid 0: nobody, unless it is an orphan. */
static struct {
	uint64_t listener, cookie, accepts;
	int pid;
	uint32_t state;
} model[ROWS];

static int has_owner(int i)
{
	return model[i].pid == alive[0] || model[i].pid == alive[1];
}

static int is_orphan(int i)
{
	return model[i].state == FSOCKET_SLOT_ORPHAN;
}

static uint64_t slot_of(uint64_t listener, int cpu)
{
	return listener * 100 + (uint64_t)cpu;
}

/* 1: a fault. */
static int step(void)
{
	int i = (int)any(ROWS), cpu = (int)any(CPUS), room = 0;
	uint64_t listener = 1 + any(LISTENERS);
	struct fsocket_slot *row;

	switch (any(8)) {
	case 0:
		slot_row_clear(&shared.slots[i]);
		memset(&model[i], 0, sizeof(model[i]));
		return 0;
	case 1:	/* its owner is killed */
		if (has_owner(i))
			shared.slots[i].pid = model[i].pid = dead;
		return 0;
	case 2:	/* its owner goes, and the queue stays */
		if (!has_owner(i))
			return 0;
		shared.slots[i].pid = model[i].pid = 0;
		slot_state_set(&shared.slots[i], model[i].state = FSOCKET_SLOT_ORPHAN);
		return 0;
	default:
		for (int j = cpu * SLOT_ROWS_PER_CPU; j < (cpu + 1) * SLOT_ROWS_PER_CPU; j++)
			room += !has_owner(j) && !is_orphan(j);
		row = slot_row_free(cpu);
		if (!row)
			return room != 0;
		i = (int)(row - shared.slots);
		if (i / SLOT_ROWS_PER_CPU != cpu || has_owner(i) || is_orphan(i) || row->accepts)
			return 1;
		model[i].listener = row->listener = listener;
		model[i].cookie = row->cookie = slot_of(listener, cpu);
		model[i].pid = row->pid = alive[any(2)];
		model[i].accepts = row->accepts = 1 + any(1000);
		slot_state_set(row, model[i].state = FSOCKET_SLOT_ON + any(3));
		return 0;
	}
}

/* Answers of the table that are not those of the model. */
static int differences(uint64_t listener, int cpu)
{
	int all = 0, here = 0, orphans = 0, others = 0, wrong = 0, served = 0;
	uint64_t accepts = 0, counted;
	struct fsocket_slot *row;

	for (int i = 0; i < ROWS; i++) {
		int mine = i / SLOT_ROWS_PER_CPU == cpu;

		if (model[i].listener != listener)
			continue;
		all += has_owner(i);
		here += mine && has_owner(i);
		others += mine && model[i].pid == alive[1];
		orphans += mine && is_orphan(i);
	}
	wrong += listener_owners(listener) != all;
	wrong += cpu_owners(listener, cpu) != here;
	wrong += slot_owners(slot_of(listener, cpu)) != here;
	row = slot_orphan(listener, cpu);
	wrong += !row != !orphans || (row && (row->listener != listener || row->cpu != 0 || row->pid));
	row = slot_predecessor(listener, cpu);
	wrong += !row != !others || (row && row->pid != alive[1]);
	/* Those that were found dead above are free now, here and there. */
	for (int i = 0; i < ROWS; i++) {
		if (model[i].listener == listener && model[i].pid == dead)
			memset(&model[i], 0, sizeof(model[i]));
		if (model[i].listener != listener || i / SLOT_ROWS_PER_CPU != cpu || model[i].state == FSOCKET_SLOT_OFF)
			continue;
		served++;
		accepts += model[i].accepts;
	}
	row = slot_served(slot_of(listener, cpu), cpu, &counted);
	wrong += !row != !served || counted != accepts;
	return wrong;
}

/* ---- listeners --------------------------------------------------------- */

/* Rows by cookie: who made it; NULL when it has none. */
static struct fsocket_listener *listeners[COOKIES + 1];
static int makers[COOKIES + 1];

/* A listener of a cookie is asked for; then its maker may end. 1: a fault. */
static int ask(void)
{
	uint64_t cookie = 1 + any(COOKIES);
	int kept = 0, wrong = 0;
	struct fsocket_listener *row;

	for (int i = 1; i <= COOKIES; i++)
		kept += listeners[i] && makers[i] != dead;
	row = listener_row(cookie);
	if (!row)
		return listeners[cookie] || kept < LISTENER_ROWS;
	wrong += row->cookie != cookie || !row->pid || row->pid == dead || (listeners[cookie] && listeners[cookie] != row);
	for (int i = 1; i <= COOKIES; i++) {
		if (i == (int)cookie || listeners[i] != row)
			continue;
		/* Whose row it was: nobody was left to come back to it. */
		wrong += makers[i] != dead;
		listeners[i] = NULL;
	}
	listeners[cookie] = row;
	makers[cookie] = row->pid = any(3) ? alive[any(2)] : dead;
	return wrong != 0;
}

void unit_table(void)
{
	static struct fsocket_header header;
	static struct fsocket_listener rows[LISTENER_ROWS];
	static struct fsocket_slot slots[ROWS];
	struct shared keep = shared;
	int steps = 0, answers = 0, asked = 0, full = 0;

	shared = (struct shared){ .header = &header, .cpu_count = CPUS, .listeners = rows, .slots = slots };
	alive[0] = getpid();
	alive[1] = child(1);
	dead = child(0);

	for (int i = 0; i < STEPS; i++) {
		steps += step();
		answers += differences(1 + any(LISTENERS), (int)any(CPUS));
	}
	for (int i = 0; i < ROWS * 8; i++) {
		steps += step();
		full += !slot_row_free(0);
	}
	CHECK(!steps, "%d steps: a row that somebody has is never given away, one that nobody has is (%d wrong)", STEPS, steps);
	CHECK(full, "full for %d steps", full);
	CHECK(!answers, "%d steps: owners, orphans, predecessors and accepts are those of the model (%d wrong)", STEPS, answers);

	memset(slots, 0, sizeof(slots));
	for (int i = 0; i < STEPS; i++)
		asked += ask();
	CHECK(!asked, "%d listeners: who lives keeps its row, as long as it lives (%d wrong)", STEPS, asked);

	memset(rows, 0, sizeof(rows));
	for (uint64_t cookie = 1; cookie <= LISTENER_ROWS; cookie++)
		listener_row(cookie);
	for (int i = 0; i < LISTENER_ROWS; i++)
		rows[i].pid = dead;
	slots[3] = (struct fsocket_slot){ .listener = 1, .state = FSOCKET_SLOT_ON, .pid = alive[1] };
	slots[4] = (struct fsocket_slot){ .listener = 2, .state = FSOCKET_SLOT_ORPHAN };
	CHECK(listener_row(1000) == &rows[1], "a listener whose slot has an owner is not abandoned, one with an orphan is");
	CHECK(slot_state(&slots[4]) == FSOCKET_SLOT_FREE && slot_state(&slots[3]) == FSOCKET_SLOT_ON,
	      "and its orphan goes with it");

	header.lock = (uint32_t)alive[1];
	CHECK(!shared_trylock() && header.lock == (uint32_t)alive[1], "the lock of one who lives is his");
	header.lock = (uint32_t)dead;
	shared_lock();
	CHECK(header.lock == (uint32_t)alive[0], "that of one who died is succeeded");
	CHECK(!shared_trylock(), "who has it does not try again");
	shared_lock();
	shared_unlock();
	CHECK(header.lock == (uint32_t)alive[0], "a handler that takes it in between leaves it to the one interrupted");
	shared_unlock();
	CHECK(!header.lock && !header.errors[FSOCKET_ERR_TABLE], "and then it is free, nobody went on without");

	kill(alive[1], SIGKILL);
	waitpid(alive[1], NULL, 0);
	shared = keep;
}
