# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build /sys and /proc trees of the shape of real machines: the same files, links and text forms as the kernel's.

The text forms are made here on their own, not with the code under test.
"""

import os

BOOT_ID = "3f0a4f0e-52e6-4c0c-a2a5-5d9c7f5b1a01"


def nic(name, driver=None, node=-1, rx=1, tx=1, irqs=(), operstate="up", bus="pci", extra=()):
    """One interface; irqs: names in the order of their numbers; driver None = virtual; extra = more folders in it."""
    return dict(locals())


def veth(name, queues=2, **more):
    return nic(name, rx=queues, tx=queues, **more)


MACHINES = {
    "one_cpu": dict(possible=1, nics=[nic("eth0", "e1000e", rx=2, tx=2, irqs=["eth0-rx-0", "eth0-tx-0", "eth0"])]),
    # A container: no device, no interrupts, no RFS table, and the machine's own CPUs.
    "container": dict(possible=2, rfs=None, nics=[veth("lo", 1, operstate="unknown"), veth("host0")]),
    # 2 sockets x 6 cores x 2 threads, NIC on the second socket.
    "ixgbe24": dict(
        possible=24,
        cores=[[cpu, cpu + 12] for cpu in range(12)],
        nodes={0: "0-5,12-17", 1: "6-11,18-23"},
        irqbalance=True,
        nics=[
            nic("eth0", "ixgbe", node=1, rx=63, tx=63, irqs=["eth0-TxRx-%d" % q for q in range(63)] + ["eth0"]),
            nic("eth1", "ixgbe", node=1, rx=63, tx=63, operstate="down"),
        ],
    ),
    # 2 sockets x 32 cores x 2 threads, a card with more vectors than queues in use, below a bond.
    "mlx128": dict(
        possible=128,
        cores=[[cpu, cpu + 64] for cpu in range(64)],
        nodes={0: "0-31,64-95", 1: "32-63,96-127"},
        rfs=4096,
        nics=[
            nic(
                "ens1f0",
                "mlx5_core",
                node=1,
                rx=16,
                tx=16,
                irqs=["mlx5_async0@pci:0000:3b:00.0"] + ["mlx5_comp%d@pci:0000:3b:00.0" % q for q in range(64)],
                extra=["master"],
            ),
            nic("bond0", rx=16, tx=16, extra=["bonding", "lower_ens1f0"]),
        ],
    ),
    # 8 of 16 possible CPUs are there, 2 and 3 are offline, 7 is isolated.
    "offline": dict(
        possible=16,
        present="0-7",
        online="0-1,4-7",
        isolated="7",
        nics=[
            nic(
                "eth0", "ena", rx=4, tx=4, irqs=["ena-mgmnt@pci:0000:00:05.0"] + ["eth0-Tx-Rx-%d" % q for q in range(4)]
            )
        ],
    ),
    "virtio1": dict(
        possible=4,
        nics=[nic("eth0", "virtio_net", irqs=["virtio2-config", "virtio2-input.0", "virtio2-output.0"], bus="virtio")],
    ),
}


def build(root, machine):
    """Write the tree of one machine (a value of MACHINES) below `root`; return root as text."""
    root = str(root)
    possible = machine["possible"]
    every = "0-%d" % (possible - 1) if possible > 1 else "0"
    online = numbers(machine.get("online", every))
    put(root, "sys/devices/system/cpu/possible", every)
    put(root, "sys/devices/system/cpu/present", machine.get("present", every))
    put(root, "sys/devices/system/cpu/online", machine.get("online", every))
    put(root, "sys/devices/system/cpu/isolated", machine.get("isolated", ""))
    put(root, "sys/devices/system/cpu/nohz_full", machine.get("nohz_full", "(null)"))
    for core in machine.get("cores", [[cpu] for cpu in range(possible)]):
        for cpu in set(core) & set(online):
            text = ",".join("%d" % thread for thread in core if thread in online)
            put(root, "sys/devices/system/cpu/cpu%d/topology/thread_siblings_list" % cpu, text)
    for node, cpus in machine.get("nodes", {0: every}).items():
        put(root, "sys/devices/system/node/node%d/cpulist" % node, cpus)
    if machine.get("rfs", 0) is not None:
        put(root, "proc/sys/net/core/rps_sock_flow_entries", "%d" % machine.get("rfs", 0))
    put(root, "proc/sys/kernel/random/boot_id", machine.get("boot_id", BOOT_ID))
    put(root, "proc/1/comm", "systemd")
    if machine.get("irqbalance"):
        put(root, "proc/812/comm", "irqbalance")
    rows = ["   0:" + "         17" * len(online) + "   IO-APIC   2-edge      timer"]
    for slot, card in enumerate(machine["nics"]):
        _nic(root, slot, card, possible, len(online), rows)
    rows += [" NMI:" + "          0" * len(online) + "   Non-maskable interrupts", " ERR:          0"]
    header = "     " + "".join("%11s" % ("CPU%d" % cpu) for cpu in online)
    put(root, "proc/interrupts", "\n".join([header] + rows))
    return root


def _nic(root, slot, card, possible, online, rows):
    zero, full = mask(0, possible), mask((1 << possible) - 1, possible)
    if card["driver"]:
        pci = "sys/devices/pci0000:3a/0000:3b:%02x.0" % slot
        device = pci + "/virtio2" if card["bus"] == "virtio" else pci
        put(root, pci + "/numa_node", "%d" % card["node"])
        put(root, "sys/bus/%s/drivers/%s/uevent" % (card["bus"], card["driver"]), "")
        for number, name in enumerate(card["irqs"], 40 + 100 * slot):
            put(root, "%s/msi_irqs/%d" % (pci, number), "msix")
            put(root, "proc/irq/%d/smp_affinity" % number, full)
            rows.append(
                "%4d:%s  PCI-MSIX-0000:3b:%02x.0 %3d-edge      %s"
                % (number, "          0" * online, slot, number - 40, name)
            )
        folder = "%s/net/%s" % (device, card["name"])
        link(root, folder + "/device", "../../../" + os.path.basename(device))
        up = "../" * (device.count("/"))
        link(root, device + "/driver", "%sbus/%s/drivers/%s" % (up, card["bus"], card["driver"]))
    else:
        folder = "sys/devices/virtual/net/" + card["name"]
    link(root, "sys/class/net/" + card["name"], "../../" + folder[len("sys/") :])
    put(root, folder + "/operstate", card["operstate"])
    for extra in card["extra"]:
        os.makedirs(os.path.join(root, folder, extra))
    for queue in range(card["rx"]):
        put(root, "%s/queues/rx-%d/rps_cpus" % (folder, queue), zero)
        put(root, "%s/queues/rx-%d/rps_flow_cnt" % (folder, queue), "0")
    for queue in range(card["tx"]):
        put(root, "%s/queues/tx-%d/tx_timeout" % (folder, queue), "0")
        if card["tx"] > 1:  # the kernel shows the file and answers ENOENT; a missing file answers the same
            put(root, "%s/queues/tx-%d/xps_cpus" % (folder, queue), zero)


def put(root, path, text):
    path = os.path.join(root, path)
    if not os.path.isdir(os.path.dirname(path)):
        os.makedirs(os.path.dirname(path))
    with open(path, "w") as handle:
        handle.write(text + "\n")


def link(root, path, target):
    path = os.path.join(root, path)
    if not os.path.isdir(os.path.dirname(path)):
        os.makedirs(os.path.dirname(path))
    os.symlink(target, path)


def mask(value, width):
    """A mask as "%*pb" prints it: all digits first, then a comma before every eighth from the right."""
    digits = "%0*x" % ((width + 3) // 4, value)
    return ",".join(
        [digits[: len(digits) % 8]] * bool(len(digits) % 8)
        + [digits[at : at + 8] for at in range(len(digits) % 8, len(digits), 8)]
    )


def numbers(text):
    """CPU numbers of a list such as 0-1,4."""
    ends = [part.split("-") for part in text.split(",") if part]
    return [cpu for part in ends for cpu in range(int(part[0]), int(part[-1]) + 1)]


def snapshot(root):
    """{path: text or link target} of a whole tree."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in folders + files:
            path = os.path.join(folder, name)
            if os.path.islink(path):
                found[path] = os.readlink(path)
            elif name in files:
                with open(path) as handle:
                    found[path] = handle.read().strip()
    return found
