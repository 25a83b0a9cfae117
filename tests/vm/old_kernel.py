# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian 11's kernel and a machine that runs it: the lab's disk, booted by QEMU with that kernel, reached by its guest
agent. Kept in the cache: vmlinuz, and an initramfs with its modules before the image's own."""
import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lab"))
from hostlab import cache, guest, image, root, snapshot
from hostlab.debian import SUITE
from hostlab.errors import LabError, call

# The last of Debian 11.
PACKAGE, RELEASE, DEBIAN = "linux-image-5.10.0-32-cloud-amd64", "5.10.0-32-cloud-amd64", "bullseye"
VERSION, SHA256 = "5.10.223-1", "fb4a1229952d892138532c1d9f40a7fd0bd408e4dcf969c12e4524b6a89fdcb8"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
MODULES = ("virtio_pci", "virtio_blk")
FAMILY = "old-kernel-"
SOURCE = Path(__file__)
FILES, PATIENCE = "/dev/vdb", 900.0
# Nothing to load: the machine has no NIC. As the lab's machines, it begins anew when its boot hangs.
ARGUMENTS = ("root=/dev/vda1 ro console=ttyS0 mitigations=off hung_task_panic=1 panic=30 "
             "systemd.mask=systemd-modules-load.service")


def download(place):
    """The package, from the mirror that this machine has its own Debian from."""
    lines = call("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian",
                 f"Codename: {SUITE}").splitlines()
    if not lines:
        raise LabError(f"apt has no package lists of Debian {SUITE}: run apt-get update")
    for name in ("lists/partial", "archives/partial", "sources"):
        (place / "apt" / name).mkdir(parents=True)
    (place / "apt/sources/old.list").write_text(f"deb [signed-by={KEYRING}] {lines[0]} {DEBIAN} main\n")
    (place / "apt/status").touch()
    options = {"Dir::State::Lists": "lists", "Dir::State::status": "status", "Dir::Cache": ".",
               "Dir::Etc::SourceParts": "sources"}
    apt = ["apt-get", "-qq", "-o", "Dir::Etc::SourceList=/dev/null", "-o", "Acquire::Languages=none",
           "-o", "APT::Sandbox::User=root",
           *(word for name, path in options.items() for word in ("-o", f"{name}={place}/apt/{path}"))]
    for words in (["update"], ["download", f"{PACKAGE}={VERSION}"]):
        done = subprocess.run([*apt, *words], cwd=place, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode:
            raise LabError(f"{PACKAGE} {VERSION} cannot be had from this machine's Debian mirror ({DEBIAN}), "
                           f"apt-get {words[0]} says: {done.stdout.strip()[-500:]}")
    package, = place.glob("*.deb")
    found = hashlib.sha256(package.read_bytes()).hexdigest()
    if found != SHA256:
        raise LabError(f"{package.name} has sha256 {found}, not {SHA256}")
    return package


def build(base, name):
    """Make the folder NAME for the image BASE."""
    place = Path(name)
    package, tree, early = download(place), place / "tree", place / "early/usr"
    call("dpkg-deb", "-x", str(package), str(tree))
    shutil.copyfile(tree / f"boot/vmlinuz-{RELEASE}", place / "vmlinuz")
    call("depmod", "-b", str(tree), RELEASE)
    needed = call("modprobe", "-d", str(tree), "-S", RELEASE, "-a", "--show-depends", *MODULES).splitlines()
    for path in {Path(line.split()[1]) for line in needed}:
        target = early / path.relative_to(tree)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    for path in (tree / f"lib/modules/{RELEASE}").glob("modules.builtin*"):
        shutil.copyfile(path, early / f"lib/modules/{RELEASE}" / path.name)
    call("depmod", "-b", str(early), RELEASE)
    # The kernel takes several archives one after the other; what is compressed by lz4 has to be the last.
    archive = subprocess.run("find . | cpio --quiet -o -H newc -R 0:0", shell=True, check=True, cwd=early.parent,
                             stdout=subprocess.PIPE).stdout
    (place / "initrd").write_bytes(archive + Path(base, "initrd").read_bytes())
    for name in ("apt", "tree", "early"):
        shutil.rmtree(place / name)
    package.unlink()


def ensure():
    """(the lab's image, the folder with the kernel), made if needed."""
    base = image.ensure(root.ensure(print), print)
    key = hashlib.sha256(SOURCE.read_bytes() + base.encode()).hexdigest()[:16]
    return base, cache.once(os.path.join(cache.CACHE, FAMILY + key), FAMILY, lambda place: build(base, place), print,
                            f"Debian's {PACKAGE} is made ready first (once)")


class Machine:
    """A running one."""

    def __init__(self, process, agent):
        self.process, self.agent = process, str(agent)

    def run(self, *command):
        """What COMMAND prints; it must succeed."""
        status, output = guest.run(self.agent, [*map(str, command)], patience=PATIENCE)
        assert status == 0, f"{command}: {output}"
        return output[1].decode()


@contextlib.contextmanager
def machine(folder, cpus, files):
    """A Machine of so many CPUs, with FILES in /root, while the block runs."""
    base, kernel = ensure()
    snapshot.overlay(f"{folder}/disk", f"{base}/disk", "raw")
    # A disk: the agent's serial line is slow.
    words = [word for path in files for word in ("-C", path.parent, path.name)]
    call("tar", "-c", "--exclude=__pycache__", "-f", f"{folder}/files", *map(str, words))
    drive = "file={}/{},if=virtio,format={},cache=unsafe"
    with open(f"{folder}/qemu", "wb") as said:
        process = subprocess.Popen([
            *snapshot.MACHINE, *snapshot.ACCELERATORS[snapshot.accelerate(base)], "-smp", str(cpus), "-m", "1024",
            "-drive", drive.format(folder, "disk", "qcow2"), "-drive", drive.format(folder, "files", "raw"),
            "-chardev", f"file,id=console,path={folder}/console", "-serial", "chardev:console",
            "-chardev", f"socket,id=agent,path={folder}/agent,server=on,wait=off", "-serial", "chardev:agent",
            "-kernel", f"{kernel}/vmlinuz", "-initrd", f"{kernel}/initrd", "-append", ARGUMENTS],
            stdin=subprocess.DEVNULL, stdout=said, stderr=said)
    try:
        one = Machine(process, folder / "agent")
        one.run("tar", "-x", "-C", "/root", "--no-same-owner", "-f", FILES)
        yield one
    finally:
        process.kill()
        process.wait()
