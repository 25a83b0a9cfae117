# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""What part_ports and part_rss share: a network with a server, programs on one CPU under the library, their blocks."""
import ipaddress
import json
import socket
import subprocess
import sys
import threading

import lab

PORT = 7000
SIX = "fd99::1"
MANY = ipaddress.ip_network("10.98.0.0/24")
# Behind a link that swallows all: a connect() to it stays under way.
SILENT = "10.95.0.2"
RANGE = "net.ipv4.ip_local_port_range"
RESERVED = "net.ipv4.ip_local_reserved_ports"
USUAL = (32768, 60999)
SMALL = (33024, 33279)  # two blocks of 128
NETWORK = f"""ip -6 address add {SIX}/128 dev lo nodad
ip address add {MANY} dev lo
ip link add v0 type veth peer name v1
ip link set v0 up
ip link set v1 up
ip address add 10.95.0.1/24 dev v0
ip neighbour add {SILENT} lladdr 02:00:00:00:00:02 dev v0 nud permanent"""
servers, peers = [], []


def serve(listener):
    """Take and close: a client's port is its own until the client closes."""
    while True:
        client, peer = listener.accept()
        client.close()
        peers.append((peer[0].replace("::ffff:", ""), peer[1]))


def network():
    """The usual range; the first time also addresses that are not 127/8, and a listener on all of them."""
    if not servers:
        for line in NETWORK.splitlines():
            lab.run(*line.split())
        servers.append(socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True, backlog=4096))
        threading.Thread(target=serve, args=servers, daemon=True).start()
    local_range(*USUAL)


def local_range(low, high):
    lab.sysctl(RANGE, f"{low} {high}")


class Program:
    """CODE after tests/ports.py, on one CPU; `name` None: without the library."""

    def __init__(self, code, name=None, cpu=None, **settings):
        text = (lab.HERE / "ports.py").read_text() + f"\nAWAY, SIX, SILENT, PORT = {lab.AWAY, SIX, SILENT, PORT}\n"
        command = [sys.executable, "-c", text + code]
        if cpu != "any":
            command = ["taskset", "-c", str(lab.CPUS[0] if cpu is None else cpu), *command]
        self.process = subprocess.Popen(command, env=name and lab.environment(name, **settings), text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.stats = name and lab.Stats(name)

    def hear(self):
        line = self.process.stdout.readline()
        assert line, f"ended with status {self.process.wait()}"
        return json.loads(line)

    def tell(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self):
        rest = self.process.communicate(timeout=lab.PATIENCE_S)[0]
        assert self.process.returncode == 0 and not rest, f"status {self.process.returncode}: {rest}"


def told(code, name=None, **how):
    """Run CODE to its end; returns what it told, once."""
    program = Program(code, name, **how)
    answer = program.hear()
    program.end()
    return answer


def counted(name):
    """Return (steered, unsteered)."""
    total = lab.Stats(name).total()
    return total["connects_steered"], total["connects_unsteered"]


def block(name, cpu=None):
    """The ports of a CPU as the statistics file has them."""
    header = lab.Stats(name).read()["header"]
    first = header["port_first"] + header["port_block"] * (lab.CPUS[0] if cpu is None else cpu)
    assert header["port_block"] >= 64, header
    return range(first, first + header["port_block"])


def outside(ports, wanted):
    return [port for port in ports if port not in wanted]
