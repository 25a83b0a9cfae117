# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A vmlinuz: is it a kernel for this machine, which one, is it signed; and does this host want it signed?"""

import re
import struct

from ..errors import FleetError

# As much of a vmlinuz as any question here needs. The version text of x86 lies in the setup code, at most 32 KiB long.
HEAD = 65536
# Where a package puts the image: most distributions in /boot, Fedora and EL 8 on beside the modules.
PLACES = re.compile(r"^/boot/vmlinuz-([^/]+)$|^/lib/modules/([^/]+)/vmlinuz$")
# UEFI specification, "Globally Defined Variables"; the file holds 4 bytes of attributes, then the value.
SECURE_BOOT = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"


def version_at(path):
    """Return the kernel version in the path of an image, None when it is no place for one."""
    match = PLACES.match(path)
    return match and (match.group(1) or match.group(2))


def merged(path):
    """Return a path as it is on a host with and without merged /usr: one name for one file."""
    return path[4:] if path.startswith("/usr/lib/modules/") else path


def release(head):
    """Return the version an x86 image carries (what uname -r will say); None when this is no x86 kernel image.
    Documentation/arch/x86/boot.rst: magic at 0x202, offset of the text less 0x200 at 0x20e."""
    if head[0x202:0x206] != b"HdrS":
        return None
    at, = struct.unpack_from("<H", head, 0x20e)
    text = head[at + 0x200:at + 0x200 + 256].split(b"\0")[0].decode("ascii", "replace").split()
    return text[0] if at and text else None


def signed(head, size):
    """Does a PE image of `size` bytes that begins with `head` carry a certificate table? PE format: the header's
    offset at 0x3c, then 4 + 20 bytes; the optional header's magic says where its directories begin; the fifth is
    the certificates' offset and length in the file."""
    if head[:2] != b"MZ" or len(head) < 0x40:
        return False
    at, = struct.unpack_from("<I", head, 0x3c)
    if head[at:at + 4] != b"PE\0\0" or len(head) < at + 24 + 112 + 5 * 8:
        return False
    magic, = struct.unpack_from("<H", head, at + 24)
    start = at + 24 + {0x10b: 96, 0x20b: 112}.get(magic, 0)
    count, = struct.unpack_from("<I", head, start - 4)
    offset, length = struct.unpack_from("<II", head, start + 4 * 8)
    return start > at + 24 and count > 4 and length > 0 and 0 < offset <= size - length


def secure_boot(root=""):
    """Does the firmware of this host boot signed kernels only?"""
    try:
        with open(root + SECURE_BOOT, "rb") as handle:
            return handle.read(5)[4:] == b"\x01"
    except OSError:
        return False


def check(name, kernel, head, size, machine, root=""):
    """FleetError when this image cannot boot here: none for this machine, of another version, unsigned where a
    signature is needed."""
    if machine == "x86_64":
        found = release(head)
        if found is None:
            raise FleetError("%s: its vmlinuz is no Linux kernel for x86_64 (no boot header)" % name)
        if found != kernel:
            raise FleetError("%s: its vmlinuz says it is %s, its files say %s: build it again" % (name, found, kernel))
    if secure_boot(root) and not signed(head, size):
        raise FleetError(
            "%s: its vmlinuz is not signed, and secure boot is on: this host would not start it. Sign it with a key "
            "that the firmware or MokManager knows, or turn secure boot off" % name)
