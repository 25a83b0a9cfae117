# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read what a kernel with CONFIG_FASTSOCKET counts: /proc/net/fastsocket and the sysctls net.fastsocket.*.

Both are those of the reader's own network namespace, and of everything in it: every listener and every connection, not
those of one service. A service in a namespace of its own is not seen from outside of it."""

import os
import re

from . import cpulist, hostfile, stats
from .errors import FleetError

PATH = "/proc/net/fastsocket"
SYSCTLS = "/proc/sys/net/fastsocket"
PRESENT = "/sys/devices/system/cpu/present"
# kernel-src/net/fastsocket/stats.c:stats_show. A newer kernel may have more columns; these stay.
COUNTERS = (
    "accepts_local", "accepts_remote", "accepts_global", "connects_local", "connects_remote", "lookups_local",
    "lookups_fallback",
)
NUMBER = re.compile(r"[0-9]+\Z")


def _text(path):
    """Return the text of a file; bytes that are none show as such in the error that follows."""
    with open(path, encoding="ascii", errors="replace") as handle:
        return handle.read()


def parse(text, where=PATH):
    """Return {cpu: {counter: value}} of the kernel's table. FleetError when it is damaged."""
    lines = [line.split() for line in text.splitlines()]
    head = lines[0] if lines else []
    missing = [name for name in ("cpu",) + COUNTERS if name not in head]
    if missing:
        raise FleetError("%s is damaged: its first line must name the columns, and has no %s"
                         % (where, ", ".join(missing)))
    found = {}
    for number, words in enumerate(lines[1:], 2):
        if len(words) != len(head) or not all(map(NUMBER.match, words)):
            raise FleetError("%s is damaged: line %d must be %d numbers and is %r"
                             % (where, number, len(head), " ".join(words)[:80]))
        row = dict(zip(head, map(int, words)))
        found[str(row["cpu"])] = {name: row[name] for name in COUNTERS}
    if len(found) != len(lines) - 1 or not found:
        raise FleetError("%s is damaged: %d lines for %d CPUs" % (where, len(lines) - 1, len(found)))
    return found


def sysctls(root="/"):
    """Return {name: value} of net.fastsocket.*; empty on a kernel without it. FleetError when one is no number."""
    folder, found = root.rstrip("/") + SYSCTLS, {}
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        text = _text("%s/%s" % (folder, name)).strip()
        if not NUMBER.match(text):
            raise FleetError("%s/%s must be a number and is %r" % (folder, name, text[:80]))
        found[name] = int(text)
    return found


def read(root="/"):
    """Return {"cpus": parse(), "sysctls": {name: value}, "summary": summary()}; None when the kernel is without it.

    The kernel has a line for every CPU that could ever be plugged in; those that are not there and counted nothing are
    left out."""
    path = root.rstrip("/") + PATH
    if not os.path.exists(path):
        return None
    cpus = parse(_text(path), path)
    there = cpulist.parse_list(hostfile.read(root.rstrip("/") + PRESENT, ""))
    cpus = {cpu: row for cpu, row in cpus.items() if not there or int(cpu) in there or any(row.values())}
    return {"cpus": cpus, "sysctls": sysctls(root), "summary": summary(cpus)}


def delta(before, after):
    """Return per-CPU counters of `after` minus `before`, two read() results. When somebody has reset the counters in
    between (a write to the file), or `before` is None, all of `after` came since."""
    old = before["cpus"] if before else {}
    found = {cpu: {name: value - old.get(cpu, {}).get(name, 0) for name, value in row.items()}
             for cpu, row in after["cpus"].items()}
    reset = any(value < 0 for row in found.values() for value in row.values())
    return after["cpus"] if reset else found


def summary(cpus):
    """Return totals over per-CPU counters: accepts, accept_local (share), accepts_global, connects, connect_local
    (share), lookups, lookup_local (share), lookups_fallback, spread."""
    total = {name: sum(row[name] for row in cpus.values()) for name in COUNTERS}
    found = {"accepts_global": total["accepts_global"], "lookups_fallback": total["lookups_fallback"]}
    for one, other in (("accept", "remote"), ("connect", "remote"), ("lookup", "fallback")):
        local, rest = total[one + "s_local"], total["%ss_%s" % (one, other)]
        found[one + "s"] = local + rest
        found[one + "_local"] = stats.share(local, rest)
    found["spread"] = stats.spread(row["accepts_local"] + row["accepts_remote"] for row in cpus.values())
    return found
