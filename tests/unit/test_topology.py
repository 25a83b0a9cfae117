# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is read from trees of the shape of real machines, and from the machine that runs the test."""

import json
import os

import pytest
import trees

from ansible_collections.fastsocket.fleet.plugins.module_utils import topology


@pytest.fixture
def read(tmp_path):
    return lambda machine: topology.read(trees.build(tmp_path, machine))


@pytest.mark.parametrize("name", sorted(trees.MACHINES))
def test_every_machine_survives_json(read, name):
    topo = read(trees.MACHINES[name])
    assert json.loads(json.dumps(topo)) == topo


def test_two_nodes_with_siblings(read):
    topo = read(trees.MACHINES["ixgbe24"])
    assert topo["cpus"]["usable"] == list(range(24))
    assert topo["cpus"]["cores"] == [[cpu, cpu + 12] for cpu in range(12)]
    assert topo["cpus"]["nodes"]["1"] == [6, 7, 8, 9, 10, 11, 18, 19, 20, 21, 22, 23]
    assert topo["irqbalance"] is True
    assert topo["rfs_entries"] == 0
    eth0 = topo["interfaces"]["eth0"]
    assert (eth0["driver"], eth0["virtual"], eth0["node"], eth0["operstate"]) == ("ixgbe", False, 1, "up")
    assert (len(eth0["rx"]), len(eth0["tx"])) == (63, 63)
    assert eth0["rx"][62] == {"rps_cpus": "000000", "rps_flow_cnt": 0}
    assert eth0["irqs"][62] == {
        "irq": 102,
        "name": "eth0-TxRx-62",
        "kind": "rxtx",
        "queue": 62,
        "affinity": "ffffff",
    }
    assert eth0["irqs"][63]["queue"] is None


def test_vectors_without_a_queue(read):
    irqs = read(trees.MACHINES["mlx128"])["interfaces"]["ens1f0"]["irqs"]
    assert [irq["queue"] for irq in irqs] == [None] + list(range(64))


def test_bond_and_its_member_are_stacked(read):
    interfaces = read(trees.MACHINES["mlx128"])["interfaces"]
    assert {name: (nic["virtual"], nic["stacked"]) for name, nic in interfaces.items()} == {
        "ens1f0": (False, True),
        "bond0": (True, True),
    }


def test_virtio_interrupts_hang_at_its_parent(read):
    nic = read(trees.MACHINES["virtio1"])["interfaces"]["eth0"]
    assert [(irq["kind"], irq["queue"]) for irq in nic["irqs"]] == [("rxtx", None), ("rx", 0), ("tx", 0)]
    assert nic["driver"] == "virtio_net"
    assert nic["tx"] == [{"xps_cpus": None}]


def test_offline_and_isolated(read):
    cpus = read(trees.MACHINES["offline"])["cpus"]
    assert cpus["possible"] == list(range(16))
    assert cpus["online"] == [0, 1, 4, 5, 6, 7]
    assert cpus["usable"] == [0, 1, 4, 5, 6]


def test_nohz_full_counts_as_isolated(read):
    assert read(dict(trees.MACHINES["virtio1"], nohz_full="2-3"))["cpus"]["usable"] == [0, 1]


def test_container(read):
    topo = read(trees.MACHINES["container"])
    assert topo["rfs_entries"] is None
    assert topo["interfaces"]["host0"]["virtual"] is True
    assert topo["interfaces"]["host0"]["irqs"] == []


@pytest.mark.parametrize(
    "name, kind, queue",
    [
        ("eth0-TxRx-3", "rxtx", 3),
        ("i40e-eth0-TxRx-3", "rxtx", 3),
        ("ice-ens1f0-TxRx-12", "rxtx", 12),
        ("eth0-Tx-Rx-3", "rxtx", 3),
        ("eth0-rx-3", "rx", 3),
        ("eth0-tx-3", "tx", 3),
        ("eth0-txrx-3", "rxtx", 3),
        ("eth0-rxtx-3", "rxtx", 3),
        ("eth0-fp-3", "rxtx", 3),
        ("eth0-q3", "rxtx", 3),
        ("eth4-Rx3", "rx", 3),
        ("mlx5_comp3@pci:0000:3b:00.0", "rxtx", 3),
        ("mana_q3@pci:7870:00:00.0", "rxtx", 3),
        ("virtio2-input.3", "rx", 3),
        ("virtio2-output.3", "tx", 3),
        ("virtio2-config", "rxtx", None),
        ("virtio2-virtqueues", "rxtx", None),
        ("mlx5_async0@pci:0000:3b:00.0", "rxtx", None),
        ("i40e-0000:3b:00.0:misc", "rxtx", None),
        ("i40e-eth0-fdir-TxRx", "rxtx", None),
        ("eth0", "rxtx", None),
        ("9-fasteoi", "rxtx", None),
    ],
)
def test_names_that_drivers_give(read, name, kind, queue):
    # Vector 0 of the same kind keeps the numbering at 0.
    zero = name.replace("3", "0").replace("12", "0") if queue else "other"
    nic = read(dict(possible=2, nics=[trees.nic("eth0", "x", rx=16, irqs=[zero, name])]))["interfaces"]["eth0"]
    assert [nic["irqs"][1][key] for key in ("name", "kind", "queue")] == [name, kind, queue]


def test_numbering_from_one(read):
    irqs = ["eth0-0", "eth0-txrx-1", "eth0-rx-2", "eth0-rx-3"]
    nic = read(dict(possible=4, nics=[trees.nic("eth0", "tg3", rx=4, irqs=irqs)]))["interfaces"]["eth0"]
    assert [irq["queue"] for irq in nic["irqs"]] == [None, 0, 1, 2]


def test_the_only_interrupt_is_that_of_the_only_queue(read):
    nic = read(dict(possible=4, nics=[trees.nic("eth0", "r8169", irqs=["eth0"])]))["interfaces"]["eth0"]
    assert [irq["queue"] for irq in nic["irqs"]] == [0]


def test_without_sys(tmp_path):
    trees.put(str(tmp_path), "proc/stat", "cpu  1 2 3\ncpu0 1 2 3\ncpu3 1 2 3\nintr 5")
    topo = topology.read(str(tmp_path))
    assert topo["cpus"]["possible"] == topo["cpus"]["usable"] == [0, 3]
    assert topo["cpus"]["cores"] == [[0], [3]]
    assert topo["interfaces"] == {}


def test_nothing_at_all(tmp_path):
    topo = topology.read(str(tmp_path))
    assert topo["cpus"]["online"] == []
    assert (topo["interfaces"], topo["rfs_entries"], topo["irqbalance"]) == ({}, None, False)


def test_this_machine():
    topo = topology.read()
    assert len(topo["cpus"]["online"]) == os.sysconf("SC_NPROCESSORS_ONLN")
    assert set(topo["interfaces"]) <= set(os.listdir("/sys/class/net"))
    assert "lo" in topo["interfaces"]
