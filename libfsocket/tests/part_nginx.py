# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Real nginx. Each of its answers says which worker gave it, so locality is known without the library's word."""
import os
import signal
import time

import lab
from lab import Load, Nginx

HOST = "127.0.0.1"


def local(nginx, answers):
    """How many answers came from the worker of the client's CPU."""
    cpus = nginx.workers()
    return sum(cpus.get(int(pid)) == cpu for cpu, pid, _ in answers)


def all_local(nginx, count=200):
    """`count` requests: all by the worker of the client's CPU, and the library says the same."""
    # What came before may have used up the looks of this tick (accept.c), and an idle machine needs no longer for all.
    time.sleep(0.1)
    before = nginx.stats.total()
    answers = lab.ask(nginx.address, nginx.port, count)
    now = nginx.stats.total()
    grown = {name: now[name] - before[name] for name in now}
    assert local(nginx, answers) == count, f"{local(nginx, answers)} of {count} local, library: {grown}"
    assert (grown["accepts"], grown["accepts_remote"], grown["accepts_global"]) == (count, 0, 0), grown
    assert grown["accepts_local"] >= 4, grown


def no_errors(nginx):
    assert not nginx.stats.errors(), nginx.stats.errors()


def test_stock():
    """without the library the connections do not keep to their CPU: the test below can fail"""
    with Nginx("stock", 8079) as nginx:
        share = local(nginx, lab.ask(HOST, 8079, 200))
        assert share < 190, f"{share} of 200 were local by themselves"


test_stock.plain_only = True


def test_local():
    """every connection is answered on its CPU; the slot table names the workers"""
    with Nginx("ng", 8080, env=lab.environment("ng")) as nginx:
        all_local(nginx, 400)
        cpus = nginx.stats.read()["cpus"]
        assert all(cpus[cpu]["accepts"] >= 200 for cpu in lab.CPUS), cpus
        state = nginx.stats.read()
        assert {s["pid"]: s["cpu"] for s in state["slots"]} == nginx.workers(), state["slots"]
        assert all(s["state"] == "ON" and s["tid"] == s["pid"] and s["backlog"] == 511 for s in state["slots"])
        (row,) = state["listeners"]
        assert (row["address"], row["port"], row["mode"], row["sole"]) == (HOST, 8080, "SLOTS", 1), row
        no_errors(nginx)


def reload_under_load(migrate):
    lab.sysctl("net.ipv4.tcp_migrate_req", migrate)
    with Nginx(f"reload{migrate}", 8081, env=lab.environment(f"reload{migrate}")) as nginx:
        load = Load(HOST, 8081)
        for _ in range(5):
            nginx.reload()
            time.sleep(0.1)
        failed, answers = load.end()
        assert not failed and len(answers) > 50, f"{failed} of {len(answers)}"
        lab.wait_for("the old workers to end", lambda: len(lab.children(nginx.process.pid)) == 2)
        lab.after_handshakes()
        all_local(nginx)
        no_errors(nginx)


def test_reload():
    """5 reloads under load, tcp_migrate_req 0: none failed, local again"""
    reload_under_load(0)


def test_reload_migrate():
    """5 reloads under load, tcp_migrate_req 1: none failed, local again"""
    reload_under_load(1)


def kill_workers(name, port, env):
    """Kill each worker under load, twice. Returns (failed, answers, nginx's own check)."""
    with Nginx(name, port, env=env) as nginx:
        load = Load(HOST, port)
        for _ in range(2):
            for pid in list(nginx.settled()):
                os.kill(pid, signal.SIGKILL)
                nginx.settled([pid])
                time.sleep(0.1)
        failed, answers = load.end()
        if env:
            all_local(nginx)
            no_errors(nginx)
        return failed, answers


def test_worker_killed():
    """workers killed under load: only what they had in hand is lost, as with stock; local again"""
    stock, _ = kill_workers("killed-stock", 8082, None)
    failed, answers = kill_workers("killed", 8083, lab.environment("killed"))
    # Stock loses what a worker had accepted: at most one request a client and kill; nothing times out or is refused.
    assert set(failed) <= {"reset", "empty"} and sum(failed.values()) <= max(2 * 4, sum(stock.values())), (
        f"{failed} of {len(answers)}, stock: {stock}")
    assert len(answers) > 50


def test_switch():
    """off: counters stand, the listener's mode is GLOBAL, requests answered; on: counted and local again"""
    for migrate in (0, 1):
        lab.sysctl("net.ipv4.tcp_migrate_req", migrate)
        name = f"switch{migrate}"
        with Nginx(name, 8084, env=lab.environment(name)) as nginx:
            load = Load(HOST, 8084)
            for _ in range(2):
                nginx.switch.set("0")
                lab.wait_for("mode GLOBAL", lambda n=nginx: n.stats.mode(8084) == ["GLOBAL"], 2)
                before = nginx.stats.total()
                time.sleep(0.3)
                assert nginx.stats.total() == before, "it counts while off"
                assert {s["state"] for s in nginx.stats.read()["slots"]} <= {"ON", "OFF"}
                nginx.switch.set("1")
                lab.wait_for("mode SLOTS", lambda n=nginx: n.stats.mode(8084) == ["SLOTS"], 2)
            failed, answers = load.end()
            assert not failed and len(answers) > 50, f"{failed} of {len(answers)}"
            all_local(nginx)
            no_errors(nginx)


def test_switch_by_hand():
    """`echo 0 >` and `: >` on the switch under load: an empty file keeps the last value, nothing crashes"""
    with Nginx("hand", 8085, env=lab.environment("hand")) as nginx:
        workers = nginx.workers()
        load = Load(HOST, 8085)
        for i in range(300):
            # Open, truncate, write: as a shell does it.
            nginx.switch.path.write_text(("0\n", "", "1\n")[i % 3])
            time.sleep(0.003)
        nginx.switch.path.write_text("0\n")
        time.sleep(0.3)
        assert nginx.stats.mode(8085) == ["GLOBAL"]
        nginx.switch.path.write_text("")
        time.sleep(0.3)
        assert nginx.stats.mode(8085) == ["GLOBAL"], "an empty file changed the value"
        nginx.switch.path.write_text("1\n")
        time.sleep(0.3)
        failed, _ = load.end()
        assert not failed and nginx.workers() == workers, failed
        all_local(nginx)


def test_port_in_use():
    """a second nginx on the port of the first fails with EADDRINUSE, as ever"""
    with Nginx("first", 8086, env=lab.environment("first")) as nginx:
        second = Nginx("second", 8086, env=lab.environment("second"), wait=False)
        assert second.process.wait(20 * lab.patience) == 1
        assert "98: Address already in use" in second.log.read_text(), second.log.read_text()
        all_local(nginx, 50)


def test_read_only_directory():
    """as nobody, with a directory that it cannot write: as without the library; with a switch in it: local, no file"""
    lab.DIR.mkdir(exist_ok=True)
    with Nginx("nobody", 8087, env=lab.environment("nobody"), run_user="nobody") as nginx:
        lab.ask(HOST, 8087, 100)
        assert "nobody.switch cannot be read" in nginx.log.read_text()
        assert not list(lab.DIR.glob("nobody.*"))
    (lab.DIR / "nobody2.switch").write_text("1")
    with Nginx("nobody2", 8088, env=lab.environment("nobody2"), run_user="nobody") as nginx:
        lab.wait_for("all local", lambda: local(nginx, lab.ask(HOST, 8088, 100)) == 100, 5)
        assert "statistics stay in this service" in nginx.log.read_text()
        assert not (lab.DIR / "nobody2.stats").exists()


def test_accept_mutex():
    """nginx with accept_mutex, which takes the listener out of its epoll and back: none failed"""
    with Nginx("mutex", 8089, env=lab.environment("mutex"), events="accept_mutex on;", slots=0) as nginx:
        load = Load(HOST, 8089, clients=3)
        time.sleep(1)
        failed, answers = load.end()
        assert not failed and len(answers) > 50, f"{failed} of {len(answers)}"
        assert nginx.process.poll() is None


def upgrade(migrate):
    """A binary upgrade: the new master inherits the listener alone and makes slots of its own."""
    lab.sysctl("net.ipv4.tcp_migrate_req", migrate)
    name, port = f"upgrade{migrate}", 8091 + migrate
    keep = "env LD_PRELOAD; env FSOCKET_DIR; env FSOCKET_NAME;"
    with Nginx(name, port, env=lab.environment(name), main=keep, daemon=True) as nginx:
        load = Load(HOST, port)
        old = set(nginx.workers())
        nginx.send(signal.SIGUSR2)
        new = lab.wait_for("a new master", lambda: [p for p in lab.children(nginx.process.pid) if p not in old])[0]
        try:
            lab.wait_for("its workers", lambda: len(lab.children(new)) == 2)
            nginx.wait_for_slots(lab.children(new), 1)
            # The old workers go, the old master stays for a while, in case somebody wants to go back.
            nginx.send(signal.SIGWINCH)
            lab.wait_for("the old workers to end", lambda: not old & set(lab.children(nginx.process.pid)))
            time.sleep(0.3)
            failed, _ = load.end()
            # On a busy machine a slot may have spilled.
            lab.wait_for("no slot to spill", lambda: {s["state"] for s in nginx.stats.read()["slots"]} == {"ON"})
            cpus = {pid: lab.cpu_of(pid) for pid in lab.children(new)}
            share = sum(cpus.get(int(pid)) == cpu for cpu, pid, _ in lab.ask(HOST, port, 200))
            assert share == 200, f"{share} of 200 local"
            return failed
        finally:
            os.kill(new, signal.SIGTERM)


def test_upgrade():
    """binary upgrade under load, tcp_migrate_req 0: none failed, local again"""
    failed = upgrade(0)
    assert not failed, failed


def test_upgrade_migrate():
    """binary upgrade under load, tcp_migrate_req 1: none failed, local again"""
    failed = upgrade(1)
    assert not failed, failed


def test_restart():
    """stopped and started: the counters go on, the rows of the dead are used again"""
    total = 0
    for _ in range(4):
        with Nginx("again", 8093, env=lab.environment("again")) as nginx:
            all_local(nginx, 50)
            state = nginx.stats.read()
            assert nginx.stats.total()["accepts"] >= total + 50
            assert {s["pid"] for s in state["slots"]} == set(nginx.workers()), state["slots"]
            assert len(state["listeners"]) == 1, state["listeners"]
            total += 50
