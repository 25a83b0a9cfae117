# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The switch of a wrapped service: one byte that every process of it looks at ten times a second."""

import os

from . import paths

ON, OFF, LEAVE = "on", "off", "leave"
BYTES = {ON: b"1", OFF: b"0", LEAVE: b"-"}


def path_of(service, folder=paths.RUN):
    return os.path.join(folder, service + ".switch")


def read(service, folder=paths.RUN):
    """Return on, off or leave; None when there is no switch. Any other byte counts as off, as in the library."""
    try:
        with open(path_of(service, folder), "rb") as handle:
            byte = handle.read(1)
    except FileNotFoundError:
        return None
    return {raw: name for name, raw in BYTES.items()}.get(byte, OFF)


def write(service, value, folder=paths.RUN):
    """Set the switch in place (never truncated, never replaced: the processes hold this very file). Return True when
    it changed."""
    if read(service, folder) == value:
        return False
    os.makedirs(folder, mode=0o755, exist_ok=True)
    handle = os.open(path_of(service, folder), os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        os.pwrite(handle, BYTES[value], 0)
        os.ftruncate(handle, 1)
    finally:
        os.close(handle)
    return True
