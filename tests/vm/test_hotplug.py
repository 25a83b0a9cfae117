# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""CPUs go offline and come back under nginx and HAProxy: no request is lost, every one is counted, `fsctl status` shows
what is there, and a CPU that is back has its own worker again. The requests come through a NIC of four queues, whose
interrupts the kernel moves with the CPUs."""
import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_rss import LAB, TOP, call

GUEST = Path(__file__).with_name("hotplug_guest.py")
HOST, ADDRESS = "hotplug-vm", "10.99.0.41"
TARGETS = {"nginx": 8080, "haproxy": 8081}
CPUS, RATE = 4, 40
SPEC = [{"name": HOST, "kind": "vm", "address": [ADDRESS], "cpus": CPUS, "memory": 1024}]


@contextlib.contextmanager
def load(name, path):
    """RATE new connections a second to each service, counted in a file, while the block runs."""
    targets = [f"--target={target}={ADDRESS}:{port}" for target, port in TARGETS.items()]
    command = [LAB, "run", "--name", name, "--", sys.executable, TOP / "tests/lab/load.py", *targets, "--rate", RATE,
               "--out", path]
    with subprocess.Popen([*map(str, command)], stdin=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()


@pytest.fixture(scope="module", name="measured")
def fixture_measured(tmp_path_factory):
    """(what the machine saw at each stage, its counts at the end, what became of the requests)"""
    if os.geteuid() != 0:
        pytest.skip("the lab needs root")
    folder, name = tmp_path_factory.mktemp("hotplug"), f"hotplug{os.getpid()}"
    call("make", "-C", TOP / "libfsocket", f"BUILD={folder}/build")
    (folder / "spec.json").write_text(json.dumps({"name": name, "host": SPEC}))
    call(LAB, "up", "--spec", folder / "spec.json")

    def guest(what):
        said = call(LAB, "exec", "--name", name, HOST, "--", "python3", "-B", f"/root/{GUEST.name}", what)
        return json.loads(said) if said else None

    try:
        files = [folder / "build/libfsocket.so", TOP / "plugins/module_utils", GUEST]
        call(LAB, "run", "--name", name, "--", "scp", "-qr", "-F", f"/run/fastsocket-lab/{name}/ssh_config", *files,
             f"{HOST}:/root")
        guest("start")
        with load(name, folder / "load"):
            stages = guest("stages")
        final = json.loads((folder / "load").read_text().splitlines()[-1])
        sys.stdout.writelines(stage["shown"] for stage in stages)
        sys.stdout.write(json.dumps(final) + "\n")
        yield stages, guest("counts"), final["targets"]
    finally:
        call(LAB, "down", "--name", name)


@pytest.mark.parametrize("service", TARGETS)
def test_no_request_is_lost_and_every_one_is_counted(measured, service):
    stages, counts, requests = measured
    row = requests[service]
    assert row["started"] > RATE * 4 * len(stages) and row["started"] == row["ok"], row
    # One more: load.py waits for a first answer.
    assert counts[service] == row["started"] + 1


@pytest.mark.parametrize("service", TARGETS)
def test_the_others_serve_meanwhile(measured, service):
    for stage in measured[0]:
        if stage["online"] is False:
            rows = stage["services"][service]["cpus"]
            accepts = {int(cpu): row["accepts"] for cpu, row in rows.items()}
            assert accepts.pop(stage["cpu"]) == 0 and min(accepts.values()) > 0, rows
            assert stage["services"][service]["serving"][str(stage["cpu"])] == sorted(accepts)


@pytest.mark.parametrize("service", TARGETS)
def test_locality_is_back_with_the_cpu(measured, service):
    for stage in measured[0]:
        if stage["online"] is not False:
            rows = stage["services"][service]["cpus"]
            local, remote = (sum(row["accepts_" + where] for row in rows.values()) for where in ("local", "remote"))
            assert local >= 0.95 * (local + remote) and min(row["accepts_local"] for row in rows.values()) > 0, rows
            assert stage["services"][service]["serving"] == {str(cpu): [cpu] for cpu in range(CPUS)}


@pytest.mark.parametrize("service", TARGETS)
def test_status_shows_what_is_there(measured, service):
    for stage in measured[0]:
        away = [] if stage["online"] is not False else [stage["cpu"]]
        assert stage["json"][service]["offline"] == away
        lines = stage["shown"].partition(f"{service}: switch on")[2].splitlines()[3:3 + CPUS]
        assert [int(line.split()[0]) for line in lines] == list(range(CPUS)), stage["shown"]
        for cpu, line in enumerate(lines):
            assert ("  offline " in line and ", runs on " in line) == (cpu in away) and "(on" in line, line
