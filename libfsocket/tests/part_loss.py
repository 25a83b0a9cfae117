# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Nothing is lost: under 600 new connections a second, with the library and without, by the same action.

Workers are stopped for a moment before they are told to leave, so that connections wait in their queues at that very
time: what would be lost only now and then is lost here each time.
"""
import contextlib
import os
import shutil
import signal
import socket
import statistics
import struct
import time
from pathlib import Path

import lab
from clients import Clients, Proxy, Web, stopped, told
from part_handover import cookie, offer, sockets_of

STUCK_S = 0.1
RELOADS, SWITCHES = 20, 100
# A restart by stop and start: what of it is luck, in connections cut, and in those refused for 35 ms of a start.
RESTARTS, CUT, HAD = 5, 4, 20
# Every process looks at the switch once in 100 ms.
LOOK_S = 0.11
MIGRATES = 4  # FSOCKET_CAP_MIGRATE
KEEP = "env LD_PRELOAD; env FSOCKET_DIR; env FSOCKET_NAME;"


def compare(action, variants, migrate=0):
    """{variant: its Tally} of `action(server)` under load. `variants`: {variant: function(name) -> server}."""
    lab.sysctl("net.ipv4.tcp_migrate_req", migrate)
    tallies = {}
    for variant, make in variants.items():
        name = f"{action.__name__}-{variant}-{migrate}".replace(" ", "-")
        with make(name) as server, Clients(server.port) as load:
            time.sleep(0.1)
            action(server)
            time.sleep(0.1)
            tallies[variant] = load.end()
            errors = server.stats.errors() if server.served() else {}
            assert not errors, f"{variant}: {errors}"
    return tallies


def numbers(tallies):
    return "; ".join(f"{variant} {tally}" for variant, tally in tallies.items())


def none_lost(action, variants, migrate=0, may_lose=()):
    """Run compare(); no variant has lost any but those that may. Returns the counts as text."""
    tallies = compare(action, variants, migrate)
    text = numbers(tallies)
    assert not any(t.lost for variant, t in tallies.items() if variant not in may_lose), text
    return text, tallies


def web(listen="", library=True, **options):
    return lambda name: Web(name, lab.environment(name) if library else None, listen=listen, **options)


def proxy(library=True, bind=""):
    return lambda name: Proxy(name, lab.environment(name) if library else None, bind)


# ---- nginx: reload


def reload(nginx, workers):
    nginx.configure(workers)
    old = nginx.workers()
    with stopped(old):
        time.sleep(STUCK_S)
        nginx.send(signal.SIGHUP)
        lab.wait_for("new workers", lambda: len(lab.children(nginx.process.pid)) == len(old) + workers)
        # nginx lets them start for 100 ms before it tells the old ones (ngx_master_process_cycle).
        time.sleep(0.1 + STUCK_S)
    nginx.settled(old)
    lab.wait_for("the old workers to end", lambda: not set(old) & set(lab.children(nginx.process.pid)))


def reloads(nginx):
    for workers in (2, 4, 1, 2):
        reload(nginx, workers)


def nginx_reloads(migrate):
    """Stock nginx with its own `reuseport` loses what waits for a worker that goes: the measure to beat."""
    beaten = "stock with reuseport"
    text, tallies = none_lost(reloads, {
        "stock": web(library=False), beaten: web("reuseport", library=False), "library": web(),
        "library with reuseport": web("reuseport"),
    }, migrate, may_lose=[beaten])
    assert migrate or tallies[beaten].lost, f"the test is too weak: {text}"
    return text


@told
def test_nginx_reload():
    """nginx reloaded to the same, more, fewer workers, tcp_migrate_req 0"""
    return nginx_reloads(0)


@told
def test_nginx_reload_migrate():
    """nginx reloaded to the same, more, fewer workers, tcp_migrate_req 1"""
    return nginx_reloads(1)


# ---- without SYN cookies


@contextlib.contextmanager
def no_cookies():
    lab.sysctl("net.ipv4.tcp_syncookies", 0)
    try:
        yield
    finally:
        lab.sysctl("net.ipv4.tcp_syncookies", 1)


def give_up(nginx):
    """Clients on each CPU send nothing, which `deferred` leaves half open, and reset when a worker has gone. Where
    that request migrates, its heir never gets a connection again (src/migrate.c: deafens)."""
    assert not nginx.stats.read()["header"]["capabilities"] & MIGRATES
    silent = []
    for cpu in lab.CPUS:
        with lab.pinned(cpu):
            silent += [socket.create_connection(("127.0.0.1", nginx.port)) for _ in range(8)]
    reload(nginx, 1)
    for client in silent:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    time.sleep(1)


@told
def test_reset_without_cookies():
    """nginx reloaded with half-open connections that are then reset, tcp_syncookies 0"""
    with no_cookies():
        return none_lost(give_up, {"library": web("deferred")})[0]


@told
def test_reload_without_cookies():
    """nginx and HAProxy reloaded, tcp_syncookies 0: by our doing nothing migrates"""
    with no_cookies():
        return "nginx {}; HAProxy {}".format(none_lost(reloads, {"library": web()})[0],
                                             none_lost(haproxy_reloads, {"library": proxy()})[0])


# ---- nginx: binary upgrade


def successor(nginx, old, workers=2):
    """SIGUSR2: the new master, with workers that serve."""
    nginx.send(signal.SIGUSR2)
    (new,) = lab.wait_for("a new master", lambda: [p for p in lab.children(nginx.process.pid) if p not in old])
    lab.wait_for("its workers", lambda: len(lab.children(new)) == workers)
    if "libfsocket" in Path(f"/proc/{new}/maps").read_text():
        nginx.wait_for_slots(lab.children(new), 1)
    return new


def upgrade(nginx):
    old = nginx.workers()
    new = successor(nginx, old)
    try:
        with stopped(old):
            time.sleep(STUCK_S)
            nginx.send(signal.SIGWINCH)
            time.sleep(STUCK_S)
        lab.wait_for("the old workers to end", lambda: not set(old) & set(lab.children(nginx.process.pid)))
        nginx.send(signal.SIGQUIT)
        assert nginx.process.wait(lab.PATIENCE_S) == 0
    finally:
        # The new master is an orphan now, so ours to stop.
        nginx.process = lab.Adopted(new)


def nginx_upgrades(migrate):
    daemon = {"daemon": True}
    return none_lost(upgrade, {
        "stock": web(library=False, **daemon),
        "library, env LD_PRELOAD": web(main=KEEP, **daemon),
        "library until the upgrade": web(**daemon),
    }, migrate)[0]


@told
def test_nginx_upgrade():
    """nginx's binary upgrade (USR2, WINCH, QUIT), tcp_migrate_req 0"""
    return nginx_upgrades(0)


@told
def test_nginx_upgrade_migrate():
    """nginx's binary upgrade (USR2, WINCH, QUIT), tcp_migrate_req 1"""
    return nginx_upgrades(1)


# ---- nginx: a worker killed


def in_hand(pids):
    """How many connections these (stopped) processes have accepted."""
    rows = lab.run("ss", "-Htnp", "state", "connected").stdout.splitlines()
    return sum(f"pid={pid}," in row for row in rows for pid in pids)


def kills(nginx):
    """Each worker four times. What it has accepted dies with it, with the library or without; nothing else may."""
    nginx.may_lose = 0
    for _ in range(4):
        for pid in list(nginx.settled()):
            with stopped([pid]):
                time.sleep(STUCK_S)
                nginx.may_lose += in_hand([pid])
                os.kill(pid, signal.SIGKILL)
            nginx.settled([pid])


def kills_compared(listen, migrate):
    bounds = {}

    def noted(nginx):
        kills(nginx)
        bounds[bool(nginx.served())] = nginx.may_lose
    tallies = compare(noted, {"stock": web(listen, library=False), "library": web(listen)}, migrate)
    text = f"{numbers(tallies)}; in the workers' hands were {bounds[False]} and {bounds[True]}"
    for variant, bound in (("stock", bounds[False]), ("library", bounds[True])):
        assert set(tallies[variant].failed) <= {"reset", "empty"} and tallies[variant].lost <= bound, text
    return text


@told
def test_nginx_killed():
    """8 nginx workers killed, tcp_migrate_req 0"""
    return kills_compared("", 0)


@told
def test_nginx_killed_migrate():
    """8 nginx workers killed, tcp_migrate_req 1"""
    return kills_compared("", 1)


# ---- HAProxy


def haproxy_reloads(haproxy):
    for _ in range(RELOADS):
        haproxy.reload()


@told
def test_haproxy_reload():
    """HAProxy reloaded 20 times, tcp_migrate_req 0"""
    return none_lost(haproxy_reloads, {"stock": proxy(library=False), "library": proxy()}, 0)[0]


@told
def test_haproxy_reload_migrate():
    """HAProxy reloaded 20 times, tcp_migrate_req 1"""
    return none_lost(haproxy_reloads, {"stock": proxy(library=False), "library": proxy()}, 1)[0]


def restart(haproxy):
    """As the operator's unit under module preload: the new one beside the old one, whose sockets it takes over, then
    the old one finishes."""
    slots = {s["cookie"] for s in haproxy.stats.read()["slots"]} if haproxy.served() else ()
    held = [s for pid in haproxy.worker() for s in sockets_of(pid) if cookie(s) not in slots]
    assert len(held) == 1, held
    old, name = haproxy.process, haproxy.name
    with offer(name, held) as taken:
        haproxy.start_again()
        assert taken
    held.pop().close()
    old.send_signal(signal.SIGUSR1)
    assert old.wait(lab.PATIENCE_S) == 0


def haproxy_restarts(haproxy):
    for _ in range(3):
        restart(haproxy)


@told
def test_haproxy_handover():
    """HAProxy restarted 3 times with its sockets handed over, tcp_migrate_req 0 and 1"""
    counts = [none_lost(haproxy_restarts, {"library": proxy()}, migrate)[0] for migrate in (0, 1)]
    return " and ".join(counts)


def stop_and_start(haproxy):
    """What that loses; from then on all are served."""
    with Clients(haproxy.port) as load:
        time.sleep(0.1)
        haproxy.stop()
        haproxy.start_again()
        time.sleep(0.1)
        tally = load.end()
    with Clients(haproxy.port, count=60) as load:
        after = load.result()
    assert set(tally.failed) <= {"refused", "reset", "empty", "reset at connect"} and not after.lost, (tally, after)
    return tally


@told
def test_haproxy_restart():
    """HAProxy stopped and started 5 times: as many refused while it is down as without, as few cut; then all served"""
    lab.sysctl("net.ipv4.tcp_migrate_req", 0)
    with proxy(library=False)("stock-again") as stock, proxy()("library-again") as library:
        assert library.served()
        # In turn, and of each the median: a moment in which the machine stands still costs either a hundred.
        tallies = list(zip(*[(stop_and_start(stock), stop_and_start(library)) for _ in range(RESTARTS)], strict=True))
        refused, cut = ([statistics.median(map(count, of)) for of in tallies] for count in (
            lambda t: t.failed.get("refused", 0), lambda t: t.lost - t.failed.get("refused", 0)))
        named = zip(("stock", "library"), tallies, strict=True)
        text = "; ".join(f"{variant} {', '.join(map(str, of))}" for variant, of in named)
        # What has come to it when it ends is cut by the kernel, in whichever queue: one or two at this rate.
        assert cut[1] <= cut[0] + CUT and refused[1] <= 2 * refused[0] + HAD, text
        assert refused[0], f"the test is too weak: {text}"
    return f"{refused[0]:.0f} refused and {cut[0]:.0f} cut without, {refused[1]:.0f} and {cut[1]:.0f} with the library"


# ---- the switch


def turn(servers, value, mode):
    """Write the switches; all processes that serve have seen it when this returns."""
    written = time.monotonic()
    for server in servers:
        with open(server.switch.path, "r+b") as f:
            f.write(value.encode())
    for server in servers:
        lab.wait_for(f"mode {mode}", lambda s=server: s.stats.mode(s.port) == [mode], 3)
    time.sleep(max(0, written + LOOK_S - time.monotonic()))


@told
def test_switch():
    """nginx and HAProxy switched off and on 100 times"""
    lab.sysctl("net.ipv4.tcp_migrate_req", 0)
    with Web("flip", lab.environment("flip")) as nginx, Proxy("flop", lab.environment("flop")) as haproxy, \
            Clients(nginx.port) as to_nginx, Clients(haproxy.port) as to_haproxy:
        for _ in range(SWITCHES):
            turn([nginx, haproxy], "0", "GLOBAL")
            turn([nginx, haproxy], "1", "SLOTS")
        tallies = {"nginx": to_nginx.end(), "HAProxy": to_haproxy.end()}
        assert not any(t.lost for t in tallies.values()), numbers(tallies)
        assert not nginx.stats.errors() and not haproxy.stats.errors()
        return numbers(tallies)


# ---- the library upgraded


def install(folder):
    """What services load: a link to the version beside it."""
    link = lab.RUN / "lib/libfsocket.so"
    link.parent.mkdir(exist_ok=True)
    version = link.with_name(f"libfsocket.so.{folder or 'now'}")
    shutil.copy(lab.build / folder / "libfsocket.so", version)
    fresh = link.with_name("fresh")
    fresh.symlink_to(version.name)
    fresh.rename(link)
    return str(link)


def loads(pid, version):
    return f"/lib/libfsocket.so.{version}" in Path(f"/proc/{pid}/maps").read_text()


def with_link(make):
    def made(name):
        link = install("")
        return make(name, {**lab.environment(name), "LD_PRELOAD": link})
    return made


def nginx_to_next(nginx):
    assert loads(nginx.process.pid, "now")
    install("next")
    # Workers forked at a SIGHUP have what their master has mapped.
    upgrade(nginx)
    assert loads(nginx.process.pid, "next") and all(loads(pid, "next") for pid in nginx.workers())


def haproxy_to_next(haproxy):
    assert loads(haproxy.process.pid, "now")
    install("next")
    haproxy.reload()
    assert loads(haproxy.process.pid, "next") and all(loads(pid, "next") for pid in haproxy.worker())


def library_upgrades(migrate):
    return "; ".join((
        "nginx " + none_lost(nginx_to_next, {
            "library": with_link(lambda name, env: Web(name, env, main=KEEP, daemon=True))}, migrate)[0],
        "HAProxy " + none_lost(haproxy_to_next, {"library": with_link(Proxy)}, migrate)[0]))


@told
def test_library_upgraded():
    """a library of another version and layout comes by nginx's upgrade and HAProxy's reload, tcp_migrate_req 0"""
    return library_upgrades(0)


@told
def test_library_upgraded_migrate():
    """a library of another version and layout comes by nginx's upgrade and HAProxy's reload, tcp_migrate_req 1"""
    return library_upgrades(1)
