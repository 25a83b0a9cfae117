# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The deadman under a real systemd, which really reboots its host, a container; boot_entry where there is no loader.

The script sees another command line and uptime than the machine's, by a mount over /proc. Its last resort, sysrq, would
reset the machine itself: it goes to a file."""

import contextlib
import json
import shlex
import subprocess
import time
from pathlib import Path

import fleet
import pytest

HOST = "web1"
TRIAL = "0123456789ab"
READ_TRIAL = """
import json, sys
sys.path.insert(0, {code!r})
from ansible_collections.fastsocket.fleet.plugins.module_utils.boot import deadman
deadman.ORDERLY_S, deadman.FORCED_S = {orderly}, {forced}
trial = {{"id": {trial!r}, "seconds": {seconds}, "armed_boot_id": {armed!r}}}
print(json.dumps({{"texts": deadman.texts(trial, "echo cleared >> /run/cleared"), "links": deadman.LINKS,
                  "unit": deadman.UNIT, "script": deadman.script_path(trial)}}))
"""
HUNG = """
[Service]
ExecStart=/bin/sleep infinity
ExecStop=/bin/sleep infinity
TimeoutStopSec=infinity
"""


def inside(lab, script):
    """Run a script on the host without SSH, which ends in emergency mode; it may end with the host."""
    return subprocess.run([fleet.LAB, "exec", "--name", lab.name, HOST, "--", "sh", "-c", script], check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60).stdout


def boots(lab):
    return inside(lab, "cat /var/lib/fastsocket/boots 2>/dev/null").split()[2::4]


@pytest.fixture
def deadman(lab, collections):
    """deadman(seconds, trial=True, ...): it is installed as by boot_entry, and the host looks like one that runs the
    trial (or not)."""
    def install(seconds, trial=True, armed="none", orderly=60, forced=20):
        code = READ_TRIAL.format(code=str(collections), trial=TRIAL, seconds=seconds, armed=armed, orderly=orderly,
                                 forced=forced)
        found = lab.run("python3", "-c", code).stdout
        made = json.loads(found)
        lines = ["mkdir -p /var/lib/fastsocket /run/fake; rm -f /var/lib/fastsocket/boots /run/cleared /run/sysrq"]
        for path, text in made["texts"].items():
            text = text.replace("/proc/sysrq-trigger", "/run/sysrq")
            lines.append(f"mkdir -p {Path(path).parent}; printf %s {shlex.quote(text)} > {path}")
        for link in made["links"]:
            lines.append(f"mkdir -p {Path(link).parent}; ln -sf {made['unit']} {link}")
        words = f"ro fastsocket.trial={TRIAL} quiet" if trial else "ro quiet"
        lines += [f"echo {shlex.quote(words)} > /run/fake/cmdline; mount --bind /run/fake/cmdline /proc/cmdline",
                  "echo 0.50 0.50 > /run/fake/uptime; mount --bind /run/fake/uptime /proc/uptime",
                  "echo yes > /run/this-boot; systemctl daemon-reload; systemctl start fastsocket-deadman"]
        lab.sh(HOST, "set -e\n" + "\n".join(lines))
        return made
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: lab.sh(HOST, (
            "systemctl stop fastsocket-deadman; rm -f /usr/lib/fastsocket/deadman-* /etc/systemd/system/hung.service "
            "/etc/systemd/system/*.wants/fastsocket-deadman.service /etc/systemd/system/fastsocket-deadman.service; "
            "rm -rf /var/lib/fastsocket/boots /run/fastsocket/boot; "
            "rmdir /usr/lib/fastsocket /var/lib/fastsocket /run/fastsocket; umount /proc/cmdline /proc/uptime; "
            "systemctl daemon-reload; true"), status=None))
        yield install


def rebooted(lab, seconds):
    """Wait for the next boot; return how long it took to go down."""
    started = time.monotonic()
    fleet.wait(lambda: "yes" not in inside(lab, "cat /run/this-boot 2>/dev/null || echo new"), seconds)
    took = time.monotonic() - started
    fleet.wait(lambda: "running" in lab.sh(HOST, "systemctl is-system-running", status=None).split(), 60)
    return took


def test_it_reboots_in_emergency_mode(lab, deadman):
    """No SSH, no network, most units stopped: the deadman is still there and does its work."""
    deadman(15)
    inside(lab, "systemctl isolate emergency.target")
    assert inside(lab, "systemctl is-active ssh fastsocket-deadman").split() == ["inactive", "active"]
    assert rebooted(lab, 240) > 3
    # The boot that followed is not the trial (its command line is the machine's): it says so, and all is quiet.
    assert boots(lab) == ["trial", "fired", "other"]
    assert lab.sh(HOST, "cat /run/cleared; systemctl is-active fastsocket-deadman; systemctl --failed --no-legend",
                  status=None).split() == ["cleared", "inactive"]


def test_it_forces_what_hangs(lab, deadman):
    """A unit that never stops holds the orderly reboot up; the forced one does not ask it."""
    hung = f"printf %s {shlex.quote(HUNG)} > /etc/systemd/system/hung.service; systemctl start hung"
    deadman(5, orderly=6, forced=30)
    lab.sh(HOST, hung)
    assert 5 < rebooted(lab, 240)
    assert boots(lab)[:2] == ["trial", "fired"]


def test_a_commit_in_time_is_the_end_of_it(lab, deadman):
    made = deadman(6)
    lab.sh(HOST, f"rm {made['script']}")
    time.sleep(9)
    assert lab.sh(HOST, "cat /run/this-boot; systemctl is-active fastsocket-deadman", status=None).split() == [
        "yes", "inactive"]
    assert boots(lab) == ["trial"] and lab.sh(HOST, "cat /run/cleared") == "cleared\n"


def test_either_the_commit_or_the_reboot(lab, deadman):
    """A commit that holds the lock when the time comes is waited for; the deadman then finds the trial closed."""
    made = deadman(5)
    lab.sh(HOST, "mkdir -p /run/fastsocket/boot; setsid flock /run/fastsocket/boot "
                 f"sh -c 'sleep 9; rm {made['script']}' >/dev/null 2>&1 &")
    time.sleep(14)
    assert lab.sh(HOST, "cat /run/this-boot; ls /run/fastsocket/boot; systemctl is-active fastsocket-deadman",
                  status=None).split() == ["yes", "inactive"]
    assert "fired" not in boots(lab)


def test_nobody_reboots_after_arming(lab, deadman):
    boot_id = lab.sh(HOST, "cat /proc/sys/kernel/random/boot_id").strip()
    made = deadman(4, trial=False, armed=boot_id)
    assert lab.sh(HOST, f"ls {made['script']}; ls /run/cleared", status=None).count("No such file") == 1
    fleet.wait(lambda: boots(lab) == ["expired"], 20)
    assert lab.sh(HOST, f"cat /run/cleared /run/this-boot; ls {made['script']} 2>&1 | grep -c 'No such file'; "
                        "systemctl restart fastsocket-deadman; systemctl --failed --no-legend").split() == [
                            "cleared", "yes", "1"]


def test_another_boot_says_so(lab, deadman):
    deadman(60, trial=False)
    fleet.wait(lambda: boots(lab) == ["other"], 20)
    assert lab.sh(HOST, "cat /run/cleared; systemctl is-active fastsocket-deadman", status=None).split() == [
        "cleared", "inactive"]


def test_the_module_where_no_loader_is(lab, untouched):
    """A container has no loader: all that asks for one says so, in one sentence, and touches nothing."""
    kernel = lab.sh("web2", "uname -r").strip()
    with untouched("web2"):
        found = lab.module("web2", "boot_entry")
        assert (found["loader"], found["kernel"], found["trial"], found["changed"]) == (None, kernel, None, False)
        assert len(found["problems"]) == 1 and "this is a container" in found["problems"][0]
        for state in ("disarmed", "released"):
            assert not lab.module("web2", "boot_entry", state=state)["changed"]
        for options in ((), ("--check",)):
            failed = lab.module("web2", "boot_entry", *options, state="armed", kernel="6.12.1")
            assert failed["failed"] and "no trial of 6.12.1 here: this is a container" in failed["msg"]
            assert lab.module("web2", "boot_entry", *options, state="pinned")["failed"]


def test_the_person_on_call(lab):
    lab.module("web2", "fsctl")
    said = lab.sh("web2", "fsctl boot status; fsctl boot disarm; fsctl boot status --json | head -1")
    assert "default of no loader: not known (not pinned)\nno trial here: this is a container" in said
    assert "no trial is armed, nor was one" in said and said.endswith("{\n")
    assert "fsctl boot needs root" in lab.sh("web2", "/usr/sbin/fsctl boot status", status=1, user="nosudo")
    lab.module("web2", "fsctl", state="absent")
