# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that is measured of a host in one reading: wrapped services, and the kernel's own counters."""

import socket
import time

from . import hostfile, kernelstats, sampling, services, sockets, stats, wrapping
from .errors import FleetError

NETSTAT = {"Tcp": ("ActiveOpens", "PassiveOpens", "AttemptFails", "EstabResets", "CurrEstab"),
           "TcpExt": ("ListenOverflows", "ListenDrops", "TCPMigrateReqSuccess", "TCPMigrateReqFailure")}


def kernel_counters(root="/"):
    """Return counters of /proc/net/snmp and netstat (both per network namespace) by name; missing ones are left out."""
    found = {}
    for name in ("snmp", "netstat"):
        lines = (hostfile.read("%s/proc/net/%s" % (root.rstrip("/"), name)) or "").splitlines()
        for head, values in zip(lines[::2], lines[1::2]):
            row = dict(zip(head.split()[1:], values.split()[1:]))
            found.update({key: int(row[key]) for key in NETSTAT.get(head.split(":")[0], ()) if key in row})
    return found


def softnet(root="/"):
    """Return {cpu: {processed, dropped, squeezed, rps}} of /proc/net/softnet_stat (net/core/net-procfs.c); rows of
    offline CPUs are missing, the CPU's id is the 13th column since 5.10."""
    found = {}
    text = hostfile.read("%s/proc/net/softnet_stat" % root.rstrip("/")) or ""
    for index, line in enumerate(text.splitlines()):
        words = [int(word, 16) for word in line.split()]
        found[str(words[12] if len(words) > 12 else index)] = {
            "processed": words[0], "dropped": words[1], "squeezed": words[2],
            "rps": words[9] if len(words) > 9 else None}
    return found


def sample(service, seconds):
    """Read the locality of a service's live sockets from outside for `seconds`; see sampling.sample()."""
    found = sampling.sample(sockets.service_pids(services.unit_of(service)), seconds)
    for kind in ("passive", "active"):
        part = found[kind]
        part["share"] = stats.share(part["local"], part["sampled"] - part["local"])
    return found


def answering(service):
    """Return what of a service's listeners does not answer a connection from the host itself."""
    return [row for row in sockets.listeners(sockets.service_pids(services.unit_of(service))) if not _answers(row)]


def _answers(row):
    any_of = {"0.0.0.0": "127.0.0.1", "::": "::1"}
    try:
        socket.create_connection((any_of.get(row["address"], row["address"]), row["port"]), 5).close()
        return True
    except OSError:
        return False


def gather(names, seconds=0, sampled=False):
    """Return the reading of a host.

    `names`: services, wrapped or not; empty: all that are wrapped. `seconds`: measure a window of so long; each
    service and `kernel_stats` then have `window`, the counters that came in it, and if `sampled` a service has the
    reading from outside in `sample`."""
    names = [services.name_of(name) for name in names] or wrapping.wrapped_services()
    before = {name: stats.read(name) for name in names}
    kernel, counted = kernel_counters(), kernelstats.read()
    start = time.time()
    samples = {}
    if sampled and len(names) > 1:
        raise FleetError("one service at a time can be sampled from outside, not %s" % ", ".join(names))
    for name in names if sampled else ():
        samples[name] = sample(name, seconds)
    time.sleep(max(0, seconds - (time.time() - start)))
    result = {"services": {}, "kernel": kernel_counters(), "softnet": softnet(), "seconds": time.time() - start}
    result["kernel_window"] = {name: value - kernel.get(name, 0) for name, value in result["kernel"].items()}
    result["kernel_stats"] = kernelstats.read()
    if result["kernel_stats"] and seconds:
        cpus = kernelstats.delta(counted, result["kernel_stats"])
        result["kernel_stats"]["window"] = dict(kernelstats.summary(cpus), cpus=cpus)
    for name in names:
        found = stats.read(name)
        if found and seconds:
            cpus = stats.delta(before[name], found)
            found["window"] = dict(stats.summary(cpus), cpus=cpus)
        result["services"][name] = {
            "wrapped": wrapping.wrapped(name), "stats": found, "sample": samples.get(name)}
    return result
