# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The deadman of a trial boot: a small shell script that systemd starts first of all at each boot while a trial is
open. It needs no Python, no network, no controller and no more than the root file system.

* On the boot that armed: after T seconds without a reboot, nothing is armed any more.
* On the trial boot: T seconds after the start of the kernel the host reboots, unless the trial was committed.
* On any other boot: the trial is over, and it says so.

The script's file is the trial: it bears the trial's id, and committing or disarming removes it. Who removes it holds
the lock; the deadman takes the same lock before it fires, so that either the commit or the reboot happens."""

import collections
import os

from .. import hostfile, paths, systemd, topology
from . import loader

UNIT = "/etc/systemd/system/fastsocket-deadman.service"
NAME = os.path.basename(UNIT)
# emergency.target on its own: for a boot that was told to go no further.
LINKS = tuple("/etc/systemd/system/%s.wants/%s" % (target, NAME) for target in ("sysinit.target", "emergency.target"))
BOOTS = paths.VAR + "/boots"
LOCK = paths.RUN + "/boot"      # a folder in memory: there from the first moment, and gone with the boot
FIRED = LOCK + "/fired"

# What it tells the kernel's log when it fires.
SAYS = "fastsocket: nobody committed the trial boot"

# Seconds an orderly reboot has before it is forced, and a forced one before the kernel does it alone.
ORDERLY_S, FORCED_S = 60, 20

UNIT_TEXT = """\
# Made by fastsocket.fleet.boot_entry; gone when the trial is committed or disarmed.
[Unit]
Description=Come back from the trial boot of a kernel unless it is committed (fastsocket)
ConditionPathExists={script}
# It waits for nothing, and stays through emergency mode and shutdown.
DefaultDependencies=no
IgnoreOnIsolate=yes

[Service]
ExecStart=/bin/sh {script}
Environment=PATH=/usr/sbin:/usr/bin:/sbin:/bin
StandardOutput=null
StandardError=null
Restart=on-failure
RestartSec=1
OOMScoreAdjust=-1000

[Install]
WantedBy=sysinit.target emergency.target
"""

SCRIPT = """\
#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
{made_by}# The deadman of the trial {trial}. While this file is here, the trial is open.
trial={trial} armed_boot={armed} seconds={seconds}
folder={folder} boots={boots} lock={lock} fired={fired}

read -r boot_id < /proc/sys/kernel/random/boot_id
read -r kernel < /proc/sys/kernel/osrelease
read -r words < /proc/cmdline
read -r up rest < /proc/uptime
up=${{up%%.*}}

record() {{
    # The root file system is read-only at first; /var may come later still. What was cut short stays a line of its own.
    [ -w "$folder" ] && printf '\\n%s %s %s %s\\n' "$boot_id" "$kernel" "$1" "$(date +%s)" >> "$boots" && sync
}}

record_soon() {{
    until record "$1"; do sleep 1; done
}}

clear_once() {{
    {clear}
    sync
}}

open() {{
    [ -e "$0" ]
}}

take_lock() {{
    [ -d "$lock" ] || {{ mkdir -p "${{lock%/*}}" && mkdir -m 700 "$lock"; }}   # who may open it may lock it
    command exec 9< "$lock" && flock -w 20 9    # without `command` a failure would end this shell
}}

if [ "$boot_id" = "$armed_boot" ]; then
    sleep "$seconds"
    take_lock
    open || exit 0
    clear_once
    record expired
    rm -f "$0"
    exit 0
fi

case " $words " in
*" fastsocket.trial=$trial "*) ;;
*)
    record_soon other
    clear_once
    exit 0
    ;;
esac

# What is needed later is started now: a disk may be gone by then. Of what follows only systemctl is read from it.
left=$((seconds - up))
[ "$left" -gt 0 ] || left=0
sleep "$left" & at=$!
sleep $((left + {orderly})) & force_at=$!
sleep $((left + {orderly} + {forced})) & last_at=$!
( record_soon trial; clear_once ) &

wait "$at"
take_lock
open || exit 0
echo "$boot_id" > "$fired"
echo "<1>{says} of $kernel within $seconds s; back to the default" > /dev/kmsg
record fired &
systemctl --no-block reboot &
wait "$force_at"
echo "<1>fastsocket: the reboot hangs; forcing it" > /dev/kmsg
systemctl reboot --force --force &
wait "$last_at"
echo b > /proc/sysrq-trigger
"""


def script_path(trial):
    return "%s/deadman-%s" % (paths.LIB, trial["id"])


def texts(trial, clear):
    """Return {path: text} of a trial's deadman; `clear`: shell that takes the one-shot boot back."""
    script = script_path(trial)
    return {
        script: SCRIPT.format(
            made_by=paths.MADE_BY, trial=trial["id"], armed=trial["armed_boot_id"], seconds=trial["seconds"],
            folder=paths.VAR, boots=BOOTS, lock=LOCK, fired=FIRED, clear=clear, says=SAYS, orderly=ORDERLY_S,
            forced=FORCED_S),
        UNIT: UNIT_TEXT.format(script=script),
    }


def changes(trial, clear, old=None, root="/"):
    """Return what is to change so that the deadman is there for this trial, and not for an `old` one: files and
    links."""
    wanted = texts(trial, clear)
    if old:
        wanted.setdefault(script_path(old), None)
    return _changes(wanted, UNIT, root)


def removal(trial, root="/"):
    """Return what is to change so that no deadman is there. The script comes first: with it goes the trial."""
    return _changes({script_path(trial): None, UNIT: None}, None, root)


def _changes(wanted, target, root):
    found = [{"path": path, "before": hostfile.read(topology.at(root, path)), "after": text}
             for path, text in wanted.items()]
    for link in LINKS:
        here = topology.at(root, link)
        found.append({"path": link, "before": os.readlink(here) if os.path.islink(here) else None, "after": target})
    return [change for change in found if change["before"] != change["after"]]


def apply(wanted, root="/"):
    """Carry such changes out."""
    for change in wanted:
        path = topology.at(root, change["path"])
        if change["path"] not in LINKS:
            loader.write_file(change, root)
            continue
        hostfile.remove(path)
        if change["after"]:
            os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
            os.symlink(change["after"], path)


def start(root="/"):
    """Start it, its files being there, with no record of an earlier trial."""
    hostfile.remove(topology.at(root, BOOTS))
    loader.tell(root, "systemctl", "daemon-reload")
    loader.tell(root, "systemctl", "restart", NAME)
    loader.tell(root, "systemctl", "is-active", "--quiet", NAME)


def stop(root="/"):
    """Stop it, its files being gone, and forget what it recorded."""
    if root == "/":
        systemd.attempt("systemctl", "stop", NAME)  # it may have ended long ago
    hostfile.remove(topology.at(root, BOOTS))
    loader.tell(root, "systemctl", "daemon-reload")


def is_open(trial, root="/"):
    return os.path.exists(topology.at(root, script_path(trial)))


def has_fired(root="/"):
    return os.path.exists(topology.at(root, FIRED))


def boots(trial, root="/"):
    """Return (boots since the trial was armed [{boot_id, kernel, trial, time}], boot ids on which it fired, whether it
    expired), from what the deadman wrote: `boot_id kernel what seconds-since-1970` lines."""
    found, fired, expired = collections.OrderedDict(), [], False
    for line in (hostfile.read(topology.at(root, BOOTS)) or "").splitlines():
        words = line.split()
        if len(words) != 4 or not words[3].isdigit():
            continue    # cut short by a crash
        boot_id, kernel, what, when = words
        if what == "fired":
            fired.append(boot_id)
        elif what == "expired":
            expired = True
        elif boot_id != trial["armed_boot_id"]:
            found.setdefault(boot_id, {
                "boot_id": boot_id, "kernel": kernel, "trial": what == "trial", "time": int(when)})
    return list(found.values()), fired, expired
