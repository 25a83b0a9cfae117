# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one exception that a person gets to read."""


class FleetError(Exception):
    """Say what is wrong, name the value, and say what would be right. Keyword facts go into the module's result."""

    def __init__(self, message, **facts):
        super().__init__(message)
        self.facts = facts
