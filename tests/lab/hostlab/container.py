# SPDX-License-Identifier: GPL-3.0-or-later
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
"""The container kind: systemd-nspawn boots a real systemd on an overlay of the shared root.

start() launches `lab _host`, which runs inside() in mount and network namespaces of its own and starts systemd-nspawn
there. So the machine sees no mount and no interface of a host, and all of it is gone with the host's processes.
"""
import os
import signal
import sys

from hostlab import machine, state
from hostlab.anyhost import AnyHost, in_network
from hostlab.errors import call
from hostlab.furnish import furnish
from hostlab.spec import Host, Spec

MAIN = os.path.dirname(os.path.abspath(__file__))
POWEROFF = signal.SIGRTMIN + 4  # systemd(1), SIGNALS


class Container(AnyHost):
    """One container of a lab that is being started or ended by this process."""
    TOOLS = {"systemd-nspawn": "systemd-container"}

    @staticmethod
    def settle(host: Host) -> str:
        if host.queues is None:
            host.queues = os.cpu_count() or 1
        given = {key: value for key in ("cpus", "memory", "nic") if (value := getattr(host, key)) not in (None, "")}
        return f"{given} is for kind vm, a container has all of the machine's" if given else ""

    def start(self) -> None:
        """Begin to boot; returns at once."""
        self.launch("unshare", "--mount", "--propagation", "slave", "--net",
                    sys.executable, "-B", MAIN, "_host", self.spec.name, self.host.name)

    def pid(self) -> int:
        return machine.leader(*self.group)

    def stop(self) -> None:
        """Ask the host's systemd to power off; returns at once. Whoever waits watches machine.members(*self.group)."""
        if pid := self.pid():
            machine.send(pid, POWEROFF, *self.group)

    def enter(self, command):
        """It keeps the caller's capabilities and gets no seccomp filter."""
        return ["nsenter", f"--target={self.pid()}", "--all", "--", "env", "-i", "HOME=/root", "LANG=C.UTF-8",
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
    furnish(spec, host, tree)
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
    call(*in_network(spec.name), "ip", "link", "set", "dev", host.name, "master", "br0", "up")
    for address in host.address:
        call("ip", "address", "add", f"{address}/{spec.prefix}", "dev", "eth0")
    call("ip", "link", "set", "lo", "up")
    call("ip", "link", "set", "eth0", "up")
    call("ip", "route", "add", "default", "via", spec.controller)
