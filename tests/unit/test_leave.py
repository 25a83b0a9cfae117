# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked of running processes before one goes on without the library."""

import os
import subprocess
import time

import native

from ansible_collections.fastsocket.fleet.plugins.module_utils import leave, sockets


def test_the_file_a_command_line_names():
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            native.wait_for(lambda: leave.names(process.pid, "60"))
            assert not leave.names(process.pid, "6") and not leave.names(process.pid, "sleep 60")
        finally:
            process.kill()
    assert not leave.names(process.pid, "60")


def test_fresh_processes(monkeypatch, tmp_path):
    """Those that came since and run without the library."""
    wrapped = native.server(tmp_path), native.server(tmp_path)
    with wrapped[0] as (old, _), wrapped[1] as (young, _), subprocess.Popen(["sleep", "60"]) as new:
        try:
            pids = [old.pid, young.pid, new.pid, os.getpid()]
            monkeypatch.setattr(sockets, "service_pids", {"web.service": pids}.__getitem__)
            assert leave._fresh("web.service", {old.pid, os.getpid()}) == [new.pid]
        finally:
            new.kill()


def test_waiting():
    assert leave._wait(0, lambda: True)
    begun, turns = time.monotonic(), iter((False, False, True))
    assert leave._wait(5, lambda: next(turns)) and time.monotonic() - begun < 2
    assert not leave._wait(0.1, lambda: False)
