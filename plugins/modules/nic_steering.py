#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

DOCUMENTATION = r"""
module: nic_steering
short_description: Give every NIC queue its CPUs
version_added: 0.1.0
description:
  - Plans which CPUs handle which queue of a network interface and sets interrupt affinity, RPS, RFS and XPS so. CPUs
    near the NIC come first, physical cores before their SMT siblings.
  - Every value is read back. When one is refused, what this run has written is taken back and the module fails.
  - What a value was before the first run is kept in C(/var/lib/fastsocket/nic-before.json); O(state=absent) restores it
    exactly.
  - The policy is kept in C(/etc/fastsocket/nic.json). At boot C(fastsocket-nic.service) plans and applies it anew,
    because the kernel forgets the values and interrupt numbers move.
author:
  - The fastsocket.fleet authors (@fastsocket)
extends_documentation_fragment:
  - fastsocket.fleet.attributes
  - fastsocket.fleet.nic_policy
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
    details: A running irqbalance moves interrupts back; the module warns of it.
options:
  state:
    description:
      - V(present) sets the values, V(absent) restores what was there before and removes policy and boot unit.
      - With V(absent) the options of the policy are ignored.
    type: str
    choices: [present, absent]
    default: present
  boot:
    description:
      - Install and enable C(fastsocket-nic.service), which runs C(fsctl nic apply) at boot. V(false) removes it.
      - Without systemd on the host there is no unit.
    type: bool
    default: true
seealso:
  - module: fastsocket.fleet.nic_info
"""

EXAMPLES = r"""
- name: Steer all interfaces over all CPUs
  fastsocket.fleet.nic_steering:

- name: Keep packets on the first four CPUs and leave interrupts alone
  fastsocket.fleet.nic_steering:
    interfaces: [eth0]
    cpus: 0-3
    irq: "off"

- name: Take everything back
  fastsocket.fleet.nic_steering:
    state: absent
"""

RETURN = r"""
changes:
  description: What was changed, or would be in check mode.
  returned: success
  type: list
  elements: dict
  contains:
    path:
      description: The file.
      type: str
      returned: success
    kind:
      description: One of V(rps), V(rfs), V(xps), V(irq), V(sysctl), V(file), V(link).
      type: str
      returned: success
    before:
      description: Value, text or link target before; null when there was none.
      type: str
      returned: success
    after:
      description: The same afterwards.
      type: str
      returned: success
    name:
      description: Name of the interrupt.
      type: str
      returned: when RV(changes[].kind) is V(irq)
plan:
  description:
    - The values that the policy asks for, as M(fastsocket.fleet.nic_info) returns them; empty with O(state=absent).
  returned: success
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.fastsocket.fleet.plugins.module_utils import adapter, nic


def main():
    """Entry point."""
    switch = dict(type="str", choices=["auto", "on", "off"], default="auto")
    module = AnsibleModule(
        argument_spec=dict(
            state=dict(type="str", choices=["present", "absent"], default="present"),
            boot=dict(type="bool", default=True),
            interfaces=dict(type="list", elements="str", default=[]),
            cpus=dict(type="str", default=""),
            rps=switch,
            rfs=switch,
            xps=switch,
            irq=switch,
        ),
        supports_check_mode=True,
    )

    def steer():
        given = dict(module.params)
        state, boot = given.pop("state"), given.pop("boot")
        if state == "absent":
            return nic.remove(check=module.check_mode)
        return nic.configure(given, boot=boot, check=module.check_mode)

    adapter.run(module, steer)


if __name__ == "__main__":
    main()
