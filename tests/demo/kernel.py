# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One load balancer in a virtual machine, from its stock kernel to ours and back, under load: stock, rolled out, rolled
back, each measured by the library, from outside and by the kernel's own count; one table at the end.

Real GRUB and real boots. The machine is emulated: rates and times say nothing, and an Ansible task takes seconds. What
fails while the host reboots was announced and is counted apart; nothing else may fail."""

import hashlib
import json
import sys
import time
from pathlib import Path

import promises
from stage import TOP, Load, Stage, run, say, task_name, totals

HOST, CPUS = "lb1", 4       # the VM of tests/lab/specs/demo-kernel.toml
REBOOT = "kernel : Reboot"  # the task of roles/kernel that ends what runs


def prepare(stage, report):
    """Have the kernel, and write what an operator writes."""
    say("building the kernel, where it is not there yet (10 minutes)")
    output = stage.call("kernel", TOP / "tools/kernel", "lab", progress=lambda line: line.strip()[:150])
    folder = Path(output.strip().splitlines()[-1])
    report["kver"] = (folder / "KVER").read_text().strip()
    package, = folder.glob("packages/kernel-fastsocket_*.deb")
    given = {"preload_services": [stage.hosts[HOST]], "verify_seconds": 10, "kernel_package": str(package),
             "kernel_sha256": hashlib.sha256(package.read_bytes()).hexdigest(), "kernel_reboot_ok": True,
             "kernel_features": ["local_listen"]}
    stage.inventory.write_text(json.dumps({"load_balancers": {"hosts": {HOST: given}}}, indent=1))


def measure(stage, report, phase, load):
    found = stage.measure(phase, load)
    for host, row in found["hosts"].items():
        row["kernel"] = stage.on_host(host, "uname", "-r").strip()
    report["phases"].append(found)


def reboots_in(stage, report, load, *words):
    """Run a playbook, and note what failed in the outages that it announced."""
    announced = []

    def progress(line):
        if task_name(line) == REBOOT:
            announced.append(time.time())
        return task_name(line)

    stage.playbook(*words, progress=progress)
    for at in announced:
        begin, end = promises.outage([row for row in load.lines if row["target"] == HOST], at)
        report["reboots"].append({"seconds": round(end - begin, 1), "failed": load.failed(HOST, begin, end)})
        say("%.0f s after the reboot began all requests were answered again" % (end - begin))


def play(stage, report):
    """Everything between two empty labs; fills the report as it goes."""
    prepare(stage, report)
    stage.up()
    with Load(stage) as there:
        measure(stage, report, "stock", there)
        reboots_in(stage, report, there, "rollout")
        measure(stage, report, "rolled_out", there)
        print(stage.ansible("status", "ansible-playbook", "fastsocket.fleet.status"), flush=True)
    with Load(stage) as back:
        reboots_in(stage, report, back, "rollback", "-e", "kernel=true")
        measure(stage, report, "rolled_back", back)
    totals(report, [there, back])
    report["failed_total"] -= sum(one["failed"] for one in report["reboots"])


if __name__ == "__main__":
    # Probes that are silent for long: the reading from outside is slow here, and is to meet enough of them.
    stage = Stage("demo-kernel", {HOST: "nginx"}, {HOST: "10.99.0.21:80"}, rate=30, probe_rate=15, silence=3,
                  window=20, inventory=TOP / "build/demo-kernel/inventory.json", patience=30, load_s=3600)
    sys.exit(run(stage, play, promises.of_kernel_demo, cpus=CPUS, kver=None, reboots=[]))
