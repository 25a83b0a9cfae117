# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Apply and undo on trees; the same against a real kernel in a network namespace of its own."""

import json
import os
import subprocess
import sys

import pytest
import trees

from ansible_collections.fastsocket.fleet.plugins.module_utils import adapter, hostfile, nic, steering, topology
from ansible_collections.fastsocket.fleet.plugins.module_utils.errors import FleetError

HERE = os.path.dirname(os.path.abspath(__file__))
OURS = ("/var/lib/fastsocket", "/etc/fastsocket")


@pytest.fixture
def root(tmp_path):
    return lambda name, **changed: trees.build(tmp_path, dict(trees.MACHINES[name], **changed))


def plan(root, **policy):
    return steering.plan(topology.read(root), policy)


def kernel(root):
    """Everything below root that is not ours."""
    return {path: text for path, text in trees.snapshot(root).items() if not path[len(root) :].startswith(OURS)}


def state(root):
    return hostfile.read_json(root + "/var/lib/fastsocket/nic-before.json")


def refuse(root):
    """Make one queue refuse writes: a read-only sysctl of the kernel stands in, which refuses root too."""
    path = os.path.realpath(root + "/sys/class/net/host0/queues/rx-1/rps_flow_cnt")
    os.unlink(path)
    os.symlink("/proc/sys/kernel/ngroups_max", path)


@pytest.mark.parametrize("name", sorted(trees.MACHINES))
def test_apply_is_idempotent_and_undo_is_exact(root, name):
    root = root(name)
    before = kernel(root)
    wanted = plan(root, rps="on", rfs="on")
    expected = nic.diff(wanted, root)
    assert kernel(root) == before
    changes = nic.apply(wanted, root)
    assert changes == expected
    assert changes
    after = kernel(root)
    for write in wanted["writes"]:
        assert after[os.path.realpath(root + write["path"])] == write["value"]
    assert plan(root, rps="on", rfs="on") == wanted
    assert nic.diff(wanted, root) == nic.apply(wanted, root) == []
    assert kernel(root) == after
    undone = nic.undo(root)
    assert kernel(root) == before
    assert (len(undone["changes"]), undone["skipped"]) == (len(changes), [])
    assert state(root) is None
    assert nic.undo(root) == {"changes": [], "skipped": []}


def test_values_are_compared_and_not_texts(root):
    root = root("container")
    nic.apply(plan(root), root)
    trees.put(root, "sys/class/net/host0/queues/rx-0/rps_cpus", "00000000,00000003")
    assert nic.diff(plan(root), root) == []


def test_the_before_state_is_kept_once_and_grows(root):
    root = root("container")
    trees.put(root, "sys/class/net/host0/queues/rx-0/rps_cpus", "2")
    before = kernel(root)
    nic.apply(plan(root, xps="off"), root)
    first = state(root)["before"]
    assert {entry["value"] for entry in first if entry["path"].endswith("rx-0/rps_cpus")} == {"2"}
    assert not [entry for entry in first if entry["kind"] == "xps"]
    nic.apply(plan(root, cpus="1"), root)
    nic.apply(plan(root), root)
    grown = state(root)["before"]
    assert grown[: len(first)] == first
    assert len([entry for entry in grown if entry["kind"] == "xps"]) == 2
    nic.undo(root)
    assert kernel(root) == before


def test_what_a_new_policy_leaves_out_goes_back(root):
    root = root("ixgbe24")
    before = kernel(root)
    nic.apply(plan(root, interfaces=["eth0", "eth1"]), root)
    narrow = plan(root, interfaces=["eth1"])
    assert nic.diff(narrow, root) == nic.apply(narrow, root) != []
    different = {path for path, text in kernel(root).items() if before[path] != text}
    assert not [path for path in different if "/eth0/" in path or "/proc/irq/" in path]
    assert {entry["path"].split("/")[4] for entry in state(root)["before"] if entry["kind"] == "xps"} == {"eth1"}
    assert nic.apply(narrow, root) == []


def test_a_refused_write_takes_the_whole_run_back(root):
    root = root("container")
    refuse(root)
    before = kernel(root)
    with pytest.raises(FleetError) as caught:
        nic.apply(plan(root), root)
    assert kernel(root) == before
    assert state(root) is None
    message = str(caught.value)
    assert message.startswith("/sys/class/net/host0/queues/rx-1/rps_flow_cnt does not take 16384: ")
    assert message.endswith("; what this run wrote is undone")


def test_a_refused_write_keeps_the_state_of_earlier_runs(root):
    root = root("container")
    nic.apply(plan(root, rfs="off"), root)
    kept = state(root)
    refuse(root)
    with pytest.raises(FleetError):
        nic.apply(plan(root), root)
    assert state(root) == kept


def test_undo_skips_and_names_what_is_gone(root):
    root = root("virtio1")
    nic.apply(plan(root), root)
    os.unlink(root + "/sys/class/net/eth0")
    text = hostfile.read(root + "/proc/interrupts").replace("virtio2-input.0", "nvme0q1")
    trees.put(root, "proc/interrupts", text)
    undone = nic.undo(root)
    assert [change["path"] for change in undone["changes"]] == [topology.RFS_ENTRIES, "/proc/irq/42/smp_affinity"]
    assert sorted(undone["skipped"]) == [
        "/proc/irq/41/smp_affinity is no longer the interrupt virtio2-input.0",
        "/sys/class/net/eth0/queues/rx-0/rps_cpus is gone",
        "/sys/class/net/eth0/queues/rx-0/rps_flow_cnt is gone",
    ]
    assert state(root) is None


def test_undo_keeps_what_it_could_not_restore(root):
    root = root("container")
    nic.apply(plan(root), root)
    refuse(root)
    with pytest.raises(FleetError, match="not everything could be restored: /sys/class/net/host0/queues/rx-1/"):
        nic.undo(root)
    assert [entry["path"][-20:] for entry in state(root)["before"]] == ["es/rx-1/rps_flow_cnt"]
    assert topology.read(root)["interfaces"]["host0"]["rx"][0] == {"rps_cpus": "0", "rps_flow_cnt": 0}


def test_another_boot_starts_a_new_before_state(root):
    root = root("container")
    nic.apply(plan(root), root)
    trees.put(root, "proc/sys/kernel/random/boot_id", "00000000-0000-4000-8000-000000000000")
    trees.put(root, "sys/class/net/host0/queues/rx-0/rps_cpus", "2")  # what the new boot began with
    after = kernel(root)
    assert nic.undo(root, check=True)["changes"] == []
    nic.apply(plan(root), root)
    nic.undo(root)
    assert kernel(root) == after


def test_configure_remove_and_check(root):
    root = root("offline")
    os.makedirs(root + "/run/systemd/system")
    bare = trees.snapshot(root)
    policy = {"interfaces": ["eth0"], "irq": "off"}
    predicted = nic.configure(policy, root, check=True)
    assert trees.snapshot(root) == bare
    done = nic.configure(policy, root)
    assert predicted == done
    assert {change["kind"] for change in done["changes"]} == {"rps", "rfs", "xps", "sysctl", "file", "link"}
    assert hostfile.read_json(root + "/etc/fastsocket/nic.json") == steering.policy(policy)
    assert os.readlink(root + nic.UNIT_LINK) == nic.UNIT
    assert "ConditionPathExists=/usr/sbin/fsctl\n" in hostfile.read(root + nic.UNIT)
    for check in (True, False):
        again = nic.configure(policy, root, check=check)
        assert (again["changed"], again["changes"]) == (False, [])
    unwanted = nic.configure(policy, root, boot=False, check=True)["changes"]
    assert [change["kind"] for change in unwanted] == ["file", "link"]
    rolled_out = trees.snapshot(root)
    predicted = nic.remove(root, check=True)
    assert trees.snapshot(root) == rolled_out
    assert nic.remove(root) == predicted
    assert trees.snapshot(root) == bare
    assert nic.remove(root)["changed"] is False


def test_remove_on_a_bare_host_makes_no_folder(root):
    root = root("virtio1")
    assert nic.remove(root) == {"changed": False, "changes": [], "warnings": [], "plan": []}
    assert not os.path.exists(root + "/var")


def test_a_bad_policy_touches_nothing(root):
    root = root("offline")
    bare = trees.snapshot(root)
    with pytest.raises(FleetError, match="CPU 2-3 is not online"):
        nic.configure({"cpus": "0-3"}, root)
    assert trees.snapshot(root) == bare


def test_boot_applies_the_policy_to_the_numbers_of_that_boot(root, tmp_path):
    first = root("offline")
    nic.configure({"cpus": "0-1"}, first)
    trees.put(first, "proc/sys/kernel/random/boot_id", "00000000-0000-4000-8000-000000000000")
    eth0 = dict(trees.MACHINES["offline"]["nics"][0])
    eth0["irqs"] = ["new0", "new1"] + eth0["irqs"]  # two more vectors: every number moves by two
    second = trees.build(tmp_path / "boot2", dict(trees.MACHINES["offline"], nics=[eth0]))
    for path in ("/etc/fastsocket/nic.json", "/var/lib/fastsocket/nic-before.json"):
        hostfile.write(second + path, hostfile.read(first + path))
    result = nic.reapply(second)
    moved = [change["path"] for change in result["changes"] if change["kind"] == "irq"]
    assert moved == ["/proc/irq/%d/smp_affinity" % irq for irq in range(43, 47)]
    assert nic.reapply(second)["changed"] is False


def test_reapply_without_a_policy_is_named(root):
    with pytest.raises(FleetError, match="nic.json is missing"):
        nic.reapply(root("virtio1"))


def test_diff_of_changes():
    changes = [
        {"path": "/sys/a", "kind": "rps", "before": "0", "after": "3"},
        {"path": "/etc/b", "kind": "file", "before": None, "after": "x\ny\n"},
        {"path": "/etc/l", "kind": "link", "before": None, "after": "/etc/b"},
    ]
    assert adapter.diff_of(changes) == [
        {
            "before": "/sys/a 0\n/etc/l (absent)\n",
            "after": "/sys/a 3\n/etc/l /etc/b\n",
            "before_header": "values",
            "after_header": "values",
        },
        {"before": "", "after": "x\ny\n", "before_header": "/etc/b", "after_header": "/etc/b"},
    ]
    assert adapter.diff_of([]) == []


# Run in a network and mount namespace: its own /sys, veth pairs, nothing of the machine's own network.
IN_NAMESPACE = """
import json, subprocess, sys
sys.path.insert(0, sys.argv[1])
import conftest
from ansible_collections.fastsocket.fleet.plugins.module_utils import nic, steering, topology
from ansible_collections.fastsocket.fleet.plugins.module_utils.errors import FleetError

def sh(line):
    subprocess.check_call(line.split())

def shown():
    topo = topology.read()
    return {name: [topo["interfaces"][name][way] for way in ("rx", "tx")] for name in ("two", "one")}

sh("mount -t sysfs sysfs /sys")
sh("ip link add two numrxqueues 2 numtxqueues 2 type veth peer name peer numrxqueues 2 numtxqueues 2")
sh("ip link add one numrxqueues 1 numtxqueues 1 type veth peer name other")
for name in ("two", "peer", "one", "other"):
    sh("ip link set %s up" % name)
with open("/sys/class/net/two/queues/tx-1/xps_cpus", "w") as handle:
    handle.write("1")

state, out = sys.argv[2], {}
topo = topology.read()
out["topology"], out["before"] = topo, shown()
plan = steering.plan(topo, {"interfaces": ["two", "one"]})
out["plan"] = plan
out["changes"] = nic.apply(plan, state_dir=state)
out["after"] = shown()
out["second"] = nic.apply(steering.plan(topology.read(), {"interfaces": ["two", "one"]}), state_dir=state)

def refused(kind, attribute, value):
    path = "/sys/class/net/two/queues/rx-%d/%s"
    writes = [
        {"path": path % (0, "rps_cpus"), "kind": "rps", "value": "0", "why": ""},
        {"path": path % (1, attribute), "kind": kind, "value": value, "why": ""},
    ]
    try:
        nic.apply({"writes": writes + plan["writes"][2:], "warnings": []}, state_dir=state)
    except FleetError as error:
        return str(error), shown() == out["after"]

beyond = "%x" % (1 << max(topo["cpus"]["possible"]) + 1)
out["too_wide"] = refused("rps", "rps_cpus", beyond)
out["rounded"] = refused("rfs", "rps_flow_cnt", "520")
out["undone"] = nic.undo(state_dir=state)
out["restored"] = shown()
nic.apply(plan, state_dir=state)
sh("ip link del one")
out["gone"] = nic.undo(state_dir=state)
print(json.dumps(out))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace needs root")
def test_real_kernel(tmp_path):
    call = ["unshare", "--net", "--mount", "--propagation", "private", sys.executable, "-c", IN_NAMESPACE, HERE]
    out = json.loads(subprocess.check_output(call + [str(tmp_path / "state")]).decode())
    possible = out["topology"]["cpus"]["possible"]
    usable = out["topology"]["cpus"]["usable"]

    def mask(cpus):
        return trees.mask(sum(1 << cpu for cpu in cpus), len(possible))

    spread = len(out["topology"]["cpus"]["online"]) > 1
    flows = max(32768, 1024 << (len(usable) - 1).bit_length()) * spread
    assert out["before"]["two"][1] == [{"xps_cpus": mask([])}, {"xps_cpus": mask([0])}]
    # What the kernel prints is the plan to the letter.
    assert out["after"]["two"] == [
        [{"rps_cpus": mask(usable * spread), "rps_flow_cnt": flows // 2}] * 2,
        [{"xps_cpus": mask(steering.part(usable, queue, 2))} for queue in (0, 1)],
    ]
    assert out["after"]["one"] == [[{"rps_cpus": mask(usable * spread), "rps_flow_cnt": flows}], [{"xps_cpus": None}]]
    assert out["topology"]["rfs_entries"] is None
    assert any("outside of this container" in warning for warning in out["plan"]["warnings"]) == spread
    assert len(out["changes"]) > 0
    assert out["second"] == []
    message, intact = out["too_wide"]
    assert "rx-1/rps_cpus does not take" in message and os.strerror(75) in message
    assert intact
    message, intact = out["rounded"]
    assert "rx-1/rps_flow_cnt was given 520 and holds 1024; what this run wrote is undone" in message
    assert intact
    assert out["restored"] == out["before"]
    assert len(out["undone"]["changes"]) == len(out["changes"])
    assert out["gone"]["skipped"] == [
        "/sys/class/net/one/queues/rx-0/rps_flow_cnt is gone",
        "/sys/class/net/one/queues/rx-0/rps_cpus is gone",
    ]
    assert not os.listdir(str(tmp_path / "state"))
