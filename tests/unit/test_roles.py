# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each role says the same in its defaults, its argument specs and its README."""
from pathlib import Path

import pytest
import yaml

ROLES = sorted(path for path in (Path(__file__).parents[2] / "roles").iterdir() if path.is_dir())


@pytest.fixture(params=ROLES, ids=lambda path: path.name)
def role(request):
    return request.param


def load(path):
    return yaml.safe_load(path.read_text()) or {}


def options(role):
    return load(role / "meta/argument_specs.yml")["argument_specs"]["main"].get("options", {})


def test_defaults_and_specs_agree(role):
    """A required option has no default; every other one has the default that its spec names."""
    defaults = load(role / "defaults/main.yml")
    spec = options(role)
    assert set(defaults) == {name for name, option in spec.items() if not option.get("required")}
    different = {name for name, value in defaults.items() if "default" in spec[name] and spec[name]["default"] != value}
    assert different == set()


def test_options_carry_the_role_name_and_a_description(role):
    spec = options(role)
    assert [name for name in spec if not name.startswith(f"{role.name}_")] == []
    assert [name for name, option in spec.items() if not option.get("description")] == []


def test_readme_names_every_option(role):
    text = (role / "README.md").read_text()
    assert [name for name in options(role) if name not in text] == []
