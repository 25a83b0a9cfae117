# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The switch: one byte, written in place."""

import os

import native
import pytest

from ansible_collections.fastsocket.fleet.plugins.module_utils import switch


@pytest.fixture
def folder(tmp_path):
    return str(tmp_path / "run")


def raw(folder):
    with open(switch.path_of("web", folder), "rb") as handle:
        return handle.read()


def test_bytes_are_those_of_the_header():
    constants = native.abi()["constants"]
    assert {name: raw.decode() for name, raw in switch.BYTES.items()} == {
        value: chr(constants["FSOCKET_SWITCH_" + value.upper()]) for value in (switch.ON, switch.OFF, switch.LEAVE)}


def test_write_says_whether_it_changed(folder):
    assert switch.read("web", folder) is None
    for value in (switch.ON, switch.OFF, switch.LEAVE):
        assert switch.write("web", value, folder) is True
        assert switch.write("web", value, folder) is False
        assert switch.read("web", folder) == value and raw(folder) == switch.BYTES[value]
    assert os.stat(switch.path_of("web", folder)).st_mode & 0o7777 == 0o644


def test_the_file_that_processes_hold_stays(folder):
    switch.write("web", switch.ON, folder)
    with open(switch.path_of("web", folder), "rb") as held:
        switch.write("web", switch.OFF, folder)
        assert held.read() == b"0"


def test_what_a_person_wrote(folder):
    """`echo 0 >` leaves a newline, any other byte means off, as in the library; the next write cleans up."""
    switch.write("web", switch.ON, folder)
    for text, value in (("0\n", switch.OFF), ("1\n", switch.ON), ("yes\n", switch.OFF), ("", switch.OFF)):
        with open(switch.path_of("web", folder), "w") as handle:
            handle.write(text)
        assert switch.read("web", folder) == value
    switch.write("web", switch.ON, folder)
    assert raw(folder) == b"1"


def test_a_link_is_not_followed(folder, tmp_path):
    target = tmp_path / "target"
    target.write_text("theirs")
    os.makedirs(folder)
    os.symlink(target, switch.path_of("web", folder))
    with pytest.raises(OSError):
        switch.write("web", switch.ON, folder)
    assert target.read_text() == "theirs"


def test_the_library_makes_it_on(tmp_path):
    native.true(tmp_path)
    assert switch.read("web", str(tmp_path)) == switch.ON
