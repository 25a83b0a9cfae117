# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a demo stands on: a lab under load, the collection installed from its tarball, measuring, and the last word.

A demo is a Stage with its hosts, and a function that plays on it and fills the report. Every promise is checked on what
was measured; a broken one makes the exit status 1. The figures are in build/NAME/report.json."""

import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import promises

TOP = Path(__file__).resolve().parents[2]
LAB = TOP / "tests/lab/lab"
STARTED = time.time()


class DemoError(Exception):
    """What went wrong, for the person who waits."""


def say(text):
    """One line of progress."""
    print("%5.1f s  %s" % (time.time() - STARTED, text), flush=True)


def task_name(line):
    """The name of a task or play that begins, or nothing."""
    if line.startswith(("TASK [", "PLAY [")) and "Validating arguments" not in line:
        return line[6:line.rindex("]")].replace("fastsocket.fleet.", "")
    return "FAILED: " + line.strip()[:200] if line.startswith(("fatal:", "failed:")) else None


class Stage:
    """A demo's lab and what it takes. `hosts`: {name: service}; `targets`: {name: address:port}; `rate` and
    `probe_rate`: requests a second for each; `window`: seconds measured in a phase; `inventory`: what the operator
    wrote; `silence`: seconds in which the reading from outside can meet a probe; `patience`: seconds that a request
    may take; `load_s`: the load ends by itself after that time, whatever becomes of us."""

    def __init__(self, name, hosts, targets, rate, probe_rate, window, inventory, silence=0.25, patience=5,
                 load_s=600):
        self.name, self.hosts, self.targets = name, hosts, targets
        self.rate, self.probe_rate, self.window = rate, probe_rate, window
        self.silence, self.patience = silence, patience
        self.inventory, self.load_s, self.out = inventory, load_s, TOP / "build" / name
        self.spec = TOP / "tests/lab/specs" / (name + ".toml")

    def environment(self):
        """Ansible's environment: the installed collection and nothing else."""
        return dict(os.environ, ANSIBLE_COLLECTIONS_PATH=str(self.out / "collections"),
                    ANSIBLE_HOME=str(self.out / "ansible"), ANSIBLE_NOCOLOR="1", ANSIBLE_DEPRECATION_WARNINGS="0",
                    FASTSOCKET_LAB=self.name, PYTHONDONTWRITEBYTECODE="1")

    def call(self, log, *words, progress=None):
        """Run a command with its output in OUT/LOG.log; lines that `progress` likes are shown. DemoError when it
        fails."""
        path = self.out / (log + ".log")
        with open(path, "a", encoding="utf-8") as stream:
            child = subprocess.Popen([str(word) for word in words], cwd=self.out, env=self.environment(), text=True,
                                     stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            lines = []
            for line in child.stdout:
                stream.write(line)
                lines.append(line)
                shown = progress(line) if progress else None
                if shown:
                    say("  " + shown)
        if child.wait():
            raise DemoError("%s failed, see %s:\n%s" % (" ".join(map(str, words)), path, "".join(lines[-25:])))
        return "".join(lines)

    def up(self):
        say("collection built and installed; starting the lab (the first time, its roots take a while)")
        self.call("lab", LAB, "up", "--spec", self.spec, "--name", self.name,
                  progress=lambda line: line.strip() if line.startswith("lab ") else None)

    def down(self):
        self.call("lab", LAB, "down", "--name", self.name)

    def on_host(self, host, *words):
        return self.call("hosts", LAB, "exec", host, "--", *words)

    def ansible(self, log, *words, progress=None):
        """Run an Ansible command on the controller, inside the lab's network."""
        state = Path("/run/fastsocket-lab") / self.name
        inventories = ["-i", state / "inventory.ini", "-i", self.inventory]
        return self.call(log, LAB, "run", "--", words[0], *inventories, *words[1:], progress=progress)

    def playbook(self, name, *options, progress=task_name):
        say("ansible-playbook fastsocket.fleet." + " ".join((name,) + options))
        return self.ansible(name, "ansible-playbook", "fastsocket.fleet." + name, "--diff", *options, progress=progress)

    def install(self):
        """The collection as a user gets it: built, then installed from the tarball."""
        self.call("install", TOP / "tools/build", self.out)
        self.call("install", "ansible-galaxy", "collection", "install", "--offline", "-p", self.out / "collections",
                  *self.out.glob("fastsocket-fleet-*.tar.gz"))

    def measure(self, phase, load):
        """Measure a window on every host at once; one phase of the report."""
        say("measuring %s for %d s" % (phase, self.window))
        start = time.time()
        tree = self.out / ("read-" + phase)
        shutil.rmtree(tree, ignore_errors=True)
        self.ansible("measure", "ansible", "load_balancers", "-m", "fastsocket.fleet.core_stats_info", "-a",
                     json.dumps({"seconds": self.window, "sample": True, "services": "{{ preload_services }}"}),
                     "--tree", tree)
        end = time.time()
        found = {}
        for host, service in self.hosts.items():
            found[host] = figures(phase, service, json.loads((tree / host).read_text()))
            found[host]["failed"] = load.failed(host, start, end)
        return {"name": phase, "hosts": found}


class Load:
    """The load generator in the client's host while the block runs; its report lines, one a second and target."""

    def __init__(self, stage):
        self.stage, self.lines, self.ready, self.final = stage, [], threading.Event(), None

    def __enter__(self):
        stage, environment = self.stage, self.stage.environment()
        script = (TOP / "tests/lab/load.py").read_bytes()
        subprocess.run([LAB, "exec", "client", "--", "sh", "-c", "cat > /root/load.py"], input=script, check=True,
                       env=environment)
        targets = [word for name, address in stage.targets.items() for word in ("--target", "%s=%s" % (name, address))]
        self.child = subprocess.Popen(
            [LAB, "exec", "client", "--", "python3", "-u", "/root/load.py", *targets, "--rate", str(stage.rate),
             "--probe-rate", str(stage.probe_rate), "--probe-silence", str(stage.silence),
             "--timeout", str(stage.patience), "--duration", str(stage.load_s)],
            env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        if not self.ready.wait(30):
            self.child.kill()
            raise DemoError("the load generator did not get an answer from every host within 30 s")
        say("load runs: %d requests a second to each of %s" % (stage.rate, ", ".join(stage.hosts)))
        return self

    def _read(self):
        for line in self.child.stdout:
            row = json.loads(line)
            if row.get("ready"):
                self.ready.set()
            elif row.get("final"):
                self.final = row
            else:
                self.lines.append(row)

    def failed(self, host, start, end):
        """Requests that failed at a host between two times, probes too."""
        return sum(row["failed"] + row["probe_failed"] for row in list(self.lines)
                   if row["target"] == host and start <= row["t"] <= end + 1)

    def __exit__(self, *dummy):
        """End the load gracefully; the totals are in `final`."""
        if self.child.poll() is None:
            with contextlib.suppress(DemoError):
                self.stage.on_host("client", "pkill", "-TERM", "-f", "/root/load.py")
        try:
            self.child.wait(15)
        except subprocess.TimeoutExpired:
            self.child.kill()
            raise DemoError("the load generator did not end") from None
        self.reader.join(5)


def figures(phase, service, read):
    """The report's figures of one host, from what core_stats_info read."""
    one = read["services"][service]
    window = (one["stats"] or {}).get("window") if phase == "rolled_out" else None
    outside = one["sample"]
    by_cpu = [row["passive"] for row in outside["by_cpu"].values()]
    counted = (read["kernel_stats"] or {}).get("window", {})
    # Without the library the kernel counts the connections, and the reading from outside says where they were.
    found = {
        "service": service,
        "accepts": window["accepts"] if window else read["kernel_window"]["PassiveOpens"],
        "accept_local": window["accept_local"] if window else outside["passive"]["share"],
        "accept_local_sampled": outside["passive"]["share"],
        "connects": None,
        "connect_local": None,
        "spread": window["spread"] if window else promises.spread(by_cpu),
        "sampled": outside["passive"]["sampled"],
        "kernel_accept_local": counted.get("accept_local"),
        "kernel_lookup_local": counted.get("lookup_local"),
        "kernel_lookups": counted.get("lookups"),
    }
    if service == "haproxy":
        found["connects"] = window["connects"] if window else read["kernel_window"]["ActiveOpens"]
        found["connect_local"] = window["connect_local"] if window else outside["active"]["share"]
    found["cps"] = round(found["accepts"] / read["seconds"], 1)
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in found.items()}


def totals(report, loads):
    """What all loads of a demo asked and got, into the report. A load that broke off has no totals."""
    rows = [row for load in loads for row in load.final["targets"].values()]
    report["requests_total"] = sum(row["started"] + row["probes"] for row in rows)
    report["failed_total"] = sum(row["failed"] + row["probe_failed"] for row in rows)
    report["failed_kinds"] = {kind: sum(row["kinds"][kind] + row["probe_kinds"][kind] for row in rows)
                              for kind in rows[0]["kinds"]}
    report["slow_connects"] = sum(row["slow_connect"] for row in rows)


def interrupted(number, dummy):
    raise DemoError("ended by signal %d" % number)


def run(stage, play, judge, **facts):
    """Play a demo: `play(stage, report)` between two empty labs. `judge`: a function of promises. Return the exit
    status."""
    if os.geteuid() != 0:
        print("the demo needs root: its hosts are containers")
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, interrupted)
    shutil.rmtree(stage.out, ignore_errors=True)
    stage.out.mkdir(parents=True)
    report = dict({"schema": 1, "kernel": platform.release(), "cpus": len(os.sched_getaffinity(0)),
                   "failed_total": None, "phases": []}, **facts)
    trouble = None
    try:
        stage.install()
        play(stage, report)
    except (DemoError, OSError, subprocess.CalledProcessError) as error:
        trouble = str(error)
    finally:
        with contextlib.suppress(DemoError):
            stage.down()
    report["seconds"] = round(time.time() - STARTED, 1)
    (stage.out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    print("\n" + "\n".join(promises.table(report)) + "\n")
    kept, lines = promises.check(judge(report))
    print("\n".join(lines))
    print("%.0f s; figures in %s" % (report["seconds"], stage.out.relative_to(TOP) / "report.json"))
    if trouble:
        print("THE DEMO BROKE OFF: " + trouble)
    sys.stdout.flush()
    return 0 if kept and not trouble else 1
