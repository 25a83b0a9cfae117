# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kernels, seen from the loader: which one runs, which version a boot entry starts, is its file there."""

import contextlib
import os
import re

from .. import hostfile, topology
from ..errors import FleetError

TRIAL_ID = "fastsocket-trial"
BOOT_ID = "/proc/sys/kernel/random/boot_id"

# What every trial boot adds, so that a kernel that fails ends by itself (admin-guide/kernel-parameters,
# dracut.cmdline(7), initramfs-tools(7), systemd(1)). Where a kernel or a program does not know one, it does nothing.
ARGUMENTS = (
    "panic=10",                 # a panic reboots after 10 s; initramfs-tools: a root that is missing does too
    "oops=panic",               # a kernel that stumbled is not to be tried further
    "softlockup_panic=1",       # a CPU that has not scheduled for 20 s
    "hung_task_panic=1",        # a task that has not run for 120 s: maybe the one that would end the trial
    "nmi_watchdog=panic,1",     # a CPU that takes no interrupts
    "rd.shell=0", "rd.emergency=reboot",    # dracut: no shell that waits for somebody
    "systemd.crash_reboot=1",   # the same for systemd itself
)
# A hardware watchdog that systemd feeds catches what is left: a kernel that stands still.
WATCHDOG_ARGUMENT = "systemd.watchdog_sec=60"

# The sysctls that those set, and that end only with the boot: (sysctl, argument, the value it gives).
SYSCTLS = (
    ("panic", "panic", "10"), ("panic_on_oops", "oops", "1"), ("softlockup_panic", "softlockup_panic", "1"),
    ("hung_task_panic", "hung_task_panic", "1"), ("hardlockup_panic", "nmi_watchdog", "1"),
)

# What GRUB, the kernel and all shells on the way take as it stands.
_ARGUMENT = re.compile(r"^[A-Za-z0-9_.,:=+/@%-]+\Z")


def running(root="/"):
    return (hostfile.read(topology.at(root, "/proc/sys/kernel/osrelease")) or "").strip()


def boot_id(root="/"):
    return (hostfile.read(topology.at(root, BOOT_ID)) or "").strip()


def command_line(root="/"):
    """Return the words this kernel was started with."""
    return (hostfile.read(topology.at(root, "/proc/cmdline")) or "").split()


def trial_of(root="/"):
    """Return the id of the trial that this boot is, None when it is none.

    The last one: kernel-install gives a new entry the words of the boot it ran in, which may have been a trial too."""
    prefix = "fastsocket.trial="
    return ([None] + [word[len(prefix):] for word in command_line(root) if word.startswith(prefix)])[-1]


def check_arguments(arguments):
    for word in arguments:
        if not _ARGUMENT.match(word):
            raise FleetError("argument %r: one kernel argument a list element, of letters, digits and _.,:=+/@%%- only"
                             % word)


def trial_arguments(trial_id, arguments, root="/"):
    """Return what the trial entry has besides the ordinary one; the operator's come last and so win."""
    watchdog = [WATCHDOG_ARGUMENT] if os.path.exists(topology.at(root, "/sys/class/watchdog/watchdog0")) else []
    return ["fastsocket.trial=" + trial_id] + list(ARGUMENTS) + watchdog + list(arguments)


def sysctls(root="/"):
    """Return {sysctl: value} of those that a trial boot sets otherwise."""
    found = {name: hostfile.read(_sysctl(name, root)) for name, dummy, dummy in SYSCTLS}
    return {name: text.strip() for name, text in found.items() if text is not None}


def sysctl_changes(before, arguments, root="/"):
    """Return what is to change so that this boot, a trial that is kept, has the sysctls of `before` again. One that the
    operator's arguments name stays, as does one that has another value than ours by now: somebody set it."""
    named, now = {word.partition("=")[0].replace("-", "_") for word in arguments}, sysctls(root)
    return [{"path": "kernel." + name, "before": value, "after": before[name]} for name, argument, value in SYSCTLS
            if now.get(name) == value and before.get(name, value) != value
            and not {argument, "sysctl.kernel." + name} & named]


def set_sysctls(changes, root="/"):
    """Carry such changes out, as far as the kernel lets us: no more than a panic depends on it."""
    for change in changes:
        path = _sysctl(change["path"].partition(".")[2], root)
        with contextlib.suppress(OSError), open(path, "w", encoding="ascii") as handle:
            handle.write(change["after"] + "\n")


def _sysctl(name, root):
    return topology.at(root, "/proc/sys/kernel", name)


def version(path, root="/"):
    """Return the version (uname -r) in a kernel's path: /boot/vmlinuz-V, /lib/modules/V/vmlinuz, .../V/linux. Other
    names (/vmlinuz): that of the file it is a link to; "" when there is none."""
    name = os.path.basename(path)
    match = re.match(r"^(?:vmlinuz|vmlinux|linux|kernel|bzImage)-(.+)$", name)
    if match:
        return match.group(1)
    if name in ("vmlinuz", "linux") and re.match(r"^\d", os.path.basename(os.path.dirname(path))):
        return os.path.basename(os.path.dirname(path))
    link = topology.at(root, path)
    return version(os.readlink(link), root) if os.path.islink(link) and os.readlink(link) != path else ""


def find(path, folders, root="/"):
    """Return where a file that a loader names by its own file system's path lies on this host, None when nowhere.
    `folders`: where such file systems are mounted."""
    path = re.sub(r"^\([^)]*\)", "", path)
    inner = "/" + path.lstrip("/").partition("/")[2]    # below a btrfs subvolume
    for candidate in [os.path.join(folder, name.lstrip("/")) for folder in folders for name in (path, inner)]:
        if os.path.isfile(topology.at(root, candidate)):
            return candidate
    return None
