# SPDX-License-Identifier: GPL-3.0-or-later
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
"""The Debian root all hosts share, made once and cached by content.

~/.cache/fastsocket/lab-root-HASH/ holds tree/ (the lower layer of every host) and id_ed25519 (the lab's SSH key). HASH
covers everything the tree is made from: change a package or a file and the next `up` makes a new one.
"""
import hashlib
import os
import shlex
import shutil
import subprocess
import time

from hostlab import machine
from hostlab.errors import LabError, call
from hostlab.spec import LAB

SUITE = "bookworm"
CACHE = os.environ.get("FASTSOCKET_CACHE") or os.path.expanduser("~/.cache/fastsocket")
EXCLUDED = ("doc", "man", "locale", "info", "lintian", "bug")


def _packages() -> list[str]:
    with open(os.path.join(LAB, "root-packages.txt"), encoding="utf-8") as file:
        return [line.strip() for line in file if line.strip() and not line.startswith("#")]


def _inputs() -> list[str]:
    files = [os.path.join(LAB, name) for name in ("root-packages.txt", "root-customize.sh", "hostlab/root.py")]
    for folder, dirs, names in os.walk(os.path.join(LAB, "rootfs")):
        dirs.sort()
        files += [os.path.join(folder, name) for name in sorted(names)]
    return files


def location() -> str:
    """Where the root is, or will be."""
    digest = hashlib.sha256()
    for path in _inputs():
        with open(path, "rb") as file:
            content = file.read()
        digest.update(b"%s %d\n" % (os.path.relpath(path, LAB).encode(), len(content)) + content)
    return os.path.join(CACHE, "lab-root-" + digest.hexdigest()[:16])


def _sources() -> str:
    """The machine's own Debian sources of the suite, as apt lines: no mirror is named here."""
    lines = call("apt-get", "indextargets", "--format", "deb $(REPO_URI) $(RELEASE) $(COMPONENT)",
                 "Created-By: Packages", "Origin: Debian").splitlines()
    lines = sorted({line for line in lines if line.split()[2].split("-")[0] == SUITE})
    if not lines:
        raise LabError(f"apt has no package lists of Debian {SUITE}: run apt-get update, or add {SUITE} to its sources")
    return "\n".join(lines) + "\n"


def _proxies() -> list[str]:
    """The machine's proxy settings: apt inside mmdebstrap does not read the machine's apt.conf."""
    return [f"--aptopt={line.rstrip(';')}" for line in call("apt-config", "dump").splitlines()
            if line.startswith("Acquire::http") and "proxy" in line.lower()]


def ensure(say) -> str:
    """Return the root's folder, made if needed, by one builder at a time that first removes what a broken one left."""
    place = location()
    if os.path.isdir(place):
        return place
    _own_folder(CACHE)
    say(f"the hosts' root is made first (once, about a minute): {place}")
    with machine.lock("root"):
        for name in os.listdir(CACHE):
            if name.startswith("lab-root-") and name.endswith(".part"):
                shutil.rmtree(os.path.join(CACHE, name))
        if not os.path.isdir(place):
            begin = time.monotonic()
            _build(place)
            say(f"root made in {time.monotonic() - begin:.1f} s")
    return place


def _own_folder(path: str) -> None:
    """Make PATH with the owner of the folder it is in: under sudo the cache may be an operator's."""
    if not os.path.isdir(path):
        _own_folder(os.path.dirname(path))
        os.mkdir(path)
        owner = os.stat(os.path.dirname(path))
        os.chown(path, owner.st_uid, owner.st_gid)


def _build(place: str) -> None:
    part, log = place + ".part", os.path.join(CACHE, "lab-root.log")
    os.mkdir(part, 0o700)  # set-id programs and a private key are in there
    # In a PID namespace that dies with this process, whatever ends it: no half-done apt is left running.
    argv = ["setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child", "--mount-proc",
            "mmdebstrap", "--variant=minbase", "--mode=root", "--format=directory",
            f"--include={','.join(_packages())}", *_proxies(),
            '--aptopt=Acquire::Languages "none"', "--dpkgopt=force-unsafe-io",
            *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in EXCLUDED),
            f"--customize-hook={shlex.quote(os.path.join(LAB, 'root-customize.sh'))} \"$1\"",
            SUITE, os.path.join(part, "tree"), "-"]
    with open(log, "wb") as output:
        child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, text=True)
        try:
            child.communicate(_sources())
        except BaseException:
            child.kill()
            child.wait()
            raise
    if child.returncode:
        with open(log, encoding="utf-8", errors="replace") as file:
            tail = "".join(file.readlines()[-8:])
        raise LabError(f"the hosts' root could not be made, see {log}; its last lines:\n{tail}")
    os.rename(part, place)
