# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings an operator may set are those of the library, and the version is one."""

import re

import native
import pytest
import yaml

from ansible_collections.fastsocket.fleet.plugins.module_utils import settings
from ansible_collections.fastsocket.fleet.plugins.module_utils.errors import FleetError

DEFINED = re.findall(
    r'^SETTING\((\w+), "(\w+)", (\w+), "([^"]*)", (\d+), (\d+), ".*"\)$',
    (native.ROOT / "libfsocket/src/settings.def").read_text(), re.MULTILINE)


def test_table_is_that_of_the_library():
    expected = {name: settings.Setting(variable, kind.lower(), int(low), int(high))
                for name, variable, kind, _, low, high in DEFINED if name not in ("name", "dir")}
    assert {row[0] for row in DEFINED} >= {"name", "dir", "listen"}
    assert dict(settings.SETTINGS) == expected


def test_a_role_documents_every_setting():
    text = (native.ROOT / "roles/preload/README.md").read_text()
    assert [name for name in settings.SETTINGS if "`%s`" % name not in text] == []


@pytest.mark.parametrize("given, found", [
    ({}, {}), (None, {}),
    ({"pin": True, "listen": "no", "connect": "On", "spill": 0, "log": "2"},
     {"connect": 1, "listen": 0, "log": 2, "pin": 1, "spill": 0}),
    ({"pin": 1, "listen": 0, "spill": "100"}, {"listen": 0, "pin": 1, "spill": 100}),
])
def test_check(given, found):
    assert settings.check(given) == found


@pytest.mark.parametrize("name, value, needs", [
    ("pin", 2, "true or false"), ("pin", "maybe", "true or false"), ("pin", None, "true or false"),
    ("spill", 101, "0 to 100"), ("spill", -1, "0 to 100"), ("spill", "half", "0 to 100"), ("spill", 0.5, "0 to 100"),
    ("log", 3, "0 to 2"), ("log", True, "0 to 2"), ("log", [1], "0 to 2"),
])
def test_a_bad_value_is_named_with_its_range(name, value, needs):
    with pytest.raises(FleetError) as caught:
        settings.check({"listen": 1, name: value})
    assert str(caught.value) == "setting %s=%s: needs %s" % (name, value, needs)


def test_an_unknown_setting_is_named_with_the_known_ones():
    with pytest.raises(FleetError, match="setting spin is unknown; settings are listen, connect, pin, spill, log"):
        settings.check({"spin": 1})


def test_the_library_takes_what_passes(tmp_path):
    """No value that passes here is warned about there; one that does not, is."""
    for bound in ("low", "high"):
        given = settings.check({name: getattr(row, bound) for name, row in settings.SETTINGS.items()})
        assert native.true(tmp_path, **dict(settings.environment(given))) == ""
    assert "FSOCKET_SPILL=101: needs a whole number from 0 to 100" in native.true(tmp_path, FSOCKET_SPILL="101")


def test_one_version():
    """Of the library, which need not be new with each collection."""
    text = {name: (native.ROOT / name).read_text() for name in (
        "roles/libfsocket/vars/main.yml", "libfsocket/src/shared.c", "libfsocket/Makefile")}
    assert len({
        yaml.safe_load(text["roles/libfsocket/vars/main.yml"])["__libfsocket_version"],
        re.search(r'#define VERSION "(.*)"', text["libfsocket/src/shared.c"])[1],
        re.search(r"^VERSION := (.*)$", text["libfsocket/Makefile"], re.MULTILINE)[1],
    }) == 1


def test_one_version_of_the_collection():
    """No module is of a later one, what is new in it is written down, and the README names its tarball."""
    version = yaml.safe_load((native.ROOT / "galaxy.yml").read_text())["version"]
    added = [re.search(r"^version_added: (.*)$", path.read_text(), re.MULTILINE)[1]
             for path in (native.ROOT / "plugins/modules").glob("*.py")]
    assert max(added) == version
    assert max(path.stem for path in (native.ROOT / "changelogs/fragments").glob("*.yml")) == version
    assert f"fastsocket-fleet-{version}.tar.gz" in (native.ROOT / "README.md").read_text()
