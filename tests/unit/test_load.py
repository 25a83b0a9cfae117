# SPDX-License-Identifier: GPL-3.0-or-later
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
"""The load generator against a small real server that misbehaves on purpose. What it counts must be what happened."""

import json
import os
import signal
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

LOAD = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lab", "load.py")
BODY = b"x" * 100
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\nConnection: close\r\n\r\n" + BODY


def good(conn):
    conn.sendall(GOOD)


def in_pieces(conn):
    for at in range(0, len(GOOD), 40):
        conn.sendall(GOOD[at:at + 40])
        time.sleep(0.01)


def reset(conn):
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def short(conn):
    conn.sendall(GOOD[:-1])


def empty(conn):
    pass


def busy(conn):
    conn.sendall(GOOD.replace(b"200 OK", b"503 Busy"))


def long(conn):
    conn.sendall(GOOD + b"y")


def garbage(conn):
    conn.sendall(b"hello\r\n\r\n")


def silent(conn):
    conn.settimeout(30)
    conn.recv(1)  # until the client gives up


class Server(threading.Thread):
    """Answers request number n with behave(n); number 0 is the one that asks whether the server is ready."""

    def __init__(self, behave=lambda n: good):
        super().__init__(daemon=True)
        self.behave, self.answered, self.slow, self.silence = behave, 0, 0, []
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=200)
        self.port = self.listener.getsockname()[1]
        self.start()

    def run(self):
        while True:
            try:
                conn = self.listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=self.serve, args=(conn, time.monotonic()), daemon=True).start()

    def serve(self, conn, accepted):
        with conn:
            try:
                request = conn.recv(1000)
                with self.lock:
                    if request.startswith(b"GET /slow "):
                        number, self.slow = self.slow, self.slow + 1
                        self.silence.append(time.monotonic() - accepted)
                    else:
                        number, self.answered = self.answered, self.answered + 1
                self.behave(number)(conn)
            except OSError:
                pass

    def stop(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


@contextmanager
def load(*args):
    with subprocess.Popen([sys.executable, LOAD, *map(str, args)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert json.loads(process.stdout.readline())["ready"] is True
            yield process
        finally:
            process.kill()


def lines_of(process):
    lines = [json.loads(line) for line in process.stdout.read().splitlines()]
    assert process.wait() == 0 and lines[-1].pop("final") is True
    for name, total in lines[-1]["targets"].items():  # the seconds add up to the total
        for key in ("started", "ok", "failed", "probes", "probe_failed"):
            assert sum(line[key] for line in lines[:-1] if line["target"] == name) == total[key], key
        assert total["started"] == total["ok"] + total["failed"]
        assert total["failed"] == sum(total["kinds"].values())
    return lines


def run(server, *args, rate=50, duration=1):
    command = ("--target", f"a=127.0.0.1:{server.port}", "--rate", rate, "--duration", duration, *args)
    with load(*command) as process:
        return lines_of(process)[-1]


def nonzero(kinds):
    return {kind: count for kind, count in kinds.items() if count}


@pytest.mark.parametrize("procs", [1, 2])
def test_all_good(procs):
    servers = [Server(), Server(lambda n: in_pieces)]
    targets = [arg for name, server in zip("ab", servers, strict=True)
               for arg in ("--target", f"{name}=127.0.0.1:{server.port}")]  # fmt: skip
    begun = time.monotonic()
    with load(*targets, "--rate", 40, "--duration", 2, "--procs", procs) as process:
        lines = lines_of(process)
    assert 2 <= time.monotonic() - begun < 4
    assert {line["target"] for line in lines[:-1]} == {"a", "b"} and len(lines) in (5, 7)  # 2 s, and what was in flight
    for server, total in zip(servers, lines[-1]["targets"].values(), strict=True):
        assert total["ok"] == server.answered - 1 and 78 <= total["ok"] <= 82
        assert total["failed"] == total["slow_connect"] == total["no_port"] == total["skipped"] == total["probes"] == 0
        assert 0 < total["latency_ms"]["p50"] <= total["latency_ms"]["p99"] <= total["latency_ms"]["max"] < 2000
    assert lines[-1]["ok"] == sum(server.answered - 1 for server in servers)
    assert lines[-1]["targets"]["b"]["latency_ms"]["p50"] > 30 > lines[-1]["targets"]["a"]["latency_ms"]["p50"]


@pytest.mark.parametrize(("behaviour", "kind"), [
    (reset, "reset"), (short, "short"), (empty, "short"), (busy, "status"), (garbage, "status"), (long, "other"),
])  # fmt: skip
def test_failures_by_kind(behaviour, kind):
    """Every third request goes wrong; each is counted once, none is tried again."""
    server = Server(lambda n: good if n % 3 else behaviour if n else good)
    total = run(server)
    bad = (server.answered - 1) // 3
    assert bad > 10 and nonzero(total["kinds"]) == {kind: bad}
    assert total["started"] == server.answered - 1 and total["ok"] == total["started"] - bad


def test_timeouts():
    server = Server(lambda n: silent if n and n % 5 == 0 else good)
    begun = time.monotonic()
    total = run(server, "--timeout", 0.5)
    assert nonzero(total["kinds"]) == {"timeout": (server.answered - 1) // 5}
    assert total["latency_ms"]["max"] < 500  # latency is that of answered requests
    assert time.monotonic() - begun < 3


def test_refused():
    server = Server()
    with load("--target", f"a=127.0.0.1:{server.port}", "--rate", 50, "--duration", 2) as process:
        time.sleep(1)
        server.stop()
        lines = lines_of(process)
    total = lines[-1]
    assert set(nonzero(total["kinds"])) <= {"refused", "reset"} and total["kinds"]["refused"] > 30
    assert total["ok"] == server.answered - 1 > 30


def test_lost_syn_is_shown():
    """The accept queue is full for a second: SYNs are dropped, repeated, and the requests succeed late."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1)

    def serve():
        paused = False
        while True:
            conn = listener.accept()[0]
            with conn:
                conn.recv(1000)
                conn.sendall(GOOD)
            if not paused:
                time.sleep(1)
                paused = True

    threading.Thread(target=serve, daemon=True).start()
    with load("--target", f"a=127.0.0.1:{listener.getsockname()[1]}", "--rate", 20, "--duration", 1) as process:
        total = lines_of(process)[-1]
    assert total["failed"] == 0 and total["slow_connect"] > 5 and total["connect_ms_max"] > 900
    listener.close()


def test_probes_are_switched_by_file(tmp_path):
    """They come and go with the file, are silent at first, and their failures are counted apart."""
    server = Server(lambda n: in_pieces)
    control = tmp_path / "probes"
    command = ("--target", f"a=127.0.0.1:{server.port}", "--rate", 20, "--duration", 10,
               "--probe-rate", 20, "--probe-control", control)  # fmt: skip
    with load(*command) as process:
        time.sleep(1)
        assert server.slow == 0
        control.write_text("1\n")
        time.sleep(1.5)
        control.write_text("0\n")
        time.sleep(0.8)
        good_ones = server.slow
        assert 15 < good_ones < 40
        server.behave = lambda n: reset
        control.write_text("1")
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        total = lines_of(process)[-1]
    assert total["probes"] == server.slow > good_ones and total["probe_ok"] == good_ones
    assert nonzero(total["probe_kinds"]) == {"reset": server.slow - good_ones}
    assert total["probe_failed"] == server.slow - good_ones
    # Measured from the server's accept, which on a busy machine comes some time after the connect.
    assert statistics.median(server.silence) > 0.24 and max(server.silence) < 2


def test_term_waits_for_those_in_flight():
    def late(conn):
        time.sleep(0.5)
        conn.sendall(GOOD)

    server = Server(lambda n: late if n else good)
    with load("--target", f"a=127.0.0.1:{server.port}", "--rate", 100) as process:
        time.sleep(1)
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        total = lines_of(process)[-1]
        assert 0.3 < time.monotonic() - begun < 2
    assert total["failed"] == 0 and total["ok"] == server.answered - 1


def test_falling_behind_is_said():
    server = Server()
    with load("--target", f"a=127.0.0.1:{server.port}", "--rate", 100, "--duration", 3) as process:
        time.sleep(0.5)
        process.send_signal(signal.SIGSTOP)
        time.sleep(1)
        process.send_signal(signal.SIGCONT)
        total = lines_of(process)[-1]
    assert 0.9 < total["behind_s"] < 1.5 and 60 < total["skipped"] < 110
    assert total["started"] + total["skipped"] == pytest.approx(300, abs=3) and total["failed"] == 0


@pytest.mark.parametrize(("args", "message"), [
    (["--target", "a=192.0.2.1:80"], "'a=192.0.2.1:80' is not in the lab"),
    (["--target", "a=10.100.0.1:80"], "is not in the lab"),
    (["--target", "a=localhost:80"], "'a=localhost:80' is no target"),
    (["--target", "a=127.0.0.1"], "is no target"),
    (["--target", "a=127.0.0.1:80", "--target", "a=127.0.0.2:80"], "two targets have the same name"),
    (["--target", "a=127.0.0.1:80", "--duration", "3601"], "'3601' is not a number from 0.1 to 3600"),
])  # fmt: skip
def test_bad_arguments(args, message):
    done = subprocess.run([sys.executable, LOAD, *args], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == "" and message in done.stderr
