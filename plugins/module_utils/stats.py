# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read the statistics file of libfsocket. Its layout is libfsocket/include/fsocket_abi.h; a test compares the two."""

import os
import struct
import time

from . import paths, switch, topology
from .errors import FleetError

MAGIC = b"FSOCKET\n"
# The processes look at the switch every 100 ms (FSOCKET_SWITCH_MS).
EFFECT_S = 1.0

# struct fsocket_header, field by field; `Nx` words are the arrays and the text at its end.
HEADER = (
    ("magic", "8s"), ("version", "I"), ("header_size", "I"), ("cpu_count", "I"), ("cpu_offset", "I"),
    ("cpu_size", "I"), ("listener_count", "I"), ("listener_offset", "I"), ("listener_size", "I"), ("slot_count", "I"),
    ("slot_offset", "I"), ("slot_size", "I"), ("capabilities", "I"), ("port_first", "I"), ("port_block", "I"),
    ("created", "Q"),
)
ERRORS = ("prepare", "claim", "unpinned", "taken", "accept", "mode", "ports", "table")
HEADER_TAIL = (("lock", "I"), ("reserved", "I"), ("library", "24s"))
COUNTERS = (
    "accepts", "accepts_local", "accepts_remote", "accepts_global", "connects_local", "connects_remote",
    "connects_steered", "connects_unsteered", "spills", "accepts_helped",
)
# By format: 1 is that of libfsocket 0.1, which looked at each connection and counted no more than that.
CPU = {1: tuple((name, "Q") for name in COUNTERS[1:-1]), 2: tuple((name, "Q") for name in COUNTERS)}
LISTENER = (
    ("cookie", "Q"), ("mode", "I"), ("orphans", "I"), ("pid", "i"), ("port", "H"), ("sole", "H"), ("address", "48s"),
)
SLOT = (
    ("listener", "Q"), ("cookie", "Q"), ("state", "I"), ("cpu", "i"), ("pid", "i"), ("tid", "i"), ("queue", "I"),
    ("backlog", "I"), ("accepts", "Q"), ("fd", "i"), ("taken", "i"),
)
CAPABILITIES = {1: "incoming_cpu", 2: "port_range", 4: "migrate", 8: "probed", 16: "cbpf", 32: "local_listen"}
MODES = {0: "unknown", 1: "slots", 2: "global", 3: "sharded"}
STATES = {1: "on", 2: "off", 3: "spilling", 4: "orphan"}


def header_fields():
    """Return the header as (name, struct code) pairs, the error counters in their place."""
    return HEADER + tuple(("errors_" + name, "Q") for name in ERRORS) + HEADER_TAIL


def layout(fields):
    """Return {name: (offset, size)} and the size of a C struct of naturally aligned fields."""
    offsets, at, widest = {}, 0, 1
    for name, code in fields:
        size = struct.calcsize("=" + code)
        align = 1 if code.endswith("s") else size
        at += -at % align
        offsets[name] = (at, size)
        at += size
        widest = max(widest, align)
    return offsets, at + -at % widest


def _row(fields, data, offset):
    """Unpack one struct; text fields lose their NULs."""
    values = struct.unpack_from("@" + "".join(code for dummy, code in fields), data, offset)
    return {name: _text(value) if isinstance(value, bytes) else value for (name, dummy), value in zip(fields, values)}


def _text(value):
    return value.split(b"\0")[0].decode("ascii", "replace")


def _rows(fields, data, head, kind):
    size = head[kind + "_size"]
    return [_row(fields, data, head[kind + "_offset"] + index * size) for index in range(head[kind + "_count"])]


def _counters(row):
    """Return a row of counters with all that this version knows."""
    return dict({"accepts": row["accepts_local"] + row["accepts_remote"], "accepts_helped": 0}, **row)


def parse(data, where):
    """Turn the bytes of a statistics file into a dict. FleetError when they are not one."""
    fields = header_fields()
    if len(data) < layout(fields)[1] or not data.startswith(MAGIC):
        raise FleetError("%s is not a statistics file of libfsocket" % where)
    head = _row(fields, data, 0)
    if head["version"] not in CPU:
        raise FleetError("%s has format %d; this version reads format %s" % (
            where, head["version"], " and ".join(map(str, sorted(CPU)))))
    counters = CPU[head["version"]]
    for kind, row in (("cpu", counters), ("listener", LISTENER), ("slot", SLOT)):
        if head[kind + "_size"] < layout(row)[1]:
            raise FleetError("%s is damaged: rows of %d bytes for a %s" % (where, head[kind + "_size"], kind))
        if len(data) < head[kind + "_offset"] + head[kind + "_count"] * head[kind + "_size"]:
            raise FleetError("%s is cut short: %d bytes" % (where, len(data)))
    cpus = {str(cpu): _counters(row) for cpu, row in enumerate(_rows(counters, data, head, "cpu"))}
    listeners = [
        dict(row, mode=MODES.get(row["mode"], "?"), sole=bool(row["sole"]))
        for row in _rows(LISTENER, data, head, "listener") if row["cookie"]
    ]
    slots = [
        dict(row, state=STATES.get(row["state"], "?")) for row in _rows(SLOT, data, head, "slot") if row["state"]
    ]
    return {
        "library": head["library"],
        "created": head["created"],
        "capabilities": [name for bit, name in sorted(CAPABILITIES.items()) if head["capabilities"] & bit],
        "port_first": head["port_first"],
        "port_block": head["port_block"],
        "errors": {name: head["errors_" + name] for name in ERRORS},
        "cpus": cpus,
        "listeners": listeners,
        "slots": slots,
    }


def read(service, folder=paths.RUN):
    """Return the statistics of one wrapped service: parse() plus `switch`, slots of live processes only with `runs_on`,
    the CPUs that the thread may run on, `offline`, the CPUs that are, and `summary`. None when the service has no file
    (never started since boot, or not wrapped)."""
    path = os.path.join(folder, service + ".stats")
    try:
        with open(path, "rb") as handle:
            data = handle.read()
    except FileNotFoundError:
        return None
    found = parse(data, path)
    found["slots"] = [row for row in found["slots"] if row["state"] == "orphan" or _alive(row["pid"])]
    for row in found["slots"]:
        row["runs_on"] = _runs_on(row["tid"])
    online = set(topology.online_cpus())
    found["offline"] = [int(cpu) for cpu in found["cpus"] if online and int(cpu) not in online]
    known = {row["listener"] for row in found["slots"]}
    found["listeners"] = [row for row in found["listeners"] if row["cookie"] in known or _alive(row["pid"])]
    found["switch"] = switch.read(service, folder)
    found["summary"] = summary(found["cpus"])
    return found


def _alive(pid):
    return os.path.exists("/proc/%d" % pid)


def _runs_on(tid):
    try:
        return sorted(os.sched_getaffinity(tid)) if tid > 0 else None
    except OSError:     # it has ended
        return None


def strayed(row):
    """May the thread of a slot run elsewhere than on the CPU it serves?"""
    return row.get("runs_on") not in (None, [row["cpu"]])


def wait_off(service, folder=paths.RUN, seconds=EFFECT_S):
    """Wait until no process serves its slot as if the switch were on.

    Return {"seconds": until the last slot changed that did, "idle": slots whose owner has not called since}. An idle
    owner accepts nothing, and turns off at its next call before that does anything, so it is not waited for any longer
    than `seconds`."""
    start = changed = time.time()
    busy = _serving(service, folder)
    while busy and time.time() - start < seconds:
        time.sleep(0.01)
        now = _serving(service, folder)
        if now != busy:
            busy, changed = now, time.time()
    return {"seconds": round(changed - start, 3), "idle": len(busy)}


def _serving(service, folder):
    """Return the cookies of the slots that serve as with the switch on."""
    found = read(service, folder) or {"slots": []}
    return {row["cookie"] for row in found["slots"] if row["state"] in ("on", "spilling")}


def delta(before, after):
    """Return per-CPU counters of `after` minus `before` (two read() results; `before` may be None or of a file that
    was made anew since, then all of `after` counts)."""
    old = before["cpus"] if before and before["created"] == after["created"] else {}
    return {
        cpu: {name: value - old.get(cpu, {}).get(name, 0) for name, value in row.items()}
        for cpu, row in after["cpus"].items()
    }


def share(part, rest):
    """Return part / (part + rest), or None when nothing was counted."""
    return part / float(part + rest) if part + rest else None


def spread(values):
    """Return the largest of the values over their mean: 1.0 is even, N is all on one of N CPUs. None without any."""
    values = list(values)
    total = sum(values)
    return max(values) * len(values) / float(total) if total else None


def summary(cpus):
    """Return totals over per-CPU counters: accepts, accept_local (share of those looked at), connects, connect_local
    (the same), spread."""
    total = {name: sum(row[name] for row in cpus.values()) for name in COUNTERS}
    return {
        "accepts": total["accepts"],
        "accepts_looked_at": total["accepts_local"] + total["accepts_remote"],
        "accept_local": share(total["accepts_local"], total["accepts_remote"]),
        "accepts_global": total["accepts_global"],
        "connects": total["connects_steered"] + total["connects_unsteered"],
        "connect_local": share(total["connects_local"], total["connects_remote"]),
        "connects_steered": total["connects_steered"],
        "spills": total["spills"],
        "spread": spread(row["accepts"] for row in cpus.values()),
    }
