# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read what steering has to know about a machine: CPUs, SMT, NUMA, NIC queues and their interrupts.

Everything below /sys and /proc is read through `root`, so that a captured tree reads like the machine it came from.
Nothing here writes. What is missing (a container without /sys, a device without interrupts) is empty or null.
"""

import os
import re

from . import cpulist

CPUS = "/sys/devices/system/cpu"
NODES = "/sys/devices/system/node"
NETS = "/sys/class/net"
RFS_ENTRIES = "/proc/sys/net/core/rps_sock_flow_entries"

# How drivers name the interrupt of a queue (their request_irq calls). The group after the kind is the queue.
_QUEUE_NAMES = (
    re.compile(r"^virtio\d+-(?P<kind>input|output)\.(?P<queue>\d+)$"),  # virtio0-input.0
    re.compile(r"^(?:mlx5_comp|mana_q)(?P<queue>\d+)@"),  # mlx5_comp3@pci:0000:3b:00.0
    # eth0-TxRx-3 (ixgbe, igb), i40e-eth0-TxRx-3, eth0-Tx-Rx-3 (ena), eth0-rx-3, eth0-rxtx-3, eth0-fp-3, eth0-q3
    re.compile(r"-(?P<kind>tx-?rx|rx-?tx|rx|tx|fp|q)-?(?P<queue>\d+)$", re.IGNORECASE),
)
_ONE_WAY = {"input": "rx", "rx": "rx", "output": "tx", "tx": "tx"}
# Entries of an interface's folder which say that packets reach it through another interface, or leave through one.
_STACKED = ("master", "bridge", "bonding", "tun_flags")


def read(root="/"):
    """Return the topology as one plain dict that survives JSON.

    cpus: possible, present, online, isolated, usable (sorted CPU numbers), cores (CPU numbers that share a core, one
    list
      a core), nodes ({"0": CPU numbers}). usable is online less isolated; isolated holds the CPUs of isolcpus= and of
      nohz_full=, because the kernel takes both out of an RPS mask (net/core/net-sysfs.c:rps_cpumask_housekeeping).
      The cpuset of a process or container is not looked at: packets are handled by the machine, not by a cgroup.
    interfaces: by name: driver, virtual, stacked (part of a bridge, bond, VLAN or tunnel), operstate, node (or null),
      rx [{rps_cpus, rps_flow_cnt}] and tx [{xps_cpus}] by queue number, with what the kernel shows or null where it
      shows nothing (XPS of a device with one queue: ENOENT), irqs [{irq, name, kind: rx|tx|rxtx, queue or null,
      affinity}].
    rfs_entries: size of the RFS table; null where it is not visible (only the first network namespace shows it).
    irqbalance: whether that daemon runs here.
    """
    names = irq_names(root)
    interfaces = sorted(_names(root, NETS))
    return {
        "cpus": _cpus(root),
        "interfaces": {
            name: _interface(root, name, names) for name in interfaces if os.path.isdir(at(root, NETS, name, "queues"))
        },
        "rfs_entries": _number(root, RFS_ENTRIES),
        "irqbalance": any(
            _text(root, "/proc", pid, "comm") == "irqbalance" for pid in _names(root, "/proc") if pid.isdigit()
        ),
    }


def irq_names(root="/"):
    """Return {interrupt number: name of its last action} from /proc/interrupts (fs/proc: show_interrupts)."""
    names = {}
    for line in (_text(root, "/proc/interrupts") or "").splitlines()[1:]:
        fields = line.split()
        if len(fields) > 1 and fields[0].rstrip(":").isdigit():
            names[int(fields[0].rstrip(":"))] = fields[-1]
    return names


def at(root, *parts):
    """Return where a path of the machine lies below `root`."""
    return os.path.join(root, *[part.lstrip("/") for part in parts])


def online_cpus(root="/"):
    return _list(root, CPUS, "online") or _online_by_stat(root)


def _cpus(root):
    online = online_cpus(root)
    isolated = sorted(set(_list(root, CPUS, "isolated") + _list(root, CPUS, "nohz_full")))
    cores = set()
    for cpu in online:
        folder = "%s/cpu%d/topology" % (CPUS, cpu)
        # An offline sibling is not listed: the kernel takes it out of the map.
        cores.add(tuple(_list(root, folder, "core_cpus_list") or _list(root, folder, "thread_siblings_list") or [cpu]))
    nodes = [name for name in _names(root, NODES) if re.match(r"^node\d+$", name)]
    return {
        "possible": _list(root, CPUS, "possible") or online,
        "present": _list(root, CPUS, "present") or online,
        "online": online,
        "isolated": isolated,
        "usable": [cpu for cpu in online if cpu not in isolated],
        "cores": [list(core) for core in sorted(cores)],
        "nodes": {name[4:]: _list(root, NODES, name, "cpulist") for name in nodes},
    }


def _online_by_stat(root):
    return [int(cpu) for cpu in re.findall(r"(?m)^cpu(\d+) ", _text(root, "/proc/stat") or "")]


def _interface(root, name, names):
    folder = at(root, NETS, name)
    virtual = not os.path.exists(os.path.join(folder, "device"))
    device = os.path.realpath(os.path.join(folder, "device"))
    # A virtio device hangs below the PCI device that has the interrupts and the node.
    bus_device = os.path.dirname(device) if os.path.basename(device).startswith("virtio") else device
    node = None if virtual else _number(bus_device, "numa_node")
    entries = os.listdir(folder)
    rx, tx = (sum(queue.startswith(way) for queue in _names(folder, "queues")) for way in ("rx-", "tx-"))
    return {
        "driver": None if virtual else os.path.basename(os.path.realpath(os.path.join(device, "driver"))),
        "virtual": virtual,
        "stacked": any(entry in _STACKED or entry.startswith("lower_") for entry in entries),
        "operstate": _text(folder, "operstate"),
        "node": node if node is not None and node >= 0 else None,
        "rx": [
            {
                "rps_cpus": _text(root, queue_path(name, "rx", queue, "rps_cpus")),
                "rps_flow_cnt": _number(root, queue_path(name, "rx", queue, "rps_flow_cnt")),
            }
            for queue in range(rx)
        ],
        "tx": [{"xps_cpus": _text(root, queue_path(name, "tx", queue, "xps_cpus"))} for queue in range(tx)],
        "irqs": [] if virtual else _irqs(root, bus_device, names, rx),
    }


def queue_path(interface, way, queue, attribute):
    """Return the path of one attribute of one queue; the kernel numbers queues from 0 without holes."""
    return "%s/%s/queues/%s-%d/%s" % (NETS, interface, way, queue, attribute)


def irq_path(irq):
    """Return the path of an interrupt's affinity mask."""
    return "/proc/irq/%d/smp_affinity" % irq


def _irqs(root, device, names, rx_queues):
    irqs = []
    for irq in sorted(int(entry) for entry in _names(device, "msi_irqs")):
        name = names.get(irq, "")
        found = next(filter(None, (pattern.search(name) for pattern in _QUEUE_NAMES)), None)
        parts = found.groupdict() if found else {}
        irqs.append(
            {
                "irq": irq,
                "name": name,
                "kind": _ONE_WAY.get((parts.get("kind") or "").lower(), "rxtx"),
                "queue": int(parts["queue"]) if found else None,
                "affinity": _text(root, irq_path(irq)),
            }
        )
    # tg3 numbers its queues from 1: vector 0 is its link interrupt.
    numbered = [irq for irq in irqs if irq["queue"] is not None]
    first = min([irq["queue"] for irq in numbered] or [0])
    for irq in numbered:
        irq["queue"] -= first
    if len(irqs) == 1 and rx_queues == 1:
        irqs[0]["queue"] = 0  # one interrupt, one queue: whatever its name (r8169 calls it eth0)
    return irqs


def _text(root, *parts):
    """Return the stripped text of a file, or None: the kernel answers ENOENT, EINVAL or EOPNOTSUPP for what it has
    not."""
    try:
        with open(at(root, *parts)) as handle:
            return handle.read().strip()
    except OSError:
        return None


def _number(root, *parts):
    text = _text(root, *parts) or ""
    return int(text) if re.match(r"^-?\d+$", text) else None


def _list(root, *parts):
    text = _text(root, *parts) or ""
    return [] if text == "(null)" else cpulist.parse_list(text)  # 5.x prints (null) for an unset nohz_full=


def _names(root, *parts):
    try:
        return os.listdir(at(root, *parts))
    except OSError:
        return []
