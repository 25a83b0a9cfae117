# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""rss_guest.py CONNECTIONS PORT ADDRESS4 ADDRESS6: the part of test_rss.py that runs in the machine.

Prints one line of JSON: file (what /run/fastsocket/rss holds), key (as ethtool shows it), chosen and plain ({family:
packets by CPU that connected and queue}), counted (connections that the library found local, remote)."""
import json
import os
import re
import subprocess
import sys

sys.path.insert(0, "/root")

from module_utils import nic, stats

CPUS = range(4)
CLIENT = """
import socket, sys
for _ in range(int(sys.argv[1])):
    with socket.create_connection((sys.argv[3], int(sys.argv[2])), 30) as s:
        while s.recv(10):
            pass
"""


def said(*words, **options):
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, **options).stdout


def packets():
    return [int(count) for count in re.findall(r"rx_queue_\d+_packets: (\d+)", said("ethtool", "-S", "eth0"))]


def table(connections, port, address, env):
    rows = []
    for cpu in CPUS:
        before = packets()
        said("taskset", "-c", str(cpu), "python3", "-c", CLIENT, connections, port, address, env=env)
        rows.append([after - former for former, after in zip(before, packets(), strict=True)])
    return rows


def main():
    connections, port, *addresses = sys.argv[1:]
    said("ethtool", "-X", "eth0", "equal", str(len(CPUS)))
    nic.configure({"interfaces": ["eth0"]}, boot=False)
    result = {"key": re.search(r"hash key:\s+([0-9a-f:]+)", said("ethtool", "-x", "eth0"))[1].replace(":", "")}
    with open("/run/fastsocket/rss") as handle:
        result["file"] = handle.read()
    library = dict(os.environ, LD_PRELOAD="/root/libfsocket.so", FSOCKET_NAME="rss")
    for way, env in (("chosen", library), ("plain", None)):
        result[way] = {family: table(connections, port, address, env)
                       for family, address in zip(("IPv4", "IPv6"), addresses, strict=True)}
    cpus = stats.read("rss")["cpus"]
    result["counted"] = [sum(row["connects_" + where] for row in cpus.values()) for where in ("local", "remote")]
    print(json.dumps(result))


main()
