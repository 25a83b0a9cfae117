# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that root owns on a host: written whole or not at all, read as text or JSON, guarded by one lock a directory.

Text is what the bytes are: other encodings and line ends of an operator's file come back as they were."""

import contextlib
import fcntl
import json
import os
import tempfile

from .errors import FleetError

TEXT = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}


def read(path, default=None):
    """Return the text of a file, or `default` when there is none."""
    try:
        with open(path, **TEXT) as handle:
            return handle.read()
    except (FileNotFoundError, NotADirectoryError):
        return default


def write(path, text, mode=0o644):
    """Make `path` hold `text` with `mode`, atomically: a reader sees the old file or the new one, also after a power
    cut. Parent directories are made (0755). Return True when something changed."""
    if read(path) == text and not os.path.islink(path) and os.stat(path).st_mode & 0o7777 == mode:
        return False
    folder = os.path.dirname(path) or "."
    os.makedirs(folder, mode=0o755, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=".%s." % os.path.basename(path), dir=folder)
    try:
        with os.fdopen(handle, "w", **TEXT) as stream:
            stream.write(text)
            stream.flush()
            os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    _sync_folder(folder)
    return True


def remove(path):
    """Remove a file, and a folder of ours or of a unit's drop-ins with its last file. Return True when there was
    one."""
    folder = os.path.dirname(path) or "."
    try:
        os.unlink(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    _sync_folder(folder)
    if os.path.basename(folder) == "fastsocket" or folder.endswith(".service.d"):
        with contextlib.suppress(OSError):
            os.rmdir(folder)    # it is not empty
    return True


def changes_of(wanted):
    """Compare {path: text or None} with the host: [{path, before, after}]."""
    return [{"path": path, "before": read(path), "after": text} for path, text in wanted.items()
            if read(path) != text]


def write_all(changes):
    """Apply changes_of()."""
    for change in changes:
        if change["after"] is None:
            remove(change["path"])
        else:
            write(change["path"], change["after"])


def read_json(path, default=None):
    """Return the value in a JSON file, or `default` when there is no file. FleetError when it is damaged."""
    text = read(path)
    if text is None:
        return default
    try:
        return json.loads(text)
    except ValueError as error:
        raise FleetError("%s is not JSON (%s): mend it or remove it" % (path, error)) from error


def json_text(value):
    """Return the one JSON form that this project writes: two runs with one value give one text."""
    return json.dumps(value, indent=2, sort_keys=True) + "\n"


def write_json(path, value, mode=0o644):
    """Like write(), for a JSON value."""
    return write(path, json_text(value), mode)


@contextlib.contextmanager
def locked(folder):
    """Hold an exclusive lock on a directory (made when missing, gone with the lock when nothing came into it): two
    runs at once, say a playbook and the boot unit, take turns."""
    handle = _lock(folder)
    try:
        yield
    finally:
        if os.path.basename(folder) == "fastsocket":
            with contextlib.suppress(OSError):
                os.rmdir(folder)    # it is not empty
        os.close(handle)


def _lock(folder):
    """Return the handle of the locked directory that has this name: who waits for a lock may get that of one which is
    gone by then."""
    while True:
        os.makedirs(folder, mode=0o755, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                if os.path.samestat(os.fstat(handle), os.stat(folder)):
                    return handle
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)


def _sync_folder(folder):
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
