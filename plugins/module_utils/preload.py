# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wrap a service with libfsocket, turn it on and off, unwrap it: the way there and back. What stands in which file
meanwhile is in wrapping.py."""

import contextlib
import os
import re
import socket
import tempfile
import time

from . import (
    cpulist,
    handover,
    hostfile,
    leave,
    library,
    paths,
    services,
    settings,
    sockets,
    stats,
    switch,
    systemd,
    wrapping,
)
from .errors import FleetError

# A start is believed when the workers have their slots, and not before a program that cannot live with the library has
# had the time to die of it; workers come up within moments.
STEADY_S, START_S = 2, 10
SO_DETACH_REUSEPORT_BPF = 68    # include/uapi/asm-generic/socket.h
CLOCK_BOOTTIME = 7      # include/uapi/linux/time.h; Python has it by name since 3.7


def each(service, function):
    """Call function(name) for a service; for `all`, for every wrapped one, and the failure of one does not keep the
    others from their turn. Return one result."""
    if service != "all":
        return function(service)
    results, failed = {}, []
    for name in wrapping.wrapped_services():
        try:
            results[name] = function(name)
        except FleetError as error:
            failed.append(str(error))
    if failed:
        raise FleetError("; ".join(failed), services=results)
    merged = {"changed": any(one["changed"] for one in results.values()), "services": results}
    for key in ("changes", "warnings"):
        merged[key] = [row for one in results.values() for row in one[key]]
    return merged


def running_with(service, properties, path=None):
    """Is the main process running with the library; given its `path`, with the file this is today, and started since
    our files last changed? Its environment cannot tell: nginx writes its title over it."""
    pid = int(properties["MainPID"] or 0)
    mapped = library.mapped_into(pid) if pid else set()
    if path is None or not mapped:
        return bool(mapped)
    written = [os.stat(name).st_mtime for name in wrapping.read_at_start(service) if os.path.exists(name)]
    return os.path.realpath(path) in mapped and started(pid) > max(written or [0])


def started(pid):
    """Return when a process started, in seconds of the wall clock (proc(5): stat, field 22; 10 ms fine). Not by
    /proc/uptime: in a container that may be the container's (lxcfs), and field 22 is not."""
    ticks = int(hostfile.read("/proc/%d/stat" % pid).rpartition(")")[2].split()[19])
    return time.time() - time.clock_gettime(CLOCK_BOOTTIME) + ticks / float(os.sysconf("SC_CLK_TCK"))


def slot_cookies(name):
    found = stats.read(name)
    return [row["cookie"] for row in found["slots"]] if found else []


def live_workers(name):
    """Slots whose owner is a live process."""
    found = stats.read(name)
    return [row for row in found["slots"] if row["state"] != "orphan"] if found else []


def verify_start(service):
    """Wait until the service runs steadily with the library and its workers have their slots. Return warnings.
    FleetError with the journal when it does not run, ends and is started again by systemd, or runs without the
    library."""
    unit, begun, main = services.unit_of(service), time.time(), 0
    while True:
        properties = systemd.show(unit)
        ran, pid = time.time() - begun, int(properties["MainPID"] or 0)
        main = main or pid
        if int(properties["NRestarts"] or 0) or pid not in (0, main):   # systemd counts since 235
            raise FleetError("%s ended soon after its start with the library, and systemd started it again | %s"
                             % (unit, systemd.journal(unit)))
        mapped, active = running_with(service, properties), properties["ActiveState"] == "active"
        serving = active and mapped and live_workers(services.name_of(service))
        if properties["ActiveState"] == "failed" or ran > START_S or (serving and ran > STEADY_S):
            break
        time.sleep(0.1)
    if serving:
        return []
    if mapped and active:
        return ["%s runs with the library, but no worker took a slot, so it works as without: workers must be pinned "
                "to one CPU each (setting pin does it) and wait with epoll" % unit]
    raise FleetError("%s is %s, and %s after the start | %s" % (
        unit, properties["ActiveState"], "runs with the library" if mapped else "the library is not in it",
        systemd.journal(unit)))


def usable_cpus(properties):
    """Return the CPUs a service may use: those of its threads when it runs, else ours; without those that its unit
    leaves out (cpuset, CPUAffinity=)."""
    pid = int(properties["MainPID"] or 0)
    tids = os.listdir("/proc/%d/task" % pid) if pid and os.path.isdir("/proc/%d/task" % pid) else ["0"]
    usable = set().union(*(os.sched_getaffinity(int(tid)) for tid in tids))
    for name in ("EffectiveCPUs", "CPUAffinity"):
        allowed = cpulist.parse_list(properties[name].replace(" ", ","))
        usable = {cpu for cpu in usable if not allowed or cpu in allowed}
    return sorted(usable)


def _check_input(path, drain_seconds):
    if not re.match(r"^/([^\s:%]*/)?libfsocket\.so[^\s:%/]*\Z", path):
        # ld.so splits at blanks and colons, systemd expands %, and by its name we know it in a process.
        raise FleetError("library %s: needs an absolute path without blanks, colons or %%, its name libfsocket.so..."
                         % path)
    if drain_seconds < 1:
        raise FleetError("drain_timeout %d: needs 1 second or more" % drain_seconds)


def _check_configuration(service, properties, words, extra):
    """The service's own check, as it is and with our extra file: before any file is where the service would see it."""
    services.check_configuration(service, properties, words)
    if extra is None:
        return
    with tempfile.NamedTemporaryFile("w", prefix="fastsocket-", suffix=".cfg") as trial:
        trial.write(extra)
        trial.flush()
        services.check_configuration(service, properties, words, ["-f", trial.name])


def present(service, path, wanted_settings, restart, drain_seconds, check_mode):
    """Wrap a service. See modules/preload.py for the result."""
    wrap = wrapping.Wrap(services.name_of(service), path, settings.check(wanted_settings))
    _check_input(path, drain_seconds)
    properties = services.find(service)
    if check_mode and not os.path.exists(path):
        warnings = ["%s is not on this host yet, so it was not tested" % path]
    else:
        library.check(path)
        warnings = []
    words = services.command(service, properties, skip=(wrapping.variables_path(wrap.service),))
    configuration = services.configurations(service, words) if services.known(service).extra else ""
    value = switch.read(wrap.service) or switch.ON
    wanted, more = wrapping.files(wrap, properties, configuration, usable_cpus(properties), value)
    _check_configuration(service, properties, words, wanted.get(wrapping.extra_path(service)))
    changes = hostfile.changes_of(wanted)
    migrate = wrapping.migrate_change(True)
    changes += [migrate] if migrate else []
    if wrapping.deafens():
        more.append("net.ipv4.tcp_syncookies is 0: net.ipv4.tcp_migrate_req is left as the host has it, for there a "
                    "client that resets a half-open connection can leave the listener deaf that inherits it; with "
                    "tcp_syncookies = 1 queues move with their listener")
    stale = wrapping.read_at_start(service) & {row["path"] for row in changes}
    needed = systemd.active(properties) and bool(stale or not running_with(service, properties, path))
    result = {
        "changed": bool(changes or (needed and restart)), "changes": changes, "warnings": warnings + more,
        "restarted": bool(needed and restart), "restart_required": bool(needed and not restart), "held_sockets": 0,
        "extra_configuration": wanted.get(wrapping.extra_path(service)),
    }
    if check_mode or not result["changed"]:
        return result
    if result["restarted"]:
        handover.probe(service)
    _apply(service, changes, migrate, value, result, drain_seconds)
    return result


def _apply(service, changes, migrate, value, result, drain_seconds):
    """Write, and restart if that is due; take everything back when it fails."""
    name = services.name_of(service)
    before = [dict(change, after=change["before"]) for change in changes if change["path"] != wrapping.MIGRATE]
    new = switch.read(name) is None
    touched = False
    try:
        hostfile.write_all(change for change in changes if change["path"] != wrapping.MIGRATE)
        wrapping.migrate_apply(migrate, True)
        switch.write(name, value)
        systemd.run("systemctl", "daemon-reload")
        if result["restarted"]:
            touched = True
            done = _restart(service, drain_seconds)
            result["held_sockets"] = done["held"]
            if done["cut"]:
                result["warnings"].append("connections that were open longer than %d s ended with their process"
                                          % drain_seconds)
            result["warnings"] += verify_start(service)
    except (FleetError, OSError, ValueError) as error:
        _take_back(service, before, new, touched)
        raise FleetError("%s; %s was put back as it was" % (error, services.unit_of(service))) from error


def _restart(service, drain_seconds):
    """Restart with the sockets held; slots of a library that already runs are emptied first."""
    name = services.name_of(service)
    was = switch.read(name)
    slots = slot_cookies(name)
    if slots and was == switch.ON:
        switch.write(name, switch.OFF)
        stats.wait_off(name)
        time.sleep(leave.SETTLE_S)
    try:
        return handover.restart(service, drain_seconds, slots)
    finally:
        if was:
            switch.write(name, was)


def _take_back(service, before, new, touched):
    """It failed: stand as before, and run as before if we have touched what runs."""
    unit, name = services.unit_of(service), services.name_of(service)
    hostfile.write_all(before)
    if not wrapping.wrapped_services():
        wrapping.migrate_apply(wrapping.migrate_change(False), False)
    systemd.attempt("systemctl", "daemon-reload")
    if touched:
        systemd.attempt("systemctl", "reset-failed", unit)
        systemd.attempt("systemctl", "restart", unit)
    if new:
        _forget_run(name)


def _forget_run(name):
    for path in (switch.path_of(name), "%s/%s.stats" % (paths.RUN, name)):
        hostfile.remove(path)


def set_switch(service, value, check_mode):
    """Turn a wrapped service on or off: no restart, in force within a second."""
    name = services.name_of(service)
    now = switch.read(name)
    if not wrapping.wrapped(service) and now is None:
        services.find(service)
        if value == switch.OFF:
            return {"changed": False, "changes": [], "warnings": []}
        raise FleetError("%s is not wrapped, so there is nothing to turn on; wrap it with state present" % name)
    changes = [{"path": switch.path_of(name), "before": now, "after": value}] if now != value else []
    # At boot the switch comes back as it was left.
    wanted = {wrapping.tmpfiles_path(service): wrapping.tmpfiles(name, value)} if wrapping.wrapped(service) else {}
    boot = hostfile.changes_of(wanted)
    result = {"changed": bool(changes + boot), "changes": changes + boot, "warnings": []}
    if result["changed"] and not check_mode:
        switch.write(name, value)
        hostfile.write_all(boot)
        if value == switch.OFF:
            result["effect"] = stats.wait_off(name)
    return result


def absent(service, drain_seconds, check_mode):
    """Unwrap a service: off at once, then without the library by the service's own way to go on without loss."""
    name = services.name_of(service)
    properties = systemd.show(services.unit_of(service))
    loaded = systemd.active(properties) and bool(_pids_with_library(service))
    wanted, extra = wrapping.nothing(service), wrapping.extra_path(service)
    if os.path.exists(extra):
        # The arguments of a process that executes itself name the file for as long as it runs.
        named = systemd.active(properties) and leave.names(int(properties["MainPID"] or 0), extra)
        wanted[extra] = paths.MADE_BY if named else None
    changes = hostfile.changes_of(wanted)
    way = leave.way(service, properties) if loaded else None
    left = loaded and not way
    last = wrapping.wrapped_services() in ([], [name])
    # A process that stays preloaded may start again with its slots: it keeps the kernel's help.
    migrate = wrapping.migrate_change(False) if last and not left else None
    changes += [migrate] if migrate else []
    now = switch.read(name)
    if now is not None and not (left and now == switch.OFF):
        changes.append({"path": switch.path_of(name), "before": now, "after": switch.OFF if left else None})
    result = {"changed": bool(changes or way), "changes": changes, "warnings": [], "left_preloaded": left,
              "how": way}
    if left:
        result["warnings"].append("%s cannot go on without the library by itself: it stays loaded and off until the "
                                  "service is restarted" % name)
    if check_mode or not result["changed"]:
        return result
    if now is not None:
        switch.write(name, switch.OFF)
        result["effect"] = stats.wait_off(name)
    hostfile.write_all(change for change in changes if change["path"] in wanted)
    systemd.run("systemctl", "daemon-reload")
    if way:
        # First off, then time for the handshakes under way, then the old processes may go.
        time.sleep(leave.SETTLE_S)
        result["draining"] = leave.WAYS[way](service, drain_seconds)
        if not result["draining"]:
            _forget_choice(service)
    if not left:
        _forget_run(name)
    if last and not left:
        wrapping.migrate_apply(migrate, False)
    return result


def _forget_choice(service):
    """Take the program of a switch that was off (libfsocket/src/claim.c:mode_set) from the sockets the service goes on
    with: a listener that joins their group later is to get its share."""
    for one in handover.held_sockets(sockets.service_pids(services.unit_of(service))):
        with contextlib.suppress(OSError):     # ENOENT: there is none
            one.setsockopt(socket.SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, 0)
        one.close()


def _pids_with_library(service):
    try:
        pids = sockets.service_pids(services.unit_of(service))
    except FleetError:
        return []
    return [pid for pid in pids if library.mapped_into(pid)]
