# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make `ansible_collections.fastsocket.fleet` importable from the checkout, which lies in no such folder."""

import os
import sys
import types

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# hypothesis keeps its notes where the other tools keep theirs
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", os.path.join(ROOT, "build", "hypothesis"))

for name, path in (
    ("ansible_collections", None),
    ("ansible_collections.fastsocket", None),
    ("ansible_collections.fastsocket.fleet", ROOT),
    ("ansible_collections.fastsocket.fleet.plugins", os.path.join(ROOT, "plugins")),
):
    package = types.ModuleType(name)
    package.__path__ = [path] if path else []
    sys.modules[name] = package
