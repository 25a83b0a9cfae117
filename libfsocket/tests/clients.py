# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Load by the clock (clients.c) and the servers it is put on, with and without the library."""
import contextlib
import functools
import itertools
import json
import os
import re
import signal
import subprocess
from collections import Counter

import lab
from lab import Haproxy, Nginx

HOST = "127.0.0.1"
# New connections a second. The issue asks for 500 or more.
RATE = 600
# All that one CPU's clients can have opened within their patience.
LIMIT = 4000
ports = itertools.count(8300)


class Tally:
    """What became of all connections: opened = failed + served, each counted once."""

    def __init__(self, results):
        self.opened = sum(r["opened"] for r in results.values())
        self.late = sum(r["late"] for r in results.values())
        self.seconds = max(r["seconds"] for r in results.values())
        self.served = {cpu: Counter(r["served"]) for cpu, r in results.items()}
        self.failed = sum((Counter(r["failed"]) for r in results.values()), Counter())
        self.lost = self.failed.total()
        assert self.opened == self.lost + sum(map(Counter.total, self.served.values())), results

    def __str__(self):
        kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(self.failed.items()))
        return f"{self.lost} of {self.opened} lost" + (f" ({kinds})" if kinds else "")

    def by(self, *pids):
        """How many were served by these processes."""
        return sum(row[str(pid)] for row in self.served.values() for pid in pids)


class Clients:
    """RATE new connections a second in all, an equal part from each of the CPUs, until end(). Rate 0: LIMIT at a time
    from each. `count`: so many from each, and no more."""

    def __init__(self, port, rate=RATE, cpus=None, limit=LIMIT, count=0, address=HOST):
        self.rate, self.cpus = rate, lab.CPUS if cpus is None else cpus
        self.running = {}
        for cpu in self.cpus:
            words = [lab.build / "tests/clients", address, port, cpu, rate // len(self.cpus), limit, count]
            self.running[cpu] = subprocess.Popen(list(map(str, words)), stdout=subprocess.PIPE, text=True)
        for process in self.running.values():
            assert process.stdout.readline() == "up\n"

    def end(self):
        """No new ones; a Tally when the open ones have ended."""
        for process in self.running.values():
            process.send_signal(signal.SIGTERM)
        return self.result()

    def result(self):
        """The Tally of clients that end by themselves."""
        for process in self.running.values():
            process.wait(60)
        # Not communicate(): a client that was quick has said it with its "up", and that has been read into a buffer.
        tally = Tally({cpu: json.loads(p.stdout.read()) for cpu, p in self.running.items()})
        # Otherwise fewer came than the test says.
        assert not self.rate or not tally.late, f"{tally.late} connections could not be opened in time"
        return tally

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.running.values():
            if process.poll() is None:
                process.kill()
                process.communicate()


class Web(Nginx):
    """nginx whose number of workers can be changed, and whose `listen` can have words of its own."""

    def __init__(self, name, env=None, workers=2, listen="", **options):
        port = next(ports)
        self.CONFIG = Nginx.CONFIG.replace("{listen}", f"listen {HOST}:{port} {listen};")
        super().__init__(name, port, env=env, workers=workers, **options)

    def wait_for_slots(self, pids, each):
        """With `reuseport` the workers' own listeners are all there is: nothing to wait for."""
        if each:
            super().wait_for_slots(pids, each)

    def configure(self, workers):
        """For the next reload: so many workers, on the CPUs in turn."""
        path = lab.RUN / f"{self.name}.conf"
        masks = " ".join(f"{1 << cpu:b}" for cpu, _ in zip(itertools.cycle(lab.CPUS), range(workers)))
        text = re.sub(r"worker_processes \d+; worker_cpu_affinity [^;]+;",
                      f"worker_processes {workers}; worker_cpu_affinity {masks};", path.read_text())
        path.write_text(text)
        self.workers_wanted = workers


class Proxy(Haproxy):
    """HAProxy that answers itself, "PID PEERS-PORT" as our nginx does."""

    CONFIG = Haproxy.CONFIG.split("  default_backend")[0] + (
        '  http-request return status 200 content-type text/plain lf-string "%pid %cp"\n')

    def __init__(self, name, env=None, bind=""):
        self.env = env
        self.CONFIG = Proxy.CONFIG.replace("{port}", f"{{port}} {bind}")
        super().__init__(name, next(ports), None, env)

    def threads(self, count):
        """For the next reload: so many threads."""
        path = lab.RUN / f"{self.name}.cfg"
        path.write_text(re.sub(r"nbthread \d+", f"nbthread {count}", path.read_text()))

    def start_again(self):
        """A new process; the one before is the caller's to end."""
        lab.Service.__init__(self, self.name, ["haproxy", "-W", "-f", str(lab.RUN / f"{self.name}.cfg")], self.env)
        self.up(self.address, self.port)
        self.settled()


@contextlib.contextmanager
def stopped(pids):
    """SIGSTOP for the time of a with block: what comes to these processes meanwhile waits."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def told(test):
    """A test's line ends with what the test returns: the counts."""
    @functools.wraps(test)
    def run():
        run.__doc__ = f"{test.__doc__}: {test()}"
    return run
