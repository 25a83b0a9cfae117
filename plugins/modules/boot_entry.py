#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

DOCUMENTATION = r"""
module: boot_entry
short_description: Try a kernel for one boot, with the way back built in
version_added: 0.2.0
description:
  - Tells the boot loader which kernel is the default, and which one the next boot only is. Loaders are GRUB 2, with and
    without Boot Loader Specification entries, and systemd-boot.
  - The trial entry is a copy of the kernel's own with arguments that make a failing kernel reboot, and with a deadman
    on the host that reboots into the default unless V(committed) came in time. It needs neither the network nor the
    controller.
  - With GRUB all of it stands in one marked block of C(custom.cfg), the configuration of the distribution is not
    touched. The trial entry only boots when GRUB was able to clear the one-shot boot from its environment block, and a
    kernel file that is missing leads to the default kernel. While the default is pinned there, C(grub-set-default) and
    C(grubby) do not change it.
  - O(state=armed) is refused, with all the reasons, where a failed trial would not come back.
author:
  - The fastsocket.fleet authors (@fastsocket)
extends_documentation_fragment:
  - fastsocket.fleet.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  state:
    description:
      - V(info) changes nothing.
      - V(pinned) makes the entry of O(kernel) the default by its id, which it stays whatever is installed.
      - V(armed) leaves the default and makes the next boot, and only that, a trial of O(kernel).
      - V(committed) makes O(kernel) the default, when it runs as the trial or there is no trial at all, and removes
        trial entry and deadman. What made the trial boot panic at the first trouble (C(kernel.panic) and the like) is
        as before it again, unless O(arguments) or somebody else set it. Refused, as is V(pinned), on the boot of a
        trial that was disarmed.
      - V(disarmed) removes a trial; the default stays pinned. A kernel that runs on trial runs on, and is gone with the
        next boot.
      - V(released) removes a trial and gives the default back to the rule that the operator had.
    type: str
    choices: [info, pinned, armed, committed, disarmed, released]
    default: info
  kernel:
    description:
      - A version as C(uname -r) prints it. V(armed) needs one; V(pinned) and V(committed) take the one that runs. With
        V(info) the RV(problems) include those of trying this one.
    type: str
  arguments:
    description: Arguments that the trial entry gives the kernel besides, one a list element. They win over ours.
    type: list
    elements: str
    default: []
  seconds:
    description:
      - Seconds, 60 to 86400, counted from the start of the trial boot, after which it ends unless it is committed. A
        trial that is not rebooted into within the same time after arming is no longer armed.
    type: int
    default: 600
"""

EXAMPLES = r"""
- name: The kernel that runs stays the default
  fastsocket.fleet.boot_entry:
    state: pinned

- name: The next boot only is the new kernel
  fastsocket.fleet.boot_entry:
    state: armed
    kernel: 6.12.90-1.fastsocket.x86_64

- name: It runs and serves, so it stays
  fastsocket.fleet.boot_entry:
    state: committed
    kernel: 6.12.90-1.fastsocket.x86_64
"""

RETURN = r"""
loader:
  description:
    - V(grub2), V(bls) (GRUB 2 with Boot Loader Specification entries), V(systemd-boot), V(grub-legacy) or null.
  returned: success
  type: str
kernel:
  description: The kernel that runs.
  returned: success
  type: str
boot_id:
  description: The id of this boot.
  returned: success
  type: str
default:
  description: The C(id) and C(kernel) of the next ordinary boot; null where there is none.
  returned: success
  type: dict
pinned:
  description: The id of the entry that this module made the default, null when the operator's own rule stands.
  returned: success
  type: str
entries:
  description: The entries that boot a kernel, in the order of the menu.
  returned: success
  type: list
  elements: dict
  contains:
    id:
      description: What the default can be set to, submenus included.
      type: str
      returned: success
    title:
      description: As the menu shows it.
      type: str
      returned: success
    kernel:
      description: Its version, null when it boots no Linux kernel.
      type: str
      returned: success
    arguments:
      description: What it gives the kernel.
      type: list
      elements: str
      returned: success
problems:
  description: Why a trial is refused here, a sentence each.
  returned: success
  type: list
  elements: str
trial:
  description: The last trial, null before the first and after V(released).
  returned: success
  type: dict
  contains:
    id:
      description: In the arguments of the trial boot as C(fastsocket.trial).
      type: str
      returned: success
    kernel:
      description: The kernel that is tried.
      type: str
      returned: success
    stock:
      description: The kernel that a failed trial comes back to.
      type: str
      returned: success
    state:
      description:
        - V(armed), V(running) (this boot is the trial), V(fell_back) (a boot came after arming, and this one is not the
          trial), V(expired) (no boot came in time), V(committed) or V(disarmed).
      type: str
      returned: success
    this_boot:
      description: Whether this boot is the trial, also when the trial is over.
      type: bool
      returned: success
    armed_boot_id:
      description: The boot that armed it.
      type: str
      returned: success
    failed_units:
      description: The units that had failed by then.
      type: list
      elements: str
      returned: success
    arguments:
      description: As given.
      type: list
      elements: str
      returned: success
    seconds:
      description: As given.
      type: int
      returned: success
    boots:
      description: The boots since, as C(boot_id), C(kernel), C(trial) and C(time) in seconds since 1970. One that ended
        before its system started is not among them.
      type: list
      elements: dict
      returned: success
    reason:
      description: Why it failed, in a sentence; null when it did not.
      type: str
      returned: success
    evidence:
      description: The last lines that a failed trial boot left in pstore or the journal, or a sentence on why there are
        none.
      type: list
      elements: str
      returned: success
changes:
  description: What was changed, or would be in check mode.
  returned: success
  type: list
  elements: dict
  contains:
    path:
      description: The file, the file and the variable in it, or the sysctl.
      type: str
      returned: success
    before:
      description: Text or value before; null when there was none.
      type: str
      returned: success
    after:
      description: The same afterwards.
      type: str
      returned: success
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.fastsocket.fleet.plugins.module_utils import adapter
from ansible_collections.fastsocket.fleet.plugins.module_utils.boot import trial


def main():
    """Entry point."""
    module = AnsibleModule(
        argument_spec=dict(
            state=dict(type="str", choices=["info", "pinned", "armed", "committed", "disarmed", "released"],
                       default="info"),
            kernel=dict(type="str"),
            arguments=dict(type="list", elements="str", default=[]),
            seconds=dict(type="int", default=600),
        ),
        supports_check_mode=True,
    )
    given = module.params
    adapter.run(module, lambda: trial.settle(
        given["state"], given["kernel"], given["arguments"], given["seconds"], module.check_mode), root=True)


if __name__ == "__main__":
    main()
