# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The planner: exact plans for known machines, and what must hold for every machine."""

import copy

import pytest
import trees
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.fastsocket.fleet.plugins.module_utils import cpulist, steering, topology
from ansible_collections.fastsocket.fleet.plugins.module_utils.errors import FleetError


@pytest.fixture
def topo(tmp_path):
    def read(name, **changed):
        return topology.read(trees.build(tmp_path, dict(trees.MACHINES[name], **changed)))

    return read


def values(plan, kind):
    return [write["value"] for write in plan["writes"] if write["kind"] == kind]


def cpus(plan, kind):
    return [cpulist.format_list(cpulist.parse_mask(value)) for value in values(plan, kind)]


def test_one_cpu_has_nothing_to_spread(topo):
    plan = steering.plan(topo("one_cpu"))
    assert values(plan, "rps") == ["0", "0"]
    assert values(plan, "rfs") == ["0", "0"]
    assert values(plan, "irq") == ["1", "1"]
    assert values(plan, "sysctl") == []
    assert plan["warnings"] == []


def test_container_with_two_queues(topo):
    """A veth brings most packets on queue 0, whatever the sender's queue: only the hash of RPS spreads them."""
    plan = steering.plan(topo("container"))
    assert {write["path"].split("/")[4] for write in plan["writes"]} == {"host0"}
    assert values(plan, "rps") == ["3", "3"]
    assert values(plan, "xps") == ["1", "2"]
    assert values(plan, "rfs") == ["16384", "16384"]
    assert values(plan, "irq") == values(plan, "sysctl") == []
    assert len(plan["warnings"]) == 1
    assert "outside of this container" in plan["warnings"][0]


def test_more_queues_than_cpus(topo):
    plan = steering.plan(topo("ixgbe24"))
    order = [6, 7, 8, 9, 10, 11, 18, 19, 20, 21, 22, 23, 0, 1, 2, 3, 4, 5, 12, 13, 14, 15, 16, 17]
    round_robin = ["%d" % order[queue % 24] for queue in range(63)]
    assert cpus(plan, "irq") == round_robin
    assert cpus(plan, "xps") == round_robin
    assert set(values(plan, "rps")) == {"000000"}
    assert set(values(plan, "rfs")) == {"1024"}  # 32768 / 63 = 521, rounded as the kernel rounds
    assert values(plan, "sysctl") == ["32768"]
    assert plan["writes"][0] == {
        "path": "/proc/irq/40/smp_affinity",
        "kind": "irq",
        "value": "000040",
        "name": "eth0-TxRx-0",
        "why": "eth0: the interrupt of queue 0 (eth0-TxRx-0) goes to CPU 6",
    }
    assert len(plan["warnings"]) == 1
    assert "irqbalance" in plan["warnings"][0]


def test_fewer_queues_than_cpus(topo):
    plan = steering.plan(topo("mlx128"))
    assert {write["path"].split("/")[4] for write in plan["writes"] if write["kind"] == "rps"} == {"ens1f0"}
    assert len(values(plan, "irq")) == 16  # of 65 vectors
    assert cpus(plan, "irq") == ["%d" % cpu for cpu in range(32, 48)]  # all on the card's node, one a core
    assert cpus(plan, "rps")[0] == cpus(plan, "xps")[0] == "0,16,32,48,64,80,96,112"  # whole cores: n and n + 64
    assert values(plan, "rps")[0] == "00010001,00010001,00010001,00010001"
    assert values(plan, "sysctl") == ["131072"]
    assert set(values(plan, "rfs")) == {"8192"}
    assert plan["warnings"] == []


def test_siblings_with_neighbouring_numbers_share_a_part(topo):
    """AMD and ARM machines number the threads of a core 0 and 1, Intel's 0 and n."""
    cores = [[cpu, cpu + 1] for cpu in range(0, 8, 2)]
    irqs = ["eth0-TxRx-%d" % queue for queue in range(4)]
    plan = steering.plan(
        topo("virtio1", possible=8, cores=cores, nics=[trees.nic("eth0", "ice", rx=4, tx=4, irqs=irqs)])
    )
    assert cpus(plan, "irq") == ["0", "2", "4", "6"]
    assert cpus(plan, "rps") == ["0-1", "2-3", "4-5", "6-7"]


def test_offline_and_isolated_cpus_get_nothing(topo):
    plan = steering.plan(topo("offline"))
    assert cpus(plan, "irq") == ["0", "1", "4", "5"]
    assert values(plan, "rps") == ["0041", "0000", "0000", "0000"]  # 5 CPUs for 4 queues; 16 are possible


def test_single_queue_virtio(topo):
    plan = steering.plan(topo("virtio1"))
    assert cpus(plan, "irq") == ["0", "0"]
    assert values(plan, "rps") == ["f"]
    assert values(plan, "rfs") == ["32768"]
    assert values(plan, "xps") == []  # the kernel refuses it, and nobody needs to hear of it
    assert plan["warnings"] == []


def test_one_transmit_queue_in_use_gets_no_xps_though_the_file_is_there(topo):
    """A veth made without numbers of queues has one for each CPU, uses one, and shows its XPS mask."""
    machine = topo("container", nics=[trees.veth("eth0", 1)])
    machine["interfaces"]["eth0"]["tx"] = [{"xps_cpus": "0"}]
    assert values(steering.plan(machine), "xps") == []


def test_a_container_lives_on_what_is_no_bridge_and_no_member(topo):
    nics = [
        trees.veth("lo", 1, operstate="unknown"),
        trees.veth("br0", extra=["bridge"]),
        trees.veth("veth1", extra=["master"]),
        trees.veth("tun0", extra=["tun_flags"]),
        trees.veth("vlan5", extra=["lower_eth0"]),
        trees.veth("down0", operstate="down"),
        trees.veth("eth0"),
    ]
    plan = steering.plan(topo("container", nics=nics))
    assert {write["path"].split("/")[4] for write in plan["writes"]} == {"eth0"}


def test_a_larger_rfs_table_stays(topo):
    assert values(steering.plan(topo("virtio1", rfs=262144)), "sysctl") == ["262144"]


def test_switches_off(topo):
    plan = steering.plan(topo("mlx128"), {"rps": "off", "rfs": "off", "xps": "off", "irq": "off"})
    assert {write["kind"]: write["value"].strip("0,") for write in plan["writes"]} == {"rps": "", "rfs": "", "xps": ""}
    assert plan["warnings"] == []


def test_rps_on_where_an_interrupt_would_do(topo):
    assert values(steering.plan(topo("offline"), {"rps": "on", "cpus": "0-1"}), "rps") == ["0001", "0002"] * 2


def test_interrupts_that_are_left_alone_make_rps_do_the_work(topo):
    plan = steering.plan(topo("offline"), {"irq": "off", "cpus": "0-1"})
    assert values(plan, "rps") == ["0001", "0002"] * 2


def test_on_where_it_is_impossible_is_said(topo):
    warnings = steering.plan(topo("container"), {"irq": "on"})["warnings"]
    assert "host0: irq is on, but this interface has nothing to set for it" in warnings
    warnings = steering.plan(topo("virtio1"), {"xps": "on"})["warnings"]
    assert warnings == ["eth0: xps is on, but this interface has nothing to set for it"]


def test_an_isolated_cpu_may_be_asked_for_but_not_by_rps(topo):
    plan = steering.plan(topo("offline"), {"cpus": "0-1,4-5,6-7"})
    assert "CPU 7: isolated" in plan["warnings"][0]
    assert cpus(plan, "xps") == ["0,6", "1,7", "4", "5"]
    assert cpus(plan, "rps") == ["0,6", "1", "", ""]


def test_interface_that_is_down_can_be_named(topo):
    plan = steering.plan(topo("ixgbe24"), {"interfaces": ["eth1"]})
    assert len(values(plan, "rps")) == 63


def test_nothing_to_steer_is_said(topo):
    plan = steering.plan(topo("container", nics=[trees.veth("lo", 1), trees.veth("eth0", operstate="down")]))
    assert plan == {"writes": [], "warnings": ["no interface to steer: none is up and has queues"]}


def test_shared_interrupts_go_to_the_first_interface(topo):
    machine = topo("mlx128")
    twin = copy.deepcopy(machine["interfaces"]["ens1f0"])
    twin["rx"], twin["node"] = twin["rx"][:3], None
    machine["interfaces"]["ens1f0r"] = twin
    plan = steering.plan(machine)
    paths = [write["path"] for write in plan["writes"]]
    assert len(paths) == len(set(paths))
    assert "ens1f0r: /proc/irq/41/smp_affinity is taken by another interface already" in plan["warnings"]


@pytest.mark.parametrize(
    "given, message",
    [
        ({"interfaces": ["eth9"]}, 'interface "eth9" does not exist here or has no queues; there are: eth0'),
        ({"cpus": "0-3"}, "CPU 2-3 is not online; online are: 0-1,4-7"),
        ({"cpus": "15,99"}, "CPU 15,99 is not online"),
        ({"cpus": "all"}, '"all" is not a CPU list'),
        ({"rps": "maybe"}, "rps is 'maybe'; it should be one of auto, on, off"),
        ({"rsp": "on"}, "unknown policy key rsp; there are: cpus, interfaces, irq, rfs, rps, xps"),
    ],
)
def test_bad_policies(topo, given, message):
    with pytest.raises(FleetError) as caught:
        steering.plan(topo("offline"), given)
    assert message in str(caught.value)


def test_all_cpus_isolated(topo):
    with pytest.raises(FleetError, match="no usable CPU"):
        steering.plan(topo("virtio1", isolated="0-3"))


@st.composite
def machines(draw):
    """A topology as topology.read returns it, of any sane shape."""
    possible = draw(st.integers(1, 200))
    online = sorted(draw(st.sets(st.integers(0, possible - 1), min_size=1)))
    isolated = sorted(draw(st.sets(st.sampled_from(online), max_size=len(online) - 1)))
    half = (possible + 1) // 2
    cores = [[cpu for cpu in (core, core + half) if cpu in online] for core in range(half)]
    sockets = draw(st.integers(1, 4))
    zero = trees.mask(0, possible)

    def interface():
        rx, tx = draw(st.integers(1, 70)), draw(st.integers(1, 70))
        kinds = draw(st.sampled_from([[], ["rxtx"], ["rx", "tx"], ["tx"]]))
        vectors = draw(st.integers(1, 70))
        return {
            "driver": "x",
            "virtual": not kinds,
            "stacked": False,
            "operstate": "up",
            "node": draw(st.sampled_from([None] + list(range(sockets)))),
            "rx": [{"rps_cpus": zero, "rps_flow_cnt": 0} for _ in range(rx)],
            "tx": [{"xps_cpus": zero if tx > 1 else None} for _ in range(tx)],
            "irqs": [
                {"irq": next(numbers), "name": "q", "kind": kind, "queue": queue, "affinity": zero}
                for kind in kinds
                for queue in range(vectors)
            ],
        }

    numbers = iter(range(10000))
    return {
        "cpus": {
            "possible": list(range(possible)),
            "present": list(range(possible)),
            "online": online,
            "isolated": isolated,
            "usable": [cpu for cpu in online if cpu not in isolated],
            "cores": [core for core in cores if core],
            "nodes": {"%d" % node: list(range(node, possible, sockets)) for node in range(sockets)},
        },
        "interfaces": {"eth%d" % n: interface() for n in range(draw(st.integers(1, 2)))},
        "rfs_entries": draw(st.sampled_from([None, 0, 32768, 1 << 20])),
        "irqbalance": False,
    }


def applied(machine, plan):
    """The topology after a plan, put together from the paths alone."""
    machine = copy.deepcopy(machine)
    irqs = {irq["irq"]: irq for interface in machine["interfaces"].values() for irq in interface["irqs"]}
    for write in plan["writes"]:
        parts = write["path"].split("/")
        if write["kind"] == "sysctl":
            machine["rfs_entries"] = int(write["value"])
        elif write["kind"] == "irq":
            irqs[int(parts[3])]["affinity"] = write["value"]
        else:
            way, number = parts[6].split("-")
            value = int(write["value"]) if write["kind"] == "rfs" else write["value"]
            machine["interfaces"][parts[4]][way][int(number)][parts[7]] = value
    return machine


@settings(max_examples=150, deadline=None)
@given(machines())
def test_every_machine(machine):
    plan = steering.plan(machine)
    online, usable = set(machine["cpus"]["online"]), set(machine["cpus"]["usable"])
    width = len(machine["cpus"]["possible"])
    masks = {write["path"]: write["value"] for write in plan["writes"] if write["kind"] in ("rps", "xps", "irq")}
    sets = {path: set(cpulist.parse_mask(value)) for path, value in masks.items()}

    # No mask has an offline or isolated CPU, each is as wide as the machine, and no interrupt is without a CPU.
    assert set().union(*sets.values()) <= usable
    assert all(value == trees.mask(sum(1 << cpu for cpu in sets[path]), width) for path, value in masks.items())
    assert all(sets[path] for path in sets if path.startswith("/proc/irq/"))

    for name, interface in plan_interfaces(machine).items():
        homes = [set(sets["/sys/class/net/%s/queues/rx-%d/rps_cpus" % (name, q)]) for q in range(len(interface["rx"]))]
        for irq in interface["irqs"]:
            if irq["kind"] != "tx" and irq["queue"] < len(homes):
                homes[irq["queue"]] |= sets["/proc/irq/%d/smp_affinity" % irq["irq"]]
        if len(online) == 1:
            continue
        # Every usable CPU gets work, every queue has a home, and the load is even to one CPU.
        assert set().union(*homes) == usable
        sizes = [len(home) for home in homes]
        assert min(sizes) >= 1 and max(sizes) - min(sizes) <= 1
        # One queue, one set of CPUs: homes are disjoint, or there are more queues than CPUs and each home is one CPU.
        # Without interrupts every queue is everybody's.
        dealt = any(irq["kind"] != "tx" for irq in interface["irqs"])
        assert not dealt or sum(sizes) == len(usable) or (max(sizes) == 1 and len(homes) > len(usable))
        # Sending: with two transmit queues or more, every usable CPU has a queue.
        queues = range(len(interface["tx"]) if len(interface["tx"]) > 1 else 0)
        sent = [sets["/sys/class/net/%s/queues/tx-%d/xps_cpus" % (name, queue)] for queue in queues]
        assert not sent or set().union(*sent) == usable
        # The interrupt of a sent packet comes to a CPU that sends on its queue.
        for irq in interface["irqs"] if sent else []:
            if irq["kind"] == "tx" and irq["queue"] < len(sent):
                assert sets["/proc/irq/%d/smp_affinity" % irq["irq"]] <= sent[irq["queue"]]

    again = steering.plan(applied(machine, plan))
    assert again["writes"] == plan["writes"]


def plan_interfaces(machine):
    """What the default policy picks: physical interfaces, or the virtual ones when there are none."""
    physical = {name: nic for name, nic in machine["interfaces"].items() if not nic["virtual"]}
    return physical or machine["interfaces"]


@settings(max_examples=50, deadline=None)
@given(machines(), st.data())
def test_chosen_cpus_are_the_only_ones(machine, data):
    chosen = data.draw(st.sets(st.sampled_from(machine["cpus"]["usable"]), min_size=1))
    plan = steering.plan(machine, {"cpus": cpulist.format_list(chosen)})
    masks = [write["value"] for write in plan["writes"] if write["kind"] in ("rps", "xps", "irq")]
    assert set().union(*[cpulist.parse_mask(value) for value in masks]) <= chosen
