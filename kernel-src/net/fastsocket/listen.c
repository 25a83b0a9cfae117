// SPDX-License-Identifier: GPL-2.0-only
// SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
/*
 * net.fastsocket.local_listen: inside a reuseport group the listener of the
 * CPU that received the packet, found in an array by CPU.
 *
 * The array is the group's. It is made with the first TCP member that has
 * SO_INCOMING_CPU and kept up to date whether or not any namespace has
 * local_listen on, so the switch is right at once for groups that exist. It has
 * a pointer for each possible CPU, so neither more members nor a CPU that comes
 * online change its size, and it lives as long as the group.
 */

#include <linux/slab.h>
#include <net/fastsocket.h>
#include <net/inet_connection_sock.h>
#include <net/sock_reuseport.h>

#include "internal.h"

struct fastsocket_slots {
	unsigned int size;	/* nr_cpu_ids */
	struct sock __rcu *sk[] __counted_by(size);
};

DEFINE_STATIC_KEY_FALSE(fastsocket_listen_key);

bool __fastsocket_local_listen(const struct net *net)
{
	return READ_ONCE(fastsocket_pernet(net)->local_listen);
}

static struct fastsocket_slots *slots_of(const struct sock_reuseport *reuse)
{
	return rcu_dereference_protected(reuse->slots,
					 lockdep_is_held(&reuseport_lock));
}

/* Without memory there are no slots, each look-up falls back, and the next
 * member that comes tries again.
 */
static struct fastsocket_slots *slots_alloc(void)
{
	struct fastsocket_slots *slots;

	slots = kzalloc(struct_size(slots, sk, nr_cpu_ids),
			GFP_ATOMIC | __GFP_NOWARN);
	if (slots)
		slots->size = nr_cpu_ids;
	return slots;
}

static void slot_set(struct fastsocket_slots *slots, struct sock *sk)
{
	unsigned int cpu = READ_ONCE(sk->sk_incoming_cpu);

	if (cpu < slots->size)
		rcu_assign_pointer(slots->sk[cpu], sk);
}

/**
 * fastsocket_slot_add - give a listener the slot of its SO_INCOMING_CPU
 * @reuse: its group
 * @sk: a listening member
 *
 * Of several members with one CPU the one that said so last has the slot: while
 * a service is being reloaded that is the new process.
 */
void fastsocket_slot_add(struct sock_reuseport *reuse, struct sock *sk)
{
	unsigned int cpu = READ_ONCE(sk->sk_incoming_cpu);
	struct fastsocket_slots *slots = slots_of(reuse);
	int i;

	if (sk->sk_protocol != IPPROTO_TCP || cpu >= nr_cpu_ids)
		return;

	if (!slots) {
		slots = slots_alloc();
		if (!slots)
			return;
		/* Those that came while there was no memory. */
		for (i = 0; i < reuse->num_socks; i++)
			slot_set(slots, reuse->socks[i]);
		rcu_assign_pointer(reuse->slots, slots);
	}
	slot_set(slots, sk);
}

static struct sock *heir(const struct sock_reuseport *reuse, int cpu)
{
	int i;

	for (i = reuse->num_socks - 1; i >= 0; i--)
		if (READ_ONCE(reuse->socks[i]->sk_incoming_cpu) == cpu)
			return reuse->socks[i];
	return NULL;
}

/**
 * fastsocket_slot_del - take a listener's slot away
 * @reuse: its group, which no longer has it or no longer at that CPU
 * @sk: the listener
 *
 * Another member with that CPU, if there is one, takes over. Looks at all
 * slots: who writes sk_incoming_cpu without asking the group (a socket that was
 * connected before it listened) must not leave a pointer behind.
 */
void fastsocket_slot_del(struct sock_reuseport *reuse, const struct sock *sk)
{
	struct fastsocket_slots *slots = slots_of(reuse);
	unsigned int cpu;

	if (!slots)
		return;

	for (cpu = 0; cpu < slots->size; cpu++)
		if (rcu_access_pointer(slots->sk[cpu]) == sk)
			rcu_assign_pointer(slots->sk[cpu], heir(reuse, cpu));
}

/* The group got a larger struct; readers of the old one use the same array. */
void fastsocket_slots_move(struct sock_reuseport *to,
			   struct sock_reuseport *from)
{
	rcu_assign_pointer(to->slots, slots_of(from));
}

/* After a grace period, together with the group. */
void fastsocket_slots_free(struct sock_reuseport *reuse)
{
	kfree(rcu_dereference_protected(reuse->slots, 1));
}

/* How much room a listener has, best first. */
enum room { ROOM, PAST_SPILL, FULL, NOT_LISTENING };

/* Does a listener with more handshakes than its backlog still take a SYN? */
static bool cookies(const struct sock *sk)
{
	return IS_ENABLED(CONFIG_SYN_COOKIES) &&
	       READ_ONCE(sock_net(sk)->ipv4.sysctl_tcp_syncookies);
}

/* FULL counts connections whose handshake is going on as well: there would be
 * no place for this one after them, and a final ACK that finds none is dropped.
 * But where SYN cookies are sent, handshakes alone fill nothing, or a flood of
 * SYNs would make each of them look at the whole group and go to other CPUs.
 * A request can be found, and end, just before it is counted
 * (inet_csk_reqsk_queue_hash_add): the length is below 0 for a moment.
 */
static enum room room_of(const struct sock *sk, unsigned int spill)
{
	u64 queued = READ_ONCE(sk->sk_ack_backlog);
	u64 backlog = READ_ONCE(sk->sk_max_ack_backlog);
	bool past_spill = queued && queued * 100 >= backlog * spill;
	unsigned int handshakes;

	if (READ_ONCE(sk->sk_state) != TCP_LISTEN)
		return NOT_LISTENING;
	if (!past_spill && cookies(sk))
		return ROOM;
	handshakes = max(inet_csk_reqsk_queue_len(sk), 0);
	if (queued + handshakes > backlog)
		return FULL;
	return past_spill ? PAST_SPILL : ROOM;
}

/* Less is better: more room, then the CPU's own. */
static unsigned int rank(enum room room, bool own)
{
	return 2 * room + !own;
}

/* The listener of @cpu while it has room. Otherwise the first with most room,
 * others of that CPU before those of other CPUs, going round the group from
 * where the hash points: with none of that CPU and all queues short that is the
 * one stock would choose. Sets @local if it is one of that CPU.
 */
static struct sock *choose(const struct sock_reuseport *reuse,
			   const struct fastsocket_net *fs, unsigned int cpu,
			   u32 hash, u16 num_socks, bool *local)
{
	struct fastsocket_slots *slots = rcu_dereference(reuse->slots);
	unsigned int best_rank = rank(NOT_LISTENING, true), enough;
	unsigned int spill = READ_ONCE(fs->spill);
	struct sock *slot = NULL, *best = NULL;
	int i, first;

	if (slots && cpu < slots->size)
		slot = rcu_dereference(slots->sk[cpu]);
	if (slot && READ_ONCE(slot->sk_incoming_cpu) == cpu) {
		best_rank = rank(room_of(slot, spill), true);
		if (best_rank < rank(NOT_LISTENING, true))
			best = slot;
	}

	/* An empty slot says that no member is of this CPU. Without slots they
	 * have to be looked at, if the group has any.
	 */
	if (slots ? !!slot : READ_ONCE(reuse->incoming_cpu))
		enough = rank(ROOM, true);
	else
		enough = rank(ROOM, false);

	i = reciprocal_scale(hash, num_socks);
	first = i;
	while (best_rank > enough) {
		struct sock *sk = reuse->socks[i];
		bool own = READ_ONCE(sk->sk_incoming_cpu) == cpu;

		/* Only what can be better is worth its cache lines. */
		if (rank(ROOM, own) < best_rank) {
			unsigned int sk_rank = rank(room_of(sk, spill), own);

			if (sk_rank < best_rank) {
				best_rank = sk_rank;
				best = sk;
			}
		}
		if (++i >= num_socks)
			i = 0;
		if (i == first)
			break;
	}

	*local = best && READ_ONCE(best->sk_incoming_cpu) == cpu;
	return best;
}

/**
 * fastsocket_select - the listener for a packet
 * @reuse: the group, with no BPF program or one that left the choice to us
 * @net: the network namespace
 * @hash: of the connection
 * @num_socks: members of the group
 *
 * Return: a listener without a reference, NULL if none listens
 */
struct sock *fastsocket_select(const struct sock_reuseport *reuse,
			       const struct net *net, u32 hash, u16 num_socks)
{
	const struct fastsocket_net *fs = fastsocket_pernet(net);
	struct sock *sk;
	bool local;

	sk = choose(reuse, fs, raw_smp_processor_id(), hash, num_socks, &local);
	if (local)
		this_cpu_inc(fs->stats->lookups_local);
	else
		this_cpu_inc(fs->stats->lookups_fallback);
	return sk;
}

/**
 * fastsocket_migrate - the listener that inherits a connection
 * @reuse: the group of the one that was closed
 * @net: the network namespace
 * @migrating: the connection, or the request for one
 * @num_socks: members of the group, without the closed one
 *
 * A connection goes to the listener of the CPU that its packets come to,
 * wherever close() runs. A request has no such field; its packets and its timer
 * run on that CPU. Not a look-up, so not counted.
 *
 * Return: a listener without a reference, NULL if none listens
 */
struct sock *fastsocket_migrate(const struct sock_reuseport *reuse,
				const struct net *net,
				const struct sock *migrating, u16 num_socks)
{
	unsigned int cpu = raw_smp_processor_id();
	bool dummy;

	if (READ_ONCE(migrating->sk_state) != TCP_NEW_SYN_RECV)
		cpu = READ_ONCE(migrating->sk_incoming_cpu);
	return choose(reuse, fastsocket_pernet(net), cpu, migrating->sk_hash,
		      num_socks, &dummy);
}
