# SPDX-License-Identifier: GPL-3.0-or-later
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
"""Read other processes' TCP sockets from outside: where their connections arrive, and which CPU serves them.

This is the reading of locality that does not depend on libfsocket: it works on any service, preloaded or not. It
duplicates a socket of a live process (pidfd_getfd(2), Linux 5.6, root) and asks it. /proc/net/tcp is not read: on a
host with a million sockets that does not finish.

A duplicate keeps a socket open that the service closes in the same moment, so it is held for a few system calls only,
and each socket is looked at as few times as the question allows.
"""
import ctypes
import errno
import os
import platform
import re
import socket
import struct
import subprocess
import time
from contextlib import contextmanager

from .errors import FleetError

# System call numbers: one for all architectures (arch/*/tools/syscall.tbl, include/uapi/asm-generic/unistd.h).
PIDFD_OPEN, PIDFD_GETFD = 434, 438
# What a thread sleeps in while it waits on an epoll set (argument 0): epoll_wait, epoll_pwait, epoll_pwait2.
EPOLL_CALLS = {"x86_64": ("232", "281", "441"), "aarch64": ("22", "441")}
# include/uapi/asm-generic/socket.h
SO_ACCEPTCONN, SO_PROTOCOL, SO_DOMAIN, SO_INCOMING_CPU, SO_COOKIE = 30, 38, 39, 49, 57
# struct tcp_info (include/uapi/linux/tcp.h): tcpi_state at byte 0, tcpi_unacked at 24, tcpi_sacked at 28,
# tcpi_bytes_acked at 120, tcpi_bytes_received at 128. On a listener, unacked is the length of the accept queue and
# sacked its limit (net/ipv4/tcp.c:tcp_get_info).
TCP_INFO = struct.Struct("=B23xII88xQQ")
# include/net/tcp_states.h
STATES = ("?", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSE", "CLOSE_WAIT",
          "LAST_ACK", "LISTEN", "CLOSING", "NEW_SYN_RECV")
CGROUP_MOUNTS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd")     # unified, hybrid, version 1

INTERVAL = 0.05     # s between two scans
SHARE = 10          # a scan may use one part in SHARE of a CPU: after a long one the pause is longer
EPOLL_LINE = re.compile(r"^tfd:.* ino:([0-9a-f]+)", re.MULTILINE)      # fs/eventpoll.c:ep_show_fdinfo
REASONS = {
    errno.ENOSYS: "this kernel has no pidfd_getfd, it came with Linux 5.6",
    errno.EPERM: "not permitted. It takes root with CAP_SYS_PTRACE, and a container must allow the system call "
                 "pidfd_getfd (systemd-nspawn: --system-call-filter=pidfd_getfd)",
    errno.ESRCH: "there is no such process",
    errno.ENOENT: "there is no such process",
    errno.EBADF: "it has no such file descriptor",
}
REASONS[errno.EACCES] = REASONS[errno.EPERM]
GONE = (errno.EBADF, errno.ESRCH, errno.ENOENT)     # what a socket, thread or process that ended gives

_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = [ctypes.c_long] * 4


def _call(number, first, second=0):
    result = _syscall(number, first, second, 0)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


@contextmanager
def _reading(pid):
    """Turn the system's errors into the one a person reads."""
    try:
        yield
    except EnvironmentError as exc:
        reason = REASONS.get(exc.errno, exc.strerror)
        raise FleetError("cannot read the sockets of process %d: %s" % (pid, reason), pid=pid) from exc


def _read(path):
    with open(path) as source:
        return source.read()


class Process(object):
    """A process held by its pidfd, so that its number cannot come to mean another one. Use it in a `with`.

    Raises FleetError when there is no such process or it may not be read; later, OSError as the system gives it.
    """

    def __init__(self, pid):
        self.pid = pid
        self.epolls = []        # its epoll file descriptors
        self.waiter = {}        # epoll fd -> id of the one thread that was seen waiting on it, None when several were
        self.gone = False
        with _reading(pid):
            self.pidfd = _call(PIDFD_OPEN, pid)

    def __enter__(self):
        return self

    def __exit__(self, *dummy):
        os.close(self.pidfd)

    def duplicate(self, fd):
        """A file descriptor of ours for the same open file. The caller closes it."""
        return _call(PIDFD_GETFD, self.pidfd, fd)

    def sockets(self):
        """{socket inode: fd} of all sockets of any kind. Notes the epoll sets too, and whether it has ended."""
        found, self.epolls = {}, []
        try:
            folder = os.open("/proc/%d/fd" % self.pid, os.O_RDONLY | os.O_DIRECTORY)
        except EnvironmentError as exc:
            if exc.errno not in GONE:
                raise
            self.gone = True
            return found
        try:
            for name in os.listdir(folder):
                try:
                    link = os.readlink(name, dir_fd=folder)
                except OSError:     # closed in between
                    continue
                if link.startswith("socket:["):
                    found[int(link[8:-1])] = int(name)
                elif link == "anon_inode:[eventpoll]":
                    self.epolls.append(int(name))
        finally:
            os.close(folder)
        return found

    def inspect(self, fd, inode):
        """describe() of one socket, or None when fd is no TCP socket, is closed, or has become another file."""
        try:
            copy = self.duplicate(fd)
        except OSError as exc:
            if exc.errno in GONE:
                return None
            raise
        try:
            return describe(copy) if os.fstat(copy).st_ino == inode else None
        finally:
            os.close(copy)

    def threads(self):
        """Thread ids; none when it has ended."""
        try:
            return [int(tid) for tid in os.listdir("/proc/%d/task" % self.pid)]
        except EnvironmentError:
            return []

    def learn(self):
        """See which thread sleeps in which epoll set (proc(5), task/TID/syscall). True when all sets are known."""
        calls = EPOLL_CALLS.get(platform.machine(), ())
        for tid in self.threads():
            try:
                words = _read("/proc/%d/task/%d/syscall" % (self.pid, tid)).split()
            except EnvironmentError:
                continue
            if words and words[0] in calls:
                epoll = int(words[1], 16)
                self.waiter[epoll] = tid if self.waiter.get(epoll, tid) == tid else None
        return all(epoll in self.waiter for epoll in self.epolls)

    def owners(self):
        """{socket inode: thread id} for sockets in the epoll set of exactly one known thread.

        The kernel holds the set's lock while it lists it: once a scan at most.
        """
        owner = {}
        for epoll in self.epolls:
            try:
                listing = _read("/proc/%d/fdinfo/%d" % (self.pid, epoll))
            except EnvironmentError:
                continue
            for inode in EPOLL_LINE.findall(listing):
                inode = int(inode, 16)
                owner[inode] = None if inode in owner else self.waiter.get(epoll)
        return owner

    def cpu(self, tid):
        """The CPU of a thread: the one it is pinned to, else the one it ran on last (field 39 of proc(5) stat)."""
        allowed = os.sched_getaffinity(tid)
        if len(allowed) == 1:
            return allowed.pop()
        return int(_read("/proc/%d/task/%d/stat" % (self.pid, tid)).rpartition(")")[2].split()[36])


def pidfd_getfd(pid, fd):
    """A local duplicate of file descriptor `fd` of process `pid`; the caller closes it. Raises FleetError."""
    with Process(pid) as process, _reading(pid):
        return process.duplicate(fd)


def _address(name):
    """(host, port) as [host, port]; IPv4 that arrived on an IPv6 socket is shown as IPv4."""
    host = name[0]
    return [host[7:] if host.startswith("::ffff:") and "." in host else host, name[1]]


def describe(fd):
    """What a TCP socket of ours says about itself; None when `fd` is something else.

    {domain: 2 (IPv4) or 10 (IPv6), listening, local: [host, port], peer: [host, port] or None, state: "ESTABLISHED"...,
    incoming_cpu: CPU that handled its last packet, -1 before the first, cookie: unique as long as the host runs,
    bytes_received, bytes_acked; queue and backlog: accept queue and its limit of a listener, else None}.
    On a listener incoming_cpu is what was set, else -1 (net/core/sock.c:sk_getsockopt).
    """
    # Python takes the room for an address from the family it is told (3.6 does not find out): that of IPv6 holds both.
    sock = None
    try:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM, 0, fd)
        return _facts(sock)
    except OSError as exc:
        if exc.errno == errno.ENOTSOCK:
            return None
        raise
    finally:
        if sock:
            sock.detach()


def _facts(sock):
    def ask(option):
        return sock.getsockopt(socket.SOL_SOCKET, option)

    domain = ask(SO_DOMAIN)
    if domain not in (socket.AF_INET, socket.AF_INET6) or ask(SO_PROTOCOL) != socket.IPPROTO_TCP:
        return None
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO.size)
    state, unacked, sacked, acked, received = TCP_INFO.unpack(info)
    listening = bool(ask(SO_ACCEPTCONN))
    try:
        peer = _address(sock.getpeername())
    except OSError:     # ENOTCONN
        peer = None
    return {
        "domain": domain, "listening": listening, "state": STATES[state] if state < len(STATES) else "?",
        "local": _address(sock.getsockname()), "peer": peer, "incoming_cpu": ask(SO_INCOMING_CPU),
        "cookie": struct.unpack("=Q", sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8))[0],
        "bytes_received": received, "bytes_acked": acked,
        "queue": unacked if listening else None, "backlog": sacked if listening else None,
    }


def tcp_fds(pid):
    """All TCP sockets of a process: describe() of each, with `fd` (its number there) and `inode`. Raises FleetError."""
    with Process(pid) as process, _reading(pid):
        table = sorted((fd, inode) for inode, fd in process.sockets().items())
        found = [(process.inspect(fd, inode), fd, inode) for fd, inode in table]
    return [dict(info, fd=fd, inode=inode) for info, fd, inode in found if info]


def _each(pids):
    """Process for each pid that still runs. Raises FleetError when none does, or one may not be read."""
    processes, missing = [], None
    for pid in pids:
        try:
            processes.append(Process(pid))
        except FleetError as exc:
            if os.path.exists("/proc/%d" % pid):
                raise
            missing = exc
    if not processes:
        raise missing or FleetError("no process was given to read sockets of")
    return processes


def listeners(pids):
    """The listening TCP sockets of a set of processes, each once, in order of port and cookie.

    [{address, port, domain, queue, backlog, incoming_cpu, cookie, pids: [...]}]. Processes that end meanwhile are left
    out. Raises FleetError when none of them runs or one may not be read.
    """
    found = {}
    for process in _each(pids):
        with process, _reading(process.pid):
            for inode, fd in process.sockets().items():
                info = process.inspect(fd, inode)
                if info and info["listening"]:
                    entry = found.setdefault(info["cookie"], dict(
                        {name: info[name] for name in ("domain", "queue", "backlog", "incoming_cpu", "cookie")},
                        address=info["local"][0], port=info["local"][1], pids=[]))
                    entry["pids"].append(process.pid)
    return sorted(found.values(), key=lambda entry: (entry["port"], entry["cookie"]))


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
            with _reading(process.pid):
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
    passive_arrived, active_arrived: by CPU of arrival}}, unowned, scans}. Raises FleetError as listeners() does.
    """
    end = time.monotonic() + seconds
    listening = {entry["port"] for entry in listeners(pids)}
    processes = _each(pids)
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


def service_pids(unit):
    """Process ids of a systemd unit, in order, from its control group and those below it.

    Raises FleetError when systemd is not there, does not know the unit, or the unit has no process.
    """
    command = ["systemctl", "show", "-p", "LoadState,ActiveState,ControlGroup", "--", unit]
    try:
        asked = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
        out, err = asked.communicate()
        problem = (err.strip() or "it failed").splitlines()[0] if asked.returncode else None
    except EnvironmentError as exc:
        problem = exc.strerror
    if problem:
        raise FleetError("cannot ask systemd about %s: systemctl: %s" % (unit, problem), unit=unit)
    facts = dict(line.partition("=")[::2] for line in out.splitlines())
    if facts.get("LoadState") == "not-found":
        raise FleetError("systemd knows no unit %s: name one that `systemctl list-units` shows" % unit, unit=unit)
    pids = cgroup_pids(facts["ControlGroup"]) if facts.get("ControlGroup") else []
    if not pids:
        raise FleetError("unit %s has no process: it is %s" % (unit, facts.get("ActiveState", "unknown")), unit=unit)
    return pids


def cgroup_pids(path):
    """Process ids in the control group `path` (as /system.slice/x.service) and all below it, in order."""
    for mount in CGROUP_MOUNTS:
        pids = set()
        for folder, dummy, names in os.walk(mount + path):
            if "cgroup.procs" in names:
                try:
                    pids.update(int(pid) for pid in _read(os.path.join(folder, "cgroup.procs")).split())
                except EnvironmentError:    # the group ended, or is a threaded one
                    continue
        pids.discard(0)     # a process of another pid namespace
        if pids:
            return sorted(pids)
    return []
