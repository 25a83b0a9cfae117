# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Our kernel is tried on real machines and fails in every way we know: each comes back to stock by itself, and the run
says what became of it. Then it does not fail, stays, and is taken away again.

Four machines, as two cores do not boot more at once. Each has a story of its own, told at the same time as the others;
the tests look at what was seen at its steps."""
import concurrent.futures
import json
import os
import re
import subprocess
import time
from pathlib import Path

import pytest
from conftest import NEXT

CANARY, V2, V3, V4 = "v1", "v2", "v3", "v4"
# On a machine as busy as this one, an emulated kernel needs some of it to get to its disk.
SECONDS = 240
# Seconds that a shutdown may take until it is forced, as boot/deadman.py has them, and a boot on a busy machine.
SHUTDOWN_S, BOOT_S = 80, 400
# Between the deadman's two lines, beside its time: it looks at a lock, and each of them waits for the disk.
LATE_S = 30
# By what the trial was given: the lab's machines have 30 s of their own.
REBOOTS = "Rebooting in 10 seconds"
# What the run says of a trial, boot/trial.py: by what the host has noted of it.
NEVER_CAME = "never came to a writable root file system: it panicked or hung early, found no root,"
CUT_SHORT = "booted, and the host was rebooted, crashed or lost power before the commit"
NOT_COMMITTED = "booted, and nobody committed it within [0-9]+ s: its deadman rebooted"
NO_ROOT = ["root=/dev/nonexistent"]
BOOT_ID = "cat /proc/sys/kernel/random/boot_id"
FSCTL = "! [ -x /usr/sbin/fsctl ] || fsctl boot status --json"
NOTES = "cat /var/lib/fastsocket/boots"
ON_TRIAL = "grep -c fastsocket.trial= /proc/cmdline; uname -r"
BOOTED = "systemctl is-active multi-user.target; systemctl is-active fastsocket-deadman.service"
ADDRESSES = "ip -o address show dev eth0 scope global"
PANICS = "sysctl kernel.{panic,panic_on_oops,softlockup_panic,hung_task_panic,hardlockup_panic}"
FEATURES = "sysctl -n net.fastsocket.local_listen; ls /etc/sysctl.d/60-fastsocket-kernel.conf 2>/dev/null || true"


def crash(how):
    """Arguments that make the kernel fail so while it boots (Documentation/fault-injection/provoke-crashes.rst)."""
    return ["lkdtm.cpoint_name=DIRECT", f"lkdtm.cpoint_type={how}"]


class Story:
    """One machine's. `steps`: {name: what was seen}."""

    def __init__(self, machines, play, host):
        self.machines, self.play, self.host, self.steps = machines, play, host, {}

    def inside(self, command):
        return self.machines.inside(self.host, command)

    def look(self):
        """What the machine says of itself; what the role has brought there says most of it, where it is."""
        boot_id, running, arguments, *environment = self.inside(
            f"{BOOT_ID}; uname -r; cat /proc/cmdline; grub-editenv list").split("\n")
        told = self.inside(FSCTL)
        return {"boot_id": boot_id, "kernel": running, "arguments": arguments.split(), "environment": environment,
                **(json.loads(told) if told else self.machines.trial(self.host))}

    def step(self, name, run=None, **seen):
        """Note a step: how the run ended that made it, what the machine says after it, and what else was SEEN."""
        self.steps[name] = {"run": run, **self.look(), **seen}
        return self.steps[name]

    def try_it(self, name, **variables):
        """The role tries the kernel on this machine; a step."""
        return self.step(name, self.play(f"{self.host}-{name}", {self.host: variables}).end())

    def sysctls(self):
        return self.inside("bash -c '%s'" % PANICS)

    def comes_back(self, end_it):
        """Wait for another boot than this one to be over, after END_IT()."""
        before = self.inside(BOOT_ID)
        end_it()
        self.machines.until(self.host, f"{BOOT_ID}; systemctl is-system-running", lambda said: (
            said.split()[:1] != [before] and said.endswith("\nrunning")))

    def favour(self):
        """The machine has the CPUs before the others: what it does in a certain time must not depend on them."""
        names = subprocess.run(["pgrep", "-f", f"^qemu-system.*/{self.machines.name}/{self.host}/agent"], check=True,
                               stdout=subprocess.PIPE, text=True).stdout.split()
        for pid in names:
            for thread in Path(f"/proc/{pid}/task").iterdir():
                os.setpriority(os.PRIO_PROCESS, int(thread.name), 0)


def panics_and_stays(story):
    """A rollout to a canary whose kernel panics; then what is to be, over a reset; and back to stock, in waves."""
    play, machines, host = story.play, story.machines, story.host
    untouched = machines.snapshot(NEXT)
    rollout = play("rollout", {host: {"kernel_arguments": crash("PANIC")}, NEXT: {}}, book="fastsocket.fleet.rollout",
                   rollout_canary=host, preload_services=["nginx"]).end()
    story.step("panic", rollout, untouched=(untouched, machines.snapshot(NEXT)), services=story.inside(
        "systemctl is-active nginx; ls /usr/lib/fastsocket/libfsocket.so 2>&1 || true"))
    panics = story.sysctls()
    story.try_it("stays", kernel_features=["local_listen"])
    story.steps["stays"]["panics"] = panics, story.sysctls()
    story.comes_back(lambda: machines.reset(host))
    story.step("reset", features=story.inside(FEATURES), packages=story.inside(
        f"test -s /boot/vmlinuz-{machines.stock} && test -d /lib/modules/{machines.stock} && "
        f"dpkg-query -W -f '${{Status}}' linux-image-{machines.stock}"))
    story.step("asked back", play("asked-back", {host: {}}, kernel_state="stock", kernel_reboot_ok=False).end())
    # After it a host that never had the kernel.
    back = play("back", {host: {}, NEXT: {}}, book="fastsocket.fleet.rollback", kernel=True, rollback_waves=[1]).end()
    story.step("back", back, left=story.inside(
        "ls -d /etc/sysctl.d/*fastsocket* /boot/*fastsocket* /lib/modules/*fastsocket* /var/lib/fastsocket/* "
        "/usr/lib/fastsocket /usr/sbin/fsctl /boot/grub/custom.cfg 2>/dev/null || true"))


def hangs_and_is_reset(story):
    """A hard lockup; then a machine that is reset before the commit; then one that is armed and never rebooted."""
    story.try_it("hard lockup", kernel_arguments=crash("HARDLOCKUP"))
    # Watched so long that the reset comes first, whatever else the machine does.
    role = story.play("reset", {story.host: {"kernel_stable_seconds": 90, "kernel_features": ["local_listen"]}})
    trial = story.machines.until(story.host, ON_TRIAL, lambda said: said.startswith("1\n"))
    features, panics = story.inside(FEATURES), story.sysctls()
    story.machines.reset(story.host)
    story.step("cut short", role.end(), on_trial=trial, features=features, panics=panics)
    kernel = story.steps["cut short"]["trial"]["kernel"]
    armed = story.machines.module(story.host, "boot_entry", state="armed", kernel=kernel, seconds=60)
    environment = story.inside("grub-editenv list")
    story.machines.until(story.host, NOTES, lambda said: " expired " in said)
    story.step("forgotten", armed=armed, armed_environment=environment)
    story.machines.module(story.host, "boot_entry", state="disarmed")


def finds_no_root(story):
    """Nothing without consent; a kernel that finds no root; and stock's initramfs that finds none."""
    asked = story.play("asked", {story.host: {}}, kernel_reboot_ok=False).end()
    story.step("asked", asked)
    story.try_it("no root", kernel_arguments=NO_ROOT)
    story.machines.module(story.host, "boot_entry", state="armed", kernel=story.machines.stock, arguments=NO_ROOT)
    story.comes_back(lambda: story.inside("systemctl reboot"))
    story.step("no root, initramfs")


def has_no_network(story):
    """A kernel that is fine, but nobody can reach it; then a controller that dies between arming and commit."""
    story.favour()
    role = story.play("no-network", {story.host: {
        "kernel_arguments": ["systemd.mask=systemd-networkd.service", "systemd.mask=systemd-networkd.socket"],
        "kernel_trial_seconds": SECONDS}})
    story.machines.until(story.host, ON_TRIAL, lambda said: said.startswith("1\n"))
    booted = story.machines.until(story.host, BOOTED, lambda said: said == "active\nactive")
    addresses = story.inside(ADDRESSES)
    story.step("no network", role.end(), booted=booted, addresses=addresses)
    alone = story.play("alone", {story.host: {}}, kernel_trial_seconds=SECONDS)
    alone.shows("kernel : Look at the host]")
    alone.kill()
    story.machines.until(story.host, NOTES, lambda said: " fired " in said)
    story.machines.until(story.host, ON_TRIAL + "; systemctl is-system-running", lambda said: said.split() == [
        "0", story.machines.stock, "running"])
    story.step("alone", output=alone.output, notes=[line.split() for line in story.inside(NOTES).splitlines() if line])


TELLERS = {CANARY: panics_and_stays, V2: hangs_and_is_reset, V3: finds_no_root, V4: has_no_network}


@pytest.fixture(scope="module", name="told")
def fixture_told(machines, play):
    """told(HOST, STEP): waits until that step is there, or for the reason why not."""
    stories = {host: Story(machines, play, host) for host in TELLERS}
    for one in stories.values():
        one.steps["before"] = {"boot_id": one.inside(BOOT_ID)}
    with concurrent.futures.ThreadPoolExecutor(len(TELLERS)) as pool:
        running = {host: pool.submit(TELLERS[host], stories[host]) for host in TELLERS}

        def told(host, step):
            while step not in stories[host].steps:
                if running[host].done():
                    running[host].result()
                    raise KeyError(step)
                time.sleep(0.5)
            return stories[host].steps[step]
        try:
            yield told
        finally:        # of a run that is broken off, too
            machines.over = True
            play.stop()


def is_on_stock(machines, kernel, seen, before):
    """Another boot, of stock, no trial, nothing armed, stock the default, ours still there."""
    assert seen["kernel"] == machines.stock and seen["boot_id"] != before["boot_id"]
    assert not [word for word in seen["arguments"] if word.startswith("fastsocket.trial=")]
    assert "next_entry=fastsocket-trial" not in seen["environment"]
    assert seen["default"]["kernel"] == machines.stock and seen["problems"] == []
    assert kernel.version in [entry["kernel"] for entry in seen["entries"]]


def says(seen, host, *patterns):
    """The run failed for this host alone, with one message that all these match."""
    assert seen["run"].status != 0 and [name for name, _text in seen["run"].failures] == [host], seen["run"].output
    for pattern in patterns:
        assert re.search(pattern, seen["run"].failures[0][1], re.DOTALL), seen["run"].failures[0][1]


def fell_back(machines, reason):
    return f"^v[0-9] fell back to {re.escape(machines.stock)} after [0-9]+ s: [^ ]+ ({reason})"


def shows(machines, host, text):
    """The console shows TEXT, and that a panic ended as the trial would have it."""
    _before, found, after = machines.console(host).partition(text)
    assert found and REBOOTS in after, after


def test_without_consent_nothing_is_booted(machines, kernel, told):
    """The package is there, the host as it was, and the run says what waits."""
    before, seen = told(V3, "before"), told(V3, "asked")
    run = seen["run"]
    assert run.status == 0 and run.recap[V3]["changed"] > 0, run.output
    assert f"{V3}: a reboot is required" in run.output, run.output
    assert f"runs {machines.stock}; {kernel.version} waits for a reboot" in run.output, run.output
    assert (seen["boot_id"], seen["kernel"]) == (before["boot_id"], machines.stock)
    assert seen["default"]["kernel"] == machines.stock and seen["trial"] is None, seen
    assert kernel.version in [entry["kernel"] for entry in seen["entries"]]
    assert not [line for line in seen["environment"] if re.match("next_entry=.", line)], seen["environment"]


@pytest.mark.parametrize("host, former, step, panic", [
    (CANARY, "before", "panic", "Kernel panic - not syncing: dumptest"),
    (V2, "before", "hard lockup", "Kernel panic - not syncing: Hard LOCKUP"),
    (V3, "asked", "no root", "Kernel panic - not syncing: VFS: Unable to mount root fs")])
def test_a_kernel_that_panics_or_hangs_comes_back_by_itself(machines, kernel, told, host, former, step, panic):
    """The run says so, with the last words of that kernel, which it left in the firmware's store."""
    before, seen = told(host, former), told(host, step)
    says(seen, host, fell_back(machines, NEVER_CAME), "Its last lines:.*" + re.escape(panic))
    is_on_stock(machines, kernel, seen, before)
    shows(machines, host, panic)


def test_a_rollout_stops_there(machines, told):
    seen = told(CANARY, "panic")
    assert NEXT not in seen["run"].recap and seen["untouched"][0] == seen["untouched"][1]
    assert seen["services"] == (
        "active\nls: cannot access '/usr/lib/fastsocket/libfsocket.so': No such file or directory")


def test_a_dead_network_comes_back_by_itself(machines, kernel, told):
    """That kernel was up, with its deadman and without an address."""
    before, seen = told(V4, "before"), told(V4, "no network")
    assert seen["booted"] == "active\nactive" and seen["addresses"] == ""
    says(seen, V4, fell_back(machines, NOT_COMMITTED), "Its last lines:.*nobody committed the trial boot of "
         + re.escape(kernel.version))
    is_on_stock(machines, kernel, seen, before)


def test_a_reset_before_the_commit_ends_the_trial(machines, kernel, told):
    before, seen = told(V2, "hard lockup"), told(V2, "cut short")
    assert seen["on_trial"] == f"1\n{kernel.version}"
    # Its features are tried with it, and not there for good; it would rather panic than stand still.
    assert seen["features"] == "1"
    assert re.findall(r"= (\d+)", seen["panics"]) == ["10", "1", "1", "1", "1"], seen["panics"]
    says(seen, V2, fell_back(machines, CUT_SHORT))
    is_on_stock(machines, kernel, seen, before)


def test_what_is_armed_and_never_rebooted_is_forgotten(machines, kernel, told):
    """The deadman's own command clears GRUB's environment."""
    before, seen = told(V2, "cut short"), told(V2, "forgotten")
    assert seen["armed"]["trial"]["state"] == "armed"
    assert "next_entry=fastsocket-trial" in seen["armed_environment"].split("\n")
    assert seen["trial"]["state"] == "expired" and seen["boot_id"] == before["boot_id"], seen["trial"]
    assert "next_entry=fastsocket-trial" not in seen["environment"]
    assert seen["default"]["kernel"] == machines.stock


def test_an_initramfs_that_finds_no_root_comes_back_by_itself(machines, kernel, told):
    """Our package here has no initramfs; Debian's kernel has one, and is tried in its place."""
    before, seen = told(V3, "no root"), told(V3, "no root, initramfs")
    is_on_stock(machines, kernel, seen, before)
    assert seen["trial"]["state"] == "fell_back" and re.search(NEVER_CAME, seen["trial"]["reason"]), seen["trial"]
    assert "/dev/nonexistent does not exist" in machines.console(V3)


def test_a_controller_that_dies_is_not_needed(machines, kernel, told):
    """Back within the time of the trial, as the deadman's own notes say."""
    before, seen = told(V4, "no network"), told(V4, "alone")
    assert "PLAY RECAP" not in seen["output"]
    is_on_stock(machines, kernel, seen, before)
    trial = seen["trial"]
    assert trial["state"] == "fell_back" and [boot["trial"] for boot in trial["boots"]] == [True, False], trial
    assert re.search(NOT_COMMITTED, trial["reason"]), trial
    when = {what: int(seconds) for _boot_id, _kernel, what, seconds in seen["notes"]}
    assert when["trial"] < when["fired"] <= when["trial"] + SECONDS + LATE_S, seen["notes"]
    assert when["other"] <= when["fired"] + SHUTDOWN_S + BOOT_S, seen["notes"]


def test_a_good_kernel_stays(machines, kernel, told):
    """Stock is still there, and a plain reset goes to what was committed, with its features."""
    before, seen, later = (told(CANARY, step) for step in ("panic", "stays", "reset"))
    run = seen["run"]
    assert run.status == 0 and not run.failures, run.output
    assert seen["boot_id"] not in (before["boot_id"], later["boot_id"])
    for one in (seen, later):
        assert one["kernel"] == one["default"]["kernel"] == kernel.version
        assert machines.stock in [entry["kernel"] for entry in one["entries"]]
    assert later["packages"] == "install ok installed"
    assert later["features"] == "1\n/etc/sysctl.d/60-fastsocket-kernel.conf"
    # Committed, it panics as readily as stock did.
    before, after = seen["panics"]
    assert before == after != told(V2, "cut short")["panics"]
    assert not [word for word in later["arguments"] if word.startswith("fastsocket.trial=")]


def test_the_way_back_asks_first(machines, kernel, told):
    before, seen = told(CANARY, "reset"), told(CANARY, "asked back")
    run = seen["run"]
    assert run.status == 0 and f"runs {kernel.version}; {machines.stock} waits for a reboot" in run.output, run.output
    assert seen["boot_id"] == before["boot_id"] and seen["default"]["kernel"] == kernel.version


def test_the_way_back_leaves_nothing(machines, kernel, told):
    """Stock once, verified and kept; and nothing of ours. The second wave is a host that never had the kernel."""
    before, seen = told(CANARY, "asked back"), told(CANARY, "back")
    run = seen["run"]
    assert run.status == 0 and not run.failures and run.changed()[NEXT] == 0, run.output
    assert run.output.count("PLAY [Stock kernel]") == 2, run.output
    assert seen["kernel"] == seen["default"]["kernel"] == machines.stock and seen["boot_id"] != before["boot_id"]
    assert kernel.version not in [entry["kernel"] for entry in seen["entries"]] and seen["trial"] is None
    assert seen["left"] == ""
