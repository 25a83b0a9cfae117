/* SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors */
/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef FSOCKET_MIGRATE_H
#define FSOCKET_MIGRATE_H

/*
 * A member of a reuseport group that ends takes its queue and its handshakes
 * with it, unless net.ipv4.tcp_migrate_req is on, or the group has a program
 * attached that may move them (Linux 5.14, net/core/sock_reuseport.c:
 * reuseport_migrate_sock). Ours moves them and leaves every choice to the
 * kernel, so the sysctl need not be on.
 */

/*
 * May a privileged call that a server does not make be tried? As root, and where no filter of system
 * calls is in force: that may end a process for it.
 */
int may_try(void);
/* No filter of system calls is in force; where a chroot hides that, none was when the program was loaded. */
int unfiltered(void);
/* At the start: is the sysctl on? What another process of the service has found may not hold for this one. */
void migrate_init(void);
/* Load the program, once, with the rights of the start. */
void migrate_load(void);
/* Does what a slot leaves at its end go to the others? By the program, or by the sysctl. */
int migrate_works(void);
/* Attach it to the group of fd; whatever was attached goes. 0 or -1. */
int migrate_attach(int fd);
/* By the sysctl, at the start and now, so that nothing need be attached for it. */
int migrate_by_sysctl(void);

#endif
