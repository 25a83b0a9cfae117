# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What both package formats have in common: a package, the kernels on this host, reports of damaged files."""

import collections
import glob
import os
import re

from . import image

# name, version, arch: as the format writes them. ident: what its tools call this very package once it is installed.
# files: {path: bytes} without folders, as with merged /usr, with what is only listed (ghosts). heads: {path of an
# image: (its first bytes, its size)}.
Package = collections.namedtuple("Package", "path ident name version arch files heads")
# EL's rescue image belongs to no package and is a copy of a kernel that does.
RESCUE = "0-rescue-"
# dpkg --verify and rpm --verify: what differs, an attribute letter (c: configuration, g: ghost), the path.
DAMAGE = re.compile(r"^(missing|\S{8,})\s+(?:([a-z])\s+)?(/.*?)(?: \(.*\))?$")
# Where a file or folder of one kernel may lie: its own, those its installation makes, and those a failed one leaves.
TRACES = (
    "/boot/*-%s", "/boot/.*-%s", "/boot/*-%s.*", "/boot/.*-%s.*", "/boot/*-%s;*", "/boot/*-%skdump.img", "/boot/*/%s",
    "/boot/efi/*/%s", "/efi/*/%s", "/boot/loader/entries/*-%s.conf", "/boot/efi/loader/entries/*-%s.conf",
    "/efi/loader/entries/*-%s.conf", "/lib/modules/%s", "/var/lib/initramfs-tools/%s")
SUFFIXES = re.compile(r"^$|^\.(img|gz|hmac|new|tmp|bak|conf|dpkg-\w+)$|^;|^kdump\.img$")


def kernels_in(paths):
    """Return the versions of the kernels that these paths bring, sorted."""
    return sorted({version for version in map(image.version_at, paths) if version})


def kernels_here(root=""):
    """Return {version: [paths of its images]} of the kernels on this host, of packages or not."""
    found = {}
    for pattern in ("/boot/vmlinuz-*", "/lib/modules/*/vmlinuz"):
        for path in sorted(glob.glob(root + pattern)):
            version = image.version_at(path[len(root):])
            if version and not version.startswith(RESCUE):
                found.setdefault(version, []).append(path[len(root):])
    return found


def traces(kernel, root=""):
    """Return the paths that bear the name of a kernel, whoever made them."""
    found = set()
    for pattern in TRACES:
        for path in glob.glob(root + pattern % glob.escape(kernel)):
            # 6.1.0 is not 6.1.0.5: what follows the version must be an ending that somebody makes.
            if SUFFIXES.match(os.path.basename(path).rpartition(kernel)[2]):
                found.add(path)
    return found


def damaged(report):
    """Return the paths that a verification calls missing or different: of the kernel and its modules alone. Not what
    depmod writes anew, and not documents that a minimal host leaves out on purpose."""
    found = []
    for line in report.splitlines():
        match = DAMAGE.match(line)
        if match and (match.group(1) == "missing" or match.group(1)[2] == "5" or match.group(1)[0] == "S") \
                and match.group(2) not in ("c", "g", "d"):
            path = image.merged(match.group(3))
            if path.startswith(("/boot/", "/lib/modules/")) and not os.path.basename(path).startswith("modules."):
                found.append(path)
    return found
