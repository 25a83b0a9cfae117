#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

DOCUMENTATION = r"""
module: long_command
short_description: Run a command that takes long and say how far it is
version_added: 0.2.0
description:
  - Runs a command on the host with its output in a file there, and prints a line now and then while it lasts.
  - The command is no child of the connection. When the play is interrupted it goes on, and a next task with the same
    O(log) waits for it. This is an action plugin.
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
options:
  argv:
    description: The command and its arguments, as a list. No shell reads it.
    type: list
    elements: str
    required: true
  log:
    description: Absolute path of the file on the host that gets all that the command prints.
    type: str
    required: true
  step:
    description: Extended regular expression; every line of the log that matches is one step.
    type: str
    default: ^
  steps:
    description: About how many steps there will be. V(0) prints no number.
    type: int
    default: 0
  every:
    description: Seconds between two lines.
    type: float
    default: 30
"""

EXAMPLES = r"""
- name: Build a kernel
  fastsocket.fleet.long_command:
    argv: [make, -C, /srv/linux, -j8]
    log: /srv/linux.log
    step: "^  (CC|AS) "
    steps: 13000
"""

RETURN = r"""
rc:
  description: Exit status of the command; -1 when it was killed.
  returned: not in check mode
  type: int
steps:
  description: Steps that the log holds.
  returned: not in check mode
  type: int
seconds:
  description: Duration.
  returned: not in check mode
  type: int
log:
  description: The file with the output.
  returned: not in check mode
  type: str
"""
