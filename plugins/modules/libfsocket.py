#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

DOCUMENTATION = r"""
module: libfsocket
short_description: Choose the version of libfsocket that services get at their next start
version_added: 0.1.0
description:
  - Loads a version of the library into C(/bin/true) and, when that goes well, makes a symbolic link point to it,
    atomically. A version that is for another machine, is not loaded or makes the witness fail is removed again, and no
    service ever sees it.
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
  path:
    description: The version, an absolute path. Needed with O(state=present).
    type: path
  link:
    description: The name that services preload.
    type: path
    default: /usr/lib/fastsocket/libfsocket.so
  state:
    description:
      - V(absent) removes the link and every version beside it that no process has mapped. It is refused while a service
        is wrapped.
    type: str
    choices: [present, absent]
    default: present
"""

EXAMPLES = r"""
- name: Services get 0.1.0 at their next start
  fastsocket.fleet.libfsocket:
    path: /usr/lib/fastsocket/libfsocket.so.0.1.0-1c9f2a7e
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
library:
  description: The version the link points to; null for none.
  returned: success
  type: str
in_use:
  description: Versions that stay because a process has them mapped.
  returned: when O(state=absent)
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.fastsocket.fleet.plugins.module_utils import adapter, library, paths, wrapping


def main():
    """Entry point."""
    module = AnsibleModule(
        argument_spec=dict(
            path=dict(type="path"),
            link=dict(type="path", default=paths.LIBRARY),
            state=dict(type="str", choices=["present", "absent"], default="present"),
        ),
        required_if=[("state", "present", ["path"])],
        supports_check_mode=True,
    )
    given, check = module.params, module.check_mode
    if given["state"] == "present":
        adapter.run(module, lambda: library.link(given["path"], given["link"], check), root=True)

    def remove():
        wrapping.refuse_while_wrapped("the library")
        return library.unlink(given["link"], check)

    adapter.run(module, remove, root=True)


if __name__ == "__main__":
    main()
