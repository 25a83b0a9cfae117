# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every boot loader's backend answers, and the hosts that have none we can use."""

import collections
import os

from .. import hostfile, systemd, topology
from ..errors import FleetError
from . import kernels, storage

# What the loader shall do. `pin`: id of the entry that is the default whatever is installed, None for the operator's
# own rule; `trial`: (kernel, arguments, stock id) of the trial entry, or None; `once`: the next boot only is that
# entry; `before`: what before() said when we first came.
Layout = collections.namedtuple("Layout", "pin trial once before")

# UEFI specification, "Globally Defined Variables".
BOOT_NEXT = "/sys/firmware/efi/efivars/BootNext-8be4df61-93ca-11d2-aa0d-00e098032b8c"

# Entries of the same kernel that are no ordinary boot.
_REPAIR = ("single", "recovery", "emergency", "rescue", "systemd.unit=rescue.target", "systemd.unit=emergency.target")


class Loader:
    """A boot loader as found on the host. A backend sets `name`, `entries` [{id, title, kernel, arguments}] and
    `default_id`, and has the methods below that say so."""

    name = None

    def __init__(self, root="/"):
        self.root, self.entries, self.default_id, self.warnings = root, [], None, []

    # -- for each backend to answer

    @classmethod
    def find(cls, root="/"):
        """Return the loader when this host boots by it, else None."""
        raise NotImplementedError

    def own_problems(self):
        """Return sentences: why this loader, as it is, takes no one-boot trial."""
        raise NotImplementedError

    def kernel_problems(self, entry):
        """Return why this entry cannot be tried."""
        raise NotImplementedError

    def armed(self):
        """Is the next boot, and only that, the trial entry?"""
        raise NotImplementedError

    def pinned(self):
        """Return the id that we made the default, None when the operator's rule stands."""
        raise NotImplementedError

    def before(self):
        """Return what released needs to restore, as JSON."""
        return {}

    def changes(self, layout):
        """Return what is to change, [{path, before, after}], in the order in which it must."""
        raise NotImplementedError

    def apply(self, changes):
        """Carry such changes out."""
        raise NotImplementedError

    def disarm_command(self):
        """Return a line of shell that makes the next boot an ordinary one; needs no Python."""
        raise NotImplementedError

    # -- the same for all

    def default(self):
        """Return {id, kernel} of what the next ordinary boot is."""
        found = self.by_id(self.default_id)
        return {"id": self.default_id, "kernel": found["kernel"] if found else None}

    def by_id(self, wanted):
        return next((entry for entry in self.entries if entry["id"] == wanted), None)

    def entry(self, kernel):
        """Return the ordinary entry of a kernel that names it, so that it stays this kernel's when others are
        installed; None when there is none."""
        found = [entry for entry in self.entries if entry["kernel"] == kernel and kernels.TRIAL_ID != entry["id"]
                 and kernel in entry["id"] and not set(_REPAIR) & set(entry["arguments"])]
        return found[0] if found else None

    def wanted(self, kernel):
        """Return a kernel's entry. FleetError, with the kernels there are, when it has none."""
        found = self.entry(kernel)
        if found is None:
            raise FleetError(self.no_entry(kernel))
        return found

    def no_entry(self, kernel):
        there = sorted({entry["kernel"] for entry in self.entries if entry["kernel"]})
        return "%s has no entry that names the kernel %s; it has: %s" % (
            self.name, kernel, ", ".join(there) or "no kernel at all")

    def problems(self, kernel=None):
        """Return why a one-boot trial (of this kernel) is refused."""
        found = self.own_problems() + self._host_problems() + self._default_problems()
        if kernel:
            entry = self.entry(kernel)
            found += self.kernel_problems(entry) if entry else [self.no_entry(kernel)]
        return found

    def _default_problems(self):
        running, default = kernels.running(self.root), self.default()
        if kernels.trial_of(self.root) and default["kernel"] and default["kernel"] != running:
            return ["this boot is a trial itself: commit it, or reboot into the default first"]
        if not default["kernel"]:
            return ["the default of %s (%s) is no entry that boots an installed kernel; set it to the one that runs, %s"
                    % (self.name, self.default_id, running)]
        if default["kernel"] != running:
            return ["the default of %s is the kernel %s, but %s runs: after a failed trial another kernel than today's "
                    "would come up; reboot into the default, or pin the kernel that runs" % (
                        self.name, default["kernel"], running)]
        return []

    def _host_problems(self):
        found = []
        if not os.path.isdir(topology.at(self.root, "/run/systemd/system")):
            found.append("this host does not run systemd, which starts the deadman of a trial")
        if not any(os.access(topology.at(self.root, folder, "flock"), os.X_OK) for folder in ("/usr/bin", "/bin")):
            found.append("flock is not installed (package util-linux), which the deadman of a trial needs")
        if (hostfile.read(topology.at(self.root, "/sys/kernel/kexec_loaded")) or "0").strip() == "1":
            found.append("a kernel is loaded for kexec: the next reboot goes straight into it and past the boot "
                         "loader; unload it (kexec -u)")
        if os.path.exists(topology.at(self.root, BOOT_NEXT)):
            found.append("the firmware was told another boot for once (BootNext); boot it, or take it back with "
                         "efibootmgr --delete-bootnext")
        return found


class Without(Loader):
    """A host that has no loader we can use."""

    reason = None

    def own_problems(self):
        return [self.reason]

    def problems(self, kernel=None):
        return self.own_problems()

    def no_entry(self, kernel):
        return self.reason

    def armed(self):
        return False

    def pinned(self):
        return None

    def changes(self, layout):
        if layout.pin or layout.trial:
            raise FleetError(self.reason)
        return []

    def apply(self, changes):
        pass


class Container(Without):
    """A container boots the kernel of its machine."""

    reason = "this is a container: it runs the kernel of its machine; try kernels there"

    @classmethod
    def find(cls, root="/"):
        marks = ("/run/systemd/container", "/run/.containerenv", "/.dockerenv")
        return cls(root) if any(os.path.exists(topology.at(root, mark)) for mark in marks) else None


class Unmounted(Without):
    """What lies in /boot now is not what the loader reads at boot."""

    reason = "/boot is in /etc/fstab and not mounted, so what the boot loader reads is not to be seen; mount it"

    @classmethod
    def find(cls, root="/"):
        return cls(root) if storage.unmounted("/boot", root) else None


class GrubLegacy(Without):
    """GRUB 0.97 of EL 6: recognized, so that nobody takes it for another; its backend comes later."""

    name = "grub-legacy"
    reason = "this host boots by GRUB legacy (0.97); one-boot trials of kernels come to it later"

    @classmethod
    def find(cls, root="/"):
        names = ("/boot/grub/grub.conf", "/boot/grub/menu.lst")
        return cls(root) if any(os.path.exists(topology.at(root, name)) for name in names) else None


class Unknown(Without):
    """Neither loader was found."""

    reason = "no boot loader was found that can try a kernel once: no GRUB 2 (/boot/grub/grub.cfg, " \
             "/boot/grub2/grub.cfg) and no systemd-boot (its EFI variables); this kernel is started from outside"

    @classmethod
    def find(cls, root="/"):
        return cls(root)


def write_file(change, root):
    """Carry out a change of a whole file; keep the mode of one that is there."""
    path = topology.at(root, change["path"])
    if change["after"] is None:
        hostfile.remove(path)
    else:
        hostfile.write(path, change["after"], os.stat(path).st_mode & 0o7777 if os.path.exists(path) else 0o644)


def tell(root, *words):
    """Run a command on the host; a captured tree has nobody to tell."""
    return systemd.run(*words) if root == "/" else ""
