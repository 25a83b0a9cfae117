# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings of libfsocket an operator may set. A test compares the table with libfsocket/src/settings.def.

FSOCKET_NAME and FSOCKET_DIR are not in it: the roles set the one and rely on the default of the other."""

import collections

from .errors import FleetError

Setting = collections.namedtuple("Setting", "variable kind low high")

SETTINGS = collections.OrderedDict((
    ("listen", Setting("FSOCKET_LISTEN", "bool", 0, 1)),
    ("connect", Setting("FSOCKET_CONNECT", "bool", 0, 1)),
    ("pin", Setting("FSOCKET_PIN", "bool", 0, 1)),
    ("spill", Setting("FSOCKET_SPILL", "int", 0, 100)),
    ("log", Setting("FSOCKET_LOG", "int", 0, 2)),
))


def check(values):
    """Return the settings as {name: int}. FleetError names what is unknown or out of range."""
    found = collections.OrderedDict()
    for name, value in sorted((values or {}).items()):
        if name not in SETTINGS:
            raise FleetError("setting %s is unknown; settings are %s" % (name, ", ".join(SETTINGS)))
        row = SETTINGS[name]
        try:
            number = {"true": 1, "yes": 1, "on": 1, "false": 0, "no": 0, "off": 0}.get(str(value).lower())
            number = int(str(value)) if number is None or row.kind == "int" else number
        except ValueError:
            number = None
        if number is None or not row.low <= number <= row.high:
            raise FleetError("setting %s=%s: needs %s" % (
                name, value, "true or false" if row.kind == "bool" else "%d to %d" % (row.low, row.high)))
        found[name] = number
    return found


def environment(values):
    """Return (variable, text) pairs for checked settings."""
    return [(SETTINGS[name].variable, str(value)) for name, value in values.items()]
