# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan which CPU handles which NIC queue. Pure: a topology and a policy go in, a list of writes comes out.

The one rule: a receive queue belongs to one set of CPUs, its part. With n CPUs in order of preference and q queues, the
part of queue i is every q-th CPU from CPU i mod n on: one CPU for each queue when q >= n, else the n CPUs dealt over
the queues, so that the first CPU of every part is near the NIC and SMT siblings tend to land in one part. The
interrupt goes to the first CPU of the part; RPS spreads over the part where the interrupt cannot, and over all CPUs
where queues have no interrupts; XPS sends from the part. What the kernel does with the values:
Documentation/networking/scaling.rst."""

from . import cpulist, topology
from .errors import FleetError

SWITCHES = ("rps", "rfs", "xps", "irq")
DEFAULTS = dict({"interfaces": [], "cpus": ""}, **{switch: "auto" for switch in SWITCHES})
CHOICES = ("auto", "on", "off")
RFS_ENTRIES = 32768  # scaling.rst: enough for a moderately loaded server; here for up to 32 CPUs, 1024 for each one


def policy(given=None):
    """Return a full policy from a partial one: interfaces (names; none = the default ones), cpus (list like "0-3,8";
    empty = all usable), rps, rfs, xps, irq (auto = where it helps, on = also where it only costs, and warn where it
    is impossible, off = rps, rfs, xps are switched off and irq is left as it is). FleetError names a wrong key or
    value."""
    full = dict(DEFAULTS, **(given or {}))
    unknown = sorted(set(full) - set(DEFAULTS))
    if unknown:
        raise FleetError("unknown policy key %s; there are: %s" % (", ".join(unknown), ", ".join(sorted(DEFAULTS))))
    for switch in SWITCHES:
        if full[switch] not in CHOICES:
            raise FleetError("%s is %r; it should be one of %s" % (switch, full[switch], ", ".join(CHOICES)))
    return full


def plan(topo, given=None):
    """Return {"writes": [{path, kind: rps|rfs|xps|irq|sysctl, value, why}], "warnings": [text]} for a topology
    (topology.read) and a policy. Values are as the kernel prints them. A write of kind irq has also the name of its
    interrupt: numbers are given anew when a driver starts again. FleetError on an interface or CPU that is not there
    or not online."""
    wanted = policy(given)
    names, warnings = _interfaces(topo, wanted["interfaces"])
    cpus = _cpus(topo["cpus"], wanted["cpus"])
    isolated = sorted(set(cpus) & set(topo["cpus"]["isolated"]))
    if isolated:
        shown = cpulist.format_list(isolated)
        warnings.append("CPU %s: isolated (isolcpus= or nohz_full=), so RPS leaves it out" % shown)
    entries = max(RFS_ENTRIES, 1024 * _power_of_two(len(cpus)), topo["rfs_entries"] or 0)
    writes = {}
    for name in names:
        for write in _plan_interface(topo, name, wanted, cpus, entries, warnings):
            # Functions of one device can share an interrupt (mlx5 representors): the first interface keeps it.
            if writes.setdefault(write["path"], write)["value"] != write["value"]:
                warnings.append("%s: %s is taken by another interface already" % (name, write["path"]))
    flows = sum(int(write["value"]) for write in writes.values() if write["kind"] == "rfs")
    if flows and topo["rfs_entries"] is None:
        warnings.append(
            "RFS needs net.core.rps_sock_flow_entries > 0, which is not visible here: the table belongs to the machine "
            "outside of this container or network namespace; set it there (%d)" % entries
        )
    elif flows:
        why = "RFS table: 1024 flows for each CPU, at least %d" % RFS_ENTRIES
        writes[topology.RFS_ENTRIES] = _write(topology.RFS_ENTRIES, "sysctl", "%d" % entries, why)
    if topo["irqbalance"] and any(write["kind"] == "irq" for write in writes.values()):
        warnings.append(
            "irqbalance is running and will move these interrupts again: stop it (systemctl disable --now irqbalance) "
            "or keep it off them with --banirq in its arguments"
        )
    return {"writes": list(writes.values()), "warnings": warnings}


def part(order, queue, queues):
    """Return the CPUs of one of `queues` queues, the one for its interrupt first."""
    return order[queue % len(order) :: queues]


def _interfaces(topo, names):
    """Return the interfaces to steer, and warnings. Without names: what is up and physical; in a container, where
    nothing is, what is up and no part of a bridge, bond, VLAN or tunnel: the veth or macvlan the container lives
    on."""
    known = topo["interfaces"]
    for name in names:
        if name not in known:
            shown = ", ".join(sorted(known)) or "none with queues"
            raise FleetError('interface "%s" does not exist here or has no queues; there are: %s' % (name, shown))
    up = [
        name
        for name, interface in sorted(known.items())
        if name != "lo" and interface["operstate"] in ("up", "unknown") and interface["rx"]
    ]
    physical = [name for name in up if not known[name]["virtual"]]
    chosen = list(names) or physical or [name for name in up if not known[name]["stacked"]]
    return chosen, [] if chosen else ["no interface to steer: none is up and has queues"]


def _cpus(cpus, text):
    """Return the CPUs to use. One that is not online would be dropped by RPS and refused elsewhere (EINVAL,
    EOVERFLOW)."""
    chosen = cpulist.parse_list(text) or cpus["usable"]
    missing = sorted(set(chosen) - set(cpus["online"]))
    if missing:
        shown = cpulist.format_list(cpus["online"])
        raise FleetError("CPU %s is not online; online are: %s" % (cpulist.format_list(missing), shown))
    if not chosen:
        raise FleetError("no usable CPU: all that are online (%s) are isolated" % cpulist.format_list(cpus["online"]))
    return chosen


def _order(cpus, topo, node):
    """Return CPUs in order of preference: those of the NIC's node first, then one thread of each core before its
    siblings."""
    near = set(topo["nodes"].get(str(node), cpus))
    rank = {}
    for core in topo["cores"]:
        threads = [cpu for cpu in core if cpu in cpus]
        rank.update((cpu, place) for place, cpu in enumerate(threads))
    return sorted(cpus, key=lambda cpu: (cpu not in near, rank.get(cpu, 0), cpu))


def _plan_interface(topo, name, wanted, cpus, entries, warnings):
    interface = topo["interfaces"][name]
    rx, tx = len(interface["rx"]), len(interface["tx"])
    order = _order(cpus, topo["cpus"], interface["node"])
    width = max(topo["cpus"]["possible"]) + 1
    steer = len(topo["cpus"]["online"]) > 1  # with one CPU there is nowhere to send a packet
    writes = []

    def mask(chosen):
        return cpulist.format_mask(chosen, width)

    pinned = set()
    for irq in interface["irqs"] if wanted["irq"] != "off" else []:
        queues = tx if irq["kind"] == "tx" else rx
        if irq["queue"] is None or irq["queue"] >= queues or irq["affinity"] is None:
            continue  # a control vector, or one of a queue that is not in use
        cpu = part(order, irq["queue"], queues)[0]
        why = "%s: the interrupt of queue %d (%s) goes to CPU %d" % (name, irq["queue"], irq["name"], cpu)
        writes.append(dict(_write(topology.irq_path(irq["irq"]), "irq", mask([cpu]), why), name=irq["name"]))
        if irq["kind"] != "tx":
            pinned.add(irq["queue"])

    # Without interrupts of their own (veth), the queues tell nothing: packets come to the sender's CPU, often all on
    # queue 0. The hash of RPS deals them out instead.
    dealt = any(irq["queue"] is not None and irq["kind"] != "tx" for irq in interface["irqs"])
    for queue, present in enumerate(interface["rx"]):
        own = part(order, queue, rx) if dealt else order
        label = "%s: receive queue %d of %d" % (name, queue, rx)
        alone = queue in pinned and len(own) == 1
        spread = {"on": True, "off": False, "auto": steer and not alone}[wanted["rps"]]
        targets = [cpu for cpu in own if cpu not in topo["cpus"]["isolated"]] if spread else []
        reason = "belongs to CPU %s" % cpulist.format_list(own) if spread else "needs no RPS"
        if wanted["rps"] == "auto" and alone:
            reason += ": its interrupt is on its CPU"
        flows = _power_of_two(-(-entries // rx)) if {"on": True, "off": False, "auto": steer}[wanted["rfs"]] else 0
        for kind, attribute, value, why in (
            ("rps", "rps_cpus", mask(targets), reason),
            ("rfs", "rps_flow_cnt", "%d" % flows, "remembers the CPU of %d flows" % flows),
        ):
            if present[attribute] is not None:
                path = topology.queue_path(name, "rx", queue, attribute)
                writes.append(_write(path, kind, value, "%s %s" % (label, why)))

    # The kernel refuses XPS for a device with one transmit queue: there is nothing to choose.
    for queue, present in enumerate(interface["tx"] if tx > 1 else []):
        own = part(order, queue, tx) if wanted["xps"] != "off" else []
        why = "%s: transmit queue %d of %d serves CPU %s" % (name, queue, tx, cpulist.format_list(own) or "any")
        if present["xps_cpus"] is not None:
            writes.append(_write(topology.queue_path(name, "tx", queue, "xps_cpus"), "xps", mask(own), why))

    kinds = set(write["kind"] for write in writes)
    for switch in SWITCHES:
        if wanted[switch] == "on" and switch not in kinds:
            warnings.append("%s: %s is on, but this interface has nothing to set for it" % (name, switch))
    return writes


def _power_of_two(number):
    """Return the next power of two: the kernel rounds RFS sizes up the same way (net/core/net-sysfs.c,
    sysctl_net_core.c)."""
    return 1 << max(0, number - 1).bit_length()


def _write(path, kind, value, why):
    return {"path": path, "kind": kind, "value": value, "why": why}
