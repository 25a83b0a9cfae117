# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""A kernel whose groups do not choose by SO_INCOMING_CPU (oldkernel.c): a program of the library chooses.

The parts nginx-old, haproxy-old, load-old and loss-old are those parts under such a kernel; here is what concerns the
program alone."""
import contextlib
import os
import signal
import time

import lab
import part_loss
from clients import Clients, Web, stopped, told
from lab import Haproxy, Nginx
from part_reuseport import processes

HOST = "127.0.0.1"
BY_OPTION, BY_PROGRAM = 1, 16  # FSOCKET_CAP_INCOMING_CPU, FSOCKET_CAP_CBPF


def capabilities(service):
    return service.stats.read()["header"]["capabilities"]


def share(port, cpus, count=100):
    """Of `count` requests the share that the worker {pid: CPU} of the client's CPU answered."""
    return sum(cpus.get(int(pid)) == cpu for cpu, pid, _ in lab.ask(HOST, port, count)) / count


@contextlib.contextmanager
def without(calls):
    """A still older kernel: it lacks these, too."""
    os.environ["OLDKERNEL"] = calls
    try:
        yield
    finally:
        del os.environ["OLDKERNEL"]


@told
def test_share():
    """accepts on their CPU, by the workers' own word, without the library and with it"""
    with Nginx("plain", 8500) as nginx:
        stock = share(8500, nginx.workers(), 1000)
    with Nginx("ours", 8501, env=lab.environment("ours", log=2)) as nginx:
        ours = share(8501, nginx.workers(), 1000)
        assert capabilities(nginx) & (BY_OPTION | BY_PROGRAM) == BY_PROGRAM
        assert "a program of ours does" in nginx.log.read_text()
        assert not nginx.stats.errors(), nginx.stats.errors()
    assert stock < 0.8 and ours >= 0.95, (stock, ours)
    return f"{stock:.1%} and {ours:.1%}"


def test_processes():
    """processes with a listener each, switched on, off and on again: each gets its part, by hash"""
    # By hash over three sockets one of the two gets a third: fewer than 12 of 100 once in a million runs, 19 was seen.
    processes(8520, (("1", 12, 0), ("0", 12, 0), ("1", 12, 0)), slots=1)


def test_neither():
    """a kernel that takes no program either: said once, one queue for all as without the library, all served"""
    with without("cbpf"), Nginx("neither", 8502, env=lab.environment("neither"), slots=0) as nginx:
        assert share(8502, nginx.workers()) < 0.9
        assert not nginx.stats.read()["listeners"] and not capabilities(nginx) & (BY_OPTION | BY_PROGRAM)
        assert nginx.log.read_text().count("listeners keep one queue") == 1


def test_not_first():
    """a listener that shares its address with one of another program: no slots, but served and counted"""
    with Nginx("before", 8503) as before:
        before.stop()
        text = (lab.RUN / "before.conf").read_text().replace("8503;", "8503 reuseport;")
        (lab.RUN / "before.conf").write_text(text)
        (lab.RUN / "after.conf").write_text(text.replace("before", "after"))
        command = before.process.args
        with lab.Service("before", command) as first:
            first.up(HOST, 8503)
            second_command = [word.replace("before", "after") for word in command]
            (lab.RUN / "after.d").mkdir()
            with lab.Service("after", second_command, lab.environment("after")) as second:
                lab.wait_for("its listeners", lambda: len(lab.run(
                    "ss", "-Hltn", "src", f"{HOST}:8503").stdout.splitlines()) == 4)
                lab.ask(HOST, 8503, 200)
                listeners = second.stats.read()["listeners"]
                assert listeners and all(row["mode"] == "SHARDED" for row in listeners), listeners
                assert lab.listens(HOST, 8503) == 4, "a slot of ours is among them"
                assert 0 < second.stats.total()["accepts"] < 200


@told
def test_lost_order():
    """processes that alone had slots are killed: the order is wrong, and found again"""
    # Without pidfd_getfd the new master makes slots of its own.
    keep = part_loss.KEEP + " env OLDKERNEL;"
    with without("pidfd"), Web("order", lab.environment("order"), main=keep, daemon=True) as nginx:
        old = nginx.workers()
        new = part_loss.successor(nginx, old)
        for pid in (nginx.process.pid, *old):
            os.kill(pid, signal.SIGKILL)
        lab.wait_for("their end", lambda: not any(map(lab.children, (nginx.process.pid, *old))))
        nginx.process.wait(lab.PATIENCE_S)
        nginx.process = lab.Adopted(new)
        lab.wait_for("three sockets", lambda: lab.listens(HOST, nginx.port) == 3)
        cpus = nginx.workers()
        before = share(nginx.port, cpus, 60)
        assert before < 0.9, f"{before:.0%} were local all the same: the test shows nothing"
        started = time.monotonic()
        lab.wait_for("local again", lambda: share(nginx.port, cpus) == 1, 10)
        seconds = time.monotonic() - started
        assert share(nginx.port, cpus, 500) == 1
        assert not nginx.stats.errors(), nginx.stats.errors()
        return f"{before:.0%} local, then 100 % after {seconds:.1f} s"


@told
def test_nothing_migrates():
    """Linux before 5.14, fewer workers: none lost, and the CPU that has a worker stays local meanwhile"""
    lab.sysctl("net.ipv4.tcp_migrate_req", 0)
    with without("bpf"), Web("fewer", lab.environment("fewer")) as nginx:
        with Clients(nginx.port) as load:
            for workers in (1, 2, 1):
                old = nginx.workers()
                nginx.configure(workers)
                with stopped(old):
                    time.sleep(0.1)
                    nginx.send(signal.SIGHUP)
                    time.sleep(0.3)
                nginx.settled(old)
                lab.wait_for("the old workers' end",
                             lambda gone=old: not set(gone) & set(lab.children(nginx.process.pid)))
            tally = load.end()
        assert not tally.lost, tally
        (row,) = nginx.stats.read()["listeners"]
        assert (row["mode"], row["orphans"]) == ("SLOTS", 1), row
        before = nginx.stats.total()
        with Clients(nginx.port, count=200) as load:
            again = load.result()
        now = nginx.stats.total()
        assert not again.lost and now["accepts_global"] - before["accepts_global"] == 200, (again, before, now)
        assert not nginx.stats.errors(), nginx.stats.errors()
        return f"{tally}; of {again.opened} those of the CPU without a worker came to the listener that all poll"


@told
def test_haproxy_5_10():
    """Linux 5.10, nothing migrates but slots are taken over: HAProxy reloaded 5 times under load"""
    lab.sysctl("net.ipv4.tcp_migrate_req", 0)
    with without("bpf"), Haproxy("ha510", 8504, f"{HOST}:8505", lab.environment("ha510")) as proxy, \
            Nginx("ha510-web", 8505):
        with Clients(8504) as load:
            for _ in range(5):
                proxy.reload()
            tally = load.end()
        assert not tally.lost, tally
        before = proxy.stats.total()
        with Clients(8504, count=200) as load:
            assert not load.result().lost
        now = proxy.stats.total()
        assert now["accepts_remote"] == before["accepts_remote"] and now["accepts_local"] > before["accepts_local"]
        return str(tally)


def accepted_elsewhere(server, cpu, count=300):
    """Of `count` connections from a CPU how many did not come to its slot?"""
    before = server.stats.total()
    with Clients(server.port, cpus=[cpu], count=count) as load:
        tally = load.result()
    now = server.stats.total()
    assert not tally.lost, tally
    return sum(now[name] - before[name] for name in ("accepts_global", "accepts_helped"))


@told
def test_handshakes_under_way():
    """a slot ends: for 2 s what is under way can move, so by hash; then the CPU that has a worker is local again"""
    lab.sysctl("net.ipv4.tcp_migrate_req", 0)
    with Web("ends", lab.environment("ends")) as nginx:
        old = nginx.workers()
        nginx.configure(1)
        nginx.send(signal.SIGHUP)
        nginx.settled(old)
        lab.wait_for("the old workers' end", lambda: not set(old) & set(lab.children(nginx.process.pid)))
        moving = accepted_elsewhere(nginx, lab.CPUS[0])
        assert moving > 20, moving
        time.sleep(2)
        after = accepted_elsewhere(nginx, lab.CPUS[0])
        assert after == 0 and not nginx.stats.errors(), (after, nginx.stats.errors())
        return f"{moving} of 300 by hash, then {after}"
