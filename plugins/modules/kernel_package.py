#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

DOCUMENTATION = r"""
module: kernel_package
short_description: Install a kernel beside the kernels that are there, or remove it again
version_added: 0.2.0
description:
  - Installs one kernel, ours or any other, from an RPM or Debian package. Everything that could go wrong is looked at
    before anything is touched - checksum, damage, architecture, what the package would push aside, dependencies,
    signature where secure boot is on, room on each file system, locks of the package tools.
  - An installation that fails is taken back.
  - What was installed is kept in C(/var/lib/fastsocket/kernel.json), so that O(state=absent) removes nothing else.
  - The boot default is not this module's business. A package's scripts may change it; read it again afterwards
    (M(fastsocket.fleet.boot_entry)).
author:
  - The fastsocket.fleet authors (@fastsocket)
extends_documentation_fragment:
  - fastsocket.fleet.attributes
attributes:
  check_mode:
    support: full
    details: A name of a repository is resolved by downloading the packages into a temporary folder, also in check mode.
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  state:
    description:
      - V(checked) looks at everything and changes nothing. V(present) installs. V(absent) removes the kernel O(kernel)
        with all packages that came with it.
      - V(absent) is refused for the kernel that runs, for one that this module did not install unless O(force=true),
        and when no kernel but those that this module installed would be left.
    type: str
    choices: [present, absent, checked]
    default: present
  package:
    description:
      - The absolute path of an C(.rpm) or C(.deb) on the host, or with O(repository=true) the name of a package.
      - Needed unless O(state=absent).
    type: str
  sha256:
    description: Checksum of the package file. Needed for a file, refused for a name.
    type: str
  repository:
    description:
      - O(package) is a name in the host's repositories (apt, dnf or yum), perhaps with a version as these write it.
        Signatures are checked, whatever the host's configuration says, and a package of a repository that is trusted
        without them (C(gpgcheck=0), C([trusted=yes])) is refused.
      - A name that is installed, in whatever version, is left as it is.
      - Packages are only added. When another one would be upgraded or removed as well, the module fails.
    type: bool
    default: false
  kernel:
    description: The kernel to remove, as C(uname -r) calls it. Needed with O(state=absent).
    type: str
  force:
    description: With O(state=absent), remove also a kernel that this module did not install.
    type: bool
    default: false
  wait:
    description: How many seconds to wait for another user of the package tools to finish.
    type: int
    default: 60
"""

EXAMPLES = r"""
- name: Our kernel can go in beside the others
  fastsocket.fleet.kernel_package:
    package: /var/cache/fastsocket/kernel-fastsocket-6.12.117-1.x86_64.rpm
    sha256: 5f3c8e0a5b0f0a4b4a9a6b7d1c1f1f0e7f4f6d4b2a90817263544f5e6d7c8b9a
    state: checked

- name: A kernel of the distribution
  fastsocket.fleet.kernel_package:
    package: linux-image-cloud-amd64
    repository: true

- name: Remove it
  fastsocket.fleet.kernel_package:
    kernel: 6.12.117-1.fastsocket.x86_64
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
      description: The package.
      type: str
      returned: success
    before:
      description: Its version before; null when it was not there.
      type: str
      returned: success
    after:
      description: The same afterwards.
      type: str
      returned: success
kernel:
  description: The kernel that the package brings, as C(uname -r) will call it; null when the file is not there yet in
    check mode.
  returned: success
  type: str
name:
  description: Name of the package that brings it.
  returned: success
  type: str
version:
  description: Version of that package.
  returned: success
  type: str
installed:
  description: Whether the kernel is installed now.
  returned: success
  type: bool
packages:
  description: The packages that belong to this installation, as dpkg or rpm call them.
  returned: success
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.fastsocket.fleet.plugins.module_utils import adapter
from ansible_collections.fastsocket.fleet.plugins.module_utils.kernel_package import package as kernel_package


def main():
    """Entry point."""
    module = AnsibleModule(
        argument_spec=dict(
            state=dict(type="str", choices=["present", "absent", "checked"], default="present"),
            package=dict(type="str"),
            sha256=dict(type="str"),
            repository=dict(type="bool", default=False),
            kernel=dict(type="str"),
            force=dict(type="bool", default=False),
            wait=dict(type="int", default=60),
        ),
        required_if=[("state", "present", ["package"]), ("state", "checked", ["package"]),
                     ("state", "absent", ["kernel"])],
        supports_check_mode=True,
    )
    adapter.run(module, lambda: kernel_package.ensure(check_mode=module.check_mode, **module.params), root=True)


if __name__ == "__main__":
    main()
