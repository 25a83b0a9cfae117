# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Listeners of the application's own on one address (nginx `reuseport`, HAProxy `shards`): nothing waits in vain when
one goes, as in part_loss, where the stock servers lose what waits there; and uneven load, as in part_load.
"""
import contextlib
import socket
import sys
import time

import lab
from clients import Clients, Web, stopped, told
from part_load import no_overflow
from part_loss import KEEP, kills_compared, none_lost, proxy, reload, reloads, upgrade, web

BUSY_MS = 400


def reloads_off_and_on(nginx):
    for value in "01":
        nginx.switch.set(value)
        reloads(nginx)


@told
def test_nginx_switch():
    """nginx with `reuseport` reloaded to the same, more, fewer workers while switched off, and on again"""
    return none_lost(reloads_off_and_on, {"library": web("reuseport")})[0]


def listen_changes(nginx):
    """A listener of all workers, one each, one of all again."""
    path = lab.RUN / f"{nginx.name}.conf"
    for old, new in ((" ;", " reuseport;"), (" reuseport;", " ;")):
        path.write_text(path.read_text().replace(f":{nginx.port}{old}", f":{nginx.port}{new}"))
        reload(nginx, 2)
        reload(nginx, 1)


@told
def test_nginx_word():
    """`reuseport` comes and goes in nginx's configuration"""
    return none_lost(listen_changes, {"stock": web(library=False), "library": web()}, may_lose=["stock"])[0]


@told
def test_nginx_upgrade():
    """nginx's binary upgrade with `reuseport` (USR2, WINCH, QUIT), tcp_migrate_req 0 and 1"""
    variants = {"stock": web("reuseport", library=False, daemon=True),
                "library, env LD_PRELOAD": web("reuseport", main=KEEP, daemon=True),
                "library until the upgrade": web("reuseport", daemon=True)}
    return " and ".join(none_lost(upgrade, variants, migrate, ["stock"])[0] for migrate in (0, 1))


@told
def test_nginx_killed():
    """8 nginx workers killed with `reuseport`, tcp_migrate_req 0"""
    return kills_compared("reuseport", 0)


def fewer(haproxy, slots=1):
    """To one thread; the other is busy while its shard is closed."""
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(str(haproxy.admin))
        s.sendall(f"expert-mode on; debug dev loop {BUSY_MS}\n".encode())
        haproxy.threads(1)
        haproxy.reload(slots)
        s.recv(100)


def fewer_and_more(haproxy):
    for _ in range(5):
        fewer(haproxy)
        haproxy.threads(2)
        haproxy.reload()


def haproxy_reloads(migrate):
    stock, text = "stock", ""
    # Which thread is busy is HAProxy's choice: one time in 32 it is never the one whose shard is closed.
    for _ in range(4):
        text, tallies = none_lost(fewer_and_more, {
            stock: proxy(False, "shards by-thread"), "library": proxy(bind="shards by-thread")}, migrate, [stock])
        if migrate or tallies[stock].lost:
            return text
    raise AssertionError(f"the test is too weak: {text}")


@told
def test_haproxy_reload():
    """HAProxy with `shards` reloaded to fewer and more threads, tcp_migrate_req 0"""
    return haproxy_reloads(0)


@told
def test_haproxy_reload_migrate():
    """HAProxy with `shards` reloaded to fewer and more threads, tcp_migrate_req 1"""
    return haproxy_reloads(1)


def fewer_without(haproxy):
    haproxy.switch.set("-")
    fewer(haproxy, slots=0)


@told
def test_haproxy_leave():
    """HAProxy with `shards`: the library is taken out by a reload to fewer threads"""
    return none_lost(fewer_without, {"library": proxy(bind="shards by-thread")})[0]


def servers(word):
    """(name, environment) of stock and the library."""
    return ((f"{word}-stock", None), (f"{word}-library", lab.environment(f"{word}-library")))


@told
def test_one_cpu():
    """nginx with `reuseport`, all connections come to one CPU: the other worker takes a share, no queue overflows"""
    text = []
    for name, env in servers("one"):
        with Web(name, env, listen="reuseport") as nginx, no_overflow():
            (other,) = [pid for pid, cpu in nginx.workers().items() if cpu != lab.CPUS[0]]
            with Clients(nginx.port, rate=0, cpus=lab.CPUS[:1], limit=480, count=20000) as load:
                tally = load.result()
            text.append(f"{name} {tally}, {tally.by(other)} by the other worker, {tally.opened / tally.seconds:.0f}/s")
            # From when it has been noticed the kernel's hash chooses; without that it has none.
            assert not tally.lost and tally.by(other) > tally.opened / 10, text
    return "; ".join(text)


@told
def test_stuck_worker():
    """nginx with `reuseport`, the worker of the only CPU with clients stands still: it gets no more than in stock"""
    text = []
    for name, env in servers("stuck"):
        with Web(name, env, listen="reuseport") as nginx, no_overflow(), contextlib.ExitStack() as stack:
            (pid,) = [pid for pid, cpu in nginx.workers().items() if cpu == lab.CPUS[0]]
            load = stack.enter_context(Clients(nginx.port, rate=200, cpus=lab.CPUS[:1]))
            time.sleep(0.2)
            with stopped([pid]):
                time.sleep(1)
                later = stack.enter_context(Clients(nginx.port, rate=200, cpus=lab.CPUS[:1], count=100))
                time.sleep(0.8)
            tallies = [load.end(), later.result()]
            text.append(f"{name} {tallies[0]}; of the last 100 it got {tallies[1].by(pid)}")
            # Of 100 by hash, more than 75 come to one of two once in millions of runs.
            assert not any(t.lost for t in tallies) and tallies[1].by(pid) <= 75, text
    return "; ".join(text)


def heard(port, by):
    """Of 100 connections, from both CPUs in turn: how many process `by` (its CPU) got, and how many were local."""
    answers = lab.ask("127.0.0.1", port, 100)
    return sum(int(word) == by for _, word in answers), sum(cpu == int(word) for cpu, word in answers)


def processes(port, positions, slots=2):
    """Two with a listener each. positions: (switch, least of 100 that each is to get, least that are to be local).
    slots: how many they have together."""
    env, switch = lab.environment("members"), lab.Switch("members")
    with contextlib.ExitStack() as stack:
        for number, cpu in enumerate(lab.CPUS, 1):
            member = [sys.executable, str(lab.HERE / "member.py"), str(port), str(cpu)]
            stack.enter_context(lab.Service("members", member, env))
            lab.wait_for("member", lambda n=number: lab.listens("127.0.0.1", port) == n + min(n, slots))
        for value, least, local in positions:
            switch.set(value)
            heard(port, 0)  # so that each has seen it
            time.sleep(0.2)
            heard(port, 0)
            got = [heard(port, cpu) for cpu in lab.CPUS]
            assert all(mine >= least and near >= local for mine, near in got), f"switch {value}: {got}"
        assert {row["sole"] for row in lab.Stats("members").read()["listeners"]} == {0}


def test_processes():
    """processes with a listener each: local; switched off each gets its part, not the first all; on again: local"""
    processes(8195, (("1", 50, 100), ("0", 20, 0), ("1", 50, 100)))
