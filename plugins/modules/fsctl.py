#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

DOCUMENTATION = r"""
module: fsctl
short_description: Install fsctl, the command of the person on call
version_added: 0.1.0
description:
  - Installs C(/usr/sbin/fsctl) and the library behind it, the same code as these modules, under
    C(/usr/lib/fastsocket/python). With it a host can be looked at and turned off without the controller.
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
    description: Whether the host has it. V(absent) is refused while a service is wrapped.
    type: str
    choices: [present, absent]
    default: present
"""

EXAMPLES = r"""
- name: Install fsctl
  fastsocket.fleet.fsctl:
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

from ansible_collections.fastsocket.fleet.plugins.module_utils import adapter, install, wrapping


def main():
    """Entry point."""
    module = AnsibleModule(
        argument_spec=dict(state=dict(type="str", choices=["present", "absent"], default="present")),
        supports_check_mode=True,
    )

    def settle():
        if module.params["state"] == "absent":
            wrapping.refuse_while_wrapped("fsctl")
        return install.install(module.params["state"], module.check_mode)

    adapter.run(module, settle, root=True)


if __name__ == "__main__":
    main()
