/* SPDX-License-Identifier: GPL-2.0-only */
/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
#ifndef _NET_FASTSOCKET_H
#define _NET_FASTSOCKET_H

#include <linux/jump_label.h>
#include <linux/tcp.h>
#include <net/sock.h>

struct sock_reuseport;

#ifdef CONFIG_FASTSOCKET

/* Set for good once a network namespace turned local_listen on. */
DECLARE_STATIC_KEY_FALSE(fastsocket_listen_key);

bool __fastsocket_local_listen(const struct net *net);

/* Is the listener to be chosen by CPU, for a group of which @sk is one? */
static inline bool fastsocket_local_listen(const struct sock *sk)
{
	return static_branch_unlikely(&fastsocket_listen_key) &&
	       sk->sk_protocol == IPPROTO_TCP &&
	       __fastsocket_local_listen(sock_net(sk));
}

/* The slots of a reuseport group: all three under reuseport_lock. */
void fastsocket_slot_add(struct sock_reuseport *reuse, struct sock *sk);
void fastsocket_slot_del(struct sock_reuseport *reuse, const struct sock *sk);
void fastsocket_slots_move(struct sock_reuseport *to,
			   struct sock_reuseport *from);
void fastsocket_slots_free(struct sock_reuseport *reuse);

/* Both under rcu_read_lock(). */
struct sock *fastsocket_select(const struct sock_reuseport *reuse,
			       const struct net *net, u32 hash, u16 num_socks);
struct sock *fastsocket_migrate(const struct sock_reuseport *reuse,
				const struct net *net,
				const struct sock *migrating, u16 num_socks);

void fastsocket_accepted(const struct sock *listener, const struct sock *child);

/* Called by connect(), with the socket locked. */
static inline void fastsocket_connecting(struct sock *sk)
{
	tcp_sk(sk)->connect_cpu = raw_smp_processor_id();
}

void fastsocket_connected(const struct sock *sk);

#else

static inline bool fastsocket_local_listen(const struct sock *sk)
{
	return false;
}

static inline void fastsocket_slot_add(struct sock_reuseport *reuse,
				       struct sock *sk)
{
}

static inline void fastsocket_slot_del(struct sock_reuseport *reuse,
				       const struct sock *sk)
{
}

static inline void fastsocket_slots_move(struct sock_reuseport *to,
					 struct sock_reuseport *from)
{
}

static inline void fastsocket_slots_free(struct sock_reuseport *reuse)
{
}

static inline struct sock *fastsocket_select(const struct sock_reuseport *reuse,
					     const struct net *net, u32 hash,
					     u16 num_socks)
{
	return NULL;
}

static inline struct sock *
fastsocket_migrate(const struct sock_reuseport *reuse, const struct net *net,
		   const struct sock *migrating, u16 num_socks)
{
	return NULL;
}

static inline void fastsocket_accepted(const struct sock *listener,
				       const struct sock *child)
{
}

static inline void fastsocket_connecting(struct sock *sk)
{
}

static inline void fastsocket_connected(const struct sock *sk)
{
}

#endif /* CONFIG_FASTSOCKET */
#endif /* _NET_FASTSOCKET_H */
