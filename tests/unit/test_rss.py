# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What libfsocket is told of the NICs. A driver's answers are bytes of ethtool's own making; a real one is asked in
tests/vm/test_rss.py."""

import struct

import pytest

from ansible_collections.fastsocket.fleet.plugins.module_utils import rss

KEY = bytes(range(1, 41))
ENTRIES = 8


def answers(monkeypatch, **changed):
    """A driver that answers like one with four queues; changed: entries, key, hash, transformation, fields."""
    it = dict({"entries": ENTRIES, "key": KEY, "hash": 1, "transformation": 0, "fields": {1: 0xF0, 5: 0xF0}}, **changed)

    def ask(dummy, request):
        command = struct.unpack("=I", request[:4])[0]
        if command == rss.GRXFH:
            flow = struct.unpack("=I", request[4:8])[0]
            return struct.pack("=IIQ", command, flow, it["fields"][flow]) + bytes(192)
        assert command == rss.GRSSH
        head = rss.RXFH.pack(command, 0, it["entries"], len(it["key"]), it["hash"], it["transformation"], 0, 0, 0)
        wanted = rss.RXFH.unpack(request[: rss.RXFH.size])[2:4]
        if wanted == (0, 0):
            return head
        assert wanted == (it["entries"], len(it["key"])) and len(request) == rss.RXFH.size + 4 * wanted[0] + wanted[1]
        return head + struct.pack("=%dI" % it["entries"], *[i % 4 for i in range(it["entries"])]) + it["key"]

    monkeypatch.setattr(rss, "_ask", ask)


def test_a_full_answer(monkeypatch):
    answers(monkeypatch)
    assert rss.read("eth0") == {"families": "46", "key": KEY.hex(), "table": [0, 1, 2, 3] * 2}


@pytest.mark.parametrize("changed", [
    {"entries": 0}, {"entries": 6}, {"entries": 8192}, {"key": KEY[:39]}, {"key": bytes(40)}, {"hash": 2},
    {"transformation": 1}, {"fields": {1: 0x30, 5: 0x30}},
], ids=str)
def test_what_is_not_sure_is_left_out(monkeypatch, changed):
    answers(monkeypatch, **changed)
    assert rss.read("eth0") is None


def test_a_family_without_ports_is_left_out(monkeypatch):
    answers(monkeypatch, fields={1: 0xF0, 5: 0x30})
    assert rss.read("eth0")["families"] == "4"


def test_no_driver_to_ask():
    assert rss.read("lo") is None
    assert rss.read("none-such") is None


def interface(*queues, virtual=False):
    """Queues are (RPS mask, affinity mask)."""
    irqs = [{"irq": 10**9 + number, "queue": number, "kind": kind, "affinity": queue[1] if kind == "rx" else "8"}
            for number, queue in enumerate(queues) for kind in ("rx", "tx")]
    return {"virtual": virtual, "rx": [{"rps_cpus": queue[0]} for queue in queues], "irqs": irqs}


def test_the_cpu_of_a_queue():
    it = interface(("0", "1"), ("0", "4"), ("2", "4"), ("3", "4"), ("0", "3"), (None, "8"))
    assert [rss.queue_cpu(it, queue) for queue in range(7)] == [0, 2, 1, None, None, 3, None]


def test_the_kernel_says_which_cpu_of_several(tmp_path):
    path = tmp_path / "proc/irq" / str(10**9)
    path.mkdir(parents=True)
    (path / "effective_affinity_list").write_text("5\n")
    assert rss.queue_cpu(interface(("0", "ff")), 0, str(tmp_path)) == 5
    # Set anew, and no interrupt has come since.
    assert rss.queue_cpu(interface(("0", "8")), 0, str(tmp_path)) == 3
    assert rss.queue_cpu(interface(("0", "f")), 0, str(tmp_path)) is None


def told(monkeypatch, **nics):
    answers(monkeypatch)
    local = {"a": ["192.0.2.1"], "b": ["192.0.2.2", "2001:db8::2"]}
    monkeypatch.setattr(rss, "addresses", lambda name: local.get(name, []))
    said = rss.text({"interfaces": nics})
    return [row.split() for row in said.splitlines() if not row.startswith("#")] if said else said


QUEUES = [("0", mask) for mask in "1248"]
OTHERS = [("0", mask) for mask in ("10", "20", "40", "80")]


def test_one_nic_receives_for_all_addresses(monkeypatch):
    assert told(monkeypatch, a=interface(*QUEUES)) == [["a", "46", KEY.hex(), "0,1,2,3,0,1,2,3"]]


def test_two_alike_are_as_one(monkeypatch):
    assert told(monkeypatch, a=interface(*QUEUES), b=interface(*QUEUES)) == [["a", "46", KEY.hex(), "0,1,2,3,0,1,2,3"]]


def test_two_that_differ_have_their_addresses(monkeypatch):
    both = told(monkeypatch, a=interface(*QUEUES), b=interface(*OTHERS), c=interface(("0", "1"), ("0", "2")))
    assert both == [["a", "46", KEY.hex(), "0,1,2,3,0,1,2,3", "192.0.2.1"],
                    ["b", "46", KEY.hex(), "4,5,6,7,4,5,6,7", "192.0.2.2", "2001:db8::2"]]


def test_nothing_to_tell(monkeypatch):
    assert told(monkeypatch) is None
    assert told(monkeypatch, a=interface(*QUEUES, virtual=True)) is None
    assert told(monkeypatch, a=interface(("0", "1"))) is None
    assert told(monkeypatch, a=interface(("0", "1"), ("0", "1"))) is None  # one CPU has it all
    assert told(monkeypatch, a=interface(("3", "1"), ("3", "2"))) is None  # RPS over two CPUs


def test_rfd_brings_them_home_itself(monkeypatch, tmp_path):
    monkeypatch.setattr(rss, "RFD", str(tmp_path / "rfd"))
    (tmp_path / "rfd").write_text("1\n")
    assert told(monkeypatch, a=interface(*QUEUES)) is None
    (tmp_path / "rfd").write_text("0\n")
    assert told(monkeypatch, a=interface(*QUEUES))


def test_addresses_of_this_machine():
    assert "127.0.0.1" in rss.addresses("lo")
    assert rss.addresses("none-such") == []
