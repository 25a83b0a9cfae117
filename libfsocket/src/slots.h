/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Slots: one SO_REUSEPORT sibling of a listener per CPU.
 *
 * prepare   while privileged: bind a sibling per usable CPU (bind() is where
 *           the port and the owner are checked), not yet listening
 * claim     a worker or thread adds the listener to its epoll: the sibling of
 *           its CPU gets SO_INCOMING_CPU, listens, and joins the same epoll
 *           with the same user data
 * release   it leaves its epoll or closes the listener: a slot without owner
 *           stops listening, its queue moves to the others
 *
 * An application that shares its address among several listeners of its own
 * (nginx `reuseport`, HAProxy `shards`) gets no siblings: shard.h.
 */
#ifndef FSOCKET_SLOTS_H
#define FSOCKET_SLOTS_H

#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "fds.h"
#include "shared.h"

/*
 * Atomic all of it: a thread may still be in accept() when another closes the
 * listener and a third claims the slot anew.
 */
struct claim {
	_Atomic int tid;	/* the thread that serves the slot, 0: none */
	_Atomic int epfd;
	_Atomic uint32_t events;	/* what the listener was added with */
	_Atomic uint64_t data;
	struct fsocket_slot *_Atomic row;
	int cpu;
	/* Of accept.c, queues.c and spill.c. */
	_Atomic int64_t next_tick;	/* ms */
	_Atomic unsigned int turns;	/* accepts until the own queue is looked at */
	struct quick *_Atomic quick;	/* of its thread, or NULL */
	_Atomic int global_turn;	/* 1: the global listener is asked first, 2: next time */
	_Atomic int yielded;		/* the slot gave a connection since we last said EAGAIN */
	_Atomic int looked_at;		/* the other CPU whose slot it looked at last */
	_Atomic int64_t waiting_since;	/* ms; its owner has not come since, 0: nothing waits there */
	_Atomic uint64_t seen_accepts;	/* of its owner then */
	_Atomic unsigned int samples, queued;	/* of the own queue since the tick: how many, sum of lengths */
	_Atomic uint64_t mine, all;	/* accepts of this CPU and of all at the tick */
	_Atomic unsigned int owned, counted;	/* slots with an owner, by the last round of looks; in this round */
	_Atomic int64_t hold;		/* ms; spilling for uneven load lasts until then... */
	_Atomic int64_t hold_ms;	/* ...and that long at a time */
	_Atomic int helped;		/* CPU whose slot is in our epoll besides, -1: none */
	/* Of choose.c: samples of the slot's connections, of which `from` has a lead of `votes`. */
	_Atomic unsigned int looked;
	_Atomic int from, votes;
	_Atomic int64_t since;		/* ms; the first of them */
};

/*
 * The arrays are made once and kept: another thread may be in accept() on the
 * listener while this one closes it.
 */
struct listener {
	_Atomic int used;
	_Atomic int fd;		/* the application's */
	_Atomic uint64_t cookie;
	struct fsocket_listener *_Atomic row;
	int backlog;
	_Atomic int sharded;	/* one of several of the application's own: no siblings */
	int made_here;		/* by this process, not inherited or taken over */
	_Atomic int claimed;	/* some thread or process had a slot of it */
	_Atomic int inherited;	/* a predecessor's slots may want an end: inherit.h */
	_Atomic int64_t inherited_look;	/* ms; not before */
	_Atomic int copies;	/* one more than the highest descriptor that is known to be a copy */
	struct sockaddr_storage address;
	socklen_t address_length;
	int cpus;		/* length of slots and claims */
	_Atomic int *slots;	/* socket of each CPU, -1: none */
	uint64_t *cookies;	/* their SO_COOKIE */
	struct claim *claims;
};

uint64_t socket_cookie(int fd);
int socket_is_tcp(int fd);
int socket_flag(int fd, int option);
int socket_blocks(int fd);
/* In the network namespace of this thread? 1 where the kernel does not tell. */
int socket_here(int fd);

/* The managed listener behind fd, or NULL. */
struct listener *listener_find(int fd);
/* The same for who accepts: also behind a copy of its descriptor. */
struct listener *listener_accepts(int fd);
/*
 * Prepare the slots of a listening socket. sole: nobody else listened on its
 * address before; made_here: see struct listener. NULL when it is left alone; the socket works as without us.
 */
struct listener *listener_prepare(int fd, int backlog, int sole, int made_here);
/* The same for a listener made by somebody else: SO_REUSEPORT and backlog are asked of the socket. */
struct listener *listener_adopt(int fd);
/* Prepare what listens and is not prepared yet: listeners inherited from another process. */
void listener_prepare_all(void);
/* A managed listener or a slot between two descriptors, or -1. */
int listener_in(unsigned int first, unsigned int last);
/* A listener or a slot of this very process? A vfork() child closes what is its parent's. */
int listener_ours(void);

/* fd is new, and has the number of what was a listener or a slot: in a vfork() child it may be its parent's. */
void fd_born_again(int fd, enum fd_kind kind);

/* fd is new. */
static inline void fd_born(int fd, enum fd_kind kind)
{
	uint32_t was;

	if (!fd_tracked(fd))
		return;
	was = atomic_load_explicit(&fd_words[fd], memory_order_relaxed);
	if (__builtin_expect(fd_kind(was) == FD_LISTENER || fd_kind(was) == FD_SLOT, 0))
		fd_born_again(fd, kind);
	else
		atomic_store_explicit(&fd_words[fd], kind, memory_order_relaxed);
}
/* The application closes fd: give up all slots of it in this process. */
void listener_close(struct listener *l);
/* The application closes a slot's socket, as programs do that close all descriptors they do not know. */
void listener_lose_slot(int fd);
/* The thread's claims of all listeners are given up. */
void listeners_release(void);
/*
 * The application attaches or detaches a program that chooses in the group of fd. It may count on the order of the
 * members, so that the socket is left alone, and so is what shares an address from now on.
 */
void listener_programmed(int fd);
extern int listeners_programmed;
/* In a forked child: the claims are the parent's. */
void listeners_after_fork(void);

/* The slot's descriptor is still ours, not closed behind our back (close_range) and used again. */
int slot_intact(const struct listener *l, int cpu);

/* What a sibling must have before bind(2) and before listen(2), besides the sizes of buffers. */
enum options {
	BEFORE_BIND = 1,
	BEFORE_LISTEN = 2,
	BUFFERS = 4,		/* sizes that somebody has set... */
	UNKNOWN_BUFFERS = 8,	/* ...and, where the kernel does not tell that, those that differ */
};
/* Copy those of a set of enum options. */
void options_copy(int from, int to, int which);
/*
 * Of a listener from before the process was, a size that differs is more likely tcp_wmem's of that time than somebody's
 * choice, and a sibling that keeps it costs every connection its autotuning: without Linux 5.14 it is not copied.
 */
static inline int options_before_listen(const struct listener *l)
{
	return BEFORE_LISTEN | BUFFERS | (l->made_here ? UNKNOWN_BUFFERS : 0);
}

/* epoll_ctl() on a managed listener, for the slot as well. */
int slots_epoll(struct listener *l, int epfd, int op, struct epoll_event *event);
/* The listener that this thread took out of its epoll, as one that leaves does; it may come back. */
extern HIDDEN __thread struct listener *leaving;
/* The thread goes to wait for events: what it took out of epoll and did not add again, it has left. */
void slots_before_wait(void);
void slots_init(void);
/* This thread has a claim: at its end it gives up its slots, which nobody else polls. */
void slots_thread_claimed(void);
void slots_after_fork(void);
/* What this thread has to see to before it waits for events. */
enum watch {
	WATCH_SLOTS = 1,	/* it has had a slot */
	WATCH_LEAVING = 2,	/* `leaving` is set */
	WATCH_IDLE = 4,		/* nothing came for a while in its last wait */
	WATCH_INHERITED = 8,	/* it polls a listener whose slots were a predecessor's */
};
extern HIDDEN __thread int slots_watch;
void claim_release(struct listener *l, struct claim *c);
/* A slot that listens has no owner any more; its row is `row`, or a free one, or NULL. Locked. */
void slot_abandon(struct listener *l, int cpu, struct fsocket_slot *row);
/* The claim of this thread on a listener, or NULL. */
struct claim *my_claim(const struct listener *l);
/* The first of the application's other listeners on l's address from an index on, all round; NULL: none. */
struct listener *listener_beside(const struct listener *l, int from, int *at);
/* Listeners of this process, in turn; NULL to begin, NULL at the end. */
struct listener *listener_next(struct listener *l);
/* A row for a claim on `slot`, filled. NULL: none, counted. Locked. */
struct fsocket_slot *claim_row(struct listener *l, int cpu, uint64_t slot, int on);

/*
 * What a thread's accept() on a listener may take for granted until the next
 * tick. A cache line each, which is also cheap to index.
 */
struct quick {
	_Atomic int fd;		/* the listener, < 0: none any more */
	int slot;
	unsigned int turns;	/* of the claim */
	int64_t until;		/* ms */
	struct claim *claim;
	uint64_t *accepts;	/* of the CPU they are booked to */
} __attribute__((aligned(64)));
/* By the low bits of the listener's number. */
#define QUICK_LISTENERS 8
extern HIDDEN __thread struct quick quick[QUICK_LISTENERS];
/* The accept() of the claim's thread has to look at what there is. */
void quick_end(struct claim *c);

/* What the switch says, to group and claim (NULL: none) as well. */
int slots_heed(struct listener *l, struct claim *c, int64_t now);

#endif
