# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sockets that are held over a restart, with real sockets and the real library as the one who asks for them."""

import array
import os
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack

import native
import pytest

from ansible_collections.fastsocket.fleet.plugins.module_utils import handover, sockets, stats

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="reading another process's sockets takes root")
LISTENERS = """
import socket, time
servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
servers += [socket.create_server(("::1", 0), family=socket.AF_INET6)]
servers.append(servers[0].dup())
others = socket.create_connection(servers[0].getsockname()), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
print(*[server.getsockname()[1] for server in servers[:3]], flush=True)
time.sleep(60)"""


def listening(count):
    return [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]


def asked(path):
    """What a process gets that asks: the sockets in their order. It gets each in a message of its own, then the end."""
    found = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        peer.settimeout(5)
        peer.connect(path)
        while True:
            data, control, *_ = peer.recvmsg(1, socket.CMSG_SPACE(8))
            if not data:
                return found
            rights, = control
            assert data == b"L" and rights[:2] == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
            found.append(socket.socket(fileno=array.array("i", rights[2])[0]))


def test_each_socket_once_to_whoever_asks(tmp_path):
    folder, held = tmp_path / "run", listening(3)
    names = [one.getsockname() for one in held]
    path = str(folder / "web.handover")
    with handover.offered("web", held, str(folder)), ExitStack() as stack:
        assert os.stat(path).st_mode & 0o777 == 0o600 and os.listdir(folder) == ["web.handover"]
        for _ in range(2):
            found = [stack.enter_context(one) for one in asked(path)]
            assert [one.getsockname() for one in found] == names
            assert all(one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) for one in found)
    assert os.listdir(folder) == [] and [one.fileno() for one in held] == [-1] * 3


def test_without_sockets(tmp_path):
    with handover.offered("web", [], str(tmp_path)):
        assert asked(str(tmp_path / "web.handover")) == []


def test_one_who_leaves_early_harms_nobody(tmp_path):
    """A configuration check binds and ends, too."""
    held, path = listening(40), str(tmp_path / "web.handover")
    with handover.offered("web", held, str(tmp_path)):
        for _ in range(5):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
                peer.connect(path)
        found = asked(path)
        assert len(found) == 40
        for one in found:
            one.close()


def test_it_ends_whatever_happens_inside(tmp_path):
    held = listening(1)
    (tmp_path / "web.handover").write_text("left by a run that was killed")
    before, mask = threading.active_count(), os.umask(0o022)
    with pytest.raises(RuntimeError), handover.offered("web", held, str(tmp_path)):
        raise RuntimeError
    assert os.listdir(tmp_path) == [] and held[0].fileno() == -1 and threading.active_count() == before
    assert os.umask(mask) == 0o022


@needs_root
def test_held_sockets():
    """Every listening TCP socket once, but for those of the slots."""
    with subprocess.Popen([sys.executable, "-c", LISTENERS], stdout=subprocess.PIPE, text=True) as process:
        try:
            ports = set(map(int, process.stdout.readline().split()))
            held = handover.held_sockets([process.pid, process.pid])
            assert len(held) == 3 and {one.getsockname()[1] for one in held} == ports
            assert sorted(one.family for one in held) == [socket.AF_INET] * 2 + [socket.AF_INET6]
            slot = next(row for row in sockets.tcp_fds(process.pid) if row["listening"])
            less = handover.held_sockets([process.pid], [slot["cookie"]])
            assert {one.getsockname()[1] for one in less} == ports - {slot["local"][1]}
        finally:
            process.kill()
    with socket.create_connection(held[0].getsockname()[:2], 5):  # still open, though their owner is gone
        pass
    for one in held + less:
        one.close()


@needs_root
def test_a_restart_with_a_new_port(tmp_path):
    """The row of a socket that was handed over is not given away to the next one, though who made it is dead."""
    folder = str(tmp_path)
    with native.server(folder) as (old, port):
        held = handover.held_sockets([old.pid], [row["cookie"] for row in stats.read("web", folder)["slots"]])
    with handover.offered("web", held, folder), native.server(folder, port=port, more=True):
        found = stats.read("web", folder)
        assert len(found["listeners"]) == 2 and port in [row["port"] for row in found["listeners"]]
        assert {row["listener"] for row in found["slots"]} <= {row["cookie"] for row in found["listeners"]}


@needs_root
def test_a_restart_with_the_library(tmp_path):
    """The next server gets the very socket of the last one, with the connections that came in between."""
    cpu, folder = native.CPUS[0], str(tmp_path)
    with native.server(folder, cpu) as (old, port):
        native.connect(port, cpu)
        slots = [row["cookie"] for row in stats.read("web", folder)["slots"]]
        assert len(slots) == 1
        held = handover.held_sockets([old.pid], slots)
        assert [one.getsockname()[1] for one in held] == [port]
    cookie = sockets.describe(held[0].fileno())["cookie"]
    assert cookie not in slots
    waiting = socket.create_connection(("127.0.0.1", port), 5)
    waiting.settimeout(5)
    with handover.offered("web", held, folder), native.server(folder, cpu, port) as (new, _):
        assert waiting.recv(1) == b""  # accepted, and closed as this server does
        row, = stats.read("web", folder)["listeners"]
        assert (row["cookie"], row["pid"], row["port"], row["sole"]) == (cookie, new.pid, port, True)
        found = [entry for entry in sockets.listeners([new.pid]) if entry["cookie"] == cookie]
        assert len(found) == 1
        before = stats.read("web", folder)  # `waiting` came from any CPU
        native.connect(port, cpu, 3)
        window = stats.summary(stats.delta(before, stats.read("web", folder)))
        assert (window["accepts"], window["accept_local"]) == (3, 1)
    waiting.close()
