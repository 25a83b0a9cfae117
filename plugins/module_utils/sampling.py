# SPDX-License-Identifier: GPL-3.0-or-later
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
"""Are live connections served on the CPU they arrive at?

This is the reading of locality that does not depend on libfsocket: it works on any service, preloaded or not. Sockets
are read as sockets.py does it, and each is looked at as few times as the question allows.
"""
import os
import time

from . import sockets

INTERVAL = 0.05     # s between two scans
SHARE = 10          # a scan may use one part in SHARE of a CPU: after a long one the pause is longer


def _direction(info, listening, wanted):
    """What a socket tells: "passive", "active", "wait" (look again later) or None (nothing, for good)."""
    if info["state"] == "SYN_SENT":
        return "wait"
    if info["state"] != "ESTABLISHED":
        return None
    port = info["local"][1]
    if port in listening:
        # Only the handshake has arrived: with RFS on, later packets are moved to the CPU of the reader.
        untouched = not info["bytes_received"] and not info["bytes_acked"]
        return "passive" if port in wanted and untouched else None
    if info["peer"] is None or info["peer"][0].startswith("127.") or info["peer"][0] == "::1":
        return None
    return "active" if info["bytes_received"] else "wait"


class _Sampler(object):
    """The state of one sample(): what was looked at, and the counts."""

    def __init__(self, processes, listening, wanted):
        self.processes, self.listening, self.wanted = processes, listening, wanted
        self.done = {process: set() for process in processes}      # inodes that have told what they can
        self.again = set()      # inodes to look at again
        self.unowned = set()
        self.counts = {name: {"sampled": 0, "local": 0} for name in ("passive", "active")}
        self.by_cpu = {}

    def look(self, process, budget):
        """Inspect up to `budget` sockets of one process, unseen ones first: [(inode, info, thread id or None)]."""
        table = process.sockets()
        done = self.done[process]
        done.intersection_update(table)
        fresh = [inode for inode in table if inode not in done]
        if not fresh:
            return []
        fresh.sort(key=self.again.__contains__)
        threads = process.threads()
        owners = {}
        if len(threads) > 1:
            if not all(epoll in process.waiter for epoll in process.epolls):
                process.learn()
            owners = process.owners()
        seen = []
        for inode in fresh[:budget]:
            info = process.inspect(table[inode], inode)
            if info is None:
                done.add(inode)
            else:
                seen.append((inode, info, owners.get(inode) if len(threads) != 1 else threads[0]))
        return seen

    def scan(self, budget):
        """One pass over all processes, `budget` sockets at most. Processes that have ended are dropped."""
        seen = []
        self.processes = [process for process in self.processes if not process.gone]
        for process in self.processes:
            with sockets.reading(process.pid):
                seen += [(process,) + one for one in self.look(process, max(0, budget - len(seen)))]
        self.listening.update(info["local"][1] for dummy, dummy, info, dummy in seen if info["listening"])
        cpus = {}
        for process, inode, info, tid in seen:
            direction = _direction(info, self.listening, self.wanted or self.listening)
            if direction in self.counts and info["incoming_cpu"] >= 0:
                if tid not in cpus:
                    cpus[tid] = self.cpu(process, tid)
                if cpus[tid] is None:
                    self.unowned.add(inode)
                    direction = "wait"
                else:
                    self.unowned.discard(inode)
                    self.count(direction, info["incoming_cpu"], cpus[tid])
            (self.again if direction == "wait" else self.done[process]).add(inode)

    @staticmethod
    def cpu(process, tid):
        try:
            return process.cpu(tid) if tid else None
        except EnvironmentError:    # the thread has ended
            return None

    def count(self, direction, arrived, cpu):
        self.counts[direction]["sampled"] += 1
        self.counts[direction]["local"] += arrived == cpu
        for name, where in ((direction, cpu), (direction + "_arrived", arrived)):
            row = self.by_cpu.setdefault(str(where), dict.fromkeys(
                ("passive", "active", "passive_arrived", "active_arrived"), 0))
            row[name] += 1


def sample(pids, seconds, server_ports=None, max_rate=2000):
    """For `seconds`, look at the live connections of the processes; count how many are served where they arrive.

    A connection is local when the CPU of its last packet (SO_INCOMING_CPU) is the CPU of the thread that owns it. Each
    is counted once:
      passive  accepted: on a port the processes listen on, and only the handshake has arrived;
      active   opened by them: any other port, peer not loopback, data has arrived.
    The owner is the process, if it has one thread; else the thread that waits on the epoll set the socket is in.
    `unowned` are those with no such thread, or a set that several threads share; they are not counted.

    `server_ports` narrows passive to these ports (default: all they listen on). `max_rate` bounds the sockets inspected
    a second; scans come every 50 ms, or rarer where they would use more than a tenth of a CPU.
    Returns {passive: {sampled, local}, active: {...}, by_cpu: {"0": {passive, active: counts by owner's CPU,
    passive_arrived, active_arrived: by CPU of arrival}}, unowned, scans}. Raises FleetError as
    sockets.listeners() does.
    """
    end = time.monotonic() + seconds
    listening = {entry["port"] for entry in sockets.listeners(pids)}
    processes = sockets.processes_of(pids)
    sampler = _Sampler(processes, listening, set(server_ports or ()))
    scans = 0
    try:
        for process in processes:       # threads under load sleep seldom: give each a few chances to be seen
            for dummy in range(20):
                process.sockets()
                if len(process.threads()) < 2 or process.learn():
                    break
                time.sleep(0.002)
        while True:
            begun = time.monotonic()
            sampler.scan(max(1, int(max_rate * INTERVAL)))
            scans += 1
            now = time.monotonic()
            pause = max(INTERVAL, (SHARE - 1) * (now - begun))
            if now + pause >= end or not sampler.processes:
                break
            time.sleep(pause)
    finally:
        for process in processes:
            os.close(process.pidfd)
    return dict(sampler.counts, by_cpu=sampler.by_cpu, unowned=len(sampler.unowned), scans=scans)
