# SPDX-License-Identifier: GPL-3.0-or-later
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
"""The container kind: systemd-nspawn boots a real systemd on an overlay of the shared root.

start() launches `lab _host`, which runs inside() in mount and network namespaces of its own and starts systemd-nspawn
there. So the machine sees no mount and no interface of a host, and all of it is gone with the host's processes.
"""
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time

from hostlab import machine, state
from hostlab.errors import LabError, call
from hostlab.spec import PROFILES, Host, Spec

MAIN = os.path.dirname(os.path.abspath(__file__))
BOOT_PATIENCE = 120.0
POWEROFF = signal.SIGRTMIN + 4  # systemd(1), SIGNALS
BOOTED = "systemctl is-system-running --wait || { systemctl list-units --failed --plain --no-legend; exit 1; }"


class Container:
    """One host of a lab that is being started or ended by this process."""

    def __init__(self, spec: Spec, host: Host, root: str):
        self.spec, self.host, self.root = spec, host, root
        self.group = (spec.name, host.name)
        self.log = state.folder(spec.name, host.name + ".log")
        self.child = self.probe = None
        self.begin = self.next_probe = 0.0

    def start(self) -> None:
        """Begin to boot; returns at once."""
        machine.make_group(*self.group)
        self.begin = time.monotonic()
        argv = machine.in_group(self.group, "unshare", "--mount", "--propagation", "slave", "--net",
                                sys.executable, "-B", MAIN, "_host", self.spec.name, self.host.name)
        with open(self.log, "wb") as output:
            self.child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                                          start_new_session=True)

    def ready(self) -> bool:
        """True when SSH answers and systemd says that the boot is over. LabError when the host cannot get there."""
        if self.child.poll() is not None:
            raise LabError(f"host {self.host.name} ended with status {self.child.returncode}, {self._tail()}")
        if time.monotonic() - self.begin > BOOT_PATIENCE:
            raise LabError(f"host {self.host.name} does not answer on SSH after {BOOT_PATIENCE:.0f} s, {self._tail()}")
        if self.probe is None:
            if time.monotonic() >= self.next_probe and machine.leader(*self.group):
                self.probe = subprocess.Popen(
                    machine.in_group((self.spec.name, "controller"), *in_network(self.spec.name), "ssh", "-F",
                                     state.folder(self.spec.name, "ssh_config"), self.host.name, BOOTED),
                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                    start_new_session=True)
            return False
        status = self.probe.poll()
        if status == 1:
            raise LabError(f"host {self.host.name} is up with failed units, {self._tail()}")
        if status not in (None, 0):  # 255: sshd does not listen yet
            self.probe, self.next_probe = None, time.monotonic() + 0.1
        return status == 0

    def stop(self) -> None:
        """Ask the host's systemd to power off; returns at once. Whoever waits watches machine.members(*self.group)."""
        if pid := machine.leader(*self.group):
            machine.send(pid, POWEROFF, *self.group)

    def _tail(self) -> str:
        with open(self.log, encoding="utf-8", errors="replace") as file:
            return f"see {self.log}; its last lines:\n" + "".join(file.readlines()[-8:]).rstrip()


def in_network(name: str) -> list[str]:
    """Prefix of a command that runs in the network of the lab's controller."""
    return ["nsenter", f"--net={state.folder(name, 'netns')}", "--"]


def enter(name: str, host: str, command: list[str]) -> list[str]:
    """COMMAND as root inside a host, without SSH. It keeps the caller's capabilities and gets no seccomp filter."""
    pid = machine.leader(name, host)
    if not pid:
        raise LabError(f"host {host} of lab {name} is not running")
    return ["nsenter", f"--target={pid}", "--all", "--", "env", "-i", "HOME=/root", "LANG=C.UTF-8",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            f"TERM={os.environ.get('TERM', 'dumb')}", *command]


def inside(spec: Spec, host: Host, root: str) -> None:
    """Become the host: runs in its own mount and network namespace, never returns."""
    place = state.folder(spec.name, host.name)
    call("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", place)
    lower, upper, work, tree = (os.path.join(place, name) for name in ("lower", "upper", "work", "tree"))
    for path in (lower, upper, work, tree):
        os.mkdir(path, 0o755)
    call("mount", "--bind", os.path.join(root, "tree"), lower)  # overlayfs would stumble over a colon in the path
    call("mount", "-t", "overlay", "-o", f"lowerdir={lower},upperdir={upper},workdir={work}", "overlay", tree)
    # nspawn keeps sockets and folders here; a private copy leaves the machine's as it was.
    os.makedirs("/run/systemd/nspawn", exist_ok=True)
    call("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run/systemd/nspawn")
    _network(spec, host)
    _furnish(spec, host, tree)
    argv = ["systemd-nspawn", "--quiet", "--settings=no", "--register=no", "--keep-unit", "--boot",
            f"--directory={tree}", f"--machine={spec.name}-{host.name}", f"--hostname={host.name}",
            "--network-namespace-path=/proc/self/ns/net", "--capability=CAP_NET_ADMIN",
            # The independent reading of SO_INCOMING_CPU takes sockets out of workers; nspawn's filter would forbid it.
            "--system-call-filter=pidfd_getfd", "--rlimit=RLIMIT_NOFILE=1024:524288",
            "--link-journal=no", "--resolv-conf=off", "--timezone=off",
            *(f"--bind-ro={pair}" for pair in host.bind)]
    # With --keep-unit nspawn leaves a reboot of the host to its caller and says so with status 133.
    loop = 'while "$@"; status=$?; [ $status = 133 ]; do :; done; exit $status'
    boot = (spec.name, host.name, "boot")
    machine.make_group(*boot)
    os.execvpe("sh", ["sh", "-c", loop, "sh", *machine.in_group(boot, *argv)],
               {"PATH": os.environ["PATH"], "TERM": "dumb"})


def _network(spec: Spec, host: Host) -> None:
    """A veth pair with N queues each way; the other end is a port of the lab's bridge."""
    netns, queues = state.folder(spec.name, "netns"), ("numtxqueues", str(host.queues), "numrxqueues", str(host.queues))
    # iproute2 takes a path for a namespace; the link in /run is made a real one, that it follows everywhere.
    call("ip", "link", "add", "eth0", *queues, "type", "veth", "peer", "name", host.name, *queues,
         "netns", os.readlink(netns))
    call(*in_network(spec.name), "ip", "link", "set", host.name, "master", "br0", "up")
    for address in host.address:
        call("ip", "address", "add", f"{address}/{spec.prefix}", "dev", "eth0")
    call("ip", "link", "set", "lo", "up")
    call("ip", "link", "set", "eth0", "up")
    call("ip", "route", "add", "default", "via", spec.controller)


def _furnish(spec: Spec, host: Host, tree: str) -> None:
    """What makes a host out of the shared root: identity, names, the profile's files and services."""
    def put(path: str, text: str) -> None:
        with open(os.path.join(tree, path), "w", encoding="utf-8") as file:
            file.write(text)

    identity = hashlib.md5(f"{spec.name}/{host.name}".encode()).hexdigest()
    put("etc/machine-id", identity + "\n")
    put("etc/hostname", host.name + "\n")
    put("etc/hosts", "127.0.0.1 localhost\n" + f"{spec.controller} controller\n"
        + "".join(f"{address} {other.name}\n" for other in spec.host for address in other.address))
    profile = os.path.join(PROFILES, host.profile)
    files = os.path.join(profile, "files")
    for folder, _dirs, names in os.walk(files):
        target = os.path.join(tree, os.path.relpath(folder, files))
        os.makedirs(target, exist_ok=True)
        for name in names:  # content only: the checkout may belong to anyone, the host's files belong to root
            shutil.copyfile(os.path.join(folder, name), os.path.join(target, name))
    with open(os.path.join(profile, "enable"), encoding="utf-8") as file:
        units = [line.strip() for line in file if line.strip() and not line.startswith("#")]
    wants = os.path.join(tree, "etc/systemd/system/multi-user.target.wants")
    for unit in units:  # what `systemctl enable` does for WantedBy=multi-user.target
        os.symlink(f"/lib/systemd/system/{unit}", os.path.join(wants, unit))
