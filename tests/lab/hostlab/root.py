# SPDX-License-Identifier: GPL-3.0-or-later
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
"""The Debian root all hosts share, made once and cached by content.

~/.cache/fastsocket/lab-root-HASH/ holds tree/ (the lower layer of every container) and id_ed25519 (the lab's SSH key).
HASH covers everything the tree is made from: change a package or a file and the next `up` makes a new one.
"""
import os

from hostlab import cache, debian

FAMILY = "lab-root-"
INPUTS = ("root-packages.txt", "root-customize.sh", "rootfs", "hostlab/debian.py", "hostlab/root.py")


def location() -> str:
    """Where the root is, or will be."""
    return os.path.join(cache.CACHE, FAMILY + cache.digest(INPUTS))


def ensure(say) -> str:
    """Return the root's folder, made if needed."""
    return cache.once(location(), FAMILY, _build, say, "the hosts' root is made first (once, about a minute)")


def _build(place: str) -> None:
    debian.make(os.path.join(place, "tree"), os.path.join(cache.CACHE, "lab-root.log"), "root-packages.txt",
                "root-customize.sh", "--variant=minbase")
