# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Is there room for a kernel, on each file system it goes to?"""

import glob
import os
import re

from ..errors import FleetError
from . import tools

MIB = 1 << 20
BLOCK = 4096
# What stays free: module indexes, the package database, the work files of an initramfs.
RESERVE = {"/boot": 8 * MIB, "/": 64 * MIB, "/lib/modules": 16 * MIB, "/var": 32 * MIB}
INITRAMFS = ("initrd.img-*", "initramfs-*.img", "initrd-*")
# The two that are no measure: one holds all modules there are, the other nearly none.
OTHER_INITRAMFS = re.compile(r"rescue|kdump\.img$|\.(old|bak)")
MAKERS = ("dracut", "update-initramfs", "mkinitrd", "mkinitcpio")
# With a maker on the host and none of its work to measure.
FIRST_INITRAMFS = 64 * MIB
# What kernel-install and its kin copy to /boot from beside the modules.
COPIED = ("vmlinuz", "System.map", "config", "symvers.gz", "symvers.xz")


def boot_folder(root=""):
    """Return where kernel images go: the place of the boot loader specification where the host has it, else /boot."""
    for folder in ("/efi", "/boot", "/boot/efi"):
        for machine in glob.glob("%s%s/*/*/linux" % (root, folder)):
            if re.match(r"^[0-9a-f]{32}$", machine.split("/")[-3]):
                return folder
    return "/boot"


def initramfs(boot, root=""):
    """Return how many bytes an initramfs of another kernel may take, by those that are there."""
    sizes = [os.path.getsize(path) for pattern in INITRAMFS for path in glob.glob("%s%s/%s" % (root, boot, pattern))
             if os.path.isfile(path) and not OTHER_INITRAMFS.search(path)]
    sizes += [os.path.getsize(path) for path in glob.glob("%s%s/*/*/initrd*" % (root, boot)) if os.path.isfile(path)]
    if sizes:
        return max(sizes) * 5 // 4
    return FIRST_INITRAMFS if any(tools.have(program) for program in MAKERS) else 0


def needed(files, kernel, root=""):
    """Return {folder: bytes} that {path: bytes} and what the host makes of them will take."""
    boot = boot_folder(root)
    wanted = {}
    for path, size in files.items():
        folder = os.path.dirname(path)
        wanted[folder] = wanted.get(folder, 0) + -(-max(size, 1) // BLOCK) * BLOCK
    if not files.get("/boot/vmlinuz-" + kernel):
        wanted[boot] = wanted.get(boot, 0) + sum(
            files.get("/lib/modules/%s/%s" % (kernel, name), 0) for name in COPIED)
    # A package may list its initramfs, with a size that it guesses.
    listed = sum(size for path, size in files.items() if re.match(r"^/boot/init(rd|ramfs)", path))
    wanted[boot] = wanted.get(boot, 0) + max(initramfs(boot, root) - listed, 0)
    return wanted


def check(files, kernel, root=""):
    """FleetError when a file system has too little room for {path: bytes}."""
    systems = {}
    for folder, size in list(needed(files, kernel, root).items()) + [(folder, 0) for folder in RESERVE]:
        place = _mounted(folder, root)
        entry = systems.setdefault(os.stat(place).st_dev, {"place": place, "need": 0, "reserve": 0, "count": 0})
        entry["need"] += size
        entry["reserve"] = max(entry["reserve"], RESERVE.get(folder, 0))
        if len(place) < len(entry["place"]):
            entry["place"] = place
    for path in files:
        systems[os.stat(_mounted(os.path.dirname(path), root)).st_dev]["count"] += 1
    for entry in systems.values():
        if entry["need"]:
            _check_one(entry, kernel, root)


def _check_one(entry, kernel, root):
    found = os.statvfs(entry["place"])
    free, need = found.f_bavail * found.f_frsize, entry["need"] + entry["reserve"]
    place = entry["place"][len(root):] or "/"
    if found.f_flag & os.ST_RDONLY:
        raise FleetError("%s is mounted read-only: a kernel cannot be put there; mount it writable" % place)
    if free < need:
        raise FleetError(
            "%s is too full for %s: %.1f MiB are free, %.1f MiB are needed (%.1f for the kernel and its initramfs, "
            "%.1f to stay free): make room, for instance by removing a kernel that nobody boots"
            % (place, kernel, free / MIB, need / MIB, entry["need"] / MIB, entry["reserve"] / MIB))
    if found.f_files and found.f_favail < entry["count"]:
        raise FleetError("%s is too full for %s: %d more files can be made there, %d are needed: remove some"
                         % (place, kernel, found.f_favail, entry["count"]))


def _mounted(folder, root):
    """Return the mount point that a folder, there or not, is or will be on."""
    path = os.path.realpath(root + folder)
    while not os.path.exists(path):
        path = os.path.dirname(path)
    device = os.stat(path).st_dev
    while path not in ("/", root) and os.stat(os.path.dirname(path)).st_dev == device:
        path = os.path.dirname(path)
    return path
