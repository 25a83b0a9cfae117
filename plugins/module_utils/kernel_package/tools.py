# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host's package tools: called so that none asks a question, and waited for when somebody else uses them."""

import contextlib
import errno
import fcntl
import os
import shutil
import struct
import subprocess
import tempfile
import time

from ..errors import FleetError

# No question, no changed configuration file of the operator's, no service restarted by a hook of apt.
ENVIRONMENT = {
    "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive", "DEBCONF_NONINTERACTIVE_SEEN": "true",
    "APT_LISTCHANGES_FRONTEND": "none", "UCF_FORCE_CONFFOLD": "1", "NEEDRESTART_SUSPEND": "1",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
QUERY_S = 300
# An initramfs took 5.5 minutes on an emulated CPU.
CHANGE_S = 3600
# struct flock of fcntl(2) where off_t has 64 bits: type, whence, start, length, pid.
FLOCK = "hh4xqqi4x"
STEP_S = 0.2


def _environment():
    return dict(os.environ, **ENVIRONMENT)


def have(program):
    return shutil.which(program, path=ENVIRONMENT["PATH"]) is not None


def attempt(words, timeout=QUERY_S, errors=subprocess.PIPE):
    """Run a tool; return its exit status, output and error output. FleetError when it is missing or hangs."""
    try:
        done = subprocess.run(
            words, env=_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
            encoding="utf-8", errors="replace", timeout=timeout, check=False)
    except FileNotFoundError as error:
        raise FleetError("%s is not installed on this host" % words[0]) from error
    except subprocess.TimeoutExpired as error:
        raise FleetError("%s did not end within %d s" % (" ".join(words), timeout)) from error
    return done.returncode, done.stdout, done.stderr


def ask(*words):
    """Run a tool that only reads; return its output. FleetError with its last lines when it fails."""
    status, output, errors = attempt(words)
    if status:
        raise FleetError("%s failed (%d): %s" % (" ".join(words), status, last_lines(errors + output)))
    return output


def change(*words):
    """Run a tool that changes the host; return None when it went well, else a sentence with its last lines. rpm says
    by a warning alone that a package's script failed."""
    try:
        status, output, dummy = attempt(words, CHANGE_S, subprocess.STDOUT)
    except FleetError as error:
        return str(error)
    if status or "scriptlet failed" in output:
        return "%s failed (%d): %s" % (" ".join(words[:2]), status, last_lines(output))
    return None


def last_lines(text, count=8):
    return " | ".join(line.strip() for line in text.strip().splitlines()[-count:])


@contextlib.contextmanager
def stream(path, *words):
    """Run a tool that unpacks `path`, and yield its output as a binary file. FleetError when the tool fails after all
    was read; whoever stops reading early is not told."""
    with tempfile.TemporaryFile() as errors, subprocess.Popen(
            words + (path,), env=_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=errors) as process:
        try:
            yield process.stdout
            whole = not process.stdout.read(1)
        except BaseException:
            process.kill()
            raise
        if not whole:
            process.kill()
        elif process.wait():
            errors.seek(0)
            said = errors.read().decode("utf-8", "replace")
            raise FleetError("%s is damaged: %s says %s" % (path, words[0], last_lines(said, 2)))


def wait_for_locks(paths, seconds):
    """Wait until nobody holds one of these lock files: POSIX locks (dpkg, apt, rpm), or a live pid in a *.pid file
    (dnf, yum). FleetError with the holder after `seconds`."""
    deadline = time.time() + seconds
    while True:
        found = [(path, holder) for path, holder in ((path, _holder(path)) for path in paths) if holder]
        if not found:
            return
        if time.time() >= deadline:
            raise FleetError("%s is held by %s, waited %d s: let it finish, then run this again"
                             % (found[0][0], found[0][1], seconds))
        time.sleep(STEP_S)


def _holder(path):
    """Say who holds a lock file; None when nobody does."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        raise
    try:
        if path.endswith(".pid"):
            text = os.read(handle, 32).decode("ascii", "replace").strip()
            pid = int(text) if text.isdigit() else 0
            return _name(pid) if pid and os.path.exists("/proc/%d" % pid) else None
        wanted = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, dummy, dummy, dummy, pid = struct.unpack(FLOCK, fcntl.fcntl(handle, fcntl.F_GETLK, wanted))
        return None if kind == fcntl.F_UNLCK else _name(pid)
    finally:
        os.close(handle)


def _name(pid):
    try:
        with open("/proc/%d/comm" % pid, encoding="utf-8", errors="replace") as handle:
            return "%s (pid %d)" % (handle.read().strip(), pid)
    except OSError:
        return "another process"
