# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every module of the collection says about itself."""


class ModuleDocFragment:
    """Documentation fragment fastsocket.fleet.attributes."""

    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: With check mode on, the module says what would change and touches nothing.
  diff_mode:
    description: With diff mode on, the module returns every value, file and link before and after.
  idempotent:
    description: A second run with the same options changes nothing, unless something else changed the host in between.
"""
