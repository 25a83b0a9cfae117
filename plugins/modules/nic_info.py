#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

DOCUMENTATION = r"""
module: nic_info
short_description: Show CPUs, NIC queues, interrupts and the steering plan for them
version_added: 0.1.0
description:
  - Reads which CPUs, SMT siblings and NUMA nodes a host has, the queues of its network interfaces with their RPS, RFS
    and XPS values, and the interrupts of the queues.
  - Returns with it the plan that M(fastsocket.fleet.nic_steering) would carry out for the same policy. Changes nothing.
author:
  - The fastsocket.fleet authors (@fastsocket)
extends_documentation_fragment:
  - fastsocket.fleet.attributes
  - fastsocket.fleet.nic_policy
attributes:
  check_mode:
    support: full
    details: The module only reads.
  diff_mode:
    support: N/A
    details: The module only reads.
  idempotent:
    support: full
seealso:
  - module: fastsocket.fleet.nic_steering
"""

EXAMPLES = r"""
- name: Look at the host
  fastsocket.fleet.nic_info:
  register: nic

- name: Plan for two interfaces and the first four CPUs
  fastsocket.fleet.nic_info:
    interfaces: [eth0, eth1]
    cpus: 0-3
"""

RETURN = r"""
topology:
  description: What was read.
  returned: success
  type: dict
  contains:
    cpus:
      description:
        - CPU numbers in the lists C(possible), C(present), C(online), C(isolated), C(usable), in C(cores) one list for
          each core, and in C(nodes) one list for each NUMA node.
        - C(usable) is C(online) less C(isolated). The cpuset of a container is not taken into account.
      type: dict
      returned: success
    interfaces:
      description:
        - For each interface with queues its C(driver), C(virtual), C(stacked), C(operstate), C(node), the queues C(rx)
          and C(tx) with the values that the kernel shows, and C(irqs).
        - A value that the kernel does not show is null.
      type: dict
      returned: success
    rfs_entries:
      description: Size of the RFS table, null where it is not visible.
      type: int
      returned: success
    irqbalance:
      description: Whether irqbalance runs.
      type: bool
      returned: success
plan:
  description: The values that the policy asks for, whether they are there already or not.
  returned: success
  type: list
  elements: dict
  contains:
    path:
      description: File below C(/sys) or C(/proc).
      type: str
      returned: success
    kind:
      description: One of V(rps), V(rfs), V(xps), V(irq), V(sysctl).
      type: str
      returned: success
    value:
      description: The value as the kernel prints it.
      type: str
      returned: success
    why:
      description: The reason in one sentence.
      type: str
      returned: success
    name:
      description: Name of the interrupt.
      type: str
      returned: when RV(plan[].kind) is V(irq)
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.fastsocket.fleet.plugins.module_utils import adapter, steering, topology


def main():
    """Entry point."""
    switch = dict(type="str", choices=["auto", "on", "off"], default="auto")
    module = AnsibleModule(
        argument_spec=dict(
            interfaces=dict(type="list", elements="str", default=[]),
            cpus=dict(type="str", default=""),
            rps=switch,
            rfs=switch,
            xps=switch,
            irq=switch,
        ),
        supports_check_mode=True,
    )

    def info():
        topo = topology.read()
        plan = steering.plan(topo, module.params)
        return dict(changed=False, topology=topo, plan=plan["writes"], warnings=plan["warnings"])

    adapter.run(module, info)


if __name__ == "__main__":
    main()
