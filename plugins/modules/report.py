#!/usr/bin/python
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)

DOCUMENTATION = r"""
module: report
short_description: Print lines for a person
version_added: 0.1.0
description:
  - Prints a title and lines as they are. Runs on the controller; this is an action plugin.
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
  title:
    description: First line.
    type: str
    required: true
  lines:
    description: The lines below it.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Show the table of a host
  fastsocket.fleet.report:
    title: "{{ inventory_hostname }}"
    lines: "{{ read.table }}"
"""

RETURN = r"""#"""
