# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""rollout, rollback and status by name from the installed tarball: order, gates, unreachable hosts, check mode.
The tests follow one another on two web servers."""
import re
import time

import pytest
from fleet import differences

WEB1, WEB2, GHOST = "web1", "web2", "ghost"
TARGETS = ("web1=10.99.0.41:80", "web2=10.99.0.42:80")
# How long Ansible tries an address that nobody has.
FAST = ("-e", "ansible_ssh_timeout=2", "-e", "ansible_ssh_retries=0")


@pytest.fixture(scope="module")
def bare(lab):
    """Both hosts as they were before all, without times and what a reload changes."""
    return {host: facts(lab, host) for host in (WEB1, WEB2)}


def facts(lab, host):
    return {key: fact for key, fact in lab.snapshot(host, times=False).items() if not key[1].endswith(".MainPID")}


def plays(run):
    """The hosts of each play, in the order in which they were reached."""
    return re.findall(r"TASK \[Reach the host\].*?\n(.*?)\n\n", run.output, re.DOTALL)


def test_group_is_missing(rollout):
    run = rollout([WEB1], "-e", "rollout_group=web_servers")
    run.one_failure("localhost", "no hosts in group web_servers", "rollout_group")
    assert list(run.recap) == ["localhost"]


def test_canary_is_not_in_the_group(rollout):
    run = rollout([WEB1, WEB2], "-e", "rollout_canary=lb")
    run.one_failure("localhost", "rollout_canary lb is not in group load_balancers: web1, web2")
    assert list(run.recap) == ["localhost"]


def test_canary_cannot_be_reached(rollout, untouched):
    with untouched(WEB1, WEB2):
        run = rollout([GHOST, WEB1, WEB2], *FAST)
    assert run.status != 0 and WEB1 not in run.recap and WEB2 not in run.recap, run.output
    assert "ghost cannot be reached; nothing was changed" in run.failures[-1][1], run.output


def test_no_rights(rollout, untouched):
    with untouched(WEB1, WEB2):
        run = rollout([WEB1, WEB2], "-e", "ansible_user=nosudo")
    run.one_failure(WEB1, "sudo password")
    assert WEB2 not in run.recap


def test_check_mode_on_bare_hosts(rollout, untouched, bare):
    with untouched(WEB1, WEB2):
        run = rollout([WEB1, WEB2], "--check", "--diff")
    assert run.status == 0 and run.failures == [], run.output
    assert all(count >= 4 for count in run.changed().values()) and set(run.changed()) == {WEB1, WEB2}, run.output


def test_canary_that_proves_nothing_stops_the_rollout(lab, rollout, untouched):
    """No traffic: nothing is proved."""
    with untouched(WEB2):
        run = rollout([WEB2, WEB1], "-e", f"rollout_canary={WEB1}")
    run.one_failure(WEB1, "nginx", "0 accepts (at least 100)")
    assert WEB2 not in run.recap, run.output
    assert lab.sh(WEB1, "cat /run/fastsocket/nginx.switch") == "1"


def test_wave_that_cannot_be_reached_stops_the_rollout(lab, rollout, untouched):
    with untouched(WEB2), lab.load(TARGETS[0]) as load:
        run = rollout([WEB1, GHOST, WEB2], *FAST, rollout_waves=[1, 1])
    assert run.status != 0 and WEB2 not in run.recap, run.output
    assert "ghost cannot be reached; nothing was changed" in run.failures[-1][1], run.output
    assert run.recap[WEB1]["failed"] == 0 and load["failed"] == 0


def test_rollout_one_wave_after_the_other(lab, rollout):
    started = time.time()
    with lab.load(*TARGETS) as load:
        run = rollout([WEB1, WEB2], rollout_bake=1)
    assert run.status == 0 and run.failures == [], run.output
    assert plays(run) == ["ok: [web1]", "ok: [web2]"]
    assert run.changed()[WEB2] >= 4
    assert load["failed"] == 0 and load["slow_connect"] == 0, load
    assert time.time() - started > 4  # two bakes, two windows
    for host in (WEB1, WEB2):
        assert f"{host}: nginx: " in run.output  # the verdict that a person reads


def test_second_rollout_and_check_mode_change_nothing(rollout, untouched):
    with untouched(WEB1, WEB2):
        check = rollout([WEB1, WEB2], "--check", "--diff")
        again = rollout([WEB1], "-e", "verify_min_accepts=0")
    assert check.status == 0 and check.changed() == {WEB1: 0, WEB2: 0}, check.output
    assert again.status == 0 and again.changed() == {WEB1: 0}, again.output


def test_status_is_a_table(lab, rollout, untouched):
    with untouched(WEB1, WEB2):
        run = rollout([WEB1, WEB2], book="status")
    assert run.status == 0 and run.changed() == {WEB1: 0, WEB2: 0}, run.output
    row = r" +\d+ +\d+ +\d+ +\d+ +[\d.]+ % .* \d+\((on|spilling)\)\n"
    table = r"  nginx: switch on, accepts \d+\.\d % local, .*\n +cpu  accepts  seen local .*\n +-+ .*\n"
    for host in (WEB1, WEB2):
        assert re.search(rf"^{host}\n{table}({row})+", run.output, re.MULTILINE), run.output
        assert "problem" not in lab.sh(host, "fsctl doctor")


def test_rollback_only_off(lab, rollout):
    with lab.load(*TARGETS) as load:
        run = rollout([WEB1, WEB2], book="rollback", rollback_only_off=True)
    assert run.status == 0 and run.changed() == {WEB1: 1, WEB2: 1}, run.output
    assert load["failed"] == 0, load
    for host in (WEB1, WEB2):
        said = lab.sh(host, "cat /run/fastsocket/nginx.switch; systemctl show nginx -p Environment")
        assert said.startswith("0Environment=LD_PRELOAD="), said


def test_rollback_of_the_others_when_one_cannot_be_reached(lab, rollout, bare):
    with lab.load(*TARGETS) as load:
        run = rollout([WEB1, GHOST, WEB2], *FAST, book="rollback")
    assert run.status != 0 and run.recap[GHOST]["unreachable"] == 1, run.output
    assert load["failed"] == 0, load
    for host in (WEB1, WEB2):
        assert run.recap[host]["failed"] == 0 and run.recap[host]["changed"] >= 4, run.output
        before, after = dict(bare[host]), facts(lab, host)
        # web1 and web2 were restarted by the rollout; the rollback restarts nothing.
        before.pop(("service", "nginx.ActiveEnterTimestampMonotonic"))
        after.pop(("service", "nginx.ActiveEnterTimestampMonotonic"))
        assert differences(before, after) == {}, host


def test_second_rollback_changes_nothing(rollout, untouched):
    with untouched(WEB1, WEB2):
        run = rollout([WEB1, WEB2], book="rollback")
    assert run.status == 0 and run.changed() == {WEB1: 0, WEB2: 0}, run.output
