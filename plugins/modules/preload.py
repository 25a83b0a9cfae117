#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

DOCUMENTATION = r"""
module: preload
short_description: Wrap a service with libfsocket, turn it off in an instant, unwrap it
version_added: 0.1.0
description:
  - V(present) adds a systemd drop-in that preloads C(libfsocket.so) into the service, after the library was loaded
    into a witness and the service passed its own configuration check. A running service is restarted; nginx and
    HAProxy start anew beside their old processes and take the listening sockets over, so that no connection is
    refused or waits. When it does not come up with the library, everything is put back and the module fails.
  - V(off) is the instant rollback. From the next call on the service does what it does without the library. Nothing is
    restarted.
  - V(absent) turns it off, removes what was added, and lets a running service go on without the library and without a
    lost connection where it knows how (nginx by an upgrade of its program, HAProxy by a reload). Another service stays
    preloaded and off until it is restarted, and the result says so.
  - As long as a service is wrapped, C(net.ipv4.tcp_migrate_req) is 1, so that the kernel moves the queue of a worker
    that leaves. The value before comes back with the last service. Where C(net.ipv4.tcp_syncookies) is 0 it is
    left alone, because there a reset at the wrong moment would leave the listener deaf that inherits the queue.
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
  service:
    description:
      - Name of a systemd service that starts as root. C(nginx) and C(haproxy) are known and handled in their own way.
      - V(all) means every wrapped service, with any O(state) but V(present).
    type: str
    required: true
  state:
    description:
      - V(present) wraps the service and leaves its switch as it is.
      - V(on) and V(off) set the switch of a wrapped service.
      - V(absent) unwraps it.
    type: str
    choices: [present, absent, "on", "off"]
    default: present
  library:
    description: The library to preload, an absolute path.
    type: path
    default: /usr/lib/fastsocket/libfsocket.so
  settings:
    description:
      - Settings of the library, see libfsocket(7). V(pin) pins workers that may run on several CPUs, V(listen) and
        V(connect) turn slots and per-core source ports off or on, V(spill) is the percentage of the backlog from which
        a worker's connections are shared, V(log) is 0 to 2.
    type: dict
    default: {}
  restart:
    description: Restart a running service that needs it. V(false) prepares and reports RV(restart_required).
    type: bool
    default: true
  drain_timeout:
    description: Seconds that connections of the old processes have to end, 1 or more. New ones are served meanwhile.
    type: int
    default: 30
"""

EXAMPLES = r"""
- name: Wrap nginx
  fastsocket.fleet.preload:
    service: nginx
    settings:
      pin: true

- name: Off, at once
  fastsocket.fleet.preload:
    service: nginx
    state: "off"
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
restarted:
  description: The service was restarted.
  returned: when O(state=present)
  type: bool
restart_required:
  description: The service runs, but not yet as prepared.
  returned: when O(state=present)
  type: bool
held_sockets:
  description: Listening sockets that were held while the service restarted.
  returned: when O(state=present)
  type: int
extra_configuration:
  description: What was added to the service's configuration, in a file of its own; null for nothing.
  returned: when O(state=present)
  type: str
effect:
  description:
    - C(seconds) until the last worker that called had left its slot.
    - C(idle) workers did not call meanwhile; they leave at their next call.
  returned: when the switch was turned off
  type: dict
left_preloaded:
  description: The service cannot go on without the library by itself and stays preloaded and off.
  returned: when O(state=absent)
  type: bool
how:
  description: How the service went on without the library, V(upgrade) or V(reload).
  returned: when O(state=absent)
  type: str
services:
  description: The result of each service.
  returned: when O(service=all)
  type: dict
draining:
  description: Old processes still had connections open after O(drain_timeout).
  returned: when the service went on without the library
  type: bool
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.fastsocket.fleet.plugins.module_utils import adapter, paths, preload


def main():
    """Entry point."""
    module = AnsibleModule(
        argument_spec=dict(
            service=dict(type="str", required=True),
            state=dict(type="str", choices=["present", "absent", "on", "off"], default="present"),
            library=dict(type="path", default=paths.LIBRARY),
            settings=dict(type="dict", default={}),
            restart=dict(type="bool", default=True),
            drain_timeout=dict(type="int", default=30),
        ),
        supports_check_mode=True,
    )
    given, check = module.params, module.check_mode
    actions = {
        "present": lambda: preload.present(
            given["service"], given["library"], given["settings"], given["restart"], given["drain_timeout"], check),
        "on": lambda: preload.each(given["service"], lambda name: preload.set_switch(name, "on", check)),
        "off": lambda: preload.each(given["service"], lambda name: preload.set_switch(name, "off", check)),
        "absent": lambda: preload.each(
            given["service"], lambda name: preload.absent(name, given["drain_timeout"], check)),
    }
    adapter.run(module, actions[given["state"]], root=True)


if __name__ == "__main__":
    main()
