# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of all scenarios share: the lab from inside, the remembered host, its workers."""
import json
import os
from pathlib import Path

import fleet

MOLECULE = Path(__file__).resolve().parents[1]
lab = fleet.Lab(os.environ["FASTSOCKET_LAB"], inside=True)
# States of a slot whose owner takes connections; a busy machine can make it the second for a moment.
SERVES = ("on", "spilling")
SCENARIO = MOLECULE / os.environ["MOLECULE_SCENARIO_NAME"]


def remembered(host):
    """The snapshot that prepare took."""
    return fleet.facts((Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / f"{host}.snapshot").read_text())


def without_times(snapshot):
    """A file that went and came back has another time, and a service that goes on with a new process another pid."""
    return {key: fact.rsplit(" ", 1)[0] if key[0] == "file" and not fact.startswith("d") else fact
            for key, fact in snapshot.items() if not key[1].endswith(".MainPID")}


def converge(*options):
    return lab.playbook(SCENARIO / "converge.yml", "-e", "untouched_skip=true", *options)


def absent(host, *services):
    given = json.dumps({"preload_services": services})
    return lab.playbook(MOLECULE / "shared/absent.yml", "-l", host, "-e", given)


def verified(host, *options):
    return lab.playbook(MOLECULE / "shared/verified.yml", "-l", host, *options)


def mapped(host, unit):
    """{pid: paths of the library} of a unit's processes, read from outside of the collection."""
    script = f"""
    cd /sys/fs/cgroup
    for pid in $(cat system.slice/{unit}/cgroup.procs */system.slice/{unit}/cgroup.procs 2>/dev/null | sort -u); do
        echo "$pid" $(sed -nE 's/.* (\\S*libfsocket\\S*)$/\\1/p' /proc/$pid/maps | sort -u)
    done"""
    return {int(row.split()[0]): row.split()[1:] for row in lab.sh(host, script).splitlines()}


def status(host):
    """What fsctl says of a host's services, as JSON."""
    return json.loads(lab.sh(host, "fsctl status --json"))["services"]
