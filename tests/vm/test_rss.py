# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Source ports chosen by the NIC's own hash: on a NIC of four queues with RSS, what this host is told of key and table
makes the replies of a CPU's connections come in through that CPU's queue. The NIC counts its packets by queue.

QEMU does RSS as the virtio standard says, in place of hardware. The 6.1 driver reports a key at start that it has not
given to the device yet: `ethtool -X` does."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
LAB = TOP / "tests/lab/lab"
GUEST = Path(__file__).with_name("rss_guest.py")
QUEUES, CONNECTIONS, PORT = 4, 60, 7000
ADDRESSES = {"rss-vm": ("10.94.0.41", "fd94::41"), "server": ("10.94.0.10", "fd94::10")}
SPEC = [{"name": "rss-vm", "kind": "vm", "address": [ADDRESSES["rss-vm"][0]], "cpus": QUEUES, "memory": 1024,
         "nic": "rss=on,hash=on"},
        {"name": "server", "address": [ADDRESSES["server"][0]]}]
# Answers and closes first: three packets or more to the client for each connection.
SERVER = f"""
import socket
listener = socket.create_server(("::", {PORT}), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
print("up", flush=True)
while True:
    s = listener.accept()[0]
    s.sendall(b"ok")
    s.close()
"""


def call(*words):
    done = subprocess.run([*map(str, words)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False, timeout=900)
    assert done.returncode == 0, f"{words}: {done.stdout}"
    return done.stdout


@pytest.fixture(scope="module", name="measured")
def fixture_measured(tmp_path_factory):
    """What the machine measured: for each family and way a table, packets by CPU that connected and queue."""
    if os.geteuid() != 0:
        pytest.skip("the lab needs root")
    folder, name = tmp_path_factory.mktemp("rss"), f"rss{os.getpid()}"
    call("make", "-C", TOP / "libfsocket", f"BUILD={folder}/build")
    (folder / "spec.json").write_text(json.dumps({"name": name, "network": "10.94.0.0/24", "host": SPEC}))
    call(LAB, "up", "--spec", folder / "spec.json")

    def inside(host, *command):
        return call(LAB, "exec", "--name", name, host, "--", *command)

    try:
        for host, (_four, six) in ADDRESSES.items():
            inside(host, "ip", "-6", "address", "add", f"{six}/64", "dev", "eth0", "nodad")
        files = [folder / "build/libfsocket.so", TOP / "plugins/module_utils", GUEST]
        call(LAB, "run", "--name", name, "--", "scp", "-qr", "-F", f"/run/fastsocket-lab/{name}/ssh_config", *files,
             "rss-vm:/root")
        with subprocess.Popen([LAB, "exec", "--name", name, "server", "--", "python3", "-c", SERVER],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout.readline() == "up\n"
                said = inside("rss-vm", "python3", "-B", f"/root/{GUEST.name}", str(CONNECTIONS), str(PORT),
                              *ADDRESSES["server"])
                sys.stdout.write(said)
                yield json.loads(said.splitlines()[-1])
            finally:
                server.terminate()
    finally:
        sys.stdout.write(call(LAB, "down", "--name", name))


def test_the_host_says_how_its_nic_hashes(measured):
    name, families, key, table = measured["file"].split("\n")[1].split()
    assert (name, families, table) == ("eth0", "46", ",".join(["0,1,2,3"] * 32))
    assert key == measured["key"]


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_replies_come_to_the_queue_of_the_cpu(measured, family):
    table = measured["chosen"][family]
    home = sum(table[cpu][cpu] for cpu in range(QUEUES))
    packets = sum(map(sum, table))
    assert packets >= 2 * QUEUES * CONNECTIONS, table
    assert home >= 0.95 * packets, table


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_without_the_choice_they_come_to_any(measured, family):
    table = measured["plain"][family]
    home = sum(table[cpu][cpu] for cpu in range(QUEUES))
    assert home <= 0.5 * sum(map(sum, table)), table


def test_the_library_measures_the_same(measured):
    """Its sample: on which CPU the last packet of a connection was handled. A process's first connection is in it,
    whose source address is not known yet: on four queues three of four of those go astray."""
    local, remote = measured["counted"]
    assert local + remote >= 20 and local >= 0.75 * (local + remote), measured["counted"]
