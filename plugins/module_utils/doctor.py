# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""`fsctl doctor`: what keeps a wrapped service from per-core TCP, in sentences with the way out.

examine() reads the facts of a service, findings() judges them and is pure."""

import collections
import os
import stat
import struct

from . import cpulist, kernelstats, library, services, sockets, stats, systemd, wrapping
from .errors import FleetError

# PROBLEM: not as the operator asked for; NOTE: as good as this host can do, or of his own choice.
PROBLEM, NOTE = "problem", "note"
Finding = collections.namedtuple("Finding", "level text")

PT_INTERP, ELF_CLASS_64, ELF_MAGIC = 3, 2, b"\x7fELF"

CAPABILITIES = (
    ("incoming_cpu", "this kernel chooses neither by SO_INCOMING_CPU nor by a program inside a reuseport group: no "
                     "slots, all CPUs share one queue; Linux 6.2 or our kernel does the one, Linux 4.6 the other"),
    ("port_range", "this kernel has no IP_LOCAL_PORT_RANGE: backend connections take any source port; Linux 6.3 or our "
                   "kernel has it"),
    ("migrate", "what waits in a slot does not move on at its end (tcp_migrate_req is off, Linux before 5.14, or "
                "tcp_syncookies is 0): who is left serves it, and new connections of that CPU, or of all where a group "
                "chooses by SO_INCOMING_CPU, share one queue until all slots have owners again. Where the kernel has "
                "no pidfd_getfd(2) (before Linux 5.6), or a filter of system calls or missing rights forbid it, a "
                "reload of HAProxy may reset a few connections, and so may an upgrade of nginx to a binary that runs "
                "without the library: `fsctl off` before it and `fsctl on` after it avoids that"),
)
ERRORS = {
    "prepare": "slots could not be made %d times; see the journal for the reason (port taken by another owner, limits)",
    "claim": "slots could not be put to work %d times; see the journal",
    "unpinned": "%d threads may run on several CPUs: pin them (nginx worker_cpu_affinity auto, HAProxy cpu-map) or set "
                "FSOCKET_PIN=1",
    "taken": "%d times a second thread came to a CPU: as many workers or threads as CPUs are right",
    "accept": "accept() on a slot failed in an unexpected way %d times",
    "mode": "the kernel refused %d times to change which socket of a group gets connections",
    "ports": "%d times no source port was free in a CPU's block: more ports (net.ipv4.ip_local_port_range) or reuse of "
             "backend connections (keepalive) helps",
    "table": "the statistics file had no free row %d times: too many listeners or reloads with long-lived old workers",
}


def _program(pid):
    """Return what ld.so(8) looks at before it preloads anything: {path, set_id, capabilities, static}."""
    path = "/proc/%d/exe" % pid
    found = {"path": os.readlink(path), "set_id": False, "capabilities": False, "static": False}
    mode = os.stat(path).st_mode
    found["set_id"] = bool(mode & (stat.S_ISUID | stat.S_ISGID))
    try:
        found["capabilities"] = bool(os.getxattr(path, "security.capability"))
    except OSError:     # none, or a file system without them
        pass
    found["static"] = not _interpreter(path)
    return found


def _interpreter(path):
    """Does an ELF program ask for a dynamic loader? elf(5): a PT_INTERP program header."""
    with open(path, "rb") as handle:
        head = handle.read(64)
        if len(head) < 64 or head[:4] != ELF_MAGIC:
            return True     # not ours to judge
        order = "<" if head[5] == 1 else ">"
        wide = head[4] == ELF_CLASS_64
        at, = struct.unpack_from(order + ("Q" if wide else "I"), head, 32 if wide else 28)
        size, count = struct.unpack_from(order + "HH", head, 54 if wide else 42)
        handle.seek(at)
        table = handle.read(size * count)
    return any(struct.unpack_from(order + "I", table, index * size)[0] == PT_INTERP
               for index in range(min(count, len(table) // size if size else 0)))


def examine(service):
    """Return the facts of a wrapped service: {name, active, pids: [{pid, mapped, set_id, capabilities, static, path}],
    stats, error, deafens}. `error`: why its statistics cannot be read; `deafens`: wrapping.deafens()."""
    name = services.name_of(service)
    facts = {"name": name, "active": True, "pids": [], "stats": None, "error": None, "deafens": wrapping.deafens()}
    facts["active"] = systemd.active(systemd.show(services.unit_of(name)))
    for pid in sockets.service_pids(services.unit_of(name)) if facts["active"] else ():
        try:
            facts["pids"].append(dict(_program(pid), pid=pid, mapped=sorted(library.mapped_into(pid))))
        except OSError:     # it has ended
            continue
    try:
        facts["stats"] = stats.read(name)
    except FleetError as error:
        facts["error"] = str(error)
    return facts


def _why_not_loaded(row):
    if row["set_id"]:
        return "%s is set-id: ld.so(8) preloads nothing into it" % row["path"]
    if row["capabilities"]:
        return ("%s has file capabilities (setcap): ld.so(8) preloads nothing into it. Take them away and give the "
                "unit AmbientCapabilities=" % row["path"])
    if row["static"]:
        return "%s is statically linked: nothing can be preloaded" % row["path"]
    return "it was started before it was wrapped, or by something that drops LD_PRELOAD; restart it"


def _loaded(facts):
    without = [row for row in facts["pids"] if not row["mapped"]]
    if facts["pids"] and len(without) == len(facts["pids"]):
        yield Finding(PROBLEM, "runs without the library: " + _why_not_loaded(without[0]))
    elif without:
        yield Finding(NOTE, "process %s runs without the library: %s" % (
            ", ".join(str(row["pid"]) for row in without), _why_not_loaded(without[0])))
    elif not facts["stats"] and not facts["error"] and facts["pids"]:
        yield Finding(PROBLEM, "has loaded the library, which wrote no statistics: see the journal for its reason")


def _counted(found):
    if found["switch"] != "on":
        yield Finding(NOTE, "is switched off (%s): `fsctl on`" % found["switch"])
    for name, text in CAPABILITIES:
        # Whether groups choose by it is tried when there is a listener; a program does as well.
        well = name == "incoming_cpu" and ("probed" not in found["capabilities"] or "cbpf" in found["capabilities"])
        if name not in found["capabilities"] and not well:
            yield Finding(NOTE, text)
    for name, text in ERRORS.items():
        if found["errors"].get(name):
            yield Finding(PROBLEM, text % found["errors"][name])
    served = {row["listener"] for row in found["slots"]}
    for row in found["listeners"]:
        if row["cookie"] not in served and row["mode"] != "global":
            yield Finding(PROBLEM, "port %d has no slot in use: no pinned thread has it in an epoll" % row["port"])
        if row["mode"] == "sharded" and "migrate" not in found["capabilities"]:
            yield Finding(NOTE, "port %d has several listeners of the service's own (reuseport): what waits is lost "
                                "when workers become fewer, unless net.ipv4.tcp_migrate_req is on" % row["port"])
        if row["mode"] == "sharded" and {"cbpf", "incoming_cpu"}.intersection(found["capabilities"]) == {"cbpf"}:
            yield Finding(NOTE, "port %d: this kernel chooses among listeners that are not the library's by hash, "
                                "not by CPU; without reuseport they get slots" % row["port"])
    for state, text in (("spilling", "too long a queue, a thread that did not come, or far more than a CPU's share"),
                        ("orphan", "its thread is gone")):
        cpus = sorted({row["cpu"] for row in found["slots"] if row["state"] == state})
        if cpus:
            yield Finding(NOTE, "slots of CPU %s are shared by all: %s" % (", ".join(map(str, cpus)), text))


def _placed(found):
    offline = found.get("offline", [])
    if offline:
        yield Finding(NOTE, "CPU %s is offline: what would come there goes to the others" % (
            cpulist.format_list(offline)))
    for row in found["slots"]:
        if stats.strayed(row) and row["cpu"] not in offline:
            yield Finding(NOTE, "thread %d serves CPU %d and may run on %s: moved by hand, or not back yet from a time "
                                "when that CPU was offline or out of its cpuset; `taskset -cp %d %d` or a reload pins "
                                "it" % (row["tid"], row["cpu"], cpulist.format_list(row["runs_on"]) or "none",
                                        row["cpu"], row["tid"]))


def findings(facts):
    """Return [Finding] of examine(), the worst first."""
    if not facts["active"]:
        return [Finding(NOTE, "is not running")]
    found = list(_loaded(facts))
    if facts["error"]:
        found.append(Finding(PROBLEM, facts["error"]))
    if facts["stats"] and facts["deafens"] and "migrate" in facts["stats"]["capabilities"]:
        found.append(Finding(PROBLEM, "moves what waits in a closed listener, and net.ipv4.tcp_syncookies is 0: one "
                                      "client that resets a half-open connection can leave the listener that inherits "
                                      "it without connections for good. Set it to 1, or restart the service with "
                                      "net.ipv4.tcp_migrate_req = 0"))
    if facts["stats"]:
        found += list(_counted(facts["stats"])) + list(_placed(facts["stats"]))
    return sorted(found, key=lambda one: one.level != PROBLEM)


def kernel_findings(kernel):
    """The same of the kernel; `kernel`: kernelstats.read()."""
    if kernel and not kernel["sysctls"].get("local_listen"):
        yield Finding(NOTE, "this kernel could find the CPU's slot by itself: net.fastsocket.local_listen is off")


def report(names):
    """Return (lines for a person, is there a problem?) of these services, or of all that are wrapped."""
    lines, bad = [], False
    for name in names or wrapping.wrapped_services():
        found = findings(examine(name))
        bad = bad or any(one.level == PROBLEM for one in found)
        lines += ["%s: %s: %s" % (services.name_of(name), one.level, one.text) for one in found] or [
            "%s: all is well" % services.name_of(name)]
    lines += ["kernel: %s: %s" % one for one in kernel_findings(kernelstats.read())]
    return lines or ["no service is wrapped on this host"], bad
