# SPDX-License-Identifier: GPL-3.0-or-later
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
"""The vm kind: QEMU with a disk of its own, real GRUB 2 on it, and a NIC whose queues have interrupts.

A machine goes on from a snapshot of one that has booted (snapshot.py) and is then made the host it is to be, through
the guest agent. From its first reboot on it boots as any machine does: BIOS, GRUB, kernel, its own disk.
"""
import io
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time

from hostlab import furnish, guest, image, machine, snapshot, state
from hostlab.anyhost import AnyHost, in_network
from hostlab.errors import LabError, call
from hostlab.spec import Host

MAIN = os.path.dirname(os.path.abspath(__file__))
CPUS, MEMORY = 2, 768
AGENT_PATIENCE = 120.0
# $1: seconds since 1970, $2: MAC, the rest: units. The journal of this boot goes on under the new machine id.
FURNISH = """set -e; PATH=/usr/sbin:/usr/bin:/sbin:/bin
former=$(cat /etc/machine-id); date -s "@$1" >/dev/null; tar -xz -C / --no-same-owner
hostname "$(cat /etc/hostname)"; ip link set eth0 address "$2"; shift 2
mv "/var/log/journal/$former" "/var/log/journal/$(cat /etc/machine-id)"
systemctl restart --no-block systemd-journald; networkctl reload
[ $# = 0 ] || { systemctl daemon-reload; systemctl start "$@"; }
"""


class VirtualMachine(AnyHost):
    """One virtual machine of a lab that is being started or ended by this process."""
    TOOLS = {"qemu-system-x86_64": "qemu-system-x86", "qemu-img": "qemu-utils", "zstd": "zstd", "mke2fs": "e2fsprogs",
             "losetup": "mount"}
    PATIENCE = 300.0

    def __init__(self, spec, host, root):
        super().__init__(spec, host, root)
        self.furnisher = None

    @staticmethod
    def settle(host: Host) -> str:
        host.cpus = CPUS if host.cpus is None else host.cpus
        host.memory = MEMORY if host.memory is None else host.memory
        host.queues = host.cpus if host.queues is None else host.queues
        if not 1 <= host.cpus <= 64:
            return f"cpus is {host.cpus}, must be 1 to 64"
        if host.memory < 384:
            return f"memory is {host.memory}, must be 384 (MiB) or more"
        if host.bind:
            return f"bind is {host.bind}, but a virtual machine sees no path of the machine: copy with scp or Ansible"
        return ""

    @classmethod
    def prepare(cls, hosts, root, say):
        base = image.ensure(root, say)
        for host in hosts:
            snapshot.ensure(host, base, say)

    def start(self) -> None:
        base = image.location(self.root)
        source = snapshot.ensure(self.host, base, lambda dummy: None)
        disk = os.path.join(self.place, "disk.qcow2")
        snapshot.overlay(disk, os.path.join(source, "disk.qcow2"), "qcow2")
        enter, queues = in_network(self.spec.name), ["multi_queue"] if self.host.queues > 1 else []
        call(*enter, "ip", "tuntap", "add", "dev", self.host.name, "mode", "tap", *queues)
        call(*enter, "ip", "link", "set", "dev", self.host.name, "master", "br0", "up")
        self.launch(*enter, *snapshot.qemu(self.host, snapshot.accelerate(base), self.place, self.log, disk,
                                           self.host.name, self.mac()), *snapshot.incoming(source))
        self.furnisher = subprocess.Popen(
            machine.in_group((self.spec.name, "controller"), sys.executable, "-B", MAIN, "_furnish", self.spec.name,
                             self.host.name), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            start_new_session=True)

    def mac(self) -> str:
        digits = furnish.identity(self.spec, self.host)
        return ":".join(["52:54:00", digits[0:2], digits[2:4], digits[4:6]])

    def furnish(self) -> None:
        """Make the machine this host: what a container finds in its tree when it boots."""
        with tempfile.TemporaryDirectory() as tree:
            furnish.furnish(self.spec, self.host, tree)
            addresses = "".join(f"Address={address}/{self.spec.prefix}\n" for address in self.host.address)
            furnish.put(tree, "etc/systemd/network/eth0.network", "[Match]\nName=eth0\n\n[Network]\n"
                        f"LinkLocalAddressing=no\nIPv6AcceptRA=no\n{addresses}Gateway={self.spec.controller}\n")
            archive = _archive(tree)
        status, output = guest.run(
            os.path.join(self.place, "agent"), ["sh", "-c", FURNISH, "sh", f"{time.time():.3f}", self.mac(),
                                                *furnish.units(self.host)], archive, AGENT_PATIENCE)
        if status:
            raise LabError(f"host {self.host.name}: not furnished: {output[2].decode(errors='replace').strip()}")

    def ready(self) -> bool:
        status = self.furnisher.poll()
        if status:
            raise LabError(f"{self.furnisher.stderr.read().strip()}; {self.tail()}")
        return status == 0 and super().ready()

    def pid(self) -> int:
        for pid in machine.members(*self.group):
            try:
                with open(f"/proc/{pid}/comm", encoding="utf-8") as file:
                    if file.read().startswith("qemu-system"):
                        return pid
            except OSError:
                continue
        return 0

    def stop(self) -> None:
        """End QEMU: its disk is thrown away, nothing has to be written any more."""
        if pid := self.pid():
            machine.send(pid, signal.SIGKILL, *self.group)

    def enter(self, command):
        return [sys.executable, "-B", MAIN, "_guest", self.spec.name, self.host.name, *command]


def _archive(tree: str) -> bytes:
    """The files of TREE, not its folders: those in the machine keep their modes."""
    def owned(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid = info.gid = 0
        info.uname = info.gname = ""
        info.mode = 0o644
        return info

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for folder, _dirs, names in os.walk(tree):
            for name in names:
                path = os.path.join(folder, name)
                archive.add(path, os.path.relpath(path, tree), filter=owned)
    return buffer.getvalue()


def in_guest(name: str, host: str, command: list[str]) -> int:
    """Run COMMAND in the host by its agent; passes on output and exit status."""
    status, output = guest.run(state.folder(name, host, "agent"), command)
    for number, content in output.items():
        with open(number, "wb", closefd=False) as file:
            file.write(content)
    return status
