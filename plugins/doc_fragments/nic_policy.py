# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The steering policy: options that nic_info and nic_steering share."""


class ModuleDocFragment:
    """Documentation fragment fastsocket.fleet.nic_policy."""

    DOCUMENTATION = r"""
options:
  interfaces:
    description:
      - Names of the network interfaces to steer.
      - An empty list means every physical interface that is up and has queues. In a container, which has none, it means
        every virtual one that is up and is no part of a bridge, bond, VLAN or tunnel.
    type: list
    elements: str
    default: []
  cpus:
    description:
      - CPUs that handle packets, as a list like V(0-3,8). All must be online.
      - Empty means every CPU that is online and not isolated.
    type: str
    default: ""
  rps:
    description:
      - Receive Packet Steering, which spreads one queue over several CPUs in software.
      - V(auto) uses it for a queue whose interrupt alone cannot reach all of the queue's CPUs.
      - V(on) uses it for every queue. V(off) switches it off.
    type: str
    choices: [auto, "on", "off"]
    default: auto
  rfs:
    description:
      - Receive Flow Steering, which brings a connection's packets to the CPU whose process reads them.
      - V(auto) uses it on machines with more than one CPU. V(on) uses it everywhere. V(off) switches it off.
      - Its table is C(net.core.rps_sock_flow_entries). A container does not see it; the machine outside must set it.
    type: str
    choices: [auto, "on", "off"]
    default: auto
  xps:
    description:
      - Transmit Packet Steering, which gives each CPU a transmit queue of its own.
      - V(auto) uses it where there are two transmit queues or more. V(on) does too, and warns where there are not.
        V(off) switches it off.
    type: str
    choices: [auto, "on", "off"]
    default: auto
  irq:
    description:
      - Which CPU takes the interrupts of a queue.
      - V(auto) moves them where the interface has interrupts for its queues. V(on) does too, and warns where it has
        none. V(off) leaves all interrupts as they are.
    type: str
    choices: [auto, "on", "off"]
    default: auto
"""
