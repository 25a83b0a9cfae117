# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Uneven load and uneven machines: one CPU's traffic, a stuck worker, other numbers of workers than CPUs, workers that
are moved while they run. Over loopback a connection's packets come to the CPU of its client.

An offlined CPU is tried in tests/vm/test_hotplug.py, as here it would be gone for all that runs on the machine. What it
does to a worker is: the kernel lets it run on all the others (kernel/sched/core.c: select_fallback_rq).
"""
import contextlib
import ctypes
import os
import subprocess
import sys
import time
from pathlib import Path

import lab
from clients import Clients, Proxy, Web, stopped, told

ROOT = lab.HERE.parents[1]
FSCTL = """
import sys
sys.path.insert(0, sys.argv[1])
from plugins.module_utils import fsctl
sys.exit(fsctl.main(sys.argv[2:]))
"""
# linux/ptrace.h, linux/wait.h
PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_DETACH, WALL = 0x4206, 0x4207, 17, 0x40000000
CPUSETS = [Path("/sys/fs/cgroup", folder) for folder in ("cpuset", ".", "unified")]


def overflows():
    """{ListenOverflows, ListenDrops} of this namespace: connections that a full accept queue turned away."""
    names, values = [line.split() for line in Path("/proc/net/netstat").read_text().splitlines()
                     if line.startswith("TcpExt:")]
    row = dict(zip(names, values, strict=True))
    return {name: int(row[name]) for name in ("ListenOverflows", "ListenDrops")}


@contextlib.contextmanager
def no_overflow():
    before = overflows()
    yield
    assert overflows() == before, f"{before} -> {overflows()}"


def accepts(server):
    """(all, local, remote) that the library has counted."""
    total = server.stats.total()
    measured = total["accepts_local"], total["accepts_remote"]
    return (total.get("accepts", sum(measured)), *measured)


def shown(server):
    """Lines of `fsctl status SERVICE`; each CPU's as words."""
    # The command reads /run/fastsocket; /run is ours.
    link = Path("/run/fastsocket")
    if not link.exists():
        link.symlink_to(lab.DIR)
    done = lab.run(sys.executable, "-B", "-c", FSCTL, str(ROOT), "status", server.name, stderr=subprocess.STDOUT)
    return {int(words[0]): words for words in map(str.split, done.stdout.splitlines()) if words[0].isdigit()}


def all_served(server, tally):
    """None lost; the library has counted each one, and `fsctl status` shows the sum and every worker."""
    assert not tally.lost, tally
    counted, rows = accepts(server)[0], shown(server)
    assert counted == tally.opened, f"{counted} counted, {tally}"
    named = {int(word.split("(")[0]) for words in rows.values() for word in words if "(" in word}
    return counted, named


# ---- one CPU's traffic


def one_cpu(name, make, others, limit):
    """Stock and library under `limit` connections of the first CPU's. Returns [(Tally, overflows, served by `others`)];
    `others(server)`: the CPU's that has no clients, by its statistics or by its process."""
    found = []
    for variant in ("stock", "library"):
        own = f"{name}-{variant}-{limit}"
        with make(own, lab.environment(own) if variant == "library" else None) as server:
            before = overflows()["ListenOverflows"]
            with Clients(server.port, rate=0, cpus=lab.CPUS[:1], limit=limit, count=20000) as load:
                tally = load.result()
            full = overflows()["ListenOverflows"] - before
            assert not tally.lost, tally
            found.append((tally, full, others(server, tally)))
            # Where it has a queue that can be long.
            assert variant == "stock" or server.stats.total()["spills"], found
    return found


def compared(found):
    return "; ".join(f"{variant} {tally}, {other} by the other one, {full} times too full"
                     for variant, (tally, full, other) in zip(("stock", "library"), found, strict=True))


def by_the_other_worker(nginx, tally):
    return sum(tally.by(pid) for pid, cpu in nginx.workers().items() if cpu == lab.CPUS[1])


def by_the_other_thread(proxy, _):
    return proxy.stats.read()["cpus"][lab.CPUS[1]]["accepts"] if proxy.served() else None


@told
def test_one_cpu():
    """all connections come to one CPU: no accept queue overflows, none is lost, another worker takes a share"""
    with no_overflow():
        found = one_cpu("one", Web, by_the_other_worker, 480)
    # How large its share is, is the scheduler's choice, as it is without us; without help it has none.
    assert found[1][2] > 200, compared(found)
    return compared(found)


@told
def test_one_cpu_too_much():
    """the same with twice as many at a time as the backlog holds: none is lost, no queue is fuller than stock's"""
    found = one_cpu("much", Web, by_the_other_worker, 1000)
    assert found[1][1] <= found[0][1] and found[1][2] > 200, compared(found)
    return compared(found)


@told
def test_one_cpu_haproxy():
    """the same with HAProxy, 1500 at a time before a queue of 2000: none overflows, the other thread takes a share"""
    with no_overflow():
        found = one_cpu("proxy", Proxy, by_the_other_thread, 1500)
    assert found[1][2] > 200, compared(found)
    return compared(found)


@told
def test_uneven():
    """the same with a queue that is never long: the other worker gets connections of its own, by hash"""
    with Web("uneven", lab.environment("uneven")) as nginx:
        with Clients(nginx.port, rate=0, cpus=lab.CPUS[:1], limit=64, count=20000) as load:
            tally = load.result()
        other = nginx.stats.read()["cpus"][lab.CPUS[1]]
        own = other["accepts"] - other["accepts_helped"] - other["accepts_global"]
        assert not tally.lost and own > 100, f"{tally}, {own} came to the other worker: {other}"
        return f"{tally}, {own} came to the other worker"


# ---- a stuck worker


def stuck(name, env, cpus):
    """The first CPU's worker is stopped. Returns what `cpus` got over all the time, and what the first got when it was
    stopped for a while, and how many of these the stopped one has served."""
    with Web(name, env) as nginx, no_overflow():
        (pid,) = [pid for pid, cpu in nginx.workers().items() if cpu == lab.CPUS[0]]
        with Clients(nginx.port, rate=300 * len(cpus), cpus=cpus) as load:
            time.sleep(0.2)
            with stopped([pid]):
                # In 1.7 s the queue is full, if nobody helps.
                time.sleep(1.3)
                with Clients(nginx.port, rate=200, cpus=lab.CPUS[:1], count=100) as later:
                    meanwhile = later.result()
            return load.end(), meanwhile, meanwhile.by(pid)


def nobody_waits(cpus):
    text = []
    for variant in ("stock", "library"):
        name = f"stuck-{variant}-{len(cpus)}"
        tally, meanwhile, by_stuck = stuck(name, lab.environment(name) if variant == "library" else None, cpus)
        text.append(f"{variant} {tally}, while it stands {meanwhile}")
        assert not tally.lost and not meanwhile.lost and not by_stuck, f"{text}, {by_stuck} by the stopped worker"
    return "; ".join(text)


@told
def test_stuck_worker():
    """a worker stands still: its CPU's new connections go to the others, what has waited is served"""
    return nobody_waits(lab.CPUS)


@told
def test_stuck_worker_of_the_only_cpu():
    """the same when no connection comes to any other CPU"""
    return nobody_waits(lab.CPUS[:1])


@contextlib.contextmanager
def still(thread):
    """One thread of a process stands still, as a debugger has it: signals stop all of them."""
    libc = ctypes.CDLL(None, use_errno=True)

    def ptrace(request):
        assert not libc.ptrace(request, thread, None, None), os.strerror(ctypes.get_errno())
    ptrace(PTRACE_SEIZE)
    try:
        ptrace(PTRACE_INTERRUPT)
        os.waitpid(thread, WALL)
        yield
    finally:
        ptrace(PTRACE_DETACH)


@told
def test_stuck_thread():
    """HAProxy's first thread stands still: its CPU's new connections go to the other one"""
    text = []
    for variant in ("stock", "library"):
        name = f"thread-{variant}"
        with Proxy(name, lab.environment(name) if variant == "library" else None) as proxy, no_overflow():
            (pid,) = proxy.worker()
            (thread,) = [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()
                         if lab.cpu_of(pid, int(task.name)) == lab.CPUS[0]]
            with still(thread), Clients(proxy.port, rate=300, cpus=lab.CPUS[:1], count=300) as load:
                tally = load.result()
            assert not tally.lost, tally
            text.append(f"{variant} {tally}")
            # It did not stand still if it has accepted more than a few.
            if proxy.served():
                cpus = proxy.stats.read()["cpus"]
                assert cpus[lab.CPUS[0]]["accepts"] < 30 < cpus[lab.CPUS[1]]["accepts"], cpus
    return "; ".join(text)


# ---- workers and CPUs


@told
def test_numbers_of_workers():
    """1, 3 and 5 workers on 2 CPUs: all served, all counted, `fsctl status` names every worker"""
    text = []
    for workers in (1, 3, 5):
        name = f"of{workers}"
        with Web(name, lab.environment(name)) as nginx:
            if workers != nginx.workers_wanted:
                nginx.configure(workers)
                nginx.reload()
                lab.wait_for("the old workers to end",
                             lambda n=nginx: len(lab.children(n.process.pid)) == n.workers_wanted)
            with Clients(nginx.port, count=200) as load:
                tally = load.result()
            counted, named = all_served(nginx, tally)
            assert named == set(nginx.workers()), (named, nginx.workers())
            if workers == 1:
                assert set(nginx.workers().values()) == {lab.CPUS[0]} and not tally.failed
            text.append(f"{workers} workers {tally}, {counted} counted")
    return "; ".join(text)


@told
def test_numbers_of_threads():
    """HAProxy with 1 and 4 threads on 2 CPUs: all served, all counted, `fsctl status` names the process"""
    text = []
    for threads in (1, 4):
        name = f"threads{threads}"
        with Proxy(name, lab.environment(name)) as proxy:
            proxy.threads(threads)
            proxy.reload(slots=min(threads, len(lab.CPUS)))
            with Clients(proxy.port, count=200) as load:
                tally = load.result()
            counted, named = all_served(proxy, tally)
            tasks = {int(task.name) for pid in proxy.worker() for task in Path(f"/proc/{pid}/task").iterdir()}
            assert named and named <= tasks, (named, tasks)
            text.append(f"{threads} threads {tally}, {counted} counted")
    return "; ".join(text)


def true_local(tally, cpus_of):
    """How many were served by a worker that may run on the client's CPU only."""
    return sum(n for cpu, row in tally.served.items() for pid, n in row.items() if cpus_of[int(pid)] == {cpu})


def moved(nginx, move, back=None):
    """Load, `move(workers)`, load; the library's word on how many were local is the truth. Returns text."""
    workers = nginx.workers()
    with Clients(nginx.port) as load:
        time.sleep(0.3)
        move(workers)
        # A thread asks for its CPUs once a second.
        time.sleep(1.2)
        assert not (tally := load.end()).lost, tally
    cpus_of = {pid: os.sched_getaffinity(pid) for pid in workers}
    before = accepts(nginx)
    with Clients(nginx.port, count=900) as load:
        tally = load.result()
    assert not tally.lost, tally
    grown = [now - then for now, then in zip(accepts(nginx), before, strict=True)]
    assert grown[0] == tally.opened, f"{grown[0]} counted, {tally}"
    if all(len(cpus) == 1 for cpus in cpus_of.values()):
        said, share = grown[1] / sum(grown[1:]), true_local(tally, cpus_of) / tally.opened
        assert abs(said - share) < 0.1, f"{share:.0%} were local, the library says {said:.0%}"
    row = shown(nginx)
    assert sum(int(words[1]) + int(words[2]) for words in row.values()) >= sum(grown[1:]), row
    return f"{tally}, {grown[1]} local and {grown[2]} remote measured"


def set_affinity(choose):
    def move(workers):
        for pid, cpu in workers.items():
            os.sched_setaffinity(pid, choose(cpu))
    return move


@told
def test_affinity():
    """running workers are moved: to the other's CPU, to all CPUs, both to one: served, and counted as it is"""
    text = []
    first, second = lab.CPUS
    for name, choose in (("swapped", lambda cpu: {first + second - cpu}), ("all", lambda cpu: {first, second}),
                         ("both on one", lambda cpu: {second})):
        own = name.replace(" ", "-")
        with Web(own, lab.environment(own)) as nginx:
            text.append(f"{name} {moved(nginx, set_affinity(choose))}")
    return "; ".join(text)


@told
def test_away_and_back():
    """a worker without its CPU for a while is pinned again when it may run there; one that is only given more is not"""
    first, second = lab.CPUS
    with Web("away", lab.environment("away")) as nginx:
        workers = {cpu: pid for pid, cpu in nginx.workers().items()}
        os.sched_setaffinity(workers[first], {second})
        os.sched_setaffinity(workers[second], {first, second})
        # Nothing comes to them: idle, they ask once a second.
        time.sleep(1.5)
        os.sched_setaffinity(workers[first], {first, second})
        lab.wait_for("the worker to be pinned", lambda: os.sched_getaffinity(workers[first]) == {first}, 3)
        assert os.sched_getaffinity(workers[second]) == {first, second}
        os.sched_setaffinity(workers[second], {second})
        lab.ask(nginx.address, nginx.port, 100)
        total = nginx.stats.total()
        assert total["accepts"] == 100 and not total["accepts_remote"], total
    return f"{total['accepts_local']} local and {total['accepts_remote']} remote measured"


class Cpuset:
    """A cpuset of its own, of cgroup v1 or v2; with `cpus` None, CPUs are still to be set."""

    def __init__(self):
        self.root = next((root for root in CPUSETS if has_cpusets(root)), None)
        assert self.root, f"no cpuset can be made in {', '.join(map(str, CPUSETS))}"
        self.group = self.root / f"fastsocket-{os.getpid()}-{time.monotonic_ns()}"

    def __enter__(self):
        unified = self.root / "cgroup.subtree_control"
        if unified.exists():
            unified.write_text("+cpuset")
        self.group.mkdir()
        if not unified.exists():
            (self.group / "cpuset.mems").write_text((self.root / "cpuset.effective_mems").read_text())
        return self

    def __exit__(self, *_):
        for pid in (self.group / "cgroup.procs").read_text().split():
            (self.root / "cgroup.procs").write_text(pid)
        self.group.rmdir()

    def set(self, cpus):
        (self.group / "cpuset.cpus").write_text(",".join(map(str, cpus)))

    def join(self, pids):
        for pid in pids:
            (self.group / "cgroup.procs").write_text(str(pid))


def has_cpusets(root):
    controllers = root / "cgroup.controllers"
    return (root / "cpuset.cpus").exists() or (controllers.exists() and "cpuset" in controllers.read_text().split())


@told
def test_cpuset():
    """running workers come into a cpuset of one CPU: served, and counted as it is"""
    with Cpuset() as group, Web("cpuset", lab.environment("cpuset")) as nginx:
        def move(workers):
            group.set(lab.CPUS[1:])
            group.join(workers)
        try:
            return moved(nginx, move)
        finally:
            nginx.stop()


@told
def test_cpuset_rewritten():
    """the CPUs of running workers' cpuset become one, and both again: served, counted, and pinned again"""
    with Cpuset() as group, Web("rewritten", lab.environment("rewritten")) as nginx:
        group.set(lab.CPUS)
        group.join(nginx.workers())
        before = nginx.workers()

        def narrow(workers):
            group.set(lab.CPUS[1:])
            assert all(os.sched_getaffinity(pid) == {lab.CPUS[1]} for pid in workers)

        def widen(workers):
            group.set(lab.CPUS)
            lab.wait_for("the workers to be pinned again",
                         lambda: all(os.sched_getaffinity(pid) == {cpu} for pid, cpu in before.items()), 3)
        try:
            text = f"one {moved(nginx, narrow)}"
            return f"{text}; both again {moved(nginx, widen)}"
        finally:
            nginx.stop()
