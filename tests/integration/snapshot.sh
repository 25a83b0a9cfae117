#!/bin/sh
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
# Prints everything on a host that the collection may touch, a line a fact: "kind<TAB>name<TAB>what it is".
# Two prints that are equal: nothing was touched. With `times` a file's time counts too, so a rewrite shows.
case $1 in times) time=' %T@' ;; *) time= ;; esac
places='/etc /usr/lib/fastsocket /usr/sbin/fsctl /run/fastsocket /run/systemd/system /var/lib/fastsocket'

# ctime of a folder is no fact of ours: only files and links carry a time.
# shellcheck disable=SC2086
{
    find $places ! -type d -printf "file\t%p\t%y %m %u:%g %l$time\n"
    find $places -type d -printf 'file\t%p\t%y %m %u:%g\n'
    find $places -type f ! -name '*.stats' -exec sha256sum {} + | sed -E 's/^(\S+)  (.*)/sum\t\2\t\1/'
} 2>/dev/null
for file in /sys/class/net/*/queues/*/[rx]ps_* /proc/sys/net/ipv4/tcp_migrate_req; do
    value=$(cat "$file" 2>/dev/null) && printf 'value\t%s\t%s\n' "$file" "$value"
done
# What is enabled shows as links in /etc.
for unit in nginx haproxy hello fastsocket-nic; do
    systemctl show "$unit" -p MainPID,ActiveState,ActiveEnterTimestampMonotonic,Environment,DropInPaths,NeedDaemonReload |
        sed -E "s/^([^=]+)=/service\t$unit.\1\t/"
done
