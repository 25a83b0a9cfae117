# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `fsctl doctor` says: of programs as they really are, and of each thing that can be amiss."""

import os
import shutil
import subprocess

import native
import pytest

from ansible_collections.fastsocket.fleet.plugins.module_utils import doctor, stats

CPU = native.CPUS[0]
WELL = {"pid": 7, "path": "/usr/sbin/nginx", "mapped": ["/usr/lib/fastsocket/libfsocket.so"], "set_id": False,
        "capabilities": False, "static": False}


def reading(**other):
    cpus = {"0": dict.fromkeys(stats.COUNTERS, 0)}
    found = {"switch": "on", "capabilities": list(stats.CAPABILITIES.values()), "cpus": cpus,
             "errors": dict.fromkeys(stats.ERRORS, 0),
             "summary": stats.summary(cpus),
             "listeners": [{"cookie": 1, "mode": "slots", "port": 80}],
             "slots": [{"listener": 1, "cpu": 0, "state": "on", "tid": 7}]}
    return dict(found, **other)


def said(pids=(WELL,), found=None, **other):
    facts = {"name": "web", "active": True, "pids": list(pids), "stats": found or reading(), "error": None,
             "deafens": False}
    return ["%s: %s" % one for one in doctor.findings(dict(facts, **other))]


def test_all_is_well():
    assert said() == []


@pytest.mark.parametrize("fault, words", [
    ({"set_id": True}, "is set-id"), ({"capabilities": True}, "has file capabilities (setcap)"),
    ({"static": True}, "is statically linked"), ({}, "was started before it was wrapped"),
])
def test_not_loaded(fault, words):
    line, = said([dict(WELL, mapped=[], **fault)])
    assert line.startswith("problem: runs without the library: ") and words in line
    line, = said([WELL, dict(WELL, pid=8, mapped=[], **fault)])
    assert line.startswith("note: process 8 runs without the library: ")


@pytest.mark.parametrize("name", stats.ERRORS)
def test_every_error_has_a_way_out(name):
    line, = said(found=reading(errors=dict(dict.fromkeys(stats.ERRORS, 0), **{name: 3})))
    assert line.startswith("problem: ") and " 3 " in " %s " % line


@pytest.mark.parametrize("name", ["incoming_cpu", "port_range", "migrate"])
def test_every_capability_that_is_missing(name):
    line, = said(found=reading(capabilities=[one for one in stats.CAPABILITIES.values() if one not in (name, "cbpf")]))
    assert line.startswith("note: ")
    without = [one for one in stats.CAPABILITIES.values() if one not in ("incoming_cpu", "probed", "cbpf")]
    assert said(found=reading(capabilities=without)) == []     # not tried yet


def test_a_kernel_without_pidfd_getfd():
    line, = said(found=reading(capabilities=["incoming_cpu", "port_range", "probed"]))
    assert "a reload of HAProxy may reset a few connections" in line and line.endswith(
        "`fsctl off` before it and `fsctl on` after it avoids that")


def test_a_kernel_that_is_not_ours_is_no_fault():
    assert said(found=reading(capabilities=[one for one in stats.CAPABILITIES.values() if one != "local_listen"])) == []


def test_a_program_chooses():
    found = reading(capabilities=[one for one in stats.CAPABILITIES.values() if one != "incoming_cpu"])
    assert said(found=found) == []
    found["listeners"][0]["mode"] = "sharded"
    assert any("by hash, not by CPU" in line for line in said(found=found))


@pytest.mark.parametrize("other, words", [
    ({"switch": "off"}, "note: is switched off"),
    ({"slots": []}, "problem: port 80 has no slot in use"),
    ({"slots": [{"listener": 1, "cpu": 2, "state": "spilling", "tid": 7}]}, "note: slots of CPU 2 are shared by all"),
    ({"slots": [{"listener": 1, "cpu": 2, "state": "orphan", "tid": 7}]}, "note: slots of CPU 2 are shared by all"),
    ({"offline": [2, 3]}, "note: CPU 2-3 is offline"),
    ({"slots": [{"listener": 1, "cpu": 0, "state": "on", "tid": 7, "runs_on": [0, 1]}]},
     "note: thread 7 serves CPU 0 and may run on 0-1: "),
])
def test_what_the_file_says(other, words):
    line, = said(found=reading(**other))
    assert line.startswith(words)


def test_listeners_of_its_own():
    sharded = {"listeners": [{"cookie": 1, "mode": "sharded", "port": 80}]}
    assert said(found=reading(**sharded)) == []
    _, line = said(found=reading(capabilities=["incoming_cpu", "port_range"], **sharded))
    assert line.startswith("note: port 80 has several listeners")


def test_a_thread_of_an_offline_cpu_is_where_it_can_be():
    slot = {"listener": 1, "cpu": 3, "state": "on", "tid": 7, "runs_on": [0, 1]}
    assert said(found=reading(slots=[slot], offline=[3])) == [
        "note: CPU 3 is offline: what would come there goes to the others"]
    assert said(found=reading(slots=[dict(slot, runs_on=[3])])) == []


def test_what_moves_without_cookies():
    line, = said(deafens=True)
    assert line.startswith("problem: moves what waits") and "tcp_syncookies is 0" in line
    assert len(said(found=reading(capabilities=["incoming_cpu", "port_range", "probed"]), deafens=True)) == 1   # a note


def test_no_file():
    assert said(active=False) == ["note: is not running"]
    line, = said(error="web.stats is cut short", stats=None)
    assert line == "problem: web.stats is cut short"
    line, = said(stats=None)
    assert "wrote no statistics" in line


@pytest.fixture
def programs(tmp_path):
    """{kind: a running sleep} of each kind of program that ld.so preloads nothing into, and of the usual one."""
    if os.geteuid() != 0:
        pytest.skip("setcap needs root")
    made = {kind: tmp_path / kind for kind in ("usual", "set_id", "capabilities", "static")}
    for kind, path in made.items():
        if kind == "static":
            subprocess.run(["gcc", "-static", "-x", "c", "-", "-o", path], input="#include <unistd.h>\nint main(void)"
                           "{ return sleep(60); }", text=True, check=True)
        else:
            shutil.copy(shutil.which("sleep"), path)
    made["set_id"].chmod(0o4755)
    # A VFS_CAP_REVISION_2 value: cap_net_bind_service, effective (linux/capability.h struct vfs_cap_data).
    os.setxattr(made["capabilities"], "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
    running = {kind: subprocess.Popen([path, "60"], env={"LD_PRELOAD": native.library(), "FSOCKET_DIR": str(tmp_path)})
               for kind, path in made.items()}
    try:
        native.wait_for(lambda: all(os.readlink("/proc/%d/exe" % one.pid) == str(made[kind])
                                    for kind, one in running.items()))
        yield {kind: one.pid for kind, one in running.items()}
    finally:
        for one in running.values():
            one.kill()
            one.wait()


def test_real_programs(programs):
    for kind, pid in programs.items():
        found = doctor._program(pid)
        assert {name for name in ("set_id", "capabilities", "static") if found[name]} == {kind} - {"usual"}, found


def test_the_command(monkeypatch, tmp_path):
    """Nothing wrapped: nothing amiss. Below the test's folder there is no systemd: one line."""
    root = native.installed(monkeypatch, str(tmp_path))
    for python in native.PYTHONS:
        load = "import os; os.geteuid = lambda: 0"
        status, text, error = native.fsctl(root, "doctor", python=python, load=load)
        assert (status, error) == (0, "") and text.startswith(("no service is wrapped", "kernel: "))
    native.wrap(root, "web")
    status, text, error = native.fsctl(root, "doctor", python=python, load=load)
    assert status == 1 and text == "" and "does not run systemd" in error
