# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a file lies on: its mount, and the block devices below it. GRUB writes its environment block over the disk
blocks of a file, and only where one block of the file is one block of one disk."""

import collections
import os
import re

from .. import hostfile, topology

Mount = collections.namedtuple("Mount", "point device kind source options")

# File systems that keep a file's blocks where they are, and that GRUB writes to.
IN_PLACE = ("ext2", "ext3", "ext4", "xfs", "vfat")
# What a device-mapper device is, by the beginning of its uuid (Documentation/admin-guide/device-mapper).
MAPPED = {"LVM": "LVM", "CRYPT": "an encrypted device", "DMRAID": "a firmware RAID"}
# Several paths to one disk: the firmware shows GRUB the disk itself.
PATHS = re.compile(r"^(part\d+-)?mpath-")


def real(path, root="/"):
    """Return a path with its links resolved, as the host (not the reader of a captured tree) names it."""
    top = os.path.realpath(root).rstrip("/")
    return os.path.realpath(topology.at(root, path))[len(top):] or "/"


def mounts(root="/"):
    """Return the Mounts, the latest last (proc(5), /proc/self/mountinfo)."""
    found = []
    for line in (hostfile.read(topology.at(root, "/proc/self/mountinfo")) or "").splitlines():
        left, dummy, right = line.partition(" - ")
        left, right = left.split(), right.split()
        point = re.sub(r"\\(\d{3})", lambda match: chr(int(match.group(1), 8)), left[4])
        found.append(Mount(point, left[2], right[0], right[1], left[5].split(",") + right[2].split(",")))
    return found


def mount_of(path, root="/"):
    """Return the Mount a path lies on, None when that cannot be told."""
    path, best = real(path, root), None
    for mount in mounts(root):
        if (path + "/").startswith(mount.point.rstrip("/") + "/") and (not best or len(mount.point) >= len(best.point)):
            best = mount
    return best


def unmounted(point, root="/"):
    """Is this mount point in fstab(5) and nothing mounted there? Not even what mounts it on the first look."""
    lines = (hostfile.read(topology.at(root, "/etc/fstab")) or "").splitlines()
    wanted = [line.split()[1].rstrip("/") for line in lines if line.split()[1:] and not line.lstrip().startswith("#")]
    return point in wanted and point not in [mount.point for mount in mounts(root)]


def layers(device, root="/"):
    """Return what stands between a block device ("8:1") and the disks, in words; empty for a partition or disk."""
    return sorted(set(_layers(os.path.realpath(topology.at(root, "/sys/dev/block/" + device)))))


def _layers(folder):
    if os.path.exists(folder + "/partition"):
        folder = os.path.dirname(folder)
    found = []
    if os.path.isdir(folder + "/md"):
        found.append("a software RAID")
    if os.path.isdir(folder + "/bcache"):
        found.append("bcache")
    uuid = (hostfile.read(folder + "/dm/uuid") or "").strip()
    if os.path.isdir(folder + "/dm") and not PATHS.match(uuid):
        found.append(MAPPED.get(uuid.partition("-")[0], "a device-mapper device"))
    slaves = folder + "/slaves"
    for name in sorted(os.listdir(slaves)) if os.path.isdir(slaves) else []:
        found += _layers(os.path.realpath(os.path.join(slaves, name)))
    return found


def problems(path, root="/"):
    """Return why GRUB could not write a file in place."""
    mount = mount_of(path, root)
    says = "so GRUB cannot write its environment block %s and a trial would boot again and again; put /boot on a " \
           "plain partition with ext4" % path
    if mount is None:
        return ["it cannot be told which file system %s lies on" % path]
    if "ro" in mount.options:
        return ["%s is mounted read-only, so neither %s nor a file beside it can be changed; mount it for writing" % (
            mount.point, path)]
    if mount.kind not in IN_PLACE:
        return ["%s is on %s, %s" % (mount.point, mount.kind, says)]
    if "data=journal" in mount.options:
        return ["%s is mounted with data=journal, whose replay after a crash takes back what GRUB wrote; mount it "
                "without" % mount.point]
    below = layers(mount.device, root)
    return ["%s is on %s, %s" % (mount.point, " and ".join(below), says)] if below else []


def uuid_of(path, root="/"):
    """Return the UUID of the file system a path lies on, None when udev names none."""
    mount, folder = mount_of(path, root), topology.at(root, "/dev/disk/by-uuid")
    if mount is None or not os.path.isdir(folder):
        return None
    wanted = os.path.basename(os.path.realpath(topology.at(root, "/sys/dev/block/" + mount.device)))
    return next((name for name in sorted(os.listdir(folder))
                 if os.path.basename(os.path.realpath(os.path.join(folder, name))) == wanted), None)
