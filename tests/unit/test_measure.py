# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One reading of a host."""

import json
import socket
import subprocess
import sys

import native
import pytest

from ansible_collections.fastsocket.fleet.plugins.module_utils import measure
from ansible_collections.fastsocket.fleet.plugins.module_utils.errors import FleetError

SNMP = """\
Ip: Forwarding DefaultTTL
Ip: 1 64
Tcp: RtoAlgorithm MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab InSegs
Tcp: 1 -1 70 8012 3 2 -1 4
Udp: InDatagrams
Udp: 9
"""
NETSTAT = """\
TcpExt: SyncookiesSent ListenOverflows ListenDrops TCPMigrateReqSuccess TCPMigrateReqFailure
TcpExt: 0 5 6 7 8
IpExt: InNoRoutes ListenDrops
IpExt: 1 99
"""
# Linux 4.19: 11 columns; 5.10 has 13 with the CPU last; 6.5 has 15. CPU 1 of the middle one is offline.
SOFTNET = {
    "4.19": ("0000000a 00000001 00000002 " + "00000000 " * 6 + "00000003 00000000\n", {"0": (10, 1, 2, 3)}),
    "5.10": ("".join("%08x " % n * 1 + "00000000 " * 8 + "%08x 00000000 00000000 %08x\n" % (n, cpu)
                     for n, cpu in ((16, 0), (32, 2))), {"0": (16, 0, 0, 16), "2": (32, 0, 0, 32)}),
    "6.5": ("000000ff " + "00000000 " * 8 + "00000000 00000000 00000007 00000003 00000001 00000002\n",
            {"3": (255, 0, 0, 0)}),
    "2.6.32": ("00000004 00000000 00000001 " + "00000000 " * 5 + "00000000\n", {"0": (4, 0, 1, None)}),
}


def proc(tmp_path, **files):
    folder = tmp_path / "proc" / "net"
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return str(tmp_path)


def test_kernel_counters(tmp_path):
    assert measure.kernel_counters(proc(tmp_path, snmp=SNMP, netstat=NETSTAT)) == {
        "ActiveOpens": 70, "PassiveOpens": 8012, "AttemptFails": 3, "EstabResets": 2, "CurrEstab": -1,
        "ListenOverflows": 5, "ListenDrops": 6, "TCPMigrateReqSuccess": 7, "TCPMigrateReqFailure": 8}


def test_kernel_counters_that_are_missing(tmp_path):
    older = NETSTAT.replace("TCPMigrateReqSuccess TCPMigrateReqFailure", "").replace(" 7 8", "")
    assert measure.kernel_counters(proc(tmp_path, netstat=older)) == {"ListenOverflows": 5, "ListenDrops": 6}
    assert measure.kernel_counters(str(tmp_path / "none")) == {}


@pytest.mark.parametrize("kernel", SOFTNET)
def test_softnet(tmp_path, kernel):
    text, rows = SOFTNET[kernel]
    assert measure.softnet(proc(tmp_path, softnet_stat=text)) == {
        cpu: dict(zip(("processed", "dropped", "squeezed", "rps"), row, strict=True)) for cpu, row in rows.items()}


def test_this_machine():
    before = measure.kernel_counters()
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        pass
    after = measure.kernel_counters()
    assert set(after) >= set(measure.NETSTAT["Tcp"]) and after["ActiveOpens"] > before["ActiveOpens"]
    assert {str(cpu) for cpu in native.CPUS} <= set(measure.softnet())


@pytest.mark.parametrize("address, shown", [
    ("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "0.0.0.0"), ("::1", "::1"), ("::", "::")])
def test_what_answers(address, shown):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as server:
        row = {"address": shown, "port": server.getsockname()[1]}
        assert measure._answers(row)
    assert not measure._answers(row)


def test_gather_a_window(monkeypatch, tmp_path):
    """Counters of the window only, of the wrapped services when none is named; run as fsctl's copy on a host."""
    root, cpu = native.installed(monkeypatch, str(tmp_path)), native.CPUS[0]
    folder = native.wrap(root, "web")
    # It says when its window is open: on a busy machine that takes its time.
    code = ("import json, sys, time; sys.path.insert(0, sys.argv[1]); from fastsocket_fleet import measure\n"
            "sleep = time.sleep\n"
            "time.sleep = lambda seconds: (print('open', flush=True), sys.stdin.readline(), sleep(seconds))\n"
            "print(json.dumps(measure.gather(sys.argv[2:], 0.6)))")
    command = [sys.executable, "-B", "-c", code, root + "/usr/lib/fastsocket/python"]
    with native.server(folder, cpu) as (_, port):
        native.connect(port, cpu, 4)
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reading:
            assert reading.stdout.readline() == "open\n"
            native.connect(port, cpu, 5)
            found = json.loads(reading.communicate("\n", timeout=20)[0])
        assert set(found["services"]) == {"web"} and found["seconds"] >= 0.6
        web = found["services"]["web"]
        assert web["wrapped"] is True and web["sample"] is None
        assert (web["stats"]["summary"]["accepts"], web["stats"]["window"]["accepts"]) == (9, 5)
        assert web["stats"]["window"]["cpus"][str(cpu)]["accepts"] == 5
        assert found["kernel_window"]["PassiveOpens"] >= 5 and found["kernel_window"].keys() == found["kernel"].keys()
        other = json.loads(subprocess.check_output(command + ["none.service"], input=b"\n").splitlines()[1])
        assert other["services"] == {"none": {"wrapped": False, "stats": None, "sample": None}}


def test_only_one_service_can_be_sampled():
    with pytest.raises(FleetError, match="one service at a time can be sampled from outside, not a, b"):
        measure.gather(["a", "b.service"], 1, sampled=True)
