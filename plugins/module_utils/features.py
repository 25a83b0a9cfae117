# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Turn features of our kernel on: its sysctls net.fastsocket.*, now and at each boot, and take them back."""

import os
import re

from . import hostfile, paths, systemd
from .errors import FleetError

LIVE = "/proc/sys/net/fastsocket"
BOOT = "/etc/sysctl.d/60-fastsocket-kernel.conf"    # wrapping.SYSCTL_FILE is another
# {name: value before we first set it}. It outlives boots: from then on the values at boot are ours.
BEFORE = paths.VAR + "/kernel-features.json"
_FEATURE = re.compile(r"([a-z][a-z0-9_]*)(?:=([0-9]+))?")


def parse(features):
    """Return {name: value} of a list of `name`, which means 1, and `name=value`. FleetError for anything else."""
    found = {}
    for feature in features:
        match = _FEATURE.fullmatch(feature)
        if not match:
            raise FleetError("feature %r: give a name, as local_listen, or name=number, as spill=80" % feature)
        name, value = match.groups()
        if name in found:
            raise FleetError("feature %s is given twice" % name)
        found[name] = value or "1"
    return found


def systemd_version():
    """Return systemd's version, 0 where there is none."""
    try:
        match = re.match(r"systemd (\d+)", systemd.attempt("systemctl", "--version")[1])
    except FleetError:
        return 0
    return int(match.group(1)) if match else 0


def boot_text(wanted, version):
    """Return the sysctl.d file for {name: value}, None when it needs none.

    The stock kernel does not know these names. `-` says that this is no error; systemd before 243 (EL 8 has 239) takes
    it for a part of the name, and goes on without an error when a name is not there."""
    prefix = "" if 0 < version < 243 else "-"
    lines = ["%snet.fastsocket.%s = %s\n" % (prefix, name, value) for name, value in sorted(wanted.items())]
    return paths.MADE_BY + "".join(lines) if lines else None


def apply(features, check=False, root=""):
    """Set these features and take back those that we set before and that are not among them.

    Returns {changed, changes}. `root` stands before each path, for tests. FleetError when this kernel has no such
    feature, or refuses the value: then all is as before."""
    wanted = parse(features)
    there = sorted(os.listdir(root + LIVE)) if os.path.isdir(root + LIVE) else []
    for name in wanted:
        if name not in there:
            raise FleetError("kernel %s has no feature %s; it has %s" % (
                os.uname().release, name, ", ".join(there) or "none, as it is not ours"))
    noted = hostfile.read_json(root + BEFORE, {})
    live = {name: hostfile.read("%s/%s" % (root + LIVE, name)).strip() for name in there}
    keep = {name: noted[name] if name in noted else _without_us(name, live[name], root) for name in wanted}
    target = {name: value for name, value in noted.items() if name in there}
    target.update(wanted)
    before, after = hostfile.read(root + BOOT), boot_text(wanted, systemd_version())
    changes = [{"path": "net.fastsocket." + name, "before": live[name], "after": value}
               for name, value in sorted(target.items()) if live[name] != value]
    if before != after:
        changes.append({"path": BOOT, "before": before, "after": after})
    if not check and (changes or keep != noted):
        with hostfile.locked(root + paths.VAR):
            _commit(target, live, keep, after, root)
    return {"changed": bool(changes), "changes": changes}


def _without_us(name, value, root):
    """Return what this feature would be. The trial boot was told it on the command line (role kernel); a new network
    namespace has what the kernel gives by itself."""
    if "sysctl.net.fastsocket.%s=%s" % (name, value) not in (hostfile.read(root + "/proc/cmdline") or "").split():
        return value
    try:
        status, text = systemd.attempt("unshare", "--net", "cat", "%s/%s" % (root + LIVE, name))
    except FleetError:
        return value
    return text.strip() if status == 0 else value


def _commit(target, live, keep, text, root):
    """Write it all. What is noted comes first, so that a run that is cut off can be taken back."""
    hostfile.write_json(root + BEFORE, dict(hostfile.read_json(root + BEFORE, {}), **keep))
    done = []
    for name, value in sorted(target.items()):
        if live[name] == value:
            continue
        try:
            _set(name, value, root)
        except OSError as error:
            for other in done:
                _set(other, live[other], root)
            raise FleetError("the kernel refuses net.fastsocket.%s = %s: %s" % (name, value, error.strerror)) from error
        done.append(name)
    for path, wanted in ((BOOT, text), (BEFORE, hostfile.json_text(keep) if keep else None)):
        if wanted is None:
            hostfile.remove(root + path)
        else:
            hostfile.write(root + path, wanted)


def _set(name, value, root):
    with open("%s/%s" % (root + LIVE, name), "w", encoding="ascii") as handle:
        handle.write(value + "\n")
