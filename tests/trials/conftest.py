# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A lab of virtual machines on which kernels are really booted, and the collection as a user installs it."""
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tests/integration"))

import fleet  # noqa: E402

# Four machines: more would only wait for each other on two cores. The container is what a rollout would come to next.
MACHINES = ("v1", "v2", "v3", "v4")
NEXT = "next"
# Emulated CPUs wait for each other: one, but where another is to find a CPU that hangs.
CPUS = {"v2": 2}
SPEC = [*({"name": name, "kind": "vm", "address": [f"10.99.0.{number}"], "cpus": CPUS.get(name, 1), "profile": "nginx"}
          for number, name in enumerate(MACHINES, 41)),
        {"name": NEXT, "address": ["10.99.0.51"], "profile": "nginx"}]
# All waits are for a machine that is busy with four emulated ones and more.
PATIENCE = 1500.0


class Kernel:
    """Our kernel as tools/kernel built it."""

    def __init__(self):
        place = Path(subprocess.run([TOP / "tools/kernel", "lab"], check=True, stdout=subprocess.PIPE,
                                    text=True).stdout.strip())
        self.version = (place / "KVER").read_text().strip()
        self.package = str(next((place / "packages").glob("*.deb")))
        self.checksum = hashlib.sha256(Path(self.package).read_bytes()).hexdigest()


class Play:
    """A running ansible-playbook. `output` grows in a file."""

    def __init__(self, lab, folder, name, book, variables, hosts):
        inventory, self.path = folder / f"{name}.json", folder / f"{name}.log"
        inventory.write_text(json.dumps({"load_balancers": {"hosts": hosts, "vars": variables}}))
        command = [*lab.enter, "ansible-playbook", "-i", lab.folder / "inventory.ini", "-i", inventory, book]
        with open(self.path, "w", encoding="utf-8") as output:
            self.process = subprocess.Popen([*map(str, command)], stdin=subprocess.DEVNULL, stdout=output,
                                            stderr=subprocess.STDOUT, env=lab.env, start_new_session=True)

    @property
    def output(self):
        return self.path.read_text(errors="replace")

    def shows(self, text):
        """Wait until TEXT is in the output of the running play."""
        def there():
            assert self.process.poll() is None or text in self.output, self.output
            return text in self.output
        fleet.wait(there, PATIENCE)

    def kill(self):
        """As if the controller had lost its power: Ansible, its workers and their SSH clients."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def end(self):
        """Wait for the end; returns the fleet.Run."""
        self.process.wait(timeout=PATIENCE)
        return fleet.Run(subprocess.CompletedProcess([], self.process.returncode, self.output))


class Machines(fleet.Lab):
    """The lab, with a way to its machines that needs no network. `over`: nobody waits for them any more."""
    over = False

    def inside(self, host, command, check=True):
        """Run COMMAND of a shell by the machine's agent."""
        done = subprocess.run([fleet.LAB, "exec", "--name", self.name, host, "--", "sh", "-c", command],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              check=False, timeout=300)
        assert done.returncode == 0 or not check, f"{host}: {command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def until(self, host, command, wanted):
        """Wait until COMMAND in the machine prints something that WANTED holds true for; returns that."""
        deadline = time.monotonic() + PATIENCE
        while not wanted(said := self.inside(host, command, check=False)):
            assert time.monotonic() < deadline and not self.over, f"{host}: {command}: {said}"
            time.sleep(1)
        return said

    def reset(self, host):
        """Press the reset button."""
        subprocess.run([fleet.LAB, "monitor", "--name", self.name, host, "system_reset"], check=True,
                       stdout=subprocess.DEVNULL)

    def console(self, host):
        return (self.folder / f"{host}.log").read_text(errors="replace")

    def trial(self, host):
        """What the host says of its boots and of its trial."""
        return self.module(host, "boot_entry", state="info")


@pytest.fixture(scope="session")
def kernel():
    return Kernel()


@contextlib.contextmanager
def up(name, hosts, collections, folder):
    """A lab of these hosts, while the block runs."""
    if os.geteuid() != 0:
        pytest.skip("the lab needs root")
    name = f"{name}{os.getpid()}"
    (folder / "spec.json").write_text(json.dumps({"name": name, "host": hosts}))
    done = subprocess.run([fleet.LAB, "up", "--spec", folder / "spec.json"], check=False, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    try:
        one = Machines(name, collections=collections, home=folder / "ansible")
        one.stock = one.inside(hosts[0]["name"], "uname -r")
        yield one
    finally:
        subprocess.run([fleet.LAB, "down", "--name", name], check=True, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="session")
def collections(tmp_path_factory):
    return fleet.build(tmp_path_factory.mktemp("fleet"))


@pytest.fixture(scope="session")
def machines(kernel, collections, tmp_path_factory):
    with up("vm", SPEC, collections, tmp_path_factory.mktemp("machines")) as one:
        yield one


@pytest.fixture(scope="session")
def play(kernel, machines, tmp_path_factory):
    """play(NAME, hosts={HOST: variables}, book=, **variables): start a playbook that brings our kernel."""
    folder = tmp_path_factory.mktemp("plays")
    role = folder / "kernel.yml"
    role.write_text(json.dumps([{"hosts": "load_balancers", "gather_facts": False,
                                 "roles": ["fastsocket.fleet.kernel"]}]))
    plays = []

    def start(name, hosts, book=role, **variables):
        assert not machines.over
        given = {"kernel_package": kernel.package, "kernel_sha256": kernel.checksum, "kernel_reboot_ok": True,
                 "kernel_stable_seconds": 5, "kernel_reboot_timeout": PATIENCE, **variables}
        plays.append(Play(machines, folder, name, book, given, hosts))
        return plays[-1]

    def stop():
        for one in plays:
            if one.process.poll() is None:
                one.kill()
    start.stop = stop
    yield start
    stop()
