# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files are written whole or not at all."""

import fcntl
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ansible_collections.fastsocket.fleet.plugins.module_utils import hostfile
from ansible_collections.fastsocket.fleet.plugins.module_utils.errors import FleetError


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "deep" / "file")


def mode(path):
    return os.stat(path).st_mode & 0o7777


def test_write_makes_folders_and_says_whether_it_changed(path):
    assert hostfile.write(path, "ä\n") is True
    assert hostfile.read(path) == "ä\n"
    assert hostfile.write(path, "ä\n") is False
    assert hostfile.write(path, "b\n") is True
    assert mode(path) == 0o644
    assert os.listdir(os.path.dirname(path)) == ["file"]


def test_mode_is_exact_and_mended(path):
    old = os.umask(0o077)
    try:
        hostfile.write(path, "a", 0o644)
        assert mode(path) == 0o644
        assert hostfile.write(path, "a", 0o600) is True
        assert mode(path) == 0o600
    finally:
        os.umask(old)


def test_a_link_is_replaced_and_its_target_left_alone(path, tmp_path):
    target = tmp_path / "target"
    target.write_text("theirs")
    os.makedirs(os.path.dirname(path))
    os.symlink(str(target), path)
    assert hostfile.write(path, "theirs") is True
    assert not os.path.islink(path)
    hostfile.write(path, "ours")
    assert target.read_text() == "theirs"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(path):
    hostfile.write(path, "old")
    with pytest.raises(UnicodeEncodeError):
        hostfile.write(path, "\ud800")
    assert hostfile.read(path) == "old"
    assert os.listdir(os.path.dirname(path)) == ["file"]


def test_a_reader_never_sees_half_a_file(path):
    texts = ("a" * 200000, "b" * 200000)
    hostfile.write(path, texts[0])
    seen, stop = set(), threading.Event()

    def look():
        while not stop.is_set():
            seen.add(hostfile.read(path))

    reader = threading.Thread(target=look)
    reader.start()
    for turn in range(60):
        hostfile.write(path, texts[turn % 2])
    stop.set()
    reader.join()
    assert seen <= set(texts)


def test_remove(path):
    assert hostfile.remove(path) is False
    hostfile.write(path, "a")
    assert hostfile.remove(path) is True
    assert hostfile.read(path) is None


def test_json(path):
    assert hostfile.read_json(path, {"none": 1}) == {"none": 1}
    assert hostfile.write_json(path, {"b": [1], "a": None}) is True
    assert hostfile.write_json(path, {"a": None, "b": [1]}) is False
    assert hostfile.read_json(path) == {"a": None, "b": [1]}


def test_damaged_json_is_named(path):
    hostfile.write(path, "{")
    with pytest.raises(FleetError, match="file is not JSON"):
        hostfile.read_json(path)


def test_the_lock_is_exclusive_and_leaves_no_file(tmp_path):
    folder = str(tmp_path / "state")
    other = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    call = [sys.executable, "-c", other, folder]
    with hostfile.locked(folder):
        assert subprocess.call(call, stderr=subprocess.DEVNULL) != 0
    assert subprocess.call(call) == 0
    assert os.listdir(folder) == []


def test_a_lock_leaves_no_empty_folder(tmp_path):
    folder = tmp_path / "fastsocket"
    with hostfile.locked(str(folder)):
        assert folder.is_dir()
    assert not folder.exists()
    with hostfile.locked(str(folder)):
        (folder / "kept").touch()
    assert folder.is_dir()


def test_who_waited_for_a_lock_holds_the_folder_that_is_there(tmp_path):
    """The one before removes the folder: its lock is nobody's any more."""
    folder, held = tmp_path / "fastsocket", []

    def second():
        with hostfile.locked(str(folder)):
            handle = os.open(folder, os.O_RDONLY)
            with pytest.raises(BlockingIOError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.close(handle)
            held.append(1)

    with hostfile.locked(str(folder)):
        inode = folder.stat().st_ino
        waiting = threading.Thread(target=second)
        waiting.start()
        deadline = time.monotonic() + 10
        while f":{inode} " not in Path("/proc/locks").read_text().split("->", 1)[-1] and time.monotonic() < deadline:
            time.sleep(0.01)
    waiting.join(10)
    assert held == [1] and not folder.exists()
