# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Real HAProxy with two pinned threads before real nginx, which tells the source port of each backend connection."""
import contextlib
import socket
import time
from pathlib import Path

import lab
from lab import AWAY, Haproxy, Load, Nginx

HOST = "127.0.0.1"


@contextlib.contextmanager
def pair(name, port, env=True):
    """HAProxy `name` at `port` before nginx at port + 100 of an address that is not loopback; both preloaded."""
    back = f"{name}-web"
    with Nginx(back, port + 100, AWAY, env=lab.environment(back)) as web, \
            Haproxy(name, port, f"{AWAY}:{port + 100}", lab.environment(name) if env else None) as proxy:
        yield proxy, web


def block_of(header, port):
    """The CPU that owns a source port; None outside all blocks."""
    cpu = (port - header["port_first"]) // header["port_block"]
    return cpu if 0 <= cpu < header["cpu_count"] else None


def all_local(proxy, web, count=200):
    """`count` requests stay on the client's CPU: HAProxy's thread by its port block, nginx's worker by its pid."""
    before = proxy.stats.total()
    answers = lab.ask(HOST, proxy.port, count)
    header = proxy.stats.read()["header"]
    blocks = [(cpu, block_of(header, int(port))) for cpu, _, port in answers]
    assert all(cpu == block for cpu, block in blocks), f"(CPU, block of the port): {sorted(set(blocks), key=str)}"
    workers = web.workers()
    assert all(workers.get(int(pid)) == cpu for cpu, pid, _ in answers), "nginx answered on another CPU"

    def grown():
        now = proxy.stats.total()
        now = {name: now[name] - before[name] for name in now}
        # A backend connection is looked at when HAProxy closes it, a moment after the answer; a few of each tick are.
        return now if now["connects_local"] + now["connects_remote"] >= 4 else None
    g = lab.wait_for("backend connections to be closed", grown)
    assert (g["accepts"], g["accepts_remote"], g["accepts_global"]) == (count, 0, 0) and g["accepts_local"] >= 4, g
    assert (g["connects_steered"], g["connects_unsteered"]) == (count, 0), g
    assert g["connects_local"] >= 0.9 * (g["connects_local"] + g["connects_remote"]), g


def test_chain():
    """every request stays on its CPU through HAProxy and nginx; source ports come from the CPU's block"""
    with pair("ha", 8100) as (proxy, web):
        all_local(proxy, web, 400)
        assert not proxy.stats.errors(), proxy.stats.errors()
        slots = proxy.stats.read()["slots"]
        assert sorted(s["cpu"] for s in slots) == lab.CPUS and len({s["tid"] for s in slots}) == 2, slots
        for s in slots:
            assert lab.cpu_of(s["pid"], s["tid"]) == s["cpu"], s


def reload_under_load(migrate, off_first=False):
    """Three reloads; returns what failed, of two clients."""
    lab.sysctl("net.ipv4.tcp_migrate_req", migrate)
    name = f"reload{migrate}{off_first:d}"
    with pair(name, 8101) as (proxy, web):
        load = Load(HOST, 8101)
        for _ in range(3):
            if off_first:
                proxy.switch.set("0")
            proxy.reload()
            if off_first:
                proxy.switch.set("1")
            time.sleep(0.3)
        failed, answers = load.end()
        assert len(answers) > 50, f"{failed} of {len(answers)}"
        lab.after_handshakes()
        all_local(proxy, web)
        assert not proxy.stats.errors(), proxy.stats.errors()
        return failed


def test_reload_migrate():
    """3 reloads under load, tcp_migrate_req 1: none failed, local again"""
    failed = reload_under_load(1)
    assert not failed, failed


def test_reload_off_first():
    """3 reloads under load, tcp_migrate_req 0, each with the switch off around it: none failed, local again"""
    failed = reload_under_load(0, off_first=True)
    assert not failed, failed


def test_reload():
    """3 reloads under load, tcp_migrate_req 0: none failed, local again"""
    failed = reload_under_load(0)
    assert not failed, failed


def mapped(pid):
    return "libfsocket" in Path(f"/proc/{pid}/maps").read_text()


def leave_under_load(migrate):
    lab.sysctl("net.ipv4.tcp_migrate_req", migrate)
    with pair(f"leave{migrate}", 8102) as (proxy, _):
        pids = [proxy.process.pid, *proxy.worker()]
        assert all(map(mapped, pids))
        load = Load(HOST, 8102)
        time.sleep(0.3)
        proxy.switch.set("-")
        proxy.reload(slots=0)
        time.sleep(0.3)
        failed, answers = load.end()
        assert not failed and len(answers) > 50, f"{failed} of {len(answers)}"
        pids = [proxy.process.pid, *proxy.worker()]
        assert len(pids) == 2 and not any(map(mapped, pids)), "the library is still there"
        assert b"FSOCKET_" not in Path(f"/proc/{pids[0]}/environ").read_bytes()
        lab.ask(HOST, 8102, 100)


def test_leave():
    """a reload with the switch at '-', tcp_migrate_req 0: the library is gone, none failed"""
    leave_under_load(0)


def test_leave_migrate():
    """a reload with the switch at '-', tcp_migrate_req 1: the library is gone, none failed"""
    leave_under_load(1)


def test_switch():
    """off under load: counters stand, none failed, the whole port range; on: local again"""
    with pair("switch", 8103) as (proxy, web):
        load = Load(HOST, 8103)
        for _ in range(2):
            proxy.switch.set("0")
            lab.wait_for("mode GLOBAL", lambda: proxy.stats.mode(8103) == ["GLOBAL"], 2)
            time.sleep(0.2)
            before = proxy.stats.total()
            time.sleep(0.3)
            assert proxy.stats.total() == before, "it counts while off"
            proxy.switch.set("1")
            lab.wait_for("mode SLOTS", lambda: proxy.stats.mode(8103) == ["SLOTS"], 2)
        failed, answers = load.end()
        assert not failed and len(answers) > 50, f"{failed} of {len(answers)}"
        all_local(proxy, web)


def test_frontend_paused():
    """`disable frontend` refuses connections, `enable frontend` serves them again, on their CPU"""
    with pair("pause", 8104) as (proxy, web):
        all_local(proxy, web, 50)
        proxy.command("disable frontend f")
        lab.wait_for("no answer while disabled", lambda: not lab.answers_at(HOST, 8104), 5)
        proxy.command("enable frontend f")
        lab.wait_for("an answer when enabled", lambda: lab.answers_at(HOST, 8104), 5)
        proxy.settled()
        all_local(proxy, web, 50)


def test_full_block():
    """a CPU's block is full: the whole range serves, counted"""
    low = 32768
    lab.sysctl("net.ipv4.ip_local_port_range", f"{low} {low + 1023}")
    try:
        with pair("full", 8105) as (proxy, web):
            header = proxy.stats.read()["header"]
            assert header["port_block"] == 512, header
            held = []
            for port in range(header["port_first"], header["port_first"] + header["port_block"]):
                with contextlib.suppress(OSError):
                    held.append(socket.create_connection((AWAY, 8205), source_address=(AWAY, port)))
            before = proxy.stats.total()["connects_unsteered"]
            answers = lab.ask(HOST, 8105, 100)
            unsteered = proxy.stats.total()["connects_unsteered"] - before
            for s in held:
                s.close()
            # CPU 0's connections are the even ones; CPU 1 has its block.
            assert all(block_of(header, int(port)) == 1 for _, _, port in answers)
            assert unsteered == 50 and proxy.stats.errors()["PORTS"] > 0, (unsteered, proxy.stats.errors())
    finally:
        lab.sysctl("net.ipv4.ip_local_port_range", "32768 60999")
