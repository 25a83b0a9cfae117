# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""systemd-boot: entry files, and EFI variables that bootctl(1) sets. An entry whose kernel file is missing is not in
its menu, so a one-shot boot of it is the default's (systemd-boot(7))."""

import fnmatch
import os

from .. import hostfile, systemd, topology
from . import bls, kernels, loader, storage

VARIABLES = "/sys/firmware/efi/efivars"
VENDOR = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"     # systemd.io/BOOT_LOADER_INTERFACE
INFO, DEFAULT, ONCE = "LoaderInfo", "LoaderEntryDefault", "LoaderEntryOneShot"
# What a default of "@saved" means (loader.conf(5); systemd: config_select_default_entry()). The loader notes no boot
# for once there.
LAST, SAVED = "LoaderEntryLastBooted", "@saved"
# Where the boot partitions are mounted: XBOOTLDR and the EFI system partition.
FOLDERS = ("/boot", "/efi", "/boot/efi")
COMMANDS = {DEFAULT: "set-default", ONCE: "set-oneshot"}


class SystemdBoot(loader.Loader):
    """systemd-boot as its entries and variables describe it. Kernels inside of one file (type 2) are not tried yet."""

    name = "systemd-boot"

    def __init__(self, root="/"):
        super().__init__(root)
        self.files = {}
        for folder in FOLDERS:
            for entry in bls.entries(folder + "/loader/entries", root):
                self.files.setdefault(entry["id"], dict(entry, folder=folder))
        self.entries = [self._describe(entry) for entry in self.files.values()]
        self.default_id = self._default_id()

    @classmethod
    def find(cls, root="/"):
        return cls(root) if (variable(INFO, root) or "").startswith("systemd-boot") else None

    def _describe(self, entry):
        found = kernels.version(entry["linux"], self.root) or entry["version"]
        return {"id": entry["id"], "title": entry["title"], "kernel": found if entry["linux"] else None,
                "arguments": bls.words(entry["options"])}

    def _default_id(self):
        """The EFI variable, then loader.conf, then the first of the menu; both of the former may be patterns, or mean
        the entry that was booted last."""
        patterns = [variable(DEFAULT, self.root)]
        for folder in FOLDERS:
            text = hostfile.read(topology.at(self.root, folder, "loader/loader.conf")) or ""
            patterns += [line.split()[1] for line in text.splitlines() if line.split()[:1] == ["default"]
                         and len(line.split()) > 1]
        patterns = [variable(LAST, self.root) if pattern == SAVED else pattern for pattern in patterns]
        for pattern in filter(None, patterns):
            for name in self.files:
                if fnmatch.fnmatch(name + ".conf", pattern) or fnmatch.fnmatch(name, pattern):
                    return name
        return next((name for name in self.files if name != kernels.TRIAL_ID), None)

    def own_problems(self):
        found = []
        mount = next((one for one in reversed(storage.mounts(self.root)) if one.point == VARIABLES), None)
        if mount is None or "ro" in mount.options:
            found.append("%s is not mounted for writing, so no boot can be set for once" % VARIABLES)
        if self.root == "/" and systemd.attempt("bootctl", "--version")[0]:
            found.append("bootctl does not work on this host")
        pending = variable(ONCE, self.root)
        if pending and pending != kernels.TRIAL_ID + ".conf":
            found.append("the next boot is %s for once already; boot it, or unset it with bootctl set-oneshot ''"
                         % pending)
        if self.pinned() not in (None, self.default_id):
            found.append("the pinned entry %s is gone; the default is %s" % (self.pinned(), self.default_id))
        default = self.by_id(self.default_id)
        return found + (self.kernel_problems(default) if default else [])

    def kernel_problems(self, entry):
        file = self.files[entry["id"]]
        missing = [name for name in [file["linux"]] + file["initrd"]
                   if not kernels.find(name, (file["folder"],) + FOLDERS, self.root)]
        return ["%s, named by the entry %s, is not on this host" % (name, entry["id"]) for name in missing]

    def armed(self):
        return variable(ONCE, self.root) == kernels.TRIAL_ID + ".conf"

    def pinned(self):
        name = variable(DEFAULT, self.root) or ""
        return name[:-5] if name.endswith(".conf") and not set(name) & set("*?[") else None

    def before(self):
        return {DEFAULT: variable(DEFAULT, self.root)}

    def changes(self, layout):
        wanted = layout.pin + ".conf" if layout.pin else layout.before.get(DEFAULT)
        found = self._file_changes(layout.trial) + self._variable_changes({DEFAULT: wanted})
        once = self._variable_changes({ONCE: kernels.TRIAL_ID + ".conf" if layout.once else None})
        return found + once if layout.once else once + found

    def _variable_changes(self, wanted):
        return [{"path": "%s/%s-%s" % (VARIABLES, name, VENDOR), "before": variable(name, self.root), "after": value}
                for name, value in wanted.items() if variable(name, self.root) != value
                and not (name == ONCE and value is None and not self.armed())]

    def _file_changes(self, trial):
        old = self.files.get(kernels.TRIAL_ID)
        texts = {old["path"]: None} if old else {}
        if trial:
            kernel, arguments, dummy = trial
            file = self.files[self.wanted(kernel)["id"]]
            path = "%s/%s.conf" % (os.path.dirname(file["path"]), kernels.TRIAL_ID)
            texts[path] = _with(hostfile.read(topology.at(self.root, file["path"])), kernel, arguments)
        found = [{"path": path, "before": hostfile.read(topology.at(self.root, path)), "after": text}
                 for path, text in texts.items()]
        return [change for change in found if change["before"] != change["after"]]

    def apply(self, changes):
        for change in changes:
            if change["path"].startswith(VARIABLES):
                name = os.path.basename(change["path"]).partition("-")[0]
                loader.tell(self.root, "bootctl", COMMANDS[name], change["after"] or "")
            else:
                loader.write_file(change, self.root)

    def disarm_command(self):
        return "bootctl set-oneshot ''"


def _with(text, kernel, arguments):
    """Return an entry file with a title of its own and these arguments besides."""
    lines = [line for line in text.splitlines() if line.split(None, 1)[:1] not in (["title"], ["sort-key"])]
    head = ["# Made by the module fastsocket.fleet.boot_entry.", "title Linux %s, tried for one boot" % kernel]
    return "\n".join(head + lines + ["options " + " ".join(arguments)]) + "\n"


def variable(name, root="/"):
    """Return the text of one of the loader's EFI variables (4 bytes of attributes, then UTF-16), None without it."""
    try:
        with open(topology.at(root, VARIABLES, "%s-%s" % (name, VENDOR)), "rb") as handle:
            return handle.read()[4:].decode("utf-16-le", "replace").rstrip("\0")
    except OSError:
        return None
