# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""What few servers do, and a fresh pair of eyes found: edge.py says what."""
import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import lab
from clients import told

HERE = lab.HERE
PORT = 8600


def as_without(habit):
    """The habit's own assertions hold without the library, or it is no test, and with it. Returns its statistics."""
    for number, env in enumerate((dict(os.environ), lab.environment(habit))):
        lab.run(sys.executable, str(HERE / "edge.py"), habit, str(PORT + 2 * number), env=env)
    assert lab.Stats(habit).read()["listeners"], "the library did not take part"
    return lab.Stats(habit)


def test_minus_one():
    """accept4(-1) is EBADF, whatever the library has remembered of a listener"""
    as_without("minus_one")


def test_own_program():
    """a program that the application attaches: what waits in the slots is accepted"""
    as_without("own_program")


def test_other_epoll():
    """an epoll that has the number of a former one hears nothing of another thread's slot"""
    as_without("other_epoll")


def test_thread_ends():
    """the listener of a thread that has ended is preferred by no CPU"""
    as_without("thread_ends")


def test_ticks():
    """a timer that fires as a part of the wait ends: every tick ends the wait"""
    as_without("ticks")


def test_two_on_one():
    """of two threads on one CPU one has the slot, which is counted, and everybody is served"""
    assert as_without("two_on_one").errors() == {"TAKEN": 1}


def test_failed_dup2():
    """a dup2() or dup3() over the listener that fails leaves it its slots"""
    total = as_without("failed_dup2").total()
    assert total["accepts"] == 40 and not total["accepts_global"], total


def test_one_shot():
    """EPOLLONESHOT is one event for all that comes"""
    as_without("one_shot")


def test_shut_down():
    """shutdown() of a listener ends its slots, and listen() begins anew"""
    total = as_without("shut_down").total()
    assert total["accepts"] == 60 and total["accepts_global"] < 60, total


def test_elsewhere():
    """a listener of another network namespace is left alone, and does not appear in this one"""
    rows = as_without("elsewhere").read()["listeners"]
    assert [(row["port"], row["mode"]) for row in rows] == [(PORT + 3, "SLOTS")], rows
    # Before Linux 5.14 no socket says the number of its namespace.
    env = lab.environment("older")
    env.update(LD_PRELOAD=f"{env['LD_PRELOAD']}:{lab.build / 'tests/oldkernel.so'}", OLDKERNEL="netns")
    lab.run(sys.executable, str(HERE / "edge.py"), "elsewhere", str(PORT), env=env)
    assert [row["port"] for row in lab.Stats("older").read()["listeners"]] == [PORT + 1]


@told
def test_leaves_group():
    """switched off it leaves a group that others have joined: they share what comes, as without it"""
    shares = []
    for number, env in enumerate((dict(os.environ), lab.environment("leaver"))):
        port = PORT + 10 + number
        with contextlib.ExitStack() as stack:
            first = stack.enter_context(subprocess.Popen(
                [sys.executable, str(HERE / "edge.py"), "serve_until_told", str(port)], env=env,
                stdin=subprocess.PIPE, text=True))
            lab.wait_for("the first", lambda p=port, n=number: lab.listens("127.0.0.1", p) == 1 + n)
            if number:
                lab.ask("127.0.0.1", port, 20)
                lab.Switch("leaver").set("0")
                lab.ask("127.0.0.1", port, 20)
                time.sleep(0.5)
                assert lab.Stats("leaver").mode(port) == ["GLOBAL"]
            for cpu in lab.CPUS:
                member = [sys.executable, str(HERE / "member.py"), str(port), str(cpu)]
                stack.enter_context(lab.Service(f"other{cpu}", member))
            lab.wait_for("the others", lambda p=port, n=number: lab.listens("127.0.0.1", p) == 3 + n)
            first.communicate("end\n", timeout=lab.PATIENCE_S)
            answers = [int(word) for _, word in lab.ask("127.0.0.1", port, 100)]
            shares.append([answers.count(cpu) for cpu in lab.CPUS])
            assert first.returncode == 0 and min(shares[-1]) >= 20, shares
    return f"stock {shares[0]}, library {shares[1]}"


def test_autotuned():
    """a listener from before tcp_wmem and tcp_rmem were changed: its connections' buffers grow"""
    paths = [f"net.ipv4.tcp_{name}" for name in ("wmem", "rmem")]
    before = [lab.run("sysctl", "-n", path).stdout for path in paths]
    try:
        as_without("autotuned")
    finally:
        for path, value in zip(paths, before, strict=True):
            lab.sysctl(path, value)


def test_pwait2():
    """a worker that leaves its slot and waits with epoll_pwait2(): its CPU's clients are served by another"""
    stats = as_without("pwait2")
    left = [s["cpu"] for s in stats.read()["slots"]]
    assert lab.CPUS[0] not in left and not stats.total()["spills"], stats.read()


def test_sizes_set():
    """sizes of buffers that the application has set are those of its connections"""
    as_without("sizes_set")


@told
def test_full():
    """nginx starts, serves and reloads where DIR has from 4 KB left to enough, and where its file has holes"""
    kept = []
    for kbytes in (4, 8, 12, 16, 20, 24, 28, 32, 48, 96):
        lab.DIR.mkdir(exist_ok=True)
        lab.run("mount", "-t", "tmpfs", "-o", f"size={kbytes}k", "tmpfs", str(lab.DIR))
        try:
            with lab.Nginx(f"full{kbytes}", PORT + 20, env=lab.environment(f"full{kbytes}"), wait=False) as nginx:
                nginx.up(nginx.address, nginx.port)
                lab.ask("127.0.0.1", nginx.port, 20)
                nginx.reload()
                lab.ask("127.0.0.1", nginx.port, 20)
                kept += [f"{kbytes} KB"] if nginx.served() else []
                if nginx.served() and len(kept) == 1:
                    holes(nginx)
        finally:
            lab.run("umount", "-l", str(lab.DIR))
    assert kept and kept[0] != "4 KB", kept
    return f"statistics in a file with {', '.join(kept)}"


def holes(nginx):
    """The file as a former library made it, in a directory that then was filled: the next one leaves it alone."""
    nginx.stop()
    size = nginx.stats.path.stat().st_size
    head = nginx.stats.path.read_bytes()[:4096]
    nginx.stats.path.write_bytes(head)
    os.truncate(nginx.stats.path, size)
    with contextlib.suppress(OSError), open(lab.DIR / "fill", "wb", buffering=0) as f:
        while True:
            f.write(bytes(4096))
    again = lab.Nginx(nginx.name, PORT + 21, env=lab.environment(nginx.name), wait=False)
    with again:
        again.up(again.address, again.port)
        lab.ask("127.0.0.1", again.port, 20)
    assert nginx.stats.path.stat().st_size == size


def ours(name):
    """Does the statistics file of a program that starts now say that the kernel is ours?"""
    lab.run("true", env=lab.environment(name))
    stats = lab.Stats(name)
    return bool(stats.read()["header"]["capabilities"] & stats.abi["constants"]["FSOCKET_CAP_LOCAL_LISTEN"])


def test_our_kernel():
    """net.fastsocket.local_listen in /proc/sys is a capability, whatever its value"""
    net, found = Path("/proc/sys/net"), []
    lab.run("mount", "-t", "tmpfs", "none", net)
    try:
        found.append(ours("stock-kernel"))
        (net / "fastsocket").mkdir()
        (net / "fastsocket/local_listen").write_text("0\n")
        found.append(ours("our-kernel"))
    finally:
        lab.run("umount", net)
    assert found == [False, True], found
