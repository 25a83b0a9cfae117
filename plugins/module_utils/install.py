# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Install fsctl and this very library on the host, from wherever it was loaded: a module's zip or a folder."""

import inspect
import os
import shutil
import sys

from . import (
    cpulist,
    doctor,
    errors,
    fsctl,
    handover,
    hostfile,
    kernelstats,
    leave,
    library,
    manual,
    measure,
    nic,
    paths,
    preload,
    rss,
    sampling,
    services,
    settings,
    sockets,
    stats,
    steering,
    switch,
    systemd,
    tables,
    topology,
    wrapping,
)
from .boot import (
    bls,
    deadman,
    evidence,
    grub2,
    grubenv,
    grubmenu,
    grubscript,
    kernels,
    loader,
    storage,
    systemd_boot,
    trial,
)

# Ansible sends a module only what it imports by name, so the list is written out; a test compares it with the folder.
PARTS = (
    cpulist, doctor, errors, fsctl, handover, hostfile, kernelstats, leave, library, manual, measure, nic, paths,
    preload, rss, sampling, services, settings, sockets, stats, steering, switch, systemd, tables, topology, wrapping,
    bls, deadman, evidence, grub2, grubenv, grubmenu, grubscript, kernels, loader, storage, systemd_boot, trial)
FOLDER = paths.LIB + "/python/fastsocket_fleet"
COMMAND = """#!%s
# SPDX-License-Identifier: GPL-3.0-or-later
%simport sys

sys.path.insert(0, "%s")
sys.dont_write_bytecode = True
from fastsocket_fleet import fsctl  # noqa: E402

sys.exit(fsctl.main())
"""


def _manual():
    """Where man(1) looks for what is installed next to fsctl."""
    return os.path.dirname(os.path.dirname(paths.FSCTL)) + "/share/man/man8/fsctl.8"


def files():
    """Return {path: text} of the installation."""
    found = {}
    for part in PARTS + (sys.modules[__name__],):
        path = "%s/%s.py" % (FOLDER, part.__name__[len(__package__) + 1:].replace(".", "/"))
        found["%s/__init__.py" % os.path.dirname(path)] = paths.MADE_BY
        found[path] = inspect.getsource(part)
    found[_manual()] = manual.page(fsctl.parser())
    found[paths.FSCTL] = COMMAND % (sys.executable, paths.MADE_BY, os.path.dirname(FOLDER))
    return found


def install(state, check_mode):
    """Make the host have (present) or not have (absent) fsctl. Parts of another version are removed."""
    wanted = files() if state == "present" else dict.fromkeys(files())
    for folder, dummy, names in os.walk(FOLDER):
        for name in names if os.path.basename(folder) != "__pycache__" else ():
            wanted.setdefault(os.path.join(folder, name), None)
    changes = hostfile.changes_of(wanted)
    if not check_mode:
        for change in changes:
            if change["after"] is None:
                hostfile.remove(change["path"])
            else:
                hostfile.write(change["path"], change["after"], 0o755 if change["path"] == paths.FSCTL else 0o644)
        if state == "absent":
            shutil.rmtree(FOLDER, ignore_errors=True)   # what Python left there
            for folder in (os.path.dirname(FOLDER), paths.LIB):
                if os.path.isdir(folder) and not os.listdir(folder):
                    os.rmdir(folder)
    return {"changed": bool(changes), "changes": [
        {"path": change["path"], "before": change["before"] and "present", "after": change["after"] and "this version"}
        for change in changes]}
