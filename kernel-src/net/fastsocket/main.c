// SPDX-License-Identifier: GPL-2.0-only
// SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
/*
 * Connections that live on one CPU: what each network namespace has, and its
 * switches under net.fastsocket.
 */

#include <linux/init.h>
#include <linux/panic.h>
#include <linux/slab.h>
#include <linux/sysctl.h>
#include <net/fastsocket.h>
#include <net/netns/generic.h>

#include "internal.h"

#define DEFAULT_SPILL 50	/* percent, as libfsocket's */

static unsigned int fastsocket_net_id __ro_after_init;

struct fastsocket_net *fastsocket_pernet(const struct net *net)
{
	return net_generic(net, fastsocket_net_id);
}

/* The key is never disabled again: a namespace that turned itself off finds
 * its own flag, and who may write this file cannot make all CPUs patch their
 * code over and over.
 */
static int local_listen_handler(const struct ctl_table *table, int write,
				void *buffer, size_t *lenp, loff_t *ppos)
{
	int err = proc_dou8vec_minmax(table, write, buffer, lenp, ppos);

	if (!err && write && READ_ONCE(*(u8 *)table->data))
		static_branch_enable(&fastsocket_listen_key);
	return err;
}

/* The first namespace's; each .data becomes that of the other's own. */
static const struct ctl_table fastsocket_table[] = {
	{
		.procname	= "local_listen",
		.data		= (void *)offsetof(struct fastsocket_net, local_listen),
		.maxlen		= sizeof(u8),
		.mode		= 0644,
		.proc_handler	= local_listen_handler,
		.extra1		= SYSCTL_ZERO,
		.extra2		= SYSCTL_ONE,
	},
	{
		.procname	= "spill",
		.data		= (void *)offsetof(struct fastsocket_net, spill),
		.maxlen		= sizeof(int),
		.mode		= 0644,
		.proc_handler	= proc_dointvec_minmax,
		.extra1		= SYSCTL_ONE,
		.extra2		= SYSCTL_ONE_HUNDRED,
	},
};

static int __net_init fastsocket_net_init(struct net *net)
{
	struct fastsocket_net *fs = fastsocket_pernet(net);
	struct ctl_table *table;
	int err = -ENOMEM;
	size_t i;

	fs->spill = DEFAULT_SPILL;

	table = kmemdup(fastsocket_table, sizeof(fastsocket_table), GFP_KERNEL);
	if (!table)
		return err;
	for (i = 0; i < ARRAY_SIZE(fastsocket_table); i++)
		table[i].data = (void *)fs + (unsigned long)table[i].data;
	fs->table = table;

	fs->sysctl = register_net_sysctl_sz(net, "net/fastsocket", table,
					    ARRAY_SIZE(fastsocket_table));
	if (!fs->sysctl)
		goto free_table;

	err = fastsocket_stats_init(net);
	if (err)
		goto unregister;
	return 0;

unregister:
	unregister_net_sysctl_table(fs->sysctl);
free_table:
	kfree(table);
	return err;
}

static void __net_exit fastsocket_net_exit(struct net *net)
{
	struct fastsocket_net *fs = fastsocket_pernet(net);

	fastsocket_stats_exit(net);
	unregister_net_sysctl_table(fs->sysctl);
	kfree(fs->table);
}

static struct pernet_operations fastsocket_net_ops = {
	.init = fastsocket_net_init,
	.exit = fastsocket_net_exit,
	.id   = &fastsocket_net_id,
	.size = sizeof(struct fastsocket_net),
};

/* Before inet_init(): from the first socket on there is something to count in,
 * and a dying namespace takes it away only after its last one. The hooks do not
 * ask whether it is there, and what fails here is memory, at boot.
 */
static int __init fastsocket_init(void)
{
	int err = register_pernet_subsys(&fastsocket_net_ops);

	if (err)
		panic("fastsocket: no per-namespace data: %d\n", err);
	return 0;
}
subsys_initcall(fastsocket_init);
