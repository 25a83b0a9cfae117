# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tell libfsocket how the NICs hash: RUN/rss (layout: libfsocket/src/rss.h), from what the drivers report.

The library then chooses source ports whose replies come to the CPU that connects. A NIC is left out when its answer
is not sure: another hash than Toeplitz, ports not hashed, a table of another size than a power of two."""

import array
import errno
import fcntl
import ipaddress
import os
import socket
import struct

from . import cpulist, paths, topology

FILE = paths.RUN + "/rss"
RFD = "/proc/sys/net/fastsocket/rfd"
SIX_ADDRESSES = "/proc/net/if_inet6"

# include/uapi/linux/sockios.h, include/uapi/linux/ethtool.h
SIOCGIFCONF, SIOCETHTOOL = 0x8912, 0x8946
GRXFH, GRSSH = 0x29, 0x46
FLOWS = {"4": 1, "6": 5}  # TCP_V4_FLOW, TCP_V6_FLOW
ADDRESSES_AND_PORTS = 0xF0  # RXH_IP_SRC, RXH_IP_DST, RXH_L4_B_0_1, RXH_L4_B_2_3
RXFH = struct.Struct("=4I4BI")  # struct ethtool_rxfh: cmd, context, entries, bytes of key, hash, transformation...
TOEPLITZ = 1
KEY_LEAST = 40  # two IPv6 addresses and ports need so much of it
TABLE_MOST = 4096
ADDRESSES_MOST = 16


def text(topo, root="/"):
    """Return what RUN/rss should hold, None for no file. Empty for a captured tree, which has no drivers to ask."""
    if root != "/" or (_first(RFD) or "0") != "0":
        return None  # RFD brings replies home by the block of their port; a port beyond it would go astray
    found = {}
    for name, interface in sorted(topo["interfaces"].items()):
        report = None if interface["virtual"] or len(interface["rx"]) < 2 else read(name)
        if report:
            cpus = [queue_cpu(interface, queue, root) for queue in report["table"]]
            if len(set(cpus) - {None}) > 1:
                found[name] = (report["families"], report["key"], cpus)
    rows = list(found.values())
    one = all(row == rows[0] for row in rows)  # also the members of a bond: which of them does not matter
    lines = [line(name, row, [] if one else addresses(name)) for name, row in found.items() if one or addresses(name)]
    return "# Made by fsctl nic apply; see libfsocket(7).\n" + "\n".join(lines[:1] if one else lines) + "\n" \
        if lines else None


def line(name, row, local):
    """Return one NIC as the library reads it; row: families, key, CPU (or None) of each entry of the table."""
    families, key, cpus = row
    table = ",".join("-" if cpu is None else "%d" % cpu for cpu in cpus)
    return " ".join([name, families, key, table] + local[:ADDRESSES_MOST])


def read(name):
    """Return {families: "4", "6" or "46", key: hexadecimal, table: queue of each entry} as the driver reports it, or
    None when it does not, or not all that is needed."""
    sizes = _ask(name, RXFH.pack(GRSSH, 0, 0, 0, 0, 0, 0, 0, 0))
    entries, length = RXFH.unpack(sizes)[2:4] if sizes else (0, 0)
    if not 1 < entries <= TABLE_MOST or entries & (entries - 1) or length < KEY_LEAST:
        return None
    answer = _ask(name, RXFH.pack(GRSSH, 0, entries, length, 0, 0, 0, 0, 0) + bytes(4 * entries + length))
    if not answer or RXFH.unpack(answer[: RXFH.size])[4:6] != (TOEPLITZ, 0):
        return None
    at = RXFH.size + 4 * entries
    key = answer[at : at + length]
    families = "".join(family for family, flow in sorted(FLOWS.items()) if _hashes(name, flow))
    if not families or not any(key):
        return None
    table = struct.unpack("=%dI" % entries, answer[RXFH.size : at])
    return {"families": families, "key": "".join("%02x" % byte for byte in key), "table": list(table)}


def queue_cpu(interface, queue, root="/"):
    """Return the one CPU that handles what comes into a queue, None when it is not one: RPS goes before the
    interrupt."""
    if queue >= len(interface["rx"]):
        return None
    cpus = cpulist.parse_mask(interface["rx"][queue]["rps_cpus"] or "0")
    for irq in interface["irqs"] if not cpus else ():
        if irq["queue"] == queue and irq["kind"] in ("rx", "rxtx"):
            # A mask may allow several; the kernel chose one of them. A new mask takes effect with the next interrupt
            # (kernel/irq/migration.c: irq_move_masked_irq), until then the choice is still the former one.
            allowed = cpulist.parse_mask(irq["affinity"] or "0")
            chosen = cpulist.parse_list(
                _first(topology.at(root, "/proc/irq/%d/effective_affinity_list" % irq["irq"])) or "")
            cpus = chosen if len(allowed) > 1 and set(chosen) <= set(allowed) else allowed
    return cpus[0] if len(cpus) == 1 else None


def addresses(name):
    """Return the local addresses whose packets come in through an interface: its own, and those of bonds, bridges and
    VLANs on top of it."""
    names, above = [], [name]
    while above:
        names.append(above.pop())
        folder = os.path.join(topology.NETS, names[-1])
        entries = os.listdir(folder) if os.path.isdir(folder) else []
        above += [entry[6:] for entry in entries if entry.startswith("upper_") and entry[6:] not in names]
    return [address for owner, address in _all_addresses() if owner in names]


def _all_addresses():
    found = []
    buffer = array.array("B", bytes(40 * 1024))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        # struct ifconf: length, padding, pointer; then struct ifreq, each a name and a struct sockaddr_in.
        answer = fcntl.ioctl(asking, SIOCGIFCONF, struct.pack("iP", len(buffer), buffer.buffer_info()[0]))
    size = 16 + struct.calcsize("PPP")
    for at in range(0, struct.unpack("iP", answer)[0], size):
        label = bytes(buffer[at : at + 16]).split(b"\0")[0].decode()
        found.append((label.split(":")[0], socket.inet_ntoa(bytes(buffer[at + 20 : at + 24]))))
    try:
        with open(SIX_ADDRESSES) as handle:
            rows = [row.split() for row in handle]
    except OSError:
        rows = []
    found += [(row[5], str(ipaddress.ip_address(bytes(bytearray.fromhex(row[0]))))) for row in rows]
    return found


def _hashes(name, flow):
    """Are addresses and ports of a kind of packet hashed, and nothing else?"""
    # struct ethtool_rxnfc: cmd, flow_type, data, a rule of 164 bytes, rule count
    answer = _ask(name, struct.pack("=IIQ", GRXFH, flow, 0) + bytes(192))
    return bool(answer) and struct.unpack("=IIQ", answer[:16])[2] == ADDRESSES_AND_PORTS


def _ask(name, request):
    """Return the driver's answer in place of the request, or None."""
    buffer = array.array("B", request)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            fcntl.ioctl(asking, SIOCETHTOOL, struct.pack("16sP16x", name.encode(), buffer.buffer_info()[0]))
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENODEV, errno.EPERM):
                return None
            raise
    return bytes(buffer)


def _first(path):
    try:
        with open(path) as handle:
            return handle.read().strip()
    except OSError:
        return None
