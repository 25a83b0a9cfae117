# SPDX-License-Identifier: GPL-3.0-or-later
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
"""What all kinds of host have in common: a process in a group of the lab, a log, and when the host is ready."""
import subprocess
import time

from hostlab import machine, state
from hostlab.errors import LabError
from hostlab.spec import Host, Spec

BOOTED = "systemctl is-system-running --wait || { systemctl list-units --failed --plain --no-legend; exit 1; }"


class AnyHost:
    """One host of a lab that is being started or ended by this process.

    A kind says what it needs (TOOLS: command -> Debian package), how long a boot may take (PATIENCE, seconds), fills in
    what a spec leaves open (settle), makes what its hosts share (prepare), and knows pid(), start() and stop().
    """
    TOOLS: dict[str, str] = {}
    PATIENCE = 120.0

    def __init__(self, spec: Spec, host: Host, root: str):
        self.spec, self.host, self.root = spec, host, root
        self.group = (spec.name, host.name)
        self.place = state.folder(spec.name, host.name)
        self.log = self.place + ".log"
        self.child = self.probe = None
        self.begin = self.next_probe = 0.0

    @staticmethod
    def settle(host: Host) -> str:
        """Fill in what the spec leaves open; returns what is wrong with it, or nothing."""
        raise NotImplementedError

    @classmethod
    def prepare(cls, hosts: list[Host], root: str, say) -> None:
        """Make what HOSTS of this kind share, before the lab exists."""

    def pid(self) -> int:
        """The process that is the host; 0 when it does not run (yet)."""
        raise NotImplementedError

    def enter(self, command: list[str]) -> list[str]:
        """The command of the machine that runs COMMAND as root inside the host, without SSH."""
        raise NotImplementedError

    def launch(self, *argv: str) -> None:
        """Run ARGV as a member of the host's group; its output goes to the log."""
        machine.make_group(*self.group)
        self.begin = time.monotonic()
        with open(self.log, "ab") as output:
            self.child = subprocess.Popen(machine.in_group(self.group, *argv), stdin=subprocess.DEVNULL, stdout=output,
                                          stderr=subprocess.STDOUT, start_new_session=True)

    def ready(self) -> bool:
        """True when SSH answers and systemd says that the boot is over. LabError when the host cannot get there."""
        if self.child.poll() is not None:
            raise LabError(f"host {self.host.name} ended with status {self.child.returncode}, {self.tail()}")
        if time.monotonic() - self.begin > self.PATIENCE:
            raise LabError(f"host {self.host.name} does not answer on SSH after {self.PATIENCE:.0f} s, {self.tail()}")
        if self.probe is None:
            if time.monotonic() >= self.next_probe and self.pid():
                self.probe = subprocess.Popen(
                    machine.in_group((self.spec.name, "controller"), *in_network(self.spec.name), "ssh", "-F",
                                     state.folder(self.spec.name, "ssh_config"), self.host.name, BOOTED),
                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                    start_new_session=True)
            return False
        status = self.probe.poll()
        if status == 1:
            raise LabError(f"host {self.host.name} is up with failed units, {self.tail()}")
        if status not in (None, 0):  # 255: sshd does not listen yet
            self.probe, self.next_probe = None, time.monotonic() + 0.1
        return status == 0

    def tail(self) -> str:
        with open(self.log, encoding="utf-8", errors="replace") as file:
            return f"see {self.log}; its last lines:\n" + "".join(file.readlines()[-8:]).rstrip()


def in_network(name: str) -> list[str]:
    """Prefix of a command that runs in the network of the lab's controller."""
    return ["nsenter", f"--net={state.folder(name, 'netns')}", "--"]
