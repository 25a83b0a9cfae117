# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The library file itself: is it for this machine, does a program live with it, which version do services get."""

import contextlib
import os
import shutil
import struct
import subprocess
import tempfile

from . import paths
from .errors import FleetError

# ELF header (elf(5)): magic, class, data; e_machine at 18.
ELF_MACHINES = {3: "i386", 40: "arm", 62: "x86_64", 183: "aarch64", 22: "s390x", 21: "ppc64", 243: "riscv"}
CLASSES = {1: "32-bit", 2: "64-bit"}
# A program that is on every host and does nothing.
WITNESS = "/bin/true"


def elf_kind(path):
    """Return "64-bit x86_64" and the like. FleetError when the file is missing or no ELF file."""
    try:
        with open(path, "rb") as handle:
            head = handle.read(20)
    except OSError as error:
        raise FleetError("library %s cannot be read: %s" % (path, error.strerror)) from error
    if len(head) < 20 or head[:4] != b"\x7fELF":
        raise FleetError("library %s is no shared library (not an ELF file)" % path)
    machine, = struct.unpack_from("<H" if head[5:6] == b"\x01" else ">H", head, 18)
    return "%s %s" % (CLASSES.get(bytearray(head)[4], "?"), ELF_MACHINES.get(machine, "machine %d" % machine))


def check(path):
    """Load the library into WITNESS. FleetError when it is for another machine, is not loaded, or the program does
    not end well. Nothing of a running service is touched: the witness gets a directory of its own."""
    kind, needed = elf_kind(path), elf_kind(WITNESS)
    if kind != needed:
        raise FleetError("library %s is for %s, this host needs %s" % (path, kind, needed))
    folder = tempfile.mkdtemp(prefix="fastsocket-check-")
    try:
        _load(path, folder)
    finally:
        shutil.rmtree(folder)


def _load(path, folder):
    environment = dict(LD_PRELOAD=path, FSOCKET_DIR=folder, FSOCKET_NAME="check", PATH=os.defpath)
    try:
        done = subprocess.run(
            [WITNESS], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            encoding="utf-8", errors="replace", timeout=20, check=False)
    except subprocess.TimeoutExpired as error:
        raise FleetError("library %s: %s hangs with it" % (path, WITNESS)) from error
    if done.returncode < 0:
        raise FleetError("library %s: %s dies of signal %d with it" % (path, WITNESS, -done.returncode))
    if done.returncode or "cannot be preloaded" in done.stdout:
        raise FleetError("library %s: %s fails with it (%d): %s"
                         % (path, WITNESS, done.returncode, done.stdout.strip()))
    if not os.path.exists(os.path.join(folder, "check.stats")):
        raise FleetError("library %s loads, but is not libfsocket: it made no statistics file" % path)


def link(path, name=paths.LIBRARY, check_mode=False):
    """Make `name` a symbolic link to a checked library, atomically. Services get it at their next start."""
    if not os.path.isabs(path):
        raise FleetError("library path %s must be absolute" % path)
    before = os.readlink(name) if os.path.islink(name) else None
    if check_mode and not os.path.exists(path):
        # On a bare host the task before this one only said that it would copy it.
        return _changes(name, before, path)
    try:
        check(path)
    except FleetError:
        # A version that no service may see does not stay, unless it was there and in use before. Any other file that
        # somebody names by mistake is not ours to remove.
        if not check_mode and before != path and path.startswith(name + "."):
            _unlink(path)
        raise
    if before != path and not check_mode:
        fresh = "%s.%d" % (name, os.getpid())
        os.symlink(path, fresh)
        os.rename(fresh, name)
    return _changes(name, before, path)


def unlink(name=paths.LIBRARY, check_mode=False):
    """Remove the link and every version beside it that no process has mapped."""
    folder, base = os.path.split(name)
    versions = sorted(os.path.join(folder, entry) for entry in os.listdir(folder) if entry.startswith(base + ".")) \
        if os.path.isdir(folder) else []
    before = os.readlink(name) if os.path.islink(name) else None
    used = [path for path in versions if mapped_by(path)]
    gone = [path for path in versions if path not in used]
    if not check_mode:
        for path in gone + ([name] if before else []):
            _unlink(path)
    result = _changes(name, before, None)
    result["changes"] += [{"path": path, "before": "present", "after": None} for path in gone]
    result["changed"] = bool(result["changes"])
    result["in_use"] = used
    return result


def _changes(name, before, after):
    changes = [{"path": name, "before": before, "after": after}] if before != after else []
    return {"changed": bool(changes), "changes": changes, "library": after}


def _unlink(path):
    """Remove a file, and our folder with its last one."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    if os.path.dirname(path) == paths.LIB:
        with contextlib.suppress(OSError):
            os.rmdir(paths.LIB)


def mapped_into(pid):
    """Return the paths of libfsocket versions a process has mapped."""
    try:
        with open("/proc/%d/maps" % pid, encoding="utf-8", errors="replace") as handle:
            return {line.split(None, 5)[5].rstrip("\n") for line in handle if "/libfsocket.so" in line}
    except OSError:
        return set()


def mapped_by(path):
    """Return the pids that have a version mapped."""
    pids = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
    return [pid for pid in pids if path in mapped_into(pid)]
