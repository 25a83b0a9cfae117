# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Print lines for a person: not as JSON, not folded, the same with every output callback."""

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display


class ActionModule(ActionBase):
    """The action behind M(fastsocket.fleet.report); runs on the controller only."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp=None, task_vars=None):
        """Print O(title) and O(lines)."""
        result = super().run(tmp, task_vars)
        dummy, given = self.validate_argument_spec(
            argument_spec={"title": {"type": "str", "required": True},
                           "lines": {"type": "list", "elements": "str", "required": True}})
        # One call: hosts report at the same time.
        Display().display("\n".join([given["title"]] + ["  " + line for line in given["lines"]]))
        return dict(result, changed=False)
