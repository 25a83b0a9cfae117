# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""tests/life.c: forks, execs, threads, copies and lost rights go as they go without the library."""
import difflib
import re
import shutil
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor

import lab

PROGRAM = "tests/life"
FDS = re.compile(r"(fds, .*): (\d+) sockets of (\d+) listeners, (\d+) others")
# Ways to run a program: (settings of the library or None for without it, switch, on one CPU?)
WAYS = {
    "stock": (None, "1", True), "off": ({}, "0", True), "on": ({}, "1", True), "unpinned": ({}, "1", False),
    "pinning": ({"pin": 1}, "1", False),
}


def allowed(line, cpus):
    """A line about descriptors, with what the library may have more of: (text, sockets, others)."""
    label, sockets, listeners, others = FDS.fullmatch(line).groups()
    return label, int(sockets) + cpus * int(listeners), int(others) + 2


def compare(want, got, cpus):
    """Lines of differences; descriptors may be more: a socket a listener and CPU, switch and program."""
    got = [line for line in got if not re.fullmatch(r"fd \d+ is (.*\.switch|anon_inode:bpf-prog)", line)]
    if len(want) == len(got):
        for number, (old, new) in enumerate(zip(want, got, strict=True)):
            if FDS.fullmatch(old) and FDS.fullmatch(new):
                most, now = allowed(old, cpus), allowed(new, 0)
                if now[0] == most[0] and now[1] <= most[1] and now[2] - 2 <= most[2]:
                    got[number] = old
    return list(difflib.unified_diff(want, got, "without", "with", n=0, lineterm=""))


def started(service, way):
    """(words before the command, environment) for one of WAYS; the switch stands as it should."""
    settings, switch, one_cpu = WAYS[way]
    env = None
    if settings is not None:
        env = lab.environment(service, **settings)
        lab.run("true", env=env)
        lab.Switch(service).path.write_text(switch)
    return ["taskset", "-c", str(lab.CPUS[0])] if one_cpu else [], env


def lines(service, way, *words):
    """(stdout, stderr) of tests/life, run in one of WAYS."""
    pin, env = started(service, way)
    out = lab.run(*pin, lab.build / PROGRAM, *words, env=env, check=False, timeout=60, stderr=subprocess.PIPE)
    return out.stdout.splitlines(), out.stderr.splitlines()


def same(habit, number=0, ways=("off", "on", "unpinned", "pinning"), notices=(), migrate=(0, 1)):
    """The habit says the same in all ways, and the library nothing but these notices. Returns what it says."""
    for value in migrate:
        lab.sysctl("net.ipv4.tcp_migrate_req", value)
        said = same_in(f"{value}", habit, number, ways, notices)
    return said


def same_in(mark, habit, number, ways, notices):
    words = [habit, lab.AWAY, str(number)]
    want, known = lines("", "stock", *words)
    assert want and not any(": 0 of" in line for line in want), (want, known)
    bad = []
    for way in ways:
        service = f"life-{habit}-{number}-{way}-{mark}"
        cpus = 1 if WAYS[way][2] else len(lab.CPUS)
        got, complaints = lines(service, way, *words)
        diff = compare(want, got, cpus)
        diff += [line for line in complaints if line not in known and not any(notice in line for notice in notices)]
        header = lab.Stats(service).read()["header"]
        if header["lock"] or diff:
            bad += [f"-- {habit}, {way}, {mark}: lock {header['lock']}, {lab.Stats(service).errors()}", *diff]
    assert not bad, "\n".join(bad)
    return want


def used(habit, way="on"):
    """Was the slot in use at all, as it must be for the comparison to mean anything?"""
    total = lab.Stats(f"life-{habit}-0-{way}-1").total()
    assert total["accepts_local"] > 0, total


def test_fork():
    """fork: child and parent serve in turn; the child's descriptors are the parent's and the slots' at most"""
    same("fork")
    used("fork")


def test_raw_fork():
    """clone(2) as a fork, behind libc's back"""
    same("raw-fork")


def test_vfork():
    """vfork: what the child closes, duplicates and opens is its own; the parent serves on"""
    same("vfork")


def test_spawn():
    """posix_spawn, environment kept and stripped: the child's descriptors are as without the library"""
    same("spawn")


def test_exec():
    """exec with the listener, environment kept and stripped: it serves, with no descriptor of the library's"""
    want = same("exec")
    assert sum("is socket:" in line for line in want) == 2, want


def test_exec_pending():
    """a server that execs itself loses nobody who waits, tcp_migrate_req 1"""
    same("exec-pending", migrate=(1,))


def test_daemon():
    """a daemon by two forks that closes all descriptors it does not know"""
    same("daemon")


def test_threads():
    """threads with an epoll each, one after the other, then main"""
    same("threads")


def test_raw_thread():
    """a thread by clone(2), with main's thread-local memory"""
    same("raw-thread")


def test_handlers():
    """a listener closed by a signal's handler that has interrupted malloc()"""
    assert same("handlers") == ["closed in a handler: 6 of 6"]


def test_copies():
    """dup, dup2, dup3, F_DUPFD, F_DUPFD_CLOEXEC of a listener: served by the copy, beside it and alone"""
    same("dups")


def test_epolls():
    """a listener in one epoll after the other, and in two at once"""
    same("epolls")


def test_closes():
    """close_range (close-on-exec too) and closefrom; what has the numbers next is served"""
    same("closes")


def test_reborn():
    """listeners at the numbers of closed ones, all behind libc's back: each accepts its own clients only"""
    same("reborn")


def test_scm_rights():
    """a listener that comes in a message is served by the receiver, tcp_migrate_req 1"""
    same("scm-rights", migrate=(1,))


def test_own_program():
    """a BPF program of the program's own chooses in its group, whenever it is attached; none but it is detached"""
    want = same("own-program")
    assert sum(": 20 of 20 to the second" in line for line in want) == 16, want
    same("no-program")
    assert same("program-exec") == ["after exec: 20 of 20 to the second"]


def test_rights():
    """chroot (switch out of reach too), setuid, raw setresuid, capset, kept capabilities: served before and after"""
    for habit in ("chroot", "chroot-closed", "setuid", "raw-setresuid", "capset", "keepcaps"):
        same(habit)


def test_no_new_privs():
    """no_new_privs, and a listener of root's handed down to a program without rights"""
    same("no-new-privs")
    same("handed-down", notices=("cannot be used (Permission denied): statistics stay", "no slots for port"))
    used("no-new-privs")


# What it may say, once a process, when the system forbids what it needs.
NOTICES = ("no slots for port", "staying off, as there would be no way back", "statistics stay in this service",
           "slot of CPU", "cannot be preloaded", "cannot be made")


def test_seccomp():
    """each system call of the library forbidden, EPERM and ENOSYS, from each moment on: the program sees no change"""
    names = lab.run(lab.build / PROGRAM, "forbidden-calls", lab.AWAY).stdout.split()
    bad = []
    for value in (0, 1):
        lab.sysctl("net.ipv4.tcp_migrate_req", value)
        # Most of it is waiting for who does not come.
        with ThreadPoolExecutor(8) as pool:
            results = [pool.submit(same_in, f"{value}", "forbid", number, ("on",), NOTICES)
                       for number in range(len(names))]
        bad += [f"{name}: {result.exception()}" for name, result in zip(names, results, strict=True)
                if result.exception()]
    assert len(names) > 20 and not bad, "\n".join(bad)
    counted = {kind for value in (0, 1) for number in range(len(names))
               for kind in lab.Stats(f"life-forbid-{number}-on-{value}").errors()}
    assert {"CLAIM", "MODE", "PREPARE"} <= counted, f"what failed was not counted: {counted}"


def test_file_capabilities():
    """a program with file capabilities runs as if there were no library; without them it is loaded"""
    program = lab.RUN / "capable"
    shutil.copy("/usr/bin/cat", program)
    as_nobody = ["setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups"]
    for capable in (False, True):
        if capable:
            lab.run("setcap", "cap_net_bind_service=ep", program)
        out = lab.run(*as_nobody, program, "/proc/self/maps", env=lab.environment("capable")).stdout
        assert ("libfsocket.so" in out) == (not capable), f"file capabilities {capable}\n{out}"


test_file_capabilities.plain_only = True


def heard(port, count):
    """Answers to `count` clients, one after the other."""
    answers = []
    for _ in range(count):
        try:
            with socket.create_connection((lab.AWAY, port), timeout=3) as s:
                answers.append(s.makefile("rb").read())
        except OSError as e:
            answers.append(str(e))
            break
    return answers


def launched(name, command, env, port, count, ends):
    """Run a launcher of services that listens at `port`; returns (what `count` clients heard, status, notices)."""
    log = lab.RUN / f"{name}.log"
    with open(log, "wb") as out, subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=out,
                                                  stderr=out) as process:
        try:
            lab.wait_for(f"{name} to listen", lambda: lab.listens(lab.AWAY, port))
            answers = heard(port, count)
            if ends:
                process.wait(5)
        except subprocess.TimeoutExpired:
            answers.append("it runs on")
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(5)
    return answers, process.returncode, [x for x in log.read_text().splitlines() if x.startswith("libfsocket: ")]


def same_launch(name, port, count, command, ends):
    """command(environment of the service as words NAME=VALUE) in all ways: the same answers and status."""
    results = {}
    # What comes before the service runs waits in a slot of its launcher's, which the exec closes.
    lab.sysctl("net.ipv4.tcp_migrate_req", 1)
    for way in WAYS:
        pin, env = started(f"{name}-{way}", way)
        given = [f"{key}={env[key]}" for key in env or () if key == "LD_PRELOAD" or key.startswith("FSOCKET_")]
        results[way] = launched(f"{name}-{way}", [*pin, *command(given)], env, port, count, ends)
    assert all(r == results["stock"] for r in results.values()), results
    return results["stock"]


def test_socket_activation():
    """systemd-socket-activate starts a service with LISTEN_FDS, both under the library: all clients are answered"""
    def command(env):
        keep = [word for pair in env for word in ("-E", pair)]
        return ["systemd-socket-activate", "-l", f"{lab.AWAY}:8161", *keep, str(lab.build / PROGRAM), "activated",
                lab.AWAY, "20"]
    answers, status, _ = same_launch("activated", 8161, 20, command, ends=True)
    assert (answers, status) == ([b"ok\n"] * 20, 0), (answers, status)


def test_inetd():
    """inetd starts a service a connection and one for all of them (`wait`): all clients are answered"""
    config = lab.RUN / "inetd.conf"
    life = lab.build / PROGRAM
    config.write_text(f"{lab.AWAY}:8162 stream tcp nowait root /bin/echo echo hello\n"
                      f"{lab.AWAY}:8163 stream tcp wait root {life} life inetd-wait {lab.AWAY} 5\n")
    for port, word in ((8162, b"hello\n"), (8163, b"ok\n")):
        answers, _, _ = same_launch(f"inetd{port}", port, 10, lambda env: [
            "env", *env, "/usr/sbin/inetd", "-i", str(config)], ends=False)
        assert answers == [word] * 10, answers
