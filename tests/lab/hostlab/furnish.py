# SPDX-License-Identifier: GPL-3.0-or-later
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
"""What makes a host out of what all hosts share: identity, names, the profile's files and services."""
import hashlib
import os
import shutil

from hostlab.spec import PROFILES, Host, Spec

WANTS = "etc/systemd/system/multi-user.target.wants"


def identity(spec: Spec, host: Host) -> str:
    """32 hexadecimal digits, the same whenever this host of this lab is started."""
    return hashlib.md5(f"{spec.name}/{host.name}".encode()).hexdigest()


def units(host: Host) -> list[str]:
    """The units the profile enables."""
    with open(os.path.join(PROFILES, host.profile, "enable"), encoding="utf-8") as file:
        return [line.strip() for line in file if line.strip() and not line.startswith("#")]


def furnish(spec: Spec, host: Host, tree: str) -> None:
    """Write the host's own files into TREE."""
    put(tree, "etc/machine-id", identity(spec, host) + "\n")
    put(tree, "etc/hostname", host.name + "\n")
    put(tree, "etc/hosts", "127.0.0.1 localhost\n" + f"{spec.controller} controller\n"
        + "".join(f"{address} {other.name}\n" for other in spec.host for address in other.address))
    files = os.path.join(PROFILES, host.profile, "files")
    for folder, _dirs, names in os.walk(files):
        target = os.path.join(tree, os.path.relpath(folder, files))
        os.makedirs(target, exist_ok=True)
        for name in names:  # content only: the checkout may belong to anyone, the host's files belong to root
            shutil.copyfile(os.path.join(folder, name), os.path.join(target, name))
    os.makedirs(os.path.join(tree, WANTS), exist_ok=True)
    for unit in units(host):  # what `systemctl enable` does for WantedBy=multi-user.target
        os.symlink(f"/lib/systemd/system/{unit}", os.path.join(tree, WANTS, unit))


def put(tree: str, path: str, text: str) -> None:
    path = os.path.join(tree, path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
