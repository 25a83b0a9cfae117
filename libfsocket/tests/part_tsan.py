# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""The library's sources in a threaded program under ThreadSanitizer."""
import os
import re

import lab

SECONDS = 6


def threads(address):
    lab.DIR.mkdir(exist_ok=True)
    switch = lab.DIR / "threads.switch"
    switch.write_text("1")
    env = {**os.environ, "FSOCKET_DIR": str(lab.DIR), "FSOCKET_NAME": "threads", "TSAN_OPTIONS": "exitcode=66"}
    # TSan of GCC 12 knows no address space with 32 bits of randomness.
    command = ["setarch", "-R", lab.build / "tests/threads-tsan", str(SECONDS), switch, address]
    out = lab.run(*command, env=env, check=False)
    races = re.findall(r"^SUMMARY: .*", out.stdout, re.M)
    assert out.returncode == 0 and not races, f"status {out.returncode}\n" + "\n".join(
        f"{races.count(r)} x {r}" for r in sorted(set(races))) + "\n" + out.stdout[:5000]
    return out.stdout


def test_threads():
    """pinned threads with an epoll each, the switch turned, the listener closed and opened under them: no race"""
    print(f"# {threads(lab.AWAY).splitlines()[-1]}")
    total = lab.Stats("threads").total()
    assert total["accepts"] > 100 and total["accepts_local"] > 10 and total["connects_steered"] > 100, total
