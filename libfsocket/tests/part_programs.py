# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Small programs: the calls behave as libc's, and unusual servers keep working."""
import ctypes
import difflib
import errno
import os
import platform
import shutil
import socket
import struct
import subprocess
import time

import lab

COUNT = 130  # more than two of the library's turns of 64 accepts


def lines(*command, **options):
    return lab.run(*command, **options).stdout.splitlines()


def pinned(*command):
    """On one CPU, so that a listener's slot there is claimed."""
    return ["taskset", "-c", str(lab.CPUS[0]), *map(str, command)]


def same_calls(env):
    command = pinned(lab.build / "tests/calls", lab.AWAY)
    want, got = lines(*command), lines(*command, env=env)
    diff = [line for line in difflib.unified_diff(want, got, "libc", "libfsocket", n=0, lineterm="")]
    assert len(want) > 150 and not diff, "\n".join(diff)


def test_calls_off():
    """switched off, every call returns what libc returns, errno too"""
    env = lab.environment("calls-off")
    lab.run("true", env=env)
    lab.Switch("calls-off").set("0")
    same_calls(env)
    assert not any(lab.Stats("calls-off").total().values()), "it counted while off"


def test_calls_on():
    """switched on, every call returns what libc returns, errno too"""
    same_calls(lab.environment("calls-on"))
    total = lab.Stats("calls-on").total()
    assert total["accepts"] > 200 and total["accepts_global"] < 200, f"the slot was not used: {total}"


def test_calls_sections_off():
    """with FSOCKET_LISTEN=0 and FSOCKET_CONNECT=0 every call returns what libc returns"""
    same_calls(lab.environment("calls-none", listen=0, connect=0))
    assert not any(lab.Stats("calls-none").total().values())


def habit(name, settings=None, pin=True, count=COUNT):
    """Run a habit of tests/subject.c under the library; returns (its lines, Stats)."""
    service = "subject-" + name
    command = [str(lab.build / "tests/subject"), name, str(count)]
    env = lab.environment(service, **(settings or {}))
    with subprocess.Popen(pinned(*command) if pin else command, env=env, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True) as process:
        try:
            said = []
            while not said or not said[-1].startswith("port "):
                said.append(process.stdout.readline().strip())
                assert said[-1], f"{name} ended: {said}"
            lab.ask("127.0.0.1", int(said[-1].split()[1]), count)
            # Not communicate(): what readline() has read ahead would be lost. The program ends by itself.
            said += process.stdout.read().splitlines()
            process.wait(5)
        except BaseException:
            process.kill()
            raise
    assert said[-1] == "done" and process.returncode == 0, said
    return said[:-1], lab.Stats(service)


def quiet(name, **settings):
    said, stats = habit(name, settings)
    assert len(said) == 1, f"{name} says {said}"
    return stats


def test_usual():
    """a server with an epoll: each connection counted once, options inherited, accept flags kept"""
    total = quiet("usual").total()
    assert total["accepts"] == COUNT, total
    assert total["accepts_global"] < COUNT, "no connection came through the slot"


def test_unpinned():
    """a thread on several CPUs is not pinned unasked, and is with FSOCKET_PIN=1"""
    _, stats = habit("usual", pin=False)
    assert stats.errors()["UNPINNED"] == 1 and not stats.read()["slots"], stats.errors()
    _, stats = habit("mutex", {"pin": 1}, pin=False)
    assert "UNPINNED" not in stats.errors(), stats.errors()


def test_blocking():
    """a server of nothing but blocking accept()"""
    quiet("blocking")


def test_polling():
    """a server with poll()"""
    quiet("polling")


def test_blocking_epoll():
    """a listener that blocks, in an epoll: no accept() waits while a connection is there"""
    quiet("blocking-epoll")


def test_sharded():
    """a program with two SO_REUSEPORT listeners of its own on one address gets no others beside them"""
    stats = quiet("sharded")
    assert {row["mode"] for row in stats.read()["listeners"]} == {"SHARDED"}, stats.read()["listeners"]
    assert stats.total()["accepts"] == COUNT, stats.total()


def test_moved():
    """a listener that was moved to another descriptor"""
    quiet("moved")


def test_copied():
    """a listener and its dup() beside it: both serve, nobody calls it sharded"""
    quiet("copied")


def test_close_each():
    """a daemon that closes every descriptor it does not know: goes on, its later descriptors untouched"""
    said, _ = habit("close-each")
    assert said[1:] == ["own descriptors touched: 0"], said


def test_close_range():
    """the same behind libc's back"""
    said, _ = habit("close-range")
    assert said[1:] == ["own descriptors touched: 0"], said


def test_accept_mutex():
    """a listener that goes in and out of the epoll for each connection: none left behind"""
    for value in (0, 1):
        lab.sysctl("net.ipv4.tcp_migrate_req", value)
        quiet("mutex")
    lab.sysctl("net.ipv4.tcp_migrate_req", 0)


def forbid_poll():
    """This process and what it becomes get EPERM from poll(2); prctl(2), seccomp(2)."""
    number = 7 if platform.machine() == "x86_64" else 73    # of ppoll, which poll() is elsewhere
    code = b"".join(struct.pack("HBBI", *words) for words in (
        (0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x50000 | errno.EPERM), (0x06, 0, 0, 0x7FFF0000)))
    held = ctypes.create_string_buffer(code)
    program = ctypes.create_string_buffer(struct.pack("HP", 4, ctypes.addressof(held)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(program)):
        raise OSError(ctypes.get_errno(), "no filter")


def burst(service, first=None, **settings):
    """400 connections from CPU 0, faster than its slow worker is; returns (of the slow, of the fast one, Stats).
    `first`: what the program's process does before it is the program."""
    env = lab.environment(service, **settings)
    with subprocess.Popen([str(lab.build / "tests/subject"), "slow", "400"], env=env, stdout=subprocess.PIPE,
                          text=True, preexec_fn=first) as process:
        port = int(process.stdout.readline().split()[1])
        lab.wait_for("both slots", lambda: lab.listens("127.0.0.1", port) == 3)
        os.sched_setaffinity(0, [lab.CPUS[0]])
        try:
            clients = []
            for _ in range(400):
                clients.append(socket.create_connection(("127.0.0.1", port), timeout=10))
                time.sleep(0.001)
            answers = [c.recv(10) for c in clients]
        finally:
            os.sched_setaffinity(0, lab.CPUS)
            for c in clients:
                c.close()
        said = dict(line.split() for line in process.stdout.read().splitlines()[:2])
    assert answers == [b"ok\n"] * 400, answers
    return int(said["slow"]), int(said["fast"]), lab.Stats(service)


def test_spill():
    """a slot whose queue is long hands its share to the others, all are answered; FSOCKET_SPILL=0: never"""
    lab.sysctl("net.core.somaxconn", 4096)
    slow, fast, stats = burst("spill", spill=10)
    assert stats.total()["spills"] >= 1 and fast > 40, f"slow {slow}, fast {fast}, {stats.total()}"
    slow, fast, stats = burst("spill-never", spill=0)
    assert stats.total()["spills"] == 0 and fast == 0, f"slow {slow}, fast {fast}, {stats.total()}"


def test_help_without_poll():
    """who helps cannot look where something waits, as a filter forbids it: it asks each queue"""
    lab.sysctl("net.core.somaxconn", 4096)
    slow, fast, stats = burst("spill-poll", first=forbid_poll, spill=10)
    assert stats.total()["accepts_helped"] > 10 and fast > 40, f"slow {slow}, fast {fast}, {stats.total()}"


def test_leaves():
    """a worker that takes its two listeners out of its epoll leaves them to the others, tcp_migrate_req 0 and 1"""
    for value in (0, 1):
        lab.sysctl("net.ipv4.tcp_migrate_req", value)
        command, env = [str(lab.build / "tests/subject"), "leaves", "100"], lab.environment(f"leaves{value}")
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
            ports = [int(process.stdout.readline().split()[1]) for _ in range(2)]
            assert process.stdout.readline() == "left\n"
            for port in ports:
                lab.ask("127.0.0.1", port, 50)
            assert process.wait(15) == 0
    lab.sysctl("net.ipv4.tcp_migrate_req", 0)


def test_unknown_setting():
    """an unknown FSOCKET_ variable gets one line that names it"""
    out = lines("true", env=lab.environment("unknown", spil=3))
    assert out == ["libfsocket: FSOCKET_SPIL: no such setting, see libfsocket(7)"], out


def test_setid():
    """a set-id program runs as if there were no library, even with it in a trusted directory"""
    trusted = os.path.realpath(lab.run("gcc", "-print-file-name=libBrokenLocale.so.1").stdout.strip())
    program, library = lab.RUN / "setid", lab.RUN / "setid.so"
    shutil.copy("/usr/bin/cat", program)
    shutil.copy(lab.RUN / "libfsocket.so", library)
    library.chmod(0o4755)
    # Over a library in libc's own directory, for our mounts only: by name, ld.so(8) takes it for set-id programs too.
    lab.run("mount", "--bind", library, trusted)
    nobody = ["setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups", "env", "FSOCKET_X=1"]
    try:
        for mode, path_loaded, acts in ((0o755, True, True), (0o4755, False, False)):
            program.chmod(mode)
            for preload, loaded in ((str(lab.RUN / "libfsocket.so"), path_loaded), ("libBrokenLocale.so.1", True)):
                out = lab.run(*nobody, f"FSOCKET_DIR={lab.RUN}/none", f"LD_PRELOAD={preload}", program,
                              "/proc/self/maps").stdout
                assert (os.path.basename(preload) in out) == loaded, f"mode {mode:o}: {preload} in maps?\n{out}"
                assert ("FSOCKET_X: no such setting" in out) == acts, f"mode {mode:o}, {preload}\n{out}"
    finally:
        lab.run("umount", trusted)


test_setid.plain_only = True


def leave(service, way, preload):
    env = {**lab.environment(service), "LD_PRELOAD": preload, "OTHER": "1"}
    out = lines(lab.build / "tests/subject", "exec", way, env=env)
    return dict(line.split("=", 1) for line in out if "=" in line)


def test_leave():
    """switch '-': what is exec'd has no trace of us; '1' and '0': it has"""
    other = os.path.realpath(lab.run("gcc", "-print-file-name=libBrokenLocale.so.1").stdout.strip())
    both = f"{lab.preload}:{other}"  # ASan wants to be the first
    rest = ":".join(entry for entry in both.split(":") if "libfsocket" not in entry)
    for value in "10-":
        lab.run("true", env=lab.environment("leave"))
        lab.Switch("leave").set(value)
        for way in ("execve", "execv", "execvp", "execvpe", "execl", "execle", "execlp", "posix_spawn", "posix_spawnp"):
            got = leave("leave", way, both)
            ours = [name for name in got if name.startswith("FSOCKET_")]
            assert got["OTHER"] == "1", got
            if value == "-":
                assert not ours and got["LD_PRELOAD"] == rest, f"{way}: {ours}, {got['LD_PRELOAD']}"
            else:
                assert len(ours) == 2 and got["LD_PRELOAD"] == both, f"{value} {way}: {got}"
    alone = leave("leave", "execve", str(lab.RUN / "libfsocket.so")) if ":" not in lab.preload else {}
    assert "LD_PRELOAD" not in alone, alone


def test_no_directory():
    """no FSOCKET_DIR and no right to make one: two lines, and libc as ever"""
    command, name = pinned(lab.build / "tests/calls", lab.AWAY), lab.environment("nodir", dir="/proc/none")
    out = lab.run(*command, env=name, stderr=subprocess.PIPE)
    said = out.stderr.splitlines()[:2]
    assert said[0].startswith("libfsocket: /proc/none cannot be made"), said
    assert ".switch cannot be read" in said[1], said
    assert out.stdout.splitlines() == lines(*command)


def test_foreign_file():
    """a statistics file of another layout is replaced, a symbolic link is not followed"""
    victim = lab.RUN / "victim"
    victim.write_text("precious")
    lab.DIR.mkdir(exist_ok=True)
    (lab.DIR / "foreign.stats").write_bytes(b"FSOCKET\n" + bytes(5000))
    lab.run("true", env=lab.environment("foreign"))
    assert lab.Stats("foreign").read()["header"]["version"] == 2
    (lab.DIR / "link.stats").symlink_to(victim)
    (lab.DIR / "link.switch").symlink_to(victim)
    lab.run("true", env=lab.environment("link"))
    assert victim.read_text() == "precious"


def test_switch_speed():
    """the switch takes effect in well under a second"""
    env = lab.environment("speed")
    with subprocess.Popen(pinned(lab.build / "tests/subject", "usual", 100000), env=env, stdout=subprocess.PIPE,
                          text=True) as process:
        port = int(process.stdout.readline().split()[1])
        lab.ask("127.0.0.1", port, 50)
        with open(lab.DIR / "speed.switch", "r+b") as f:
            f.write(b"0")
        written = time.monotonic()
        lab.ask("127.0.0.1", port, 5)
        stats = lab.Stats("speed")
        while stats.mode(port) != ["GLOBAL"] and time.monotonic() < written + 2:
            lab.ask("127.0.0.1", port, 1)
        took = time.monotonic() - written
        process.kill()
    assert took < 1, f"{took:.2f} s"
