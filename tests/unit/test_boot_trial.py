# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A trial from arming to its end, on the tree of a Debian host whose boots the tests play through."""

import fcntl
import itertools
import json
import os
import re
import shutil
import subprocess
import threading
from pathlib import Path

import boot_tree
import pytest
from boot_tree import BOOT_IDS, NEW, STOCK

from ansible_collections.fastsocket.fleet.plugins.module_utils import fsctl, hostfile
from ansible_collections.fastsocket.fleet.plugins.module_utils.boot import (
    deadman,
    grub2,
    kernels,
    trial,
)
from ansible_collections.fastsocket.fleet.plugins.module_utils.errors import FleetError

BOOTS = deadman.BOOTS.lstrip("/")


@pytest.fixture
def root(tmp_path):
    return boot_tree.debian(tmp_path)


@pytest.fixture
def armed(root):
    """The host after arming a trial; returns the trial."""
    return trial.settle("armed", NEW, seconds=300, root=root)["trial"]


def record(root, boot, what, kernel):
    with open(Path(root) / BOOTS, "a") as handle:
        handle.write(f"\n{BOOT_IDS[boot]} {kernel} {what} {1000 + boot}\n")


def boots_trial(root, armed, boot=1):
    """The trial boots, as GRUB and the deadman leave it."""
    boot_tree.running(root, NEW, boot, f"fastsocket.trial={armed['id']} panic=10")
    boot_tree.environment(root, next_entry="")
    record(root, boot, "trial", NEW)


def boots_stock(root, boot=2):
    boot_tree.running(root, STOCK, boot)
    boot_tree.environment(root, next_entry="")
    record(root, boot, "other", STOCK)


def shown(root):
    return trial.info(root=root)["trial"]


def ours(root):
    """What of ours is on the host, its record left out."""
    return [name for name in boot_tree.snapshot(root) if "fastsocket" in name and "boot.json" not in name]


def test_armed(root):
    before = boot_tree.snapshot(root)
    predicted = trial.settle("armed", NEW, ["debug"], root=root, check=True)
    assert predicted["changed"] and predicted["trial"] is None and boot_tree.snapshot(root) == before
    found = trial.settle("armed", NEW, ["debug"], root=root)
    assert [row["path"] for row in found["changes"]] == [
        re.sub(r"deadman-\w+", "deadman-" + found["trial"]["id"], row["path"]) for row in predicted["changes"]]
    assert found["changes"][-1] == {
        "path": "/boot/grub/grubenv next_entry", "before": None, "after": "fastsocket-trial"}
    one = found["trial"]
    assert re.fullmatch(r"[0-9a-f]{12}", one["id"])
    assert one == {"id": one["id"], "kernel": NEW, "stock": STOCK, "state": "armed", "arguments": ["debug"],
                   "seconds": 600, "armed_boot_id": BOOT_IDS[0], "boots": [], "reason": None, "evidence": [],
                   "failed_units": [], "this_boot": False}
    assert found["default"]["kernel"] == STOCK and found["problems"] == []
    after = boot_tree.snapshot(root)
    again = trial.settle("armed", NEW, ["debug"], root=root)
    assert (again["changed"], again["changes"], again["trial"]) == (False, [], one)
    assert boot_tree.snapshot(root) == after
    for link in deadman.LINKS:
        assert after[link.lstrip("/")] == deadman.UNIT


def test_a_watchdog_is_used_where_there_is_one(root):
    (Path(root) / "sys/class/watchdog/watchdog0").mkdir(parents=True)
    trial.settle("armed", NEW, ["panic=3"], root=root)
    words = trial.find_loader(root).by_id("fastsocket-trial")["arguments"]
    assert words[-2:] == [kernels.WATCHDOG_ARGUMENT, "panic=3"]     # the operator's win


def test_armed_anew(root, armed):
    """Other values replace a trial that was not booted yet."""
    second = trial.settle("armed", NEW, seconds=900, root=root)["trial"]
    assert second["id"] != armed["id"] and second["seconds"] == 900
    assert [name for name in ours(root) if "deadman-" in name] == [f"usr/lib/fastsocket/deadman-{second['id']}"]


def test_committed(root, armed):
    boots_trial(root, armed)
    found = trial.info(root=root)
    assert found["trial"]["state"] == "running" and found["default"]["kernel"] == STOCK
    assert found["trial"]["boots"] == [{"boot_id": BOOT_IDS[1], "kernel": NEW, "trial": True, "time": 1001}]
    before = boot_tree.snapshot(root)
    assert trial.settle("committed", NEW, root=root, check=True)["changed"] and boot_tree.snapshot(root) == before
    found = trial.settle("committed", NEW, root=root)
    assert found["default"] == {"id": boot_tree.entry_id(NEW), "kernel": NEW} and found["problems"] == []
    assert (found["trial"]["state"], len(found["trial"]["boots"]), found["trial"]["reason"]) == ("committed", 1, None)
    assert ours(root) == []
    text = (Path(root) / "boot/grub/custom.cfg").read_text()
    assert "menuentry" not in text and "panic" not in text
    assert trial.settle("committed", root=root)["changed"] is False
    boot_tree.running(root, NEW, 2)     # the ordinary entry
    assert trial.settle("committed", NEW, root=root)["changed"] is False
    assert trial.settle("released", root=root)["trial"] is None
    assert trial.info(root=root)["default"]["kernel"] == STOCK


def sysctls(root, **values):
    """Set these; return all."""
    for name, value in values.items():
        boot_tree.write(root, f"/proc/sys/kernel/{name}", f"{value}\n")
    return {name: (Path(root) / "proc/sys/kernel" / name).read_text().strip() for name in STOCK_SYSCTLS}


STOCK_SYSCTLS = {"panic": "30", "panic_on_oops": "0", "softlockup_panic": "0", "hung_task_panic": "0",
                 "hardlockup_panic": "0"}
TRIAL_SYSCTLS = {"panic": "10", "panic_on_oops": "1", "softlockup_panic": "1", "hung_task_panic": "1",
                 "hardlockup_panic": "1"}


def test_the_sysctls_are_those_of_the_arguments():
    words = dict(word.split("=", 1) for word in kernels.ARGUMENTS)
    assert {name: value for name, dummy, value in kernels.SYSCTLS} == TRIAL_SYSCTLS
    assert {argument: words[argument] for dummy, argument, dummy in kernels.SYSCTLS} == {
        name: value for name, value in words.items() if "panic" in name + value and not name.startswith("rd.")}


@pytest.mark.parametrize(("arguments", "since", "kept"), [
    ([], {}, {}),
    (["panic=10", "nmi_watchdog=panic"], {}, {"panic": "10", "hardlockup_panic": "1"}),
    (["sysctl.kernel.hung-task-panic=1"], {}, {"hung_task_panic": "1"}),
    ([], {"panic": "5", "softlockup_panic": "2"}, {"panic": "5", "softlockup_panic": "2"}),
])
def test_a_commit_ends_the_trials_readiness_to_panic(root, arguments, since, kept):
    """What the operator asked for by argument, or has in sysctl.d, stays."""
    sysctls(root, **STOCK_SYSCTLS)
    one = trial.settle("armed", NEW, arguments, root=root)["trial"]
    boots_trial(root, one)
    there = sysctls(root, **dict(TRIAL_SYSCTLS, **since))
    predicted = trial.settle("committed", NEW, root=root, check=True)["changes"]
    assert sysctls(root) == there
    changes = trial.settle("committed", NEW, root=root)["changes"]
    assert changes == predicted and sysctls(root) == dict(STOCK_SYSCTLS, **kept)
    assert {row["path"]: (row["before"], row["after"]) for row in changes if row["path"].startswith("kernel.")} == {
        f"kernel.{name}": (TRIAL_SYSCTLS[name], STOCK_SYSCTLS[name]) for name in STOCK_SYSCTLS if name not in kept}
    # Who sets them later means it.
    there = sysctls(root, **TRIAL_SYSCTLS)
    assert trial.settle("committed", NEW, root=root)["changed"] is False and sysctls(root) == there


def test_sysctls_never_fail_a_commit(root, monkeypatch):
    """One that the old kernel did not have, one that the new one does not, one that cannot be written; and a trial that
    an older release armed."""
    sysctls(root, **STOCK_SYSCTLS)
    folder = Path(root) / "proc/sys/kernel"
    (folder / "hung_task_panic").unlink()
    one = trial.settle("armed", NEW, root=root)["trial"]
    boots_trial(root, one)
    sysctls(root, **TRIAL_SYSCTLS)
    (folder / "softlockup_panic").unlink()
    path = Path(root) / trial.STATE.lstrip("/")
    text = path.read_text()
    known = json.loads(text)
    assert known["trial"].pop("sysctls") == {
        name: value for name, value in STOCK_SYSCTLS.items() if name != "hung_task_panic"}
    path.write_text(json.dumps(known))
    found = trial.settle("committed", root=root, check=True)["changes"]
    assert found and not [row for row in found if row["path"].startswith("kernel.")]
    path.write_text(text)

    def refuses(name, mode, **options):
        if name.endswith("/panic"):
            raise PermissionError(13, "Permission denied")
        return open(name, mode, **options)

    monkeypatch.setattr(kernels, "open", refuses, raising=False)
    assert trial.settle("committed", root=root)["trial"]["state"] == "committed"
    assert {path.name: path.read_text() for path in folder.glob("*panic*")} == {
        "panic": "10\n", "panic_on_oops": "0\n", "hung_task_panic": "1\n", "hardlockup_panic": "0\n"}


def test_a_trial_that_was_disarmed_while_it_ran_is_not_committed(root, armed):
    """The kernel that somebody rejected runs on until the next boot. It is no kernel without a trial."""
    boots_trial(root, armed)
    ended = trial.settle("disarmed", root=root)
    assert (ended["trial"]["state"], ended["trial"]["this_boot"]) == ("disarmed", True)
    said = f"the trial of {NEW} was disarmed while it ran, .*: reboot; the next boot is the default, {STOCK}"
    assert len(ended["problems"]) == 1 and re.match(said, ended["problems"][0])
    before = boot_tree.snapshot(root)
    for state, check in itertools.product(("committed", "pinned"), (True, False)):
        with pytest.raises(FleetError, match=f"{NEW} is not {state}: {said}"):
            trial.settle(state, root=root, check=check)
    with pytest.raises(FleetError, match=f"no trial of {NEW} here: {said}"):
        trial.settle("armed", NEW, root=root)
    assert boot_tree.snapshot(root) == before
    boot_tree.running(root, STOCK, 2)
    assert not shown(root)["this_boot"] and trial.info(root=root)["problems"] == []
    assert trial.settle("committed", STOCK, root=root)["default"]["kernel"] == STOCK
    # A boot that is no trial: what was decided by hand is kept, as ever.
    boot_tree.running(root, NEW, 3)
    assert trial.settle("committed", NEW, root=root)["default"]["kernel"] == NEW


def test_the_person_on_call_is_told_to_reboot(root, armed, monkeypatch, capsys):
    settle = trial.settle
    monkeypatch.setattr(fsctl.trial, "settle", lambda state: settle(state, root=root))
    boots_trial(root, armed)
    fsctl.boot_disarm(None)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"no trial is armed; the default is {STOCK}" and len(said) == 2
    assert said[1].startswith(f"the trial of {NEW} was disarmed while it ran")
    boots_stock(root)
    fsctl.boot_disarm(None)
    assert capsys.readouterr().out == f"no trial is armed, nor was one; the default is {STOCK}\n"


def test_back_to_stock_by_the_same_way(root, armed):
    boots_trial(root, armed)
    trial.settle("committed", root=root)
    boot_tree.running(root, NEW, 2)
    back = trial.settle("armed", STOCK, root=root)
    assert (back["trial"]["kernel"], back["trial"]["stock"], back["default"]["kernel"]) == (STOCK, NEW, NEW)
    boot_tree.running(root, STOCK, 3, f"fastsocket.trial={back['trial']['id']}")
    boot_tree.environment(root, next_entry="")
    assert trial.settle("committed", STOCK, root=root)["default"]["kernel"] == STOCK
    assert trial.settle("released", root=root)["default"] == {"id": boot_tree.DEFAULT_ID, "kernel": STOCK}
    assert not (Path(root) / "boot/grub/custom.cfg").exists()


def test_a_trial_after_a_trial(root, armed):
    """The words of a trial boot stand in the entry that kernel-install makes from it; the trial of that has its own."""
    boot_tree.running(root, NEW, 1, f"fastsocket.trial=0123456789ab panic=10 fastsocket.trial={armed['id']} panic=10")
    boot_tree.environment(root, next_entry="")
    record(root, 1, "trial", NEW)
    assert shown(root)["state"] == "running"
    assert trial.settle("committed", root=root)["trial"]["state"] == "committed"


def test_what_had_failed_before_is_remembered(root):
    assert trial.settle("armed", NEW, root=root)["trial"]["failed_units"] == []
    path = Path(root) / trial.STATE.lstrip("/")
    known = json.loads(path.read_text())
    known["trial"]["failed_units"] = ["old.service"]
    path.write_text(json.dumps(known))
    assert shown(root)["failed_units"] == ["old.service"]
    del known["trial"]["failed_units"]      # of a trial that an older release armed
    path.write_text(json.dumps(known))
    assert shown(root)["failed_units"] == []


def test_committed_without_a_trial(root):
    assert trial.settle("committed", root=root)["default"]["id"] == boot_tree.entry_id(STOCK)
    with pytest.raises(FleetError, match=f"{NEW} is not committed: {STOCK} runs"):
        trial.settle("committed", NEW, root=root)


@pytest.mark.parametrize(("play", "reason"), [
    ((), "never came to a writable root file system: it panicked .*, or needs more than the 300 s it had"),
    (("trial",), "was rebooted, crashed or lost power before the commit"),
    (("trial", "fired"), "nobody committed it within 300 s"),
])
def test_fell_back(root, armed, play, reason):
    for what in play:
        record(root, 1, what, NEW)
    boots_stock(root)
    one = shown(root)
    assert one["state"] == "fell_back" and re.search(reason, one["reason"])
    assert [boot["trial"] for boot in one["boots"]] == ([True, False] if play else [False])
    with pytest.raises(FleetError, match=f"{NEW} is not committed: {STOCK} runs .*{reason}"):
        trial.settle("committed", NEW, root=root)
    with pytest.raises(FleetError, match="fell back .* disarm it before"):
        trial.settle("armed", NEW, root=root)
    over = trial.settle("disarmed", root=root)
    assert (over["trial"]["state"], over["trial"]["reason"]) == ("disarmed", one["reason"])
    assert over["trial"]["boots"] == one["boots"] and over["default"]["kernel"] == STOCK and ours(root) == []
    assert trial.settle("disarmed", root=root)["changed"] is False
    assert trial.settle("armed", NEW, root=root)["trial"]["state"] == "armed"


def test_a_trial_that_boots_again_and_again(root, armed):
    for boot in (1, 2):
        record(root, boot, "trial", NEW)
    with open(Path(root) / BOOTS, "a") as handle:
        handle.write("cut sho")
    boots_stock(root, 3)
    assert [boot["boot_id"] for boot in shown(root)["boots"]] == BOOT_IDS[1:4]


def test_the_file_that_is_not_there_is_named(root, armed):
    os.unlink(f"{root}/boot/vmlinuz-{NEW}")
    boots_stock(root)
    assert f"/boot/vmlinuz-{NEW}, the kernel of the entry" in shown(root)["reason"]


def test_expired(root, armed):
    """The deadman took it back, or somebody else did."""
    boot_tree.environment(root, next_entry="")
    assert shown(root)["state"] == "expired" and "within 300 s" in shown(root)["reason"]
    record(root, 0, "expired", STOCK)
    os.unlink(root + deadman.script_path(armed))
    boot_tree.running(root, STOCK, 1)
    assert shown(root)["state"] == "expired"
    assert trial.settle("armed", NEW, root=root)["trial"]["state"] == "armed"
    assert shown(root)["boots"] == []


def test_who_comes_in_between(root, armed):
    with pytest.raises(FleetError, match="is armed: commit or disarm it"):
        trial.settle("pinned", root=root)
    with pytest.raises(FleetError, match=f"the trial of {NEW} is armed"):
        trial.settle("committed", STOCK, root=root)
    boots_trial(root, armed)
    with pytest.raises(FleetError, match="this boot is the trial of"):
        trial.settle("armed", STOCK, root=root)
    with pytest.raises(FleetError, match=f"{STOCK} is not committed: {NEW} runs"):
        trial.settle("committed", STOCK, root=root)
    boot_tree.running(root, NEW, 1)
    boot_tree.write(root, deadman.FIRED)
    boot_tree.running(root, NEW, 1, f"fastsocket.trial={armed['id']}")
    with pytest.raises(FleetError, match="its deadman has fired and this host is rebooting"):
        trial.settle("committed", NEW, root=root)
    assert shown(root)["state"] == "running"


def test_a_commit_waits_for_the_lock_and_sees_what_happened(root, armed, monkeypatch):
    boots_trial(root, armed)
    handle = os.open(root + deadman.LOCK, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    monkeypatch.setattr(trial, "LOCK_S", 0.3)
    with pytest.raises(FleetError, match="another run holds"):
        trial.settle("committed", NEW, root=root)
    monkeypatch.setattr(trial, "LOCK_S", 20)
    timer = threading.Timer(0.3, boot_tree.write, (root, deadman.FIRED))
    timer.start()
    with pytest.raises(FleetError, match="has fired and this host is rebooting"):
        trial.settle("committed", NEW, root=root)
    os.unlink(root + deadman.FIRED)
    threading.Timer(0.3, os.close, (handle,)).start()
    assert trial.settle("committed", NEW, root=root)["trial"]["state"] == "committed"


@pytest.mark.parametrize("reboots", [False, True])
def test_a_commit_that_was_cut_short_is_finished(root, armed, monkeypatch, reboots):
    """After the default was set: until the deadman fires the commit goes on, and after that the new kernel boots."""
    boots_trial(root, armed)

    def dies(*dummy):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(deadman, "apply", dies)
        with pytest.raises(KeyboardInterrupt):
            trial.settle("committed", NEW, root=root)
    assert deadman.is_open(armed, root) and shown(root)["state"] == "running"
    if reboots:
        boot_tree.running(root, NEW, 2)
    assert trial.settle("committed", NEW, root=root)["trial"]["state"] == "committed" and ours(root) == []
    assert trial.info(root=root)["default"]["kernel"] == NEW


@pytest.mark.parametrize("where", ["deadman", "loader", "once"])
def test_arming_that_fails_leaves_nothing(root, monkeypatch, where):
    """Also when it fails at the last step, the environment block: nothing is armed, nothing of ours is left."""
    before = boot_tree.snapshot(root)

    def fails(*dummy):
        raise OSError(28, "No space left on device")

    target = {"deadman": (deadman, "start"), "loader": (grub2.loader, "write_file"), "once": (grub2.grubenv, "write")}
    real, calls = grub2.loader.write_file, []

    def full(change, root):
        calls.append(change)
        return fails() if change["path"].endswith("custom.cfg") and change["after"] else real(change, root)

    monkeypatch.setattr(*target[where], full if where == "loader" else fails)
    with pytest.raises(FleetError, match="No space left on device; nothing is armed"):
        trial.settle("armed", NEW, root=root)
    monkeypatch.undo()
    assert boot_tree.snapshot(root) == before
    assert trial.info(root=root)["trial"] is None


def test_a_loader_that_does_not_take_it(root, monkeypatch):
    """What was written is read back."""
    monkeypatch.setattr(grub2, "PIN", re.compile("never"))
    edit = Path(root) / "boot/grub/grub.cfg"
    edit.write_text(edit.read_text() + "\nset default=3\n")
    with pytest.raises(FleetError, match="the default of grub2 is .*, not gnulinux-advanced.* as was just set"):
        trial.settle("pinned", root=root)


def test_a_damaged_record(root):
    boot_tree.write(root, trial.STATE, "{")
    with pytest.raises(FleetError, match="boot.json is not JSON"):
        trial.info(root=root)


def test_what_it_left_behind_is_shown_and_kept(root, armed):
    boots_stock(root)
    assert "the trial boot left no trace" in shown(root)["evidence"][0]
    boot_tree.write(root, "/var/lib/systemd/pstore/17/dmesg.txt", "its last line\n")
    assert shown(root)["evidence"] == ["its last line"]
    assert trial.settle("disarmed", root=root)["trial"]["evidence"] == ["its last line"]


# ---- the deadman's texts ---------------------------------------------------


def test_the_deadman_is_sound_shell(root, armed, tmp_path):
    script = root + deadman.script_path(armed)
    subprocess.run(["sh", "-n", script], check=True)
    subprocess.run(["shellcheck", script], check=True)
    text = Path(script).read_text()
    assert f"trial={armed['id']} armed_boot={BOOT_IDS[0]} seconds=300" in text
    assert "grub-editenv /boot/grub/grubenv unset next_entry" in text


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_the_deadmans_unit_is_sound(tmp_path):
    unit = tmp_path / deadman.NAME
    unit.write_text(deadman.UNIT_TEXT.format(script="/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)
    assert deadman.NAME not in done.stdout, done.stdout


def test_changes_are_what_was_written(root):
    found = trial.settle("armed", NEW, root=root)
    for row in found["changes"]:
        path = Path(root) / row["path"].lstrip("/")
        if path.is_symlink():
            assert os.readlink(path) == row["after"]
        elif " " not in row["path"]:
            assert hostfile.read(str(path)) == row["after"] and row["before"] is None
