# SPDX-License-Identifier: GPL-3.0-or-later
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
"""The independent reading, on real sockets of real nginx and HAProxy in a network namespace of the test's own."""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from ansible_collections.fastsocket.fleet.plugins.module_utils import sampling, sockets
from ansible_collections.fastsocket.fleet.plugins.module_utils.errors import FleetError

CLONE_NEWNET = 0x40000000
BACKEND = "10.99.200.1"  # an address that is not loopback, in the test's namespace only
CPUS = sorted(os.sched_getaffinity(0))[:2]

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="reading another process's sockets takes root")
needs_services = pytest.mark.skipif(
    len(CPUS) < 2 or not all(shutil.which(tool) for tool in ("nginx", "haproxy", "ip")),
    reason="needs two CPUs, nginx, haproxy and ip",
)


@pytest.fixture(scope="module")
def namespace():
    """A network namespace for this thread and its children. It ends with them, whatever happens."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    assert libc.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    try:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        subprocess.run(["ip", "address", "add", BACKEND + "/32", "dev", "lo"], check=True)
        yield
    finally:
        assert libc.setns(home, CLONE_NEWNET) == 0
        os.close(home)


@contextmanager
def running(command, ports, workers):
    """A service in the foreground, once it answers on its ports and has forked. Yields its pids, master first."""

    def answers(port):
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", port)) == 0

    def children():
        found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False)
        return [int(pid) for pid in found.stdout.split()]

    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            end = time.monotonic() + 10
            while not all(map(answers, ports)) or len(children()) != workers:
                assert process.poll() is None and time.monotonic() < end, process.stderr.read()
                time.sleep(0.02)
            yield [process.pid] + children()
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(10)


def nginx(folder, name, port, cpus, listen=""):
    """One worker for each of `cpus`, pinned there."""
    folder.joinpath("slow").write_text("x" * 8192)
    masks = " ".join("{:b}".format(1 << cpu) for cpu in cpus)
    conf = folder / (name + ".conf")
    conf.write_text(f"""
user root; daemon off; pid {folder}/{name}.pid; error_log {folder}/{name}.log;
worker_processes {len(cpus)}; worker_cpu_affinity {masks};
events {{ }}
http {{ access_log off; server {{ listen {port} {listen}; root {folder}; location = /slow {{ limit_rate 2k; }} }} }}
""")
    return running(["nginx", "-p", str(folder), "-c", str(conf), "-e", f"{folder}/{name}.log"], [port], len(cpus))


def haproxy(folder, backend_port):
    """Two threads, pinned; port 9001 belongs to the first, port 9002 to the second."""
    conf = folder / "haproxy.cfg"
    conf.write_text(f"""
global
    nbthread 2
    cpu-map auto:1/1-2 {CPUS[0]} {CPUS[1]}
    tune.listener.multi-queue off
defaults
    mode http
    timeout connect 5s
    timeout client 10s
    timeout server 10s
frontend one
    bind 127.0.0.1:9001 thread 1
    bind 127.0.0.1:9002 thread 2
    default_backend web
backend web
    http-reuse never
    server a {BACKEND}:{backend_port}
""")
    return running(["haproxy", "-db", "-f", str(conf)], [9001, 9002], 0)


@contextmanager
def clients(cpu, *ports, send=b""):
    """A connection to each port, made on one CPU: over lo a packet arrives on the CPU that sent it."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    opened = []
    try:
        for port in ports:
            opened.append(socket.create_connection(("127.0.0.1", port), 5))
            opened[-1].sendall(send)
        time.sleep(0.1)
        yield opened
    finally:
        for sock in opened:
            sock.close()
        os.sched_setaffinity(0, allowed)


@contextmanager
def child(code):
    """A Python process; yields it once it printed a line, with that line."""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.pid, process.stdout.readline().strip()
        finally:
            process.kill()


def test_describe_listener():
    with socket.create_server(("127.0.0.1", 0), backlog=7) as server:
        waiting = [socket.create_connection(server.getsockname()) for _ in range(3)]
        facts = sockets.describe(server.fileno())
        assert facts["listening"] and facts["state"] == "LISTEN" and facts["peer"] is None
        assert facts["local"] == list(server.getsockname())
        assert (facts["queue"], facts["backlog"], facts["incoming_cpu"]) == (3, 7, -1)
        server.setsockopt(socket.SOL_SOCKET, sockets.SO_INCOMING_CPU, CPUS[-1])
        assert sockets.describe(server.fileno())["incoming_cpu"] == CPUS[-1]
        for sock in waiting:
            sock.close()


def test_describe_connection():
    with socket.create_server(("127.0.0.1", 0)) as server, clients(CPUS[-1], server.getsockname()[1]) as (client,):
        accepted = server.accept()[0]
        with accepted:
            facts = sockets.describe(accepted.fileno())
            assert (facts["state"], facts["bytes_received"], facts["bytes_acked"]) == ("ESTABLISHED", 0, 0)
            assert (facts["incoming_cpu"], facts["queue"], facts["backlog"]) == (CPUS[-1], None, None)
            assert facts["peer"] == list(client.getsockname()) and facts["local"] == list(server.getsockname())
            client.sendall(b"x" * 12345)
            accepted.sendall(b"y" * 321)
            client.recv(1000)
            facts = sockets.describe(accepted.fileno())
            assert (facts["bytes_received"], facts["bytes_acked"]) == (12345, 321)
            assert facts["cookie"] != sockets.describe(client.fileno())["cookie"]
            client.close()
            assert sockets.describe(accepted.fileno())["state"] == "CLOSE_WAIT"


def test_describe_ipv6_and_mapped():
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        port = server.getsockname()[1]
        for address in ("127.0.0.1", "::1"):
            with socket.create_connection((address, port)), server.accept()[0] as accepted:
                facts = sockets.describe(accepted.fileno())
                assert facts["local"] == [address, port] and facts["peer"][0] == address and facts["domain"] == 10


def test_describe_other_files():
    reader, writer = os.pipe()
    pair = socket.socketpair()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        for fd in (reader, pair[0].fileno(), udp.fileno()):
            assert sockets.describe(fd) is None
            os.fstat(fd)  # still open
    for end in pair:
        end.close()
    os.close(reader)
    os.close(writer)
    with pytest.raises(OSError):
        sockets.describe(reader)


@needs_root
def test_pidfd_getfd():
    code = "import socket, time; s = socket.create_server(('', 0)); print(s.fileno(), flush=True); time.sleep(60)"
    with child(code) as (pid, fd):
        copy = sockets.pidfd_getfd(pid, int(fd))
        assert os.readlink(f"/proc/self/fd/{copy}") == os.readlink(f"/proc/{pid}/fd/{fd}")
        os.close(copy)
        with pytest.raises(FleetError, match=f"process {pid}: it has no such file descriptor"):
            sockets.pidfd_getfd(pid, 999)
    with pytest.raises(FleetError, match=f"process {pid}: there is no such process"):
        sockets.pidfd_getfd(pid, int(fd))


@needs_root
def test_without_rights():
    """As nobody, root's sockets are refused with the reason."""
    code = f"""
import os, sys
sys.path.insert(0, {os.path.dirname(os.path.abspath(__file__))!r})
import conftest
from ansible_collections.fastsocket.fleet.plugins.module_utils import sampling, sockets
root = os.getpid()
if not os.fork():
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    for call, args in ((sockets.pidfd_getfd, (root, 0)), (sockets.tcp_fds, (root,)), (sampling.sample, ([root], 0))):
        try:
            call(*args)
        except sockets.FleetError as exc:
            print(exc)
    os._exit(0)
os.wait()
"""
    done = subprocess.run([sys.executable, "-B", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.count("not permitted. It takes root") == 3, done.stdout + done.stderr


@needs_root
def test_tcp_fds_leaves_out_the_rest():
    code = """
import socket, time
server = socket.create_server(("127.0.0.1", 0))
other = socket.socketpair(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client = socket.create_connection(server.getsockname())
print(server.fileno(), client.fileno(), server.getsockname()[1], flush=True)
time.sleep(60)"""
    with child(code) as (pid, line):
        server, client, port = map(int, line.split())
        facts = sockets.tcp_fds(pid)
        assert [entry["fd"] for entry in facts] == [server, client]
        assert facts[0]["listening"] and facts[0]["queue"] == 1 and facts[1]["peer"] == ["127.0.0.1", port]
        assert facts[1]["inode"] == os.stat(f"/proc/{pid}/fd/{client}").st_ino


@needs_root
@needs_services
def test_listeners_are_not_counted_twice(namespace, tmp_path):
    own = nginx(tmp_path, "own", 8002, CPUS, "reuseport backlog=99")
    with nginx(tmp_path, "shared", 8001, CPUS) as one, own as two:
        found = sockets.listeners(one + two)
        assert [entry["port"] for entry in found] == [8001, 8002, 8002]
        assert [sorted(entry["pids"]) for entry in found] == [sorted(one), sorted(two), sorted(two)]
        assert len({entry["cookie"] for entry in found}) == 3
        assert [(entry["address"], entry["backlog"]) for entry in found][1:] == [("0.0.0.0", 99)] * 2
        with pytest.raises(FleetError, match="no such process"):
            sockets.listeners([4194304])
        assert len(sockets.listeners(one + [4194304])) == 1  # one that has ended is left out


@needs_root
@needs_services
def test_accepts_of_processes(namespace, tmp_path):
    """All arrive on one CPU: the worker pinned there is local, the other one is not."""
    here, there = CPUS
    with nginx(tmp_path, "here", 8001, [here]) as one, nginx(tmp_path, "there", 8002, [there]) as two:
        with clients(here, *[8001] * 20 + [8002] * 30):
            assert sampling.sample(one, 0.2)["passive"] == {"sampled": 20, "local": 20}
            assert sampling.sample(two, 0.2)["passive"] == {"sampled": 30, "local": 0}
            both = sampling.sample(one + two, 0.3)
            assert both["passive"] == {"sampled": 50, "local": 20} and both["active"]["sampled"] == 0
            assert both["by_cpu"][str(here)] == {
                "passive": 20, "passive_arrived": 50, "active": 0, "active_arrived": 0}  # fmt: skip
            assert both["by_cpu"][str(there)]["passive"] == 30 and both["unowned"] == 0 and both["scans"] > 2
            assert sampling.sample(one + two, 0.1, server_ports=[8002])["passive"] == {"sampled": 30, "local": 0}
            slow = sampling.sample(one + two, 0.4, max_rate=20)
            assert 0 < slow["passive"]["sampled"] <= slow["scans"]
        with clients(here, *[8001] * 5, send=b"GET"):
            assert sampling.sample(one, 0.1)["passive"]["sampled"] == 0  # data has come: they tell no more


@needs_root
@needs_services
def test_accepts_of_workers_with_one_listener(namespace, tmp_path):
    with nginx(tmp_path, "web", 8001, CPUS, "reuseport") as pids, clients(CPUS[1], *[8001] * 64):
        truth = {cpu: 0 for cpu in CPUS}
        for pid in pids[1:]:
            served = [entry for entry in sockets.tcp_fds(pid) if entry["state"] == "ESTABLISHED"]
            truth[os.sched_getaffinity(pid).pop()] += len(served)
        assert sum(truth.values()) == 64 and all(truth.values())  # the hash spreads them
        result = sampling.sample(pids, 0.2)
        assert result["passive"] == {"sampled": 64, "local": truth[CPUS[1]]}
        assert {int(cpu): row["passive"] for cpu, row in result["by_cpu"].items()} == truth


@needs_root
@needs_services
def test_threads(namespace, tmp_path):
    """HAProxy: the thread that owns a socket is found; accepts and backend connects are judged for it."""
    here, there = CPUS
    get = b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n"
    with nginx(tmp_path, "backend", 8100, [there]), haproxy(tmp_path, 8100) as pids:
        with clients(here, *[9001] * 12 + [9002] * 18):
            result = sampling.sample(pids, 0.3)
            assert result["passive"] == {"sampled": 30, "local": 12} and result["unowned"] == 0
            assert result["by_cpu"][str(there)]["passive"] == 18
            assert sampling.sample(pids, 0.1, server_ports=[9002])["passive"] == {"sampled": 18, "local": 0}
        with clients(here, *[9001] * 7 + [9002] * 9, send=get):
            result = sampling.sample(pids, 1)
            assert result["passive"]["sampled"] == 0
            assert result["active"] == {"sampled": 16, "local": 9}  # the backend's worker sends from CPU `there`
            assert result["by_cpu"][str(there)]["active_arrived"] == 16 and result["unowned"] == 0


@needs_root
def test_sockets_nobody_owns():
    """Of a threaded process: one connection in a thread's epoll set, one in a set two threads share, one in none."""
    code = """
import select, socket, threading, time
server = socket.create_server(("127.0.0.1", 0))
clients = [socket.create_connection(server.getsockname()) for _ in range(3)]
accepted = [server.accept()[0] for _ in range(3)]
for sock, threads in ((accepted[0], 1), (accepted[1], 2)):
    epoll = select.epoll()
    epoll.register(sock, select.EPOLLIN)
    for _ in range(threads):
        threading.Thread(target=epoll.poll, daemon=True).start()
print(server.getsockname()[1], flush=True)
time.sleep(60)"""
    with child(code) as (pid, _):
        time.sleep(0.1)
        result = sampling.sample([pid], 0.2)
        assert result["passive"]["sampled"] == 1 and result["unowned"] == 2 and result["active"]["sampled"] == 0


@needs_root
def test_sample_of_a_process_that_ends():
    with child("import time; print(flush=True); time.sleep(0.2)") as (pid, _):
        threading.Thread(target=os.waitpid, args=(pid, 0)).start()  # unreaped, it would still have an empty fd table
        begun = time.monotonic()
        assert sampling.sample([pid], 5)["passive"]["sampled"] == 0
        assert time.monotonic() - begun < 2
    with pytest.raises(FleetError, match=f"process {pid}: there is no such process"):
        sampling.sample([pid], 1)
    with pytest.raises(FleetError, match="no process was given"):
        sampling.sample([], 1)


@needs_root
def test_cgroup_pids():
    """A real control group, with one below it."""
    mount = next((path for path in sockets.CGROUP_MOUNTS[::-1] if os.path.exists(path + "/cgroup.procs")), None)
    if not mount or not os.access(mount, os.W_OK):
        pytest.skip("no writable control group hierarchy")
    group = "/fastsocket-test-%d" % os.getpid()
    paths = [mount + group, mount + group + "/below"]
    sleepers = [subprocess.Popen(["sleep", "60"]) for _ in paths]
    try:
        for path, sleeper in zip(paths, sleepers, strict=True):
            os.mkdir(path)
            with open(path + "/cgroup.procs", "w") as procs:
                procs.write(str(sleeper.pid))
        assert sockets.cgroup_pids(group) == sorted(sleeper.pid for sleeper in sleepers)
    finally:
        for sleeper in sleepers:
            sleeper.kill()
            sleeper.wait()
        for path in paths[::-1]:
            os.rmdir(path)
    assert sockets.cgroup_pids(group) == []


def test_service_pids_unknown_unit(monkeypatch, tmp_path):
    """Without systemd, and with it: one error that names the unit."""
    with pytest.raises(FleetError, match="no-such-unit"):
        sockets.service_pids("no-such-unit.service")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FleetError, match="cannot ask systemd about nginx: systemctl: No such file"):
        sockets.service_pids("nginx")
