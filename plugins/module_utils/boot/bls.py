# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Boot loader entries, one small file each (UAPI.1 Boot Loader Specification, type 1), as GRUB of EL 8 and later and
systemd-boot read them."""

import os
import re
import shlex

from .. import hostfile, topology

# Keys that may come several times; of others the last counts.
MANY = ("initrd", "options")


def entries(folder, root="/"):
    """Return [{id, path, title, version, linux, initrd: [], options, grub_arg}] of a folder, in the order GRUB shows
    them: newest version first. `id`: the file's name without .conf and the tries that systemd-boot counts in it."""
    here = topology.at(root, folder)
    names = [name for name in os.listdir(here) if name.endswith(".conf")] if os.path.isdir(here) else []
    found = []
    for name in sorted(names, key=version_key, reverse=True):
        entry = parse(hostfile.read(os.path.join(here, name)) or "")
        found.append(dict(entry, id=re.sub(r"\+\d+(-\d+)?$", "", name[:-5]), path=os.path.join(folder, name)))
    return found


def parse(text):
    """Return the keys of one file; `options` is one line."""
    found = {key: [] for key in MANY}
    for line in text.splitlines():
        key, value = (line.split(None, 1) + ["", ""])[:2]
        if key in MANY:
            found[key].append(value.strip())
        elif key and not key.startswith("#"):
            found[key] = value.strip()
    return {
        "title": found.get("title", ""), "version": found.get("version", ""), "linux": found.get("linux", ""),
        "initrd": " ".join(found["initrd"]).split(), "options": " ".join(found["options"]), "id": "", "path": "",
        "grub_arg": found.get("grub_arg", ""),
    }


def version_key(name):
    """Sort names as versions: 5.9 before 5.14, and 1~rc1 before 1."""
    return [(1, int(part), "") if part.isdigit() else (-1 if part == "~" else 0, 0, part)
            for part in re.findall(r"\d+|~|[A-Za-z]+", name[:-5])] + [(0, -1, "")]


def words(options):
    """Return the words of kernel arguments; quotes hold blanks together."""
    try:
        return shlex.split(options)
    except ValueError:
        return options.split()
