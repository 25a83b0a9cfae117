# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole path on three hosts under load: stock, rolled out, off, rolled back, each measured; one table at the end.

Real nginx and HAProxy, real systemd and SSH, the collection installed from its tarball. Every promise is checked on
what was measured; a broken one makes the exit status 1. The figures are in build/demo/report.json."""

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
OUT = TOP / "build/demo"
LAB = TOP / "tests/lab/lab"
NAME = "demo"
HOSTS = {"lb1": "nginx", "lb2": "haproxy"}
TARGETS = {"lb1": "10.99.0.21:80", "lb2": "10.99.0.22:80"}
RATE, PROBE_RATE = 250, 40      # a second and host; issue: at least 200
WINDOW_S = 12
LOAD_S = 600                    # the load ends by itself, whatever becomes of us

# Runs on the host under load: turn off, and see when the last connection was accepted through a slot.
SWITCH_EFFECT = """
import sys, time
sys.path.insert(0, "/usr/lib/fastsocket/python")
from fastsocket_fleet import preload, stats, switch
name = sys.argv[1]
start = last = time.time()
switch.write(name, switch.OFF)
seen = None
while time.time() < start + 2:
    now = stats.read(name)["cpus"]
    if now != seen:
        seen, last = now, time.time()
    time.sleep(0.005)
print(round(last - start, 3))
"""


class DemoError(Exception):
    """What went wrong, for the person who waits."""


STARTED = time.time()


def say(text):
    """One line of progress."""
    print("%5.1f s  %s" % (time.time() - STARTED, text), flush=True)


def environment():
    """Ansible's environment: the installed collection and nothing else."""
    return dict(os.environ, ANSIBLE_COLLECTIONS_PATH=str(OUT / "collections"), ANSIBLE_HOME=str(OUT / "ansible"),
                ANSIBLE_NOCOLOR="1", ANSIBLE_DEPRECATION_WARNINGS="0", FASTSOCKET_LAB=NAME, PYTHONDONTWRITEBYTECODE="1")


def call(log, *words, progress=None):
    """Run a command with its output in OUT/LOG.log; lines that `progress` likes are shown. DemoError when it fails."""
    path = OUT / (log + ".log")
    with open(path, "a", encoding="utf-8") as stream:
        child = subprocess.Popen([str(word) for word in words], cwd=OUT, env=environment(), text=True,
                                 stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        lines = []
        for line in child.stdout:
            stream.write(line)
            lines.append(line)
            if progress and progress(line):
                say("  " + progress(line))
    if child.wait():
        raise DemoError("%s failed, see %s:\n%s" % (" ".join(map(str, words)), path, "".join(lines[-25:])))
    return "".join(lines)


def on_host(host, *words):
    return call("hosts", LAB, "exec", host, "--", *words)


def ansible(log, *words, progress=None):
    """Run an Ansible command on the controller, inside the lab's network."""
    state = Path("/run/fastsocket-lab") / NAME
    inventories = ["-i", state / "inventory.ini", "-i", TOP / "tests/demo/inventory.yml"]
    return call(log, LAB, "run", "--", words[0], *inventories, *words[1:], progress=progress)


def task_name(line):
    """The name of a task or play that begins, or nothing."""
    if line.startswith(("TASK [", "PLAY [")) and "Validating arguments" not in line:
        return line[6:line.rindex("]")].replace("fastsocket.fleet.", "")
    return "FAILED: " + line.strip()[:200] if line.startswith(("fatal:", "failed:")) else None


# ---- load ------------------------------------------------------------------


class Load:
    """The load generator in the client's host; its report lines, one a second and target."""

    def __init__(self):
        self.lines, self.ready, self.final = [], threading.Event(), None
        script = (TOP / "tests/lab/load.py").read_bytes()
        subprocess.run([LAB, "exec", "client", "--", "sh", "-c", "cat > /root/load.py"], input=script, check=True,
                       env=environment())
        targets = [word for name, address in TARGETS.items() for word in ("--target", "%s=%s" % (name, address))]
        self.child = subprocess.Popen(
            [LAB, "exec", "client", "--", "python3", "-u", "/root/load.py", *targets, "--rate", str(RATE),
             "--probe-rate", str(PROBE_RATE), "--duration", str(LOAD_S)],
            env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        if not self.ready.wait(30):
            raise DemoError("the load generator did not get an answer from every host within 30 s")

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

    def stop(self):
        """End the load gracefully; the totals are in `final`."""
        if self.child.poll() is None:
            with contextlib.suppress(DemoError):
                on_host("client", "pkill", "-TERM", "-f", "/root/load.py")
        try:
            self.child.wait(15)
        except subprocess.TimeoutExpired:
            self.child.kill()
            raise DemoError("the load generator did not end") from None
        self.reader.join(5)


# ---- measuring -------------------------------------------------------------


def measure(phase, load):
    """Measure a window on every host at once; one phase of the report."""
    say("measuring %s for %d s" % (phase, WINDOW_S))
    start = time.time()
    tree = OUT / ("read-" + phase)
    shutil.rmtree(tree, ignore_errors=True)
    ansible("measure", "ansible", "load_balancers", "-m", "fastsocket.fleet.core_stats_info", "-a",
            json.dumps({"seconds": WINDOW_S, "sample": True, "services": "{{ preload_services }}"}), "--tree", tree)
    end = time.time()
    hosts = {}
    for host, service in HOSTS.items():
        read = json.loads((tree / host).read_text())
        hosts[host] = figures(phase, service, read)
        hosts[host]["failed"] = load.failed(host, start, end)
    return {"name": phase, "hosts": hosts}


def figures(phase, service, read):
    """The report's figures of one host, from what core_stats_info read."""
    one = read["services"][service]
    window = (one["stats"] or {}).get("window") if phase == "rolled_out" else None
    outside = one["sample"]
    by_cpu = [row["passive"] for row in outside["by_cpu"].values()]
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
    }
    if service == "haproxy":
        found["connects"] = window["connects"] if window else read["kernel_window"]["ActiveOpens"]
        found["connect_local"] = window["connect_local"] if window else outside["active"]["share"]
    found["cps"] = round(found["accepts"] / read["seconds"], 1)
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in found.items()}


def reload_services():
    """What an operator does every day, under load and with the library in."""
    for host, service in HOSTS.items():
        on_host(host, "systemctl", "reload", service)
        say("reloaded %s on %s" % (service, host))
    time.sleep(2)


def switch_off():
    """Turn every service off on its host, under load; the longest time until none was accepted through a slot."""
    took = [float(on_host(host, "/usr/bin/python3", "-B", "-c", SWITCH_EFFECT, service))
            for host, service in HOSTS.items()]
    say("switched off; last connection through a slot after %s s" % ", ".join("%.2f" % one for one in took))
    for host in HOSTS:
        on_host(host, "fsctl", "off")
    return max(took)


# ---- the path --------------------------------------------------------------


def install():
    """The collection as a user gets it: built, then installed from the tarball."""
    call("install", TOP / "tools/build", OUT)
    call("install", "ansible-galaxy", "collection", "install", "--offline", "-p", OUT / "collections",
         *OUT.glob("fastsocket-fleet-*.tar.gz"))


def playbook(name):
    say("ansible-playbook fastsocket.fleet." + name)
    ansible(name, "ansible-playbook", "fastsocket.fleet." + name, "--diff", progress=task_name)


def path(report):
    """Everything between two empty labs; fills the report as it goes."""
    say("collection built and installed; starting the lab (the first time, its root takes a minute)")
    call("lab", LAB, "up", "--name", NAME, progress=lambda line: line.strip() if line.startswith("lab ") else None)
    load = Load()
    say("load runs: %d requests a second to each of %s" % (RATE, ", ".join(HOSTS)))
    try:
        report["phases"].append(measure("stock", load))
        playbook("rollout")
        reload_services()
        report["phases"].append(measure("rolled_out", load))
        print(ansible("status", "ansible-playbook", "fastsocket.fleet.status"), flush=True)
        report["switch_effect_s"] = switch_off()
        report["phases"].append(measure("off", load))
        playbook("rollback")
        report["phases"].append(measure("rolled_back", load))
    finally:
        load.stop()
    totals = load.final["targets"].values()
    report["requests_total"] = sum(row["started"] + row["probes"] for row in totals)
    report["failed_total"] = sum(row["failed"] + row["probe_failed"] for row in totals)
    report["slow_connects"] = sum(row["slow_connect"] for row in totals)


def interrupted(number, dummy):
    raise DemoError("ended by signal %d" % number)


def main():
    """Return the exit status."""
    if os.geteuid() != 0:
        print("the demo needs root: its hosts are containers")
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, interrupted)
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    report = {"schema": 1, "kernel": platform.release(), "cpus": len(os.sched_getaffinity(0)), "failed_total": None,
              "switch_effect_s": None, "phases": []}
    trouble = None
    try:
        install()
        path(report)
    except (DemoError, OSError, subprocess.CalledProcessError) as error:
        trouble = str(error)
    finally:
        with contextlib.suppress(DemoError):
            call("lab", LAB, "down", "--name", NAME)
    report["seconds"] = round(time.time() - STARTED, 1)
    (OUT / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    print("\n" + "\n".join(promises.table(report)) + "\n")
    kept, lines = promises.check(report)
    print("\n".join(lines))
    print("%.0f s; figures in %s" % (report["seconds"], OUT.relative_to(TOP) / "report.json"))
    if trouble:
        print("THE DEMO BROKE OFF: " + trouble)
    return 0 if kept and not trouble else 1


if __name__ == "__main__":
    sys.exit(main())
