# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""A restart without loss: the sockets of a stock nginx are held, offered and taken over by a preloaded one."""
import contextlib
import ctypes
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time

import lab
from lab import Load, Nginx

HOST = "127.0.0.1"
SO_COOKIE = 57
PIDFD_OPEN, PIDFD_GETFD = 434, 438
libc = ctypes.CDLL(None, use_errno=True)


def cookie(s):
    return struct.unpack("Q", s.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8))[0]


def sockets_of(pid):
    """The listening TCP sockets of a process, as descriptors of ours."""
    pidfd, found = libc.syscall(PIDFD_OPEN, pid, 0), []
    assert pidfd >= 0
    for number in map(int, os.listdir(f"/proc/{pid}/fd")):
        # One that has gone since is no descriptor of ours.
        fd = libc.syscall(PIDFD_GETFD, pidfd, number, 0)
        if fd < 0:
            continue
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            os.close(fd)
            continue
        s = socket.socket(fileno=fd)
        if s.family in (socket.AF_INET, socket.AF_INET6) and s.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            found.append(s)
        else:
            s.close()
    os.close(pidfd)
    return found


@contextlib.contextmanager
def offer(name, held):
    """Offer sockets at DIR/NAME.handover to whoever connects, as fsocket_abi.h says."""
    lab.DIR.mkdir(exist_ok=True)
    path = lab.DIR / f"{name}.handover"
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server.bind(str(path))
    server.listen()
    taken = []

    def serve():
        with contextlib.suppress(OSError):
            while True:
                with server.accept()[0] as s:
                    for one in held:
                        socket.send_fds(s, [b"x"], [one.fileno()])
                    taken.append(True)
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield taken
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        path.unlink()
        thread.join(5)


def test_handover():
    """a preloaded nginx takes the stock one's socket over: same cookie, none failed under load, local"""
    with Nginx("old", 8120) as old:
        held = sockets_of(old.process.pid)
        assert len(held) == 1
        mine = cookie(held[0])
        load = Load(HOST, 8120)
        with offer("new", held) as taken:
            time.sleep(0.3)
            old.stop(signal.SIGQUIT)
            time.sleep(0.3)
            with Nginx("new", 8120, env=lab.environment("new")) as new:
                held.pop().close()
                time.sleep(0.5)
                failed, answers = load.end()
                assert taken and not failed and len(answers) > 50, f"{failed} of {len(answers)}"
                theirs = [cookie(s) for s in sockets_of(new.process.pid)]
                assert mine in theirs, f"{mine} not in {theirs}"
                (row,) = new.stats.read()["listeners"]
                assert row["cookie"] == mine and row["sole"] == 1, row
                before = new.stats.total()["accepts_remote"]
                answers = lab.ask(HOST, 8120, 200)
                cpus = new.workers()
                assert all(cpus[int(pid)] == cpu for cpu, pid, _ in answers)
                assert new.stats.total()["accepts_remote"] == before and not new.stats.errors(), new.stats.read()
                new.reload()
                lab.ask(HOST, 8120, 50)


SETS = """
import socket, struct, sys
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 3)
s.bind(("127.0.0.1", 8124))
s.listen(100)
print(*struct.unpack("Q", s.getsockopt(socket.SOL_SOCKET, 57, 8)),
      *(s.getsockopt(*map(int, pair.split(","))) for pair in sys.argv[1:]))
"""


def test_options():
    """what the new configuration sets before bind() counts, and what it does not set any more does not"""
    tcp = socket.IPPROTO_TCP
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE), (tcp, socket.TCP_DEFER_ACCEPT), (tcp, socket.TCP_USER_TIMEOUT)]
    with socket.socket() as old:
        old.setsockopt(tcp, socket.TCP_USER_TIMEOUT, 4000)
        old.bind((HOST, 8124))
        old.listen(100)
        with offer("setter", [old]) as taken:
            out = lab.run(sys.executable, "-c", SETS, *(f"{level},{name}" for level, name in options),
                          env=lab.environment("setter"))
        theirs, keepalive, defer, timeout = map(int, out.stdout.split())
        assert taken and theirs == cookie(old), "it has not taken the socket over"
        assert keepalive == 1 and defer >= 3 and timeout == 0, out.stdout


def test_offered_and_not_wanted():
    """sockets that the new configuration does not name are closed, nothing else listens there any more"""
    with Nginx("dropped", 8121) as old:
        held = sockets_of(old.process.pid)
        with offer("other", held) as taken:
            old.stop(signal.SIGQUIT)
            with Nginx("other", 8122, env=lab.environment("other")) as new:
                for s in held:
                    s.close()
                assert taken
                lab.wait_for("8121 to be closed", lambda: not lab.answers_at(HOST, 8121), 5)
                lab.ask(HOST, 8122, 50)
                assert new.process.poll() is None


def test_nobody_offers():
    """a stale handover path is no obstacle"""
    lab.DIR.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
        s.bind(str(lab.DIR / "stale.handover"))
    with Nginx("stale", 8123, env=lab.environment("stale")):
        lab.ask(HOST, 8123, 50)


@contextlib.contextmanager
def silent(name, full):
    """A holder that never answers; full: who connects finds no room in its backlog either."""
    path = lab.DIR / f"{name}.handover"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s, contextlib.ExitStack() as stack:
        s.bind(str(path))
        s.listen(0)
        if full:
            stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)).connect(str(path))
        yield
    path.unlink()


def test_silent():
    """a holder that is stopped keeps no service from its start: it binds by itself"""
    lab.DIR.mkdir(exist_ok=True)
    for number, full in enumerate((False, True)):
        name = f"silent{number}"
        with silent(name, full):
            started = subprocess.Popen([sys.executable, "-c", SETS.replace("8124", str(8125 + number))],
                                       env=lab.environment(name), stdout=subprocess.PIPE)
            try:
                assert started.communicate(timeout=lab.PATIENCE_S)[0] and not started.returncode
            finally:
                started.kill()
