# SPDX-License-Identifier: GPL-3.0-or-later
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
"""What the lab makes once and keeps: folders of ~/.cache/fastsocket named by the content they are made from."""
import hashlib
import os
import shutil
import subprocess
import time

from hostlab import machine
from hostlab.errors import LabError
from hostlab.spec import LAB

CACHE = os.environ.get("FASTSOCKET_CACHE") or os.path.expanduser("~/.cache/fastsocket")


def digest(names: tuple[str, ...], *more: str) -> str:
    """16 hexadecimal digits for the files and folders NAMES of the lab's directory and the words MORE."""
    found = hashlib.sha256()
    for path in [path for name in names for path in _files(os.path.join(LAB, name))]:
        with open(path, "rb") as file:
            content = file.read()
        found.update(b"%s %d\n" % (os.path.relpath(path, LAB).encode(), len(content)) + content)
    for word in more:
        found.update(word.encode() + b"\0")
    return found.hexdigest()[:16]


def _files(path: str) -> list[str]:
    if not os.path.isdir(path):
        return [path]
    return sorted(os.path.join(folder, name) for folder, _dirs, names in os.walk(path) for name in names)


def once(place: str, family: str, build, say, note: str) -> str:
    """Return PLACE, made by BUILD(a new folder) when it is not there. NOTE is said before.

    One builder of a FAMILY (the first letters of its folders) works at a time; it first removes what a broken one left.
    """
    if os.path.isdir(place):
        return place
    _own_folder(CACHE)
    say(f"{note}: {place}")
    with machine.lock(family):
        for name in os.listdir(CACHE):
            if name.startswith(family) and name.endswith(".part"):
                shutil.rmtree(os.path.join(CACHE, name))
        if not os.path.isdir(place):
            begin = time.monotonic()
            os.mkdir(place + ".part", 0o700)  # set-id programs and a private key are in there
            build(place + ".part")
            os.rename(place + ".part", place)
            say(f"made in {time.monotonic() - begin:.1f} s")
    return place


def _own_folder(path: str) -> None:
    """Make PATH with the owner of the folder it is in: under sudo the cache may be an operator's."""
    if not os.path.isdir(path):
        _own_folder(os.path.dirname(path))
        os.mkdir(path)
        owner = os.stat(os.path.dirname(path))
        os.chown(path, owner.st_uid, owner.st_gid)


def bound(*argv: str) -> list[str]:
    """ARGV in a PID namespace that dies with this process, whatever ends it: nothing half done is left running."""
    return ["setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *argv]


def build(argv: list[str], log: str, what: str, text: str = "") -> None:
    """Run ARGV with TEXT as its input; its output is appended to LOG. LabError says that WHAT failed."""
    with open(log, "ab") as output:
        child = subprocess.Popen(bound(*argv), stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT,
                                 text=True)
        try:
            child.communicate(text)
        except BaseException:
            child.kill()
            child.wait()
            raise
    if child.returncode:
        with open(log, encoding="utf-8", errors="replace") as file:
            tail = "".join(file.readlines()[-8:])
        raise LabError(f"{what} could not be made, see {log}; its last lines:\n{tail}")
