#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

DOCUMENTATION = r"""
module: reboot_verified
short_description: Reboot a host and find out what became of it
version_added: 0.2.0
description:
  - Two tasks, so that all hosts of a batch boot at the same time. O(phase=reboot) asks the host to reboot and returns
    at once; O(phase=wait) finds out what became of it. The time counts from the request and the kernel's stability from
    the end of the host's boot, so the waits overlap whatever C(forks) is.
  - A host that comes back is not enough. It must be in another boot, with the expected kernel, at rest and with no unit
    newly failed.
  - This is an action plugin. Polling needs a shell and no Python on the host; the reason of a failure is read with
    M(fastsocket.fleet.boot_entry).
author:
  - The fastsocket.fleet authors (@fastsocket)
extends_documentation_fragment:
  - fastsocket.fleet.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: none
    details: A reboot is a reboot.
options:
  phase:
    description: V(reboot) asks for the reboot, which needs root. V(wait) waits for the outcome.
    type: str
    choices: [reboot, wait]
    required: true
  kernel:
    description: The kernel that is to come up, as C(uname -r) says it. Needed with O(phase=wait).
    type: str
  timeout:
    description: Seconds from the request until which the host must be at rest.
    type: float
    default: 900
  stable:
    description: Seconds that the host's boot must be over before its kernel counts, by the host's own clock.
    type: float
    default: 30
  since:
    description:
      - What O(phase=reboot) returned, or an earlier O(phase=wait) with RV(outcome=waiting). Without it, the boot
        that is there now is judged.
    type: dict
    default: {}
  failed_units:
    description:
      - Units that were failed before the reboot and do not count. Default is what O(phase=reboot) found, or, where
        another run asked for the reboot, what M(fastsocket.fleet.boot_entry) found when it armed the trial.
    type: list
    elements: str
  slice:
    description:
      - Return after so many seconds with RV(outcome=waiting) when nothing is clear yet, to let a fork look at other
        hosts. V(0) means wait to the end.
    type: float
    default: 0
"""

EXAMPLES = r"""
- name: Reboot
  fastsocket.fleet.reboot_verified:
    phase: reboot
  become: true
  register: rebooted

- name: Wait for the new kernel
  fastsocket.fleet.reboot_verified:
    phase: wait
    since: "{{ rebooted }}"
    kernel: 6.12.48-1.fastsocket.x86_64
    stable: 60
  become: true
"""

RETURN = r"""
outcome:
  description:
    - V(new_kernel), the expected kernel is at rest. V(fell_back), another one is. V(never_returned), no answer when the
      time was over. V(boot_loop), three boots or more, or the expected kernel came and went until the time was over.
    - V(waiting) with O(slice), when nothing is clear yet.
    - The task fails with each but V(waiting) and V(new_kernel) with nothing in RV(unhealthy).
  returned: O(phase=wait)
  type: str
kernel:
  description: The kernel that runs, null without an answer.
  returned: success
  type: str
boot_id:
  description: The boot that the host is in. With O(phase=reboot) the one that is asked to end.
  returned: success
  type: str
boot_ids:
  description: Boots after the request, seen from here or noted by the host.
  returned: O(phase=wait)
  type: list
  elements: str
started:
  description: When the reboot was asked for, by the controller's clock. Null in check mode.
  returned: O(phase=reboot)
  type: float
failed_units:
  description: Units that were failed before the reboot.
  returned: O(phase=reboot)
  type: list
  elements: str
seconds:
  description: From the request until the outcome was clear.
  returned: O(phase=wait)
  type: float
reason:
  description: Why the expected kernel is not there, as far as it is known.
  returned: O(phase=wait)
  type: str
console:
  description: The last lines of the trial boot that the host has kept.
  returned: O(phase=wait)
  type: list
  elements: str
unhealthy:
  description: What is wrong on the host although it answers, such as units that failed and had not been failed before.
  returned: O(phase=wait)
  type: list
  elements: str
timeline:
  description: What was seen when, in seconds from the request.
  returned: O(phase=wait)
  type: list
  elements: dict
"""
