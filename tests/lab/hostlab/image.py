# SPDX-License-Identifier: GPL-3.0-or-later
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
"""The disk all virtual machines start from, made once and cached by content.

~/.cache/fastsocket/lab-vm-HASH/ holds `disk` (raw, sparse: one ext4 partition with the hosts' root, a kernel and GRUB)
and the same kernel and initramfs as files, `vmlinuz` and `initrd`.
"""
import glob
import os
import shlex
import shutil

from hostlab import cache, debian
from hostlab.spec import LAB

FAMILY = "lab-vm-"
INPUTS = ("vm-packages.txt", "vm-customize.sh", "vm-disk.sh", "vmfs", "hostlab/debian.py", "hostlab/image.py")


def location(root: str) -> str:
    """Where the image on top of ROOT is, or will be. Keys differ between roots with one name: they count, too."""
    with open(os.path.join(root, "id_ed25519.pub"), encoding="utf-8") as file:
        return os.path.join(cache.CACHE, FAMILY + cache.digest(INPUTS, os.path.basename(root), file.read()))


def ensure(root: str, say) -> str:
    """Return the image's folder, made if needed."""
    return cache.once(location(root), FAMILY, lambda place: _build(root, place), say,
                      "the disk of the virtual machines is made first (once, about 2 minutes)")


def _build(root: str, place: str) -> None:
    tree, log = os.path.join(place, "tree"), os.path.join(cache.CACHE, "lab-vm.log")
    copies = [f"cp -a {shlex.quote(os.path.join(root, 'tree'))}/. \"$1\"",
              f"cp -rT --no-preserve=ownership,mode,timestamps {shlex.quote(os.path.join(LAB, 'vmfs'))} \"$1\""]
    debian.make(tree, log, "vm-packages.txt", "vm-customize.sh", "--variant=custom", "--skip=check/empty",
                '--aptopt=APT::Install-Recommends "false"', *(f"--setup-hook={copy}" for copy in copies))
    cache.build(["unshare", "--mount", "--propagation", "private", os.path.join(LAB, "vm-disk.sh"), tree,
                 os.path.join(place, "disk")], log, "the disk")
    for name in ("vmlinuz", "initrd"):
        shutil.copyfile(*glob.glob(os.path.join(tree, "boot", name + "*")), os.path.join(place, name))
    for name in ("tree", "dev", "mnt"):
        shutil.rmtree(os.path.join(place, name))
