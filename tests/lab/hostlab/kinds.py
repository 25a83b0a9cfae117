# SPDX-License-Identifier: GPL-3.0-or-later
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
"""Kinds of host: a class with __init__(spec, host, root), start(), ready() and stop(), as container.Container is."""
from hostlab.container import Container

KINDS = {"container": Container}
