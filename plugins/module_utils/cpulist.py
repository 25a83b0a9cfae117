# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The two forms in which the kernel writes a set of CPUs: lists ("0-3,8") and masks ("ffffffff,00000003")."""

import re

from .errors import FleetError

# The largest NR_CPUS of any architecture is 8192 (arch/*/Kconfig); more is a slip of the keyboard, not a machine.
LIMIT = 8192
_RANGE = re.compile(r"^([0-9]+)(?:-([0-9]+))?$")


def parse_list(text):
    """Return the sorted CPU numbers of "0-3,8". An empty text is an empty list. FleetError on anything else."""
    cpus = set()
    for part in filter(None, text.strip().split(",")):
        found = _RANGE.match(part.strip())
        first, last = (int(found.group(1)), int(found.group(2) or found.group(1))) if found else (1, 0)
        if not first <= last < LIMIT:
            raise FleetError(
                '"%s" is not a CPU list: "%s" should be a number or a range below %d, as in 0-3,8'
                % (text.strip(), part, LIMIT)
            )
        cpus.update(range(first, last + 1))
    return sorted(cpus)


def format_list(cpus):
    """Return CPU numbers the way the kernel prints a list (lib/vsprintf.c:bitmap_list_string): "0-3,8"."""
    runs = []
    for cpu in sorted(set(cpus)):
        if runs and runs[-1][1] == cpu - 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join("%d" % first if first == last else "%d-%d" % (first, last) for first, last in runs)


def parse_mask(text):
    """Return the sorted CPU numbers of a mask of comma-separated 32-bit groups, highest first. FleetError on anything
    else."""
    value = 0
    for group in text.strip().split(","):
        if not re.match(r"^[0-9a-fA-F]{1,8}$", group):
            raise FleetError(
                '"%s" is not a CPU mask: it should be groups of up to 8 hexadecimal digits, as in ff,ffffffff'
                % text.strip()
            )
        value = value << 32 | int(group, 16)
    return [bit for bit in range(value.bit_length()) if value >> bit & 1]


def format_mask(cpus, width):
    """Return CPU numbers as the kernel prints a mask of `width` bits (lib/vsprintf.c:bitmap_string): every group but
    the first has 8 digits, the first has as many as its bits need. FleetError when a CPU does not fit: the kernel
    would say EOVERFLOW."""
    value = 0
    for cpu in cpus:
        if not 0 <= cpu < width:
            raise FleetError("CPU %d does not fit into a mask of %d CPUs" % (cpu, width))
        value |= 1 << cpu
    groups = []
    for low in reversed(range(0, width, 32)):
        bits = min(32, width - low)
        groups.append("%0*x" % ((bits + 3) // 4, value >> low & 0xFFFFFFFF))
    return ",".join(groups)
