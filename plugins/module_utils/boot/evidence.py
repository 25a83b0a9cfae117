# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a failed trial boot left behind: the kernel's last words in pstore, else the end of its journal, else nothing,
and then why."""

import glob
import os
import re

from .. import hostfile, systemd, topology
from . import deadman

# The kernel's own, and where systemd-pstore.service puts them away after the boot.
# (systemd: src/pstore/pstore.c; a folder each by time, and for firmware by count in it).
PSTORE = ("/sys/fs/pstore/dmesg-*", "/var/lib/systemd/pstore/dmesg-*", "/var/lib/systemd/pstore/*/dmesg*",
          "/var/lib/systemd/pstore/*/*/dmesg*")
PERSISTENT = "/var/log/journal"
LINES = 20
# Of a journal that are looked through: an orderly end is long, and what was before it tells more.
BACK = 1000
# Where a dying kernel says why (kernel/panic.c, kernel/watchdog.c, arch/x86/kernel/dumpstack.c); a trace may follow.
WHY = re.compile(r"Kernel panic - |\bOops: |\bBUG: |detected hard LOCKUP on ")


def collect(since, boot_ids, root="/"):
    """Return the last lines of a trial armed at `since` (seconds since 1970), whose boots, as far as they are known,
    had these ids."""
    return _pstore(since, root) or _journal(boot_ids, root) or [_why_nothing(boot_ids, root)]


def _pstore(since, root):
    found = [name for pattern in PSTORE for name in glob.glob(topology.at(root, pattern))
             if os.path.isfile(name) and os.stat(name).st_mtime >= since]
    if not found:
        return []
    with open(max(found, key=lambda name: os.stat(name).st_mtime), encoding="utf-8", errors="replace") as handle:
        lines = _lines(handle.read())
    why = [number for number, line in enumerate(lines) if WHY.search(line)]
    return ([lines[number] for number in why[:-1]] + lines[why[-1]:])[:LINES] if why else lines[-LINES:]


def _journal(boot_ids, root):
    for boot_id in reversed(boot_ids):
        words = ["journalctl", "--boot=" + boot_id.replace("-", ""), "--no-pager", "--output=short-monotonic",
                 "--lines=%d" % BACK, "--quiet"]
        if root != "/":
            words.append("--directory=" + topology.at(root, PERSISTENT))
        status, text = systemd.attempt(*words)
        if status == 0 and text.strip():
            lines = _lines(text)
            fired = [number for number, line in enumerate(lines) if deadman.SAYS in line]
            return lines[:fired[0] + 1 if fired else None][-LINES:]
    return []


def _lines(text):
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def _why_nothing(boot_ids, root):
    pstore = "no record in pstore" if _has_pstore(root) else "this machine has no pstore"
    if not boot_ids:
        journal = "it ended before its system started, so it has no journal"
    elif not os.path.isdir(topology.at(root, PERSISTENT)):
        journal = "journals are not kept here (%s is missing)" % PERSISTENT
    else:
        journal = "its journal did not get to the disk"
    return "the trial boot left no trace: %s, and %s; look at the console" % (pstore, journal)


def _has_pstore(root):
    mounted = hostfile.read(topology.at(root, "/sys/module/pstore/parameters/backend")) or ""
    return mounted.strip() not in ("", "(null)")
