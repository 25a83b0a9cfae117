# SPDX-License-Identifier: GPL-3.0-or-later
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
"""Kinds of host: each a class like anyhost.AnyHost."""
from hostlab.container import Container
from hostlab.vm import VirtualMachine

KINDS = {"container": Container, "vm": VirtualMachine}
