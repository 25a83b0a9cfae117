# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""A successor takes its predecessor's slots over and has no thread for some of them: each CPU's clients are served."""
import os
import re
import signal
import time

import lab
from clients import Clients, Proxy, Web, told
from part_loss import KEEP, no_cookies, successor

# Requests from each CPU.
COUNT = 20


def none_waits(server):
    """A client of each CPU in turn: all are answered."""
    tallies = {cpu: Clients(server.port, 0, [cpu], 4, COUNT).result() for cpu in lab.CPUS}
    text = "; ".join(f"CPU {cpu}: {tally}" for cpu, tally in tallies.items())
    assert not any(tally.lost or tally.opened != COUNT for tally in tallies.values()), text
    return text


def one_thread(haproxy):
    """For the next reload; returns how many slots that will have."""
    haproxy.threads(1)
    path = lab.RUN / f"{haproxy.name}.cfg"
    path.write_text(re.sub(r"cpu-map auto:1/1-2 .*", f"cpu-map auto:1/1 {lab.CPUS[0]}", path.read_text()))
    return 1


def no_map(haproxy):
    path = lab.RUN / f"{haproxy.name}.cfg"
    path.write_text(re.sub(r"cpu-map .*", "", path.read_text()))
    return 0


def killed(haproxy, slots):
    """The old worker does not come to leave: it is killed when the new one serves."""
    (old,) = haproxy.worker()
    os.kill(old, signal.SIGSTOP)
    haproxy.send(signal.SIGUSR2)
    new = lab.wait_for("a new worker", lambda: set(haproxy.worker()) - {old})
    haproxy.wait_for_slots(new, slots)
    time.sleep(0.5)
    os.kill(old, signal.SIGKILL)
    lab.wait_for("the end of the old worker", lambda: old not in haproxy.worker())
    # It is looked for a few times a second.
    time.sleep(0.6)


def reloaded(change, migrate, how=Proxy.reload):
    """Count on both CPUs before and after one reload."""
    lab.sysctl("net.ipv4.tcp_migrate_req", migrate)
    name = f"{change.__name__}-{how.__name__}-{migrate}"
    with Proxy(name, lab.environment(name)) as haproxy:
        none_waits(haproxy)
        how(haproxy, change(haproxy))
        text = none_waits(haproxy)
        assert not haproxy.stats.errors().keys() - {"UNPINNED"}, haproxy.stats.errors()
        return text


def reloads(change, how=Proxy.reload):
    return "; ".join(f"tcp_migrate_req {migrate} {reloaded(change, migrate, how)}" for migrate in (0, 1))


@told
def test_fewer_threads():
    """HAProxy reloaded with one thread instead of two"""
    return reloads(one_thread)


@told
def test_no_map():
    """HAProxy reloaded without its cpu-map"""
    return reloads(no_map)


@told
def test_killed():
    """HAProxy's old worker is killed after a reload to one thread, and to none that is pinned"""
    return f"{reloads(one_thread, killed)}; {reloads(no_map, killed)}"


@told
def test_nothing_migrates():
    """the same where nothing migrates, tcp_syncookies 0"""
    with no_cookies():
        return "; ".join(reloaded(change, 0, how) for change in (one_thread, no_map) for how in (Proxy.reload, killed))


@told
def test_upgrade():
    """nginx upgraded (USR2) to one worker, then the old master told to QUIT"""
    counts = []
    for migrate in (0, 1):
        lab.sysctl("net.ipv4.tcp_migrate_req", migrate)
        name = f"upgrade-{migrate}"
        with Web(name, lab.environment(name), daemon=True, main=KEEP) as nginx:
            none_waits(nginx)
            old = nginx.workers()
            nginx.configure(1)
            new = successor(nginx, old, 1)
            try:
                nginx.send(signal.SIGQUIT)
                assert nginx.process.wait(lab.PATIENCE_S) == 0
            finally:
                nginx.process = lab.Adopted(new)
            counts.append(f"tcp_migrate_req {migrate} {none_waits(nginx)}")
    return "; ".join(counts)
