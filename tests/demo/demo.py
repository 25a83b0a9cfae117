# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole path on three hosts under load: stock, rolled out, off, rolled back, each measured; one table at the end.

Real nginx and HAProxy, real systemd and SSH, the collection installed from its tarball."""

import sys
import time

import promises
from stage import TOP, Load, Stage, run, say, totals

# Runs on the host under load: turn off, and see when the last connection was accepted through a slot.
SWITCH_EFFECT = """
import sys, time
sys.path.insert(0, "/usr/lib/fastsocket/python")
from fastsocket_fleet import stats, switch
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


def reload_services(stage):
    """What an operator does every day, under load and with the library in."""
    for host, service in stage.hosts.items():
        stage.on_host(host, "systemctl", "reload", service)
        say("reloaded %s on %s" % (service, host))
    time.sleep(2)


def switch_off(stage):
    """Turn every service off on its host, under load; the longest time until none was accepted through a slot."""
    took = [float(stage.on_host(host, "/usr/bin/python3", "-B", "-c", SWITCH_EFFECT, service))
            for host, service in stage.hosts.items()]
    say("switched off; last connection through a slot after %s s" % ", ".join("%.2f" % one for one in took))
    for host in stage.hosts:
        stage.on_host(host, "fsctl", "off")
    return max(took)


def play(stage, report):
    """Everything between two empty labs; fills the report as it goes."""
    stage.up()
    with Load(stage) as load:
        report["phases"].append(stage.measure("stock", load))
        stage.playbook("rollout")
        reload_services(stage)
        report["phases"].append(stage.measure("rolled_out", load))
        print(stage.ansible("status", "ansible-playbook", "fastsocket.fleet.status"), flush=True)
        report["switch_effect_s"] = switch_off(stage)
        report["phases"].append(stage.measure("off", load))
        stage.playbook("rollback")
        report["phases"].append(stage.measure("rolled_back", load))
    totals(report, [load])


if __name__ == "__main__":
    # A second and host at least 200: the promise of the issue.
    sys.exit(run(
        Stage("demo", {"lb1": "nginx", "lb2": "haproxy"}, {"lb1": "10.99.0.21:80", "lb2": "10.99.0.22:80"},
              rate=250, probe_rate=40, window=12, inventory=TOP / "tests/demo/inventory.yml"),
        play, promises.of_demo, switch_effect_s=None))
