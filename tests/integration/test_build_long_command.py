# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A command that takes long, on a host behind SSH: lines while it lasts, and the truth about its end."""
import json
import subprocess
import time

import fleet
import pytest

HOST = "web1"
SLOW = "for n in 1 2 3 4 5 6; do echo step $n; sleep 1; done"


@pytest.fixture
def log(lab):
    yield "/root/long/one.log"
    assert lab.sh(HOST, "ls -A /root/long 2>/dev/null | grep -v '^one.log\\(.lock\\)\\?$' || true") == ""
    lab.sh(HOST, "rm -rf /root/long")


def command(script, log, **given):
    return {"argv": ["sh", "-c", script], "log": log, **given}


def test_lines_while_it_lasts(lab, log):
    result = lab.module(HOST, "long_command", **command(SLOW, log, step="^step ", steps=6, every=2))
    assert not result["failed"] and result["changed"]
    assert result["rc"] == 0 and result["steps"] == 6 and result["seconds"] >= 6
    assert f"{HOST}: fastsocket.fleet.long_command: 0:0" in result["output"] and "of about 6, step" in result["output"]
    assert lab.sh(HOST, f"wc -l <{log}") == "6\n"


def test_it_fails(lab, log):
    result = lab.module(HOST, "long_command", **command("echo before; echo the reason >&2; exit 7", log))
    assert result["failed"] and result["rc"] == 7
    assert "failed with status 7" in result["msg"] and log in result["msg"]
    assert result["msg"].endswith("before\nthe reason")


def test_it_is_killed(lab, log):
    """What ran it is gone without a word: out of memory, for example."""
    result = lab.module(HOST, "long_command", **command("kill -9 $PPID; sleep 3", log))
    assert result["failed"] and result["rc"] == -1 and "was killed" in result["msg"], result


def test_no_place_for_the_log(lab):
    result = lab.module(HOST, "long_command", **command("true", "/proc/none/log"))
    assert result["failed"] and "/proc/none/log cannot be written" in result["msg"]


def test_check_mode(lab, log):
    result = lab.module(HOST, "long_command", "--check", **command("exit 1", log))
    assert result["changed"] and not result["failed"]
    lab.sh(HOST, "! ls /root/long")


def test_an_interrupted_play(lab, log, tmp_path):
    """Ansible is killed; the command goes on, and the next one with this log waits for it."""
    (tmp_path / "book.yml").write_text(json.dumps([{"hosts": HOST, "gather_facts": False, "tasks": [
        {"fastsocket.fleet.long_command": command(f"{SLOW}; echo over >>/root/said", log)}]}]))
    play = subprocess.Popen([*lab.enter, "ansible-playbook", "-i", lab.folder / "inventory.ini", tmp_path / "book.yml"],
                            env=lab.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    fleet.wait(lambda: "step 2" in lab.sh(HOST, f"cat {log} || true"), 30)
    play.kill()
    play.wait()
    begin = time.monotonic()
    result = lab.module(HOST, "long_command", **command("echo second >>/root/said", log))
    assert not result["failed"] and time.monotonic() - begin > 1
    assert lab.sh(HOST, "cat /root/said; rm /root/said").split() == ["over", "second"]
    # If nobody was left to read the first one's status, it lies there.
    lab.sh(HOST, f"rm -f {log}.????????????????????????????????")
