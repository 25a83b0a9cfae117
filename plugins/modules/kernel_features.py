#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

DOCUMENTATION = r"""
module: kernel_features
short_description: Turn features of the fastsocket kernel on
version_added: 0.2.0
description:
  - Sets sysctls C(net.fastsocket.*) now and at each boot, and takes back those that it set before and that are no
    longer asked for. What was there before the first time is kept in C(/var/lib/fastsocket); where the boot's command
    line has set the same value, as that of a kernel's trial boot does, it is the kernel's own.
  - The file in C(/etc/sysctl.d) does no harm when the host boots another kernel.
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
  features:
    description: All features that are to be on, as V(local_listen) or V(spill=80). None takes all back.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Let listeners be chosen by the CPU that received the packet
  fastsocket.fleet.kernel_features:
    features: [local_listen]
  become: true
"""

RETURN = r"""
changes:
  description: What was changed, or would be in check mode.
  returned: success
  type: list
  elements: dict
  sample:
    - path: net.fastsocket.local_listen
      before: "0"
      after: "1"
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.fastsocket.fleet.plugins.module_utils import adapter, features


def main():
    """Entry point."""
    module = AnsibleModule(
        argument_spec=dict(features=dict(type="list", elements="str", required=True)),
        supports_check_mode=True,
    )
    adapter.run(module, lambda: features.apply(module.params["features"], check=module.check_mode), root=True)


if __name__ == "__main__":
    main()
