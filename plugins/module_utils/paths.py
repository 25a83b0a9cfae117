# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where things lie on a host, and the names both sides of the library agree on."""

ETC = "/etc/fastsocket"
VAR = "/var/lib/fastsocket"
RUN = "/run/fastsocket"
LIB = "/usr/lib/fastsocket"
LIBRARY = LIB + "/libfsocket.so"
FSCTL = "/usr/sbin/fsctl"
MADE_BY = "# Made by fastsocket.fleet; changes here are lost.\n"
