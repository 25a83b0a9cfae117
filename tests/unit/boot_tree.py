# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Trees of a host as the boot loader's backends see it: /boot around a real grub.cfg, and what /proc and /sys say."""

import os
import shutil
import subprocess
from pathlib import Path

TREES = Path(__file__).parent / "trees/boot"
STOCK, NEW = "6.1.0-56-cloud-amd64", "6.1.0-99-test"
BOOT_IDS = [f"{digit * 8}-1111-4111-8111-111111111111" for digit in "0123456789"]
UUID = "a4d2462e-6644-4ab3-85ed-e45cd9580520"    # of the root file system in the captured grub.cfg
DEFAULT_ID = f"gnulinux-simple-{UUID}"


def entry_id(kernel):
    return f"gnulinux-advanced-{UUID}>gnulinux-{kernel}-advanced-{UUID}"


def write(root, path, text=""):
    path = Path(root) / path.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def disk(root, device, name, *marks):
    """A block device in sysfs: `name` is its folder below devices/, `marks` files or folders (ending in /) in it."""
    folder = Path(root) / "sys/devices" / name
    folder.mkdir(parents=True, exist_ok=True)
    for mark in marks:
        (folder / mark).mkdir(parents=True, exist_ok=True) if mark.endswith("/") else write(folder, mark, "1\n")
    link = Path(root) / "sys/dev/block" / device
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(os.path.relpath(folder, link.parent))
    return folder


def mount(root, point, kind, device="8:1", options="rw"):
    with open(Path(root) / "proc/self/mountinfo", "a") as handle:
        handle.write(f"24 1 {device} / {point} rw,relatime shared:1 - {kind} /dev/some {options}\n")


def running(root, kernel=STOCK, boot=0, arguments=""):
    """The host has booted this kernel with these arguments."""
    write(root, "/proc/sys/kernel/osrelease", kernel + "\n")
    write(root, "/proc/sys/kernel/random/boot_id", BOOT_IDS[boot] + "\n")
    write(root, "/proc/cmdline", f"BOOT_IMAGE=/boot/vmlinuz-{kernel} root=/dev/vda1 ro {arguments}\n")


def bare(root):
    """A host with systemd, flock, one plain disk with one file system, and two kernels; no loader yet."""
    running(root)
    write(root, "/proc/self/mountinfo")
    mount(root, "/", "ext4")
    disk(root, "8:1", "pci/vda/vda1", "partition")
    (Path(root) / "run/systemd/system").mkdir(parents=True)
    write(root, "/usr/bin/flock").chmod(0o755)
    for kernel in (STOCK, NEW):
        write(root, f"/boot/vmlinuz-{kernel}", "kernel")
        write(root, f"/boot/initrd.img-{kernel}", "initrd")
    return str(root)


def debian(root):
    """The lab's Debian 12, whose update-grub saw a second kernel. Its default, the first entry, is the stock kernel."""
    bare(root)
    write(root, "/boot/grub/grub.cfg")
    shutil.copyfile(TREES / "debian12-grub.cfg", Path(root) / "boot/grub/grub.cfg")
    subprocess.run(["grub-editenv", Path(root) / "boot/grub/grubenv", "create"], check=True)
    return str(root)


def environment(root, **values):
    block = Path(root) / "boot/grub/grubenv"
    words = [f"{name}={value}" for name, value in values.items()]
    subprocess.run(["grub-editenv", block, "set", *words], check=True)


def snapshot(root):
    """{path: (mode, text or link)} of all that a boot loader or systemd would see, ours in /run and /var left out."""
    found = {}
    for path in sorted(Path(root).rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_file() and not name.startswith("run/"):
            found[name] = (path.stat().st_mode & 0o7777, path.read_text())
    return found
