# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""GRUB's environment block: 1024 bytes of NAME=VALUE lines that GRUB reads at boot and, where it can, writes in place
(info "GRUB", Environment block). It is written with GRUB's own tool."""

import os
import shutil

from .. import hostfile, systemd
from ..errors import FleetError

SIZE = 1024
SIGNATURE = "# GRUB Environment Block\n"
TOOLS = ("grub-editenv", "grub2-editenv")


def read(path):
    """Return {name: value} of the block; empty when there is none."""
    lines = (hostfile.read(path) or "").splitlines()
    pairs = [line.partition("=") for line in lines if not line.startswith("#")]
    return {name: value.replace("\\\\", "\\") for name, sep, value in pairs if sep}


def problems(path):
    """Return why this file is no block that GRUB can write in place."""
    again = "make it anew: %s %s create" % (tool() or TOOLS[0], path)
    text = hostfile.read(path)
    if text is None:
        return ["GRUB's environment block %s is missing, so GRUB could not end a trial after one boot; %s"
                % (path, again)]
    if len(text.encode("utf-8", "surrogateescape")) != SIZE or not text.startswith(SIGNATURE):
        return ["GRUB's environment block %s is damaged (it has %d bytes, not %d with the usual first line); %s"
                % (path, len(text.encode("utf-8", "surrogateescape")), SIZE, again)]
    if os.stat(path).st_blocks == 0:
        return ["GRUB's environment block %s has no disk block of its own (sparse, or kept inside its inode), so GRUB "
                "cannot write it; %s" % (path, again)]
    return []


def tool():
    """Return the path of GRUB's own editor, None when it is not installed."""
    return next(filter(None, (shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/bin")
                              for name in TOOLS)), None)


def write(path, name, value):
    """Set a variable, or unset it with None, and bring it to the disk."""
    if tool() is None:
        raise FleetError("neither %s is installed: %s cannot be changed" % (" nor ".join(TOOLS), path))
    systemd.run(tool(), path, *(["unset", name] if value is None else ["set", "%s=%s" % (name, value)]))
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
