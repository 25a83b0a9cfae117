# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""What the library costs, in instructions (callgrind) and in system calls (strace), never in seconds."""
import collections
import os
import re
import subprocess
import time

import lab
from lab import AWAY, Haproxy, Nginx

lab.patience = 4
HOST = "127.0.0.1"
CALL_LIMIT = 60  # instructions in libfsocket.so per call that is not ours
REQUEST_LIMIT = 1.01
ROUNDS = 100
# A tick may ask the kernel so many things; it comes every 100 ms of a clock that is a thousand times slower here.
TICK_S, TICK_CALLS = 100, 30
# Neither on the way of an accept(): what allocates, and what may wait for another.
DEAR = {"malloc", "calloc", "realloc", "free", "pthread_mutex_lock", "pthread_rwlock_rdlock", "shared_lock",
        "shared_trylock", "fopen"}
# What may find nothing; HAProxy then also sets TCP_QUICKACK, and looks at the clock each time.
ASK_AGAIN = {"accept4", "recvfrom", "epoll_ctl", "epoll_wait", "epoll_pwait"}
# What a worker's tick does beside an accept, ten times a second; at so many requests a second each pays a part of it.
TICK, TICK_LIMIT, RATE = ("spill_own", "spill_others", "switch_at"), 2500, 500
QUEUE_TURN = 64  # accept.c: one accept in so many looks at the length of its queue


def environments(name):
    """(name, environment) without and with the library."""
    clock = str(lab.build / "tests/slowclock.so")
    loaded = lab.environment(f"loaded-{name}")
    return ((f"plain-{name}", {**os.environ, "LD_PRELOAD": clock}),
            (f"loaded-{name}", {**loaded, "LD_PRELOAD": f"{loaded['LD_PRELOAD']}:{clock}"}))


# Names in full, so that a line can be read by itself.
CALLGRIND = ["valgrind", "-q", "--tool=callgrind", "--compress-strings=no", "--compress-pos=no"]


def own_instructions(path, library):
    """What the file calls its counts, and the instructions of the library's functions themselves."""
    total, inside, inclusive, title = 0, False, False, ""
    for line in path.read_text(errors="replace").splitlines():
        if line.startswith("desc: Trigger: Client Request: "):
            title = line.rpartition(": ")[2]
        elif line.startswith("ob="):
            inside = line.endswith("/" + library)
        elif line.startswith("calls="):
            inclusive = True  # the next line is the cost of the function called
        elif re.match(r"[\d+*-]", line):
            if inside and not inclusive:
                total += int(line.split()[1])
            inclusive = False
    return title, total


def test_calls():
    """an intercepted call on a descriptor that is not ours: at most 60 instructions of the library"""
    folder = lab.RUN / "callgrind"
    folder.mkdir()
    lab.run(*CALLGRIND, f"--callgrind-out-file={folder}/out", lab.build / "tests/cost", str(ROUNDS),
            env=lab.environment("calls"))
    assert lab.Stats("calls").read()["slots"], "the library did nothing in this program"
    cost = {}
    for path in folder.glob("out.*"):
        title, total = own_instructions(path, "libfsocket.so")
        if title:
            name, rounds = title.split()
            cost.setdefault(name, {})[int(rounds)] = total
    # Twice as often less once: what is done only the first time cancels.
    each = {name: (c[2 * ROUNDS] - c[ROUNDS]) / ROUNDS for name, c in cost.items()}
    for name, instructions in sorted(each.items()):
        print(f"# {name:<16}{instructions:6.1f}")
    assert len(each) == 21, sorted(each)
    assert all(instructions > 0 for instructions in each.values()), "a call went past the library"
    dear = {name: n for name, n in each.items() if n > CALL_LIMIT}
    assert not dear, f"more than {CALL_LIMIT} instructions: {dear}"


def calls_of(path, library):
    """{function: how often functions of the library called it}."""
    calls, inside, called = collections.Counter(), False, ""
    for line in path.read_text(errors="replace").splitlines():
        if line.startswith("ob="):
            inside = line.endswith("/" + library)
        elif line.startswith("cfn="):
            called = line.partition("=")[2].partition("@")[0]
        elif line.startswith("calls=") and inside:
            calls[called] += int(line.split()[0].partition("=")[2])
    return calls


def each_call(path, function):
    """Instructions of a function of the library and all that it calls, each time; 0: it was not called."""
    called, calls, cost = "", 0, 0
    lines = iter(path.read_text(errors="replace").splitlines())
    for line in lines:
        if line.startswith("cfn="):
            called = line.partition("=")[2].partition("@")[0]
        elif line.startswith("calls=") and called == function:
            calls += int(line.split()[0].partition("=")[2])
            cost += int(next(lines).split()[1])
    return cost / calls if calls else 0


def ask(port, count):
    """`count` requests from the first CPU, which is that of the one worker or thread."""
    with lab.pinned(lab.CPUS[0]):
        lab.ask(HOST, port, count)


class StaticNginx(Nginx):
    """One worker and a file of 64 bytes."""

    CONFIG = Nginx.CONFIG.replace('return 200 "$pid $remote_port\\n";', "root {run};")

    def __init__(self, name, port, **more):
        super().__init__(name, port, workers=1, **more)
        page = lab.RUN / f"{name}.d" / "index.html"
        page.write_text(f"{'x':>63}\n")
        os.utime(page, (10**9, 10**9))  # its ETag is made of digits


def instructions(name, port, env, count):
    """Of an nginx worker in its life with `count` requests: instructions, what the library calls, what a tick costs."""
    folder = lab.RUN / f"{name}.{count}"
    folder.mkdir()
    folder.chmod(0o1777)
    wrapper = [*CALLGRIND, "--trace-children=yes", f"--callgrind-out-file={folder}/%p"]
    with StaticNginx(name, port, env=env, wrapper=wrapper) as nginx:
        (worker,) = nginx.workers()
        ask(port, count)
        assert nginx.served() == name.startswith("loaded"), nginx.stats.path
        nginx.stop()
    # The next one begins with a table as empty.
    nginx.stats.path.unlink(missing_ok=True)
    path = folder / str(worker)
    (total,) = re.findall(r"^(?:totals|summary): (\d+)", path.read_text(), re.M)[-1:]
    tick = [each_call(path, function) for function in TICK]
    # Of the probe, which the master makes once, no two are alike.
    total = int(total) - own_instructions(path, "slowclock.so")[1] - each_call(path, "steer_works")
    return total, calls_of(path, "libfsocket.so"), tick


def test_request():
    """nginx and a small file: at most 1 % more instructions a request beside ticks, no allocation, no lock"""
    few, many = 200, 600
    each = {}
    for name, env in environments("cost"):
        (less, first, _), (most, last, tick) = [instructions(name, 8140, env, count) for count in (few, many)]
        each[name.split("-")[0]] = (most - less) / (many - few)
    more = last - first
    assert more["accept4"] >= many - few and last["calloc"], "callgrind did not see what the library calls"
    assert not set(more) & DEAR, f"in {many - few} requests: {more}"
    print(f"# instructions a request: {each['plain']:.0f} without, {each['loaded']:.0f} with the library,"
          f" {100 * each['loaded'] / each['plain'] - 100:+.2f} %")
    assert each["plain"] > 5000, "callgrind did not see the requests"
    # With the slow clock no tick is among those.
    assert all(tick), "callgrind did not see a tick"
    part = sum(tick) * 10 / RATE
    print(f"# instructions a tick: {sum(tick):.0f}, so {part:.1f} for each of {RATE} requests a second")
    assert sum(tick) <= TICK_LIMIT, tick
    assert each["loaded"] <= REQUEST_LIMIT * each["plain"], each


class Trace:
    """The system calls of a running process, each thread's in a file of its own."""

    def __init__(self, pid):
        self.folder = lab.RUN / f"trace.{pid}"
        self.folder.mkdir()
        self.process = subprocess.Popen(["strace", "-ff", "-e", "signal=none", "-o", self.folder / "t", "-p", str(pid)],
                                        stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        line = self.process.stderr.readline()
        assert "attached" in line, line

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.communicate(timeout=10)

    def counts(self):
        found = collections.Counter()
        for path in self.folder.iterdir():
            found.update(re.findall(r"^(\w+)\(", path.read_text(errors="replace"), re.M))
        return found


def steady(pid, port, count):
    """System calls for `count` requests of a server that has warmed up, and the seconds they took."""
    ask(port, 50)
    with Trace(pid) as trace:
        ask(port, 50)
        time.sleep(0.3)
        before, start = trace.counts(), time.monotonic()
        ask(port, count)
        time.sleep(0.3)  # the last connection's end
        return trace.counts() - before, time.monotonic() - start


def compare(plain, loaded, seconds, count, connects=0, again=frozenset()):
    """Per accepted connection the same calls, none more; a few a tick, one look and one set for each port chosen."""
    by_tick = (seconds / TICK_S + 1) * TICK_CALLS
    names = sorted(plain | loaded)
    for name in names:
        print(f"# {name:<16}{plain[name] / count:8.3f} without {loaded[name] / count:8.3f} with the library")
    assert plain["accept4"] >= count and loaded["accept4"] >= count, "the traces do not show the connections"
    assert by_tick < count / 4, f"{count} connections took {seconds:.0f} s: too slow to tell them from ticks"
    allowed = {"setsockopt": connects, "getsockopt": connects + count / QUEUE_TURN}
    # A busy machine has a server of itself ask more often for what is not there yet: up to one in twenty. All else only
    # differs by a connection of the next or the last measurement.
    more = {name: loaded[name] - plain[name] for name in names if loaded[name] - plain[name] >
            by_tick + count / (20 if name in ASK_AGAIN | again else 200) + allowed.get(name, 0)}
    assert not more, f"more calls in {count} connections: {more}"


def test_nginx_calls():
    """nginx in steady state: no system call more per accepted connection"""
    count, found = 1500, {}
    for name, env in environments("calls"):
        with StaticNginx(name, 8141, env=env) as nginx:
            (worker,) = nginx.workers()
            found[name], seconds = steady(worker, 8141, count)
    compare(*found.values(), seconds, count)


class OneThread(Haproxy):
    """HAProxy with a thread on the first CPU."""

    CONFIG = Haproxy.CONFIG.replace("nbthread 2", "nbthread 1").replace("auto:1/1-2 {cpus}", f"1/1 {lab.CPUS[0]}")

    def settled(self, old=(), slots=1):
        super().settled(old, slots)


def test_haproxy_calls():
    """HAProxy in steady state: no system call more per accepted connection, two per connection opened"""
    count, found = 1500, {}
    with Nginx("calls-web", 8243, AWAY):
        for name, env in environments("proxy"):
            with OneThread(name, 8142, f"{AWAY}:8243", env) as proxy:
                (worker,) = proxy.worker()
                found[name], seconds = steady(worker, 8142, count)
    compare(*found.values(), seconds, count, connects=count, again={"setsockopt", "clock_gettime"})
