# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Our kernel is tried on real machines and fails in every way we know: each comes back to stock by itself, and the run
says what became of it. Then it does not fail.

Two rounds on four machines, as two cores cannot boot more at once."""
import re

import pytest
from conftest import NEXT

LKDTM = ["lkdtm.cpoint_name=DIRECT"]
# What makes the first boot of a machine fail, and what its console must then show.
FIRST = {
    "v1": (LKDTM + ["lkdtm.cpoint_type=PANIC"], "Kernel panic - not syncing: dumptest"),
    "v2": (LKDTM + ["lkdtm.cpoint_type=HARDLOCKUP"], "Kernel panic - not syncing: Hard LOCKUP"),
    "v3": (["root=/dev/nonexistent"], "Kernel panic - not syncing: VFS: Unable to mount root fs"),
    "v4": (["systemd.mask=systemd-networkd.service"], "nobody committed the trial boot"),
}
CANARY, UNREACHED = "v1", "v4"
# The kernel is brought there without consent first: to the one whose trial is over soonest.
UNASKED = "v3"
SECOND = {"good": "v1", "early": "v2", "soft": "v3", "alone": "v4"}
SOFT = (LKDTM + ["lkdtm.cpoint_type=SOFTLOCKUP"], "Kernel panic - not syncing: softlockup")
# By what the trial was given: the lab's machines have 30 s of their own.
REBOOTS = "Rebooting in 10 seconds"
# What the run says of a trial, boot/trial.py: by what the host has noted of it.
NEVER_CAME = "never came to a writable root file system: it panicked or hung early, found no root,"
CUT_SHORT = "booted, and the host was rebooted, crashed or lost power before the commit"
NOT_COMMITTED = "booted, and nobody committed it within [0-9]+ s: its deadman rebooted"
# Seconds that a shutdown may take until it is forced, as boot/deadman.py has them, and a boot on a busy machine.
SHUTDOWN_S, BOOT_S = 80, 400
ALONE_S = 240
BOOT_ID = "cat /proc/sys/kernel/random/boot_id"
ON_TRIAL = "grep -c fastsocket.trial= /proc/cmdline; uname -r"


def came_back(machines, kernel, host, before):
    """The host is on stock by itself: another boot, no trial, nothing armed, stock the default, ours still there."""
    assert machines.inside(host, "uname -r") == machines.stock
    assert machines.inside(host, BOOT_ID) != before
    assert "fastsocket.trial=" not in machines.inside(host, "cat /proc/cmdline")
    assert "next_entry=fastsocket" not in machines.inside(host, "grub-editenv list")
    told = machines.trial(host)
    assert told["default"]["kernel"] == machines.stock and told["problems"] == []
    assert kernel.version in [entry["kernel"] for entry in told["entries"]]


def fell_back(machines, host, failures, reason):
    """The run names the outcome and the reason, once for the host."""
    said = [text for name, text in failures if name == host]
    assert len(said) == 1, said
    assert re.match(f"{host} fell back to {re.escape(machines.stock)} after [0-9]+ s: .*({reason})", said[0]), said


def shows(machines, host, text):
    """The console shows TEXT, and that a panic ended as the trial would have it."""
    _before, found, after = machines.console(host).partition(text)
    assert found and ("panic" not in text or REBOOTS in after), after


@pytest.fixture(scope="module", name="first")
def fixture_first(machines, play):
    """The first round: three by the role, and the canary of a rollout."""
    before = {host: machines.inside(host, BOOT_ID) for host in FIRST}
    untouched = machines.snapshot(NEXT)
    asked = play("asked", {UNASKED: {}}, kernel_reboot_ok=False)
    rollout = play("rollout", {CANARY: {"kernel_arguments": FIRST[CANARY][0]}, NEXT: {}},
                   book="fastsocket.fleet.rollout", rollout_canary=CANARY, preload_services=["nginx"])
    given = {host: {"kernel_arguments": FIRST[host][0], "kernel_trial_seconds": 60} for host in FIRST}
    role = play("first", {host: given[host] for host in FIRST if host not in (CANARY, UNASKED)})
    asked = asked.end()
    waits = machines.trial(UNASKED), machines.inside(UNASKED, f"{BOOT_ID}; uname -r; grub-editenv list").split("\n")
    unasked = play("unasked", {UNASKED: given[UNASKED]})
    runs = {"rollout": rollout.end(), "role": role.end(), "asked": asked, "unasked": unasked.end()}
    return {"before": before, "untouched": untouched, "waits": waits, **runs}


def test_without_consent_nothing_is_booted(machines, kernel, first):
    """The package is there, the host as it was, and the run says what waits."""
    run, (told, (boot_id, running, *environment)) = first["asked"], first["waits"]
    assert run.status == 0 and run.recap[UNASKED]["changed"] > 0, run.output
    assert f"{UNASKED}: a reboot is required" in run.output, run.output
    assert f"runs {machines.stock}; {kernel.version} waits for a reboot" in run.output, run.output
    assert (boot_id, running) == (first["before"][UNASKED], machines.stock)
    assert told["default"]["kernel"] == machines.stock and told["trial"] is None, told
    assert kernel.version in [entry["kernel"] for entry in told["entries"]]
    assert not [line for line in environment if line.startswith("next_entry=") and line != "next_entry="], environment


@pytest.mark.parametrize("host", FIRST)
def test_a_kernel_that_fails_comes_back_by_itself(machines, kernel, first, host):
    run = first[{CANARY: "rollout", UNASKED: "unasked"}.get(host, "role")]
    assert run.status != 0
    # On a machine as busy as this one, the deadman may come before the disk does.
    fell_back(machines, host, run.failures, f"{NOT_COMMITTED}|{NEVER_CAME}" if host == UNREACHED else NEVER_CAME)
    came_back(machines, kernel, host, first["before"][host])
    shows(machines, host, FIRST[host][1])


def test_a_rollout_stops_there(machines, first):
    assert [host for host, _text in first["rollout"].failures] == [CANARY], first["rollout"].output
    assert NEXT not in first["rollout"].recap
    assert machines.snapshot(NEXT) == first["untouched"]
    assert machines.inside(CANARY, "systemctl is-active nginx; ls /usr/lib/fastsocket/libfsocket.so 2>&1 || true") == (
        "active\nls: cannot access '/usr/lib/fastsocket/libfsocket.so': No such file or directory")


@pytest.fixture(scope="module", name="second")
def fixture_second(machines, kernel, play, first):
    """The second round: a machine that is reset before the commit, a controller that dies, one more lockup, and what is
    to be: the kernel stays."""
    before = {host: machines.inside(host, BOOT_ID) for host in SECOND.values()}
    # The one that is to be reset is watched so long that the reset comes first, whatever else the machine does.
    role = play("second", {
        SECOND["good"]: {"kernel_features": ["local_listen"]},
        SECOND["early"]: {"kernel_stable_seconds": 90},
        SECOND["soft"]: {"kernel_arguments": SOFT[0]}})
    # So long that the emulated kernel gets to its disk in it, and leaves its own trace, on a machine that is busy.
    alone = play("alone", {SECOND["alone"]: {}}, kernel_trial_seconds=ALONE_S)
    alone.shows("kernel : Look at the host]")
    alone.kill()
    trial = machines.until(SECOND["early"], ON_TRIAL, lambda said: said == f"1\n{kernel.version}")
    machines.reset(SECOND["early"])
    return {"before": before, "trial": trial, "role": role.end(), "alone": alone.output}


def test_a_reset_before_the_commit_ends_the_trial(machines, kernel, second):
    host = SECOND["early"]
    fell_back(machines, host, second["role"].failures, CUT_SHORT)
    came_back(machines, kernel, host, second["before"][host])


def test_a_soft_lockup_comes_back_by_itself(machines, kernel, second):
    host = SECOND["soft"]
    fell_back(machines, host, second["role"].failures, NEVER_CAME)
    came_back(machines, kernel, host, second["before"][host])
    shows(machines, host, SOFT[1])


def test_a_controller_that_dies_is_not_needed(machines, kernel, second):
    host = SECOND["alone"]
    assert "PLAY RECAP" not in second["alone"]
    machines.until(host, ON_TRIAL + "; systemctl is-system-running", lambda said: said.split() == [
        "0", machines.stock, "running"])
    came_back(machines, kernel, host, second["before"][host])
    trial = machines.trial(host)["trial"]
    assert trial["state"] == "fell_back" and [boot["trial"] for boot in trial["boots"]] == [True, False], trial
    assert re.search(NOT_COMMITTED, trial["reason"]), trial
    tried, back = (boot["time"] for boot in trial["boots"])
    assert back - tried <= ALONE_S + SHUTDOWN_S + BOOT_S, trial


def test_a_good_kernel_stays(machines, kernel, second):
    host = SECOND["good"]
    run = second["role"]
    assert host not in [name for name, _text in run.failures] and run.recap[host]["failed"] == 0, run.output
    assert machines.inside(host, "uname -r") == kernel.version
    told = machines.trial(host)
    assert told["default"]["kernel"] == kernel.version
    # Stock is still there, and a plain reset goes to what was committed, with its features.
    assert machines.stock in [entry["kernel"] for entry in told["entries"]]
    assert machines.inside(host, f"test -s /boot/vmlinuz-{machines.stock} && test -d /lib/modules/{machines.stock}"
                                 f" && dpkg-query -W -f '${{Status}}' linux-image-{machines.stock}") == (
        "install ok installed")
    before = machines.inside(host, BOOT_ID)
    machines.reset(host)
    machines.until(host, BOOT_ID, lambda said: said not in ("", before))
    assert machines.inside(host, "uname -r; sysctl -n net.fastsocket.local_listen; systemctl is-system-running --wait"
                           ).split() == [kernel.version, "1", "running"]
    assert "fastsocket.trial=" not in machines.inside(host, "cat /proc/cmdline")
