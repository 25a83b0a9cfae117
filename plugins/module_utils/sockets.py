# SPDX-License-Identifier: GPL-3.0-or-later
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
"""Read other processes' TCP sockets from outside: what each says of itself, and which thread serves it.

A socket of a live process is duplicated (pidfd_getfd(2), Linux 5.6, root) and asked. /proc/net/tcp is not read: on a
host with a million sockets that does not finish. A duplicate keeps a socket open that the service closes in the same
moment, so it is held for a few system calls only.
"""
import ctypes
import errno
import os
import platform
import re
import socket
import struct
import subprocess
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
def reading(pid):
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
        with reading(pid):
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
    with Process(pid) as process, reading(pid):
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
    with Process(pid) as process, reading(pid):
        table = sorted((fd, inode) for inode, fd in process.sockets().items())
        found = [(process.inspect(fd, inode), fd, inode) for fd, inode in table]
    return [dict(info, fd=fd, inode=inode) for info, fd, inode in found if info]


def processes_of(pids):
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
    for process in processes_of(pids):
        with process, reading(process.pid):
            for inode, fd in process.sockets().items():
                info = process.inspect(fd, inode)
                if info and info["listening"]:
                    entry = found.setdefault(info["cookie"], dict(
                        {name: info[name] for name in ("domain", "queue", "backlog", "incoming_cpu", "cookie")},
                        address=info["local"][0], port=info["local"][1], pids=[]))
                    entry["pids"].append(process.pid)
    return sorted(found.values(), key=lambda entry: (entry["port"], entry["cookie"]))


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
