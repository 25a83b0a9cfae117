# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a failed trial boot left behind, on the tree of a host."""

import os
from pathlib import Path

import boot_tree
import pytest
from boot_tree import BOOT_IDS

from ansible_collections.fastsocket.fleet.plugins.module_utils.boot import deadman, evidence

TRIED = BOOT_IDS[1]


@pytest.fixture
def root(tmp_path):
    return boot_tree.debian(tmp_path)


def pstore(root, name, text, time=None):
    path = boot_tree.write(root, "/var/lib/systemd/pstore/" + name, text)
    if time is not None:
        os.utime(path, (time, time))


def test_the_last_lines_of_the_last_record(root):
    old = boot_tree.write(root, "/sys/fs/pstore/dmesg-efi-1", "older\n")
    os.utime(old, (999, 999))
    assert "no trace" in evidence.collect(1000, [], root)[0]
    pstore(root, "17/dmesg.txt", "\n".join(f"line {n}" for n in range(50)) + "\n\n", 1000)
    assert evidence.collect(1000, [], root) == [f"line {n}" for n in range(50)][-evidence.LINES:]
    pstore(root, "18/001/dmesg.txt", "of a firmware\n", 1001)
    assert evidence.collect(1000, [], root) == ["of a firmware"]


def test_a_panic_begins_with_why(root):
    said = ["BUG: kernel NULL pointer dereference, address: 0", "Oops: 0002 [#1]",
            "Kernel panic - not syncing: Fatal exception", "its trace"]
    pstore(root, "17/dmesg.txt", "\n".join(["before", said[0], "#PF: more", said[1], *30 * ["a trace"], *said[2:]]))
    assert evidence.collect(0, [], root) == said


def test_a_long_trace_ends_after_a_while(root):
    said = ["watchdog: Watchdog detected hard LOCKUP on cpu 1", "Kernel panic - not syncing: Hard LOCKUP",
            *(f"trace {n}" for n in range(60))]
    pstore(root, "17/dmesg.txt", "\n".join(said))
    assert evidence.collect(0, [], root) == said[:evidence.LINES]


def test_a_journal_ends_where_the_deadman_fired(root, monkeypatch):
    """What follows is an orderly reboot, hundreds of lines."""
    fired = f"v4 kernel: {deadman.SAYS} of 6.12 within 60 s; back to the default"
    said = [f"line {n}" for n in range(60)]
    monkeypatch.setattr(evidence.systemd, "attempt", lambda *words: (0, "\n".join([*said, fired, *said])))
    assert evidence.collect(0, [TRIED], root) == [*said[-evidence.LINES + 1:], fired]
    monkeypatch.setattr(evidence.systemd, "attempt", lambda *words: (0, "\n".join(said)))
    assert evidence.collect(0, [TRIED], root) == said[-evidence.LINES:]


def test_nothing_says_why(root):
    def why(*boot_ids):
        return evidence.collect(0, boot_ids, root)[0]

    assert "this machine has no pstore, and it ended before its system started" in why()
    boot_tree.write(root, "/sys/module/pstore/parameters/backend", "efi_pstore\n")
    assert "no record in pstore, and it ended before" in why()
    assert "journals are not kept here (/var/log/journal is missing)" in why(TRIED)
    (Path(root) / "var/log/journal").mkdir(parents=True)
    assert "its journal did not get to the disk" in why(TRIED)
