// SPDX-License-Identifier: GPL-2.0-only
// SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
/*
 * /proc/net/fastsocket: how many connections stayed on their CPU.
 */

#include <linux/capability.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>
#include <net/fastsocket.h>

#include "internal.h"

/* accept() handed out @child. The CPU of its packets is that of the last one:
 * sk_incoming_cpu of a connected socket. The row is the CPU that we are on.
 * An MPTCP connection comes here once, with its first subflow.
 */
void fastsocket_accepted(const struct sock *listener, const struct sock *child)
{
	struct fastsocket_stats __percpu *stats;
	int cpu;

	if (listener->sk_protocol != IPPROTO_TCP)
		return;

	stats = fastsocket_pernet(sock_net(listener))->stats;
	cpu = get_cpu();
	if (READ_ONCE(child->sk_incoming_cpu) == cpu)
		this_cpu_inc(stats->accepts_local);
	else
		this_cpu_inc(stats->accepts_remote);
	if (READ_ONCE(listener->sk_incoming_cpu) < 0)
		this_cpu_inc(stats->accepts_global);
	put_cpu();
}

/* The SYN-ACK came in. Not necessarily here: it is processed by the CPU that
 * held the lock of the socket meanwhile, but tcp_v4_rcv() noted where it came.
 * The row is another CPU's when it did not come home, hence the atomics.
 */
void fastsocket_connected(const struct sock *sk)
{
	int cpu = tcp_sk(sk)->connect_cpu;
	struct fastsocket_stats *stats;

	stats = per_cpu_ptr(fastsocket_pernet(sock_net(sk))->stats, cpu);
	if (READ_ONCE(sk->sk_incoming_cpu) == cpu)
		atomic_long_inc(&stats->connects_local);
	else
		atomic_long_inc(&stats->connects_remote);
}

static void read_columns(const struct fastsocket_net *fs, int cpu,
			 unsigned long column[FASTSOCKET_COLUMNS])
{
	const struct fastsocket_stats *stats = per_cpu_ptr(fs->stats, cpu);

	column[FASTSOCKET_ACCEPTS_LOCAL] = READ_ONCE(stats->accepts_local);
	column[FASTSOCKET_ACCEPTS_REMOTE] = READ_ONCE(stats->accepts_remote);
	column[FASTSOCKET_ACCEPTS_GLOBAL] = READ_ONCE(stats->accepts_global);
	column[FASTSOCKET_CONNECTS_LOCAL] =
		atomic_long_read(&stats->connects_local);
	column[FASTSOCKET_CONNECTS_REMOTE] =
		atomic_long_read(&stats->connects_remote);
	column[FASTSOCKET_LOOKUPS_LOCAL] = READ_ONCE(stats->lookups_local);
	column[FASTSOCKET_LOOKUPS_FALLBACK] =
		READ_ONCE(stats->lookups_fallback);
}

static int stats_show(struct seq_file *seq, void *v)
{
	const struct fastsocket_net *fs =
		fastsocket_pernet(seq_file_single_net(seq));
	int cpu, i;

	seq_puts(seq, "cpu accepts_local accepts_remote accepts_global connects_local connects_remote lookups_local lookups_fallback\n");
	for_each_possible_cpu(cpu) {
		const struct fastsocket_base *base = per_cpu_ptr(fs->base, cpu);
		unsigned long column[FASTSOCKET_COLUMNS];

		read_columns(fs, cpu, column);
		seq_printf(seq, "%d", cpu);
		for (i = 0; i < FASTSOCKET_COLUMNS; i++)
			seq_printf(seq, " %lu",
				   column[i] - READ_ONCE(base->column[i]));
		seq_putc(seq, '\n');
	}
	return 0;
}

/* Whatever is written: from now on count from here. The counters themselves
 * go on, for other CPUs are adding to them.
 */
static int stats_reset(struct file *file, char *buf, size_t size)
{
	struct net *net = seq_file_single_net(file->private_data);
	const struct fastsocket_net *fs = fastsocket_pernet(net);
	int cpu, i;

	if (!file_ns_capable(file, net->user_ns, CAP_NET_ADMIN))
		return -EPERM;

	for_each_possible_cpu(cpu) {
		struct fastsocket_base *base = per_cpu_ptr(fs->base, cpu);
		unsigned long column[FASTSOCKET_COLUMNS];

		read_columns(fs, cpu, column);
		for (i = 0; i < FASTSOCKET_COLUMNS; i++)
			WRITE_ONCE(base->column[i], column[i]);
	}
	return 0;
}

int __net_init fastsocket_stats_init(struct net *net)
{
	struct fastsocket_net *fs = fastsocket_pernet(net);

	fs->stats = alloc_percpu(struct fastsocket_stats);
	fs->base = alloc_percpu(struct fastsocket_base);
	if (fs->stats && fs->base &&
	    proc_create_net_single_write("fastsocket", 0644, net->proc_net,
					 stats_show, stats_reset, NULL))
		return 0;

	free_percpu(fs->base);
	free_percpu(fs->stats);
	return -ENOMEM;
}

void __net_exit fastsocket_stats_exit(struct net *net)
{
	struct fastsocket_net *fs = fastsocket_pernet(net);

	remove_proc_entry("fastsocket", net->proc_net);
	free_percpu(fs->base);
	free_percpu(fs->stats);
}
