#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

DOCUMENTATION = r"""
module: core_stats_info
short_description: Measure how many accepts and connects stay on their core
version_added: 0.1.0
description:
  - Reads the per-CPU counters of wrapped services, the kernel's TCP counters and softirq statistics, and on request the
    locality of live sockets from outside of the service, with no help of the library.
  - A kernel of ours counts by itself, for all of its network namespace; that is read too.
  - The reading from outside duplicates sockets of the workers with C(pidfd_getfd) (Linux 5.6) and compares their
    C(SO_INCOMING_CPU) with the CPU of the thread that serves them.
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
    support: full
options:
  services:
    description: Services to read, wrapped or not. Empty means all that are wrapped.
    type: list
    elements: str
    default: []
  seconds:
    description: Measure a window of so many seconds. V(0) reads once.
    type: float
    default: 0
  sample:
    description: Also sample live sockets from outside during the window. Works for one service at a time.
    type: bool
    default: false
  answer:
    description: Also connect to every listener of the services from the host itself.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Ten seconds of nginx, by the library and from outside
  fastsocket.fleet.core_stats_info:
    services: [nginx]
    seconds: 10
    sample: true
"""

RETURN = r"""
services:
  description:
    - By name of service, whether it is C(wrapped), its C(stats) (null without a statistics file), and the C(sample)
      from outside.
  returned: success
  type: dict
  sample:
    nginx:
      wrapped: true
      stats:
        switch: "on"
        summary: {accepts: 12000, accept_local: 0.999, connects: 0, connect_local: null, spread: 1.02}
      sample:
        passive: {sampled: 240, local: 239, share: 0.996}
kernel:
  description: TCP counters of the host's network namespace.
  returned: success
  type: dict
kernel_window:
  description: What came to them in the window.
  returned: success
  type: dict
kernel_stats:
  description:
    - What the kernel counts in C(/proc/net/fastsocket), by CPU and in sum, its C(sysctls), and with O(seconds) its
      C(window). Null on a kernel without it.
    - It is the network namespace's of the reader, with every listener and connection in it.
  returned: success
  type: dict
  sample:
    sysctls: {local_listen: 1, spill: 50}
    cpus:
      "0": {accepts_local: 6010, accepts_remote: 3, accepts_global: 9, connects_local: 0, connects_remote: 4,
            lookups_local: 6001, lookups_fallback: 0}
    summary: {accepts: 6013, accept_local: 0.9995, accepts_global: 9, connects: 4, connect_local: 0.0, lookups: 6001,
              lookup_local: 1.0, lookups_fallback: 0, spread: 1.0}
softnet:
  description: Packets by CPU, from C(/proc/net/softnet_stat).
  returned: success
  type: dict
seconds:
  description: Length of the window.
  returned: success
  type: float
silent:
  description: Listeners that did not answer.
  returned: when O(answer=true)
  type: list
  elements: dict
table:
  description: The same for people, as lines of text. Of the window where one was measured, else the sums.
  returned: success
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.fastsocket.fleet.plugins.module_utils import adapter, measure, tables


def main():
    """Entry point."""
    module = AnsibleModule(
        argument_spec=dict(
            services=dict(type="list", elements="str", default=[]),
            seconds=dict(type="float", default=0),
            sample=dict(type="bool", default=False),
            answer=dict(type="bool", default=False),
        ),
        supports_check_mode=True,
    )
    given = module.params

    def read():
        found = measure.gather(given["services"], given["seconds"], given["sample"])
        if given["answer"]:
            found["silent"] = [
                dict(row, service=name) for name in found["services"] for row in measure.answering(name)]
        found["table"] = tables.host_lines(
            {name: one["stats"] for name, one in found["services"].items()}, found["kernel_stats"])
        return dict(found, changed=False)

    adapter.run(module, read)


if __name__ == "__main__":
    main()
