# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""fsctl as installed, with the newest and the oldest Python a host may have, on a server that is really preloaded."""

import json
import os
import re
import threading

import native
import pytest

from ansible_collections.fastsocket.fleet.plugins.module_utils import hostfile, kernelstats, switch, wrapping

CPU = native.CPUS[0]
# turn() and the rest need root; the tests' files are the tester's own.
ROOT = "import os; os.geteuid = lambda: 0"


@pytest.fixture(params=native.PYTHONS, ids=lambda path: os.path.basename(path))
def python(request):
    return request.param


@pytest.fixture
def root(monkeypatch, tmp_path):
    return native.installed(monkeypatch, str(tmp_path))


@pytest.fixture
def fsctl(root, python):
    return lambda *words, load=ROOT: native.fsctl(root, *words, python=python, load=load)


@pytest.fixture
def web(root):
    """A wrapped service that runs; yields (folder, port)."""
    folder = native.wrap(root, "web")
    with native.server(folder, CPU) as (_, port):
        native.connect(port, CPU, 3)
        yield folder, port


def boot_line(root):
    return hostfile.read(root + wrapping.tmpfiles_path("web")).splitlines()[-1]


def test_help_and_misuse(fsctl):
    status, said, _ = fsctl("--help")
    assert status == 0 and all(word in said for word in ("status", "on", "off", "nic"))
    for words in ((), ("nic",), ("restart",), ("nic", "redo"), ("off", "--now")):
        status, said, error = fsctl(*words)
        assert (status, said) == (2, "") and error.startswith("usage: fsctl")


def test_nothing_wrapped(fsctl):
    assert fsctl("status") == (0, "no service is wrapped on this host\n", "")
    assert json.loads(fsctl("status", "--json")[1]) == {"services": {}, "kernel_stats": kernelstats.read()}
    for value in ("off", "on"):
        assert fsctl(value) == (1, "", "fsctl: no service is wrapped on this host\n")
    assert fsctl("nic", "undo") == (0, "0 values changed\n", "")
    status, said, error = fsctl("nic", "apply")
    assert (status, said) == (1, "") and "there is no policy to apply" in error and error.count("\n") == 1


def test_unknown_service(fsctl, root):
    assert fsctl("status", "nosuch") == (1, "", "fsctl: nosuch is not wrapped; wrapped are: none\n")
    native.wrap(root, "web")
    for words in (("nosuch",), ("--json", "nosuch.service"), ("web", "nosuch")):
        assert fsctl("status", *words) == (1, "", "fsctl: nosuch is not wrapped; wrapped are: web\n")
    status, said, error = fsctl("off", "nosuch")  # there is no systemd below the test's folder
    assert (status, said) == (1, "") and error == (
        "fsctl: this host does not run systemd; only systemd services can be wrapped\n")


def test_status(fsctl, root, web):
    native.wrap(root, "other")
    status, said, error = fsctl("status")
    lines = said.splitlines()
    assert (status, error) == (0, "")
    assert lines[0] == "other: wrapped, no statistics yet (not started since)"
    spread = os.sysconf("SC_NPROCESSORS_CONF")  # all on one of them
    assert lines[1] == f"web: switch on, accepts 100.0 % local, connects - local, spread {spread:.2f}"
    row = next(line.split() for line in lines if line.split()[0] == str(CPU))
    assert row[1:6] == ["3", "3", "0", "100.0", "%"] and row[-1].endswith("(on)")
    assert fsctl("status", "web")[1].splitlines() == fsctl("status", "web.service")[1].splitlines() == lines[1:]


def test_status_json(fsctl, web):
    status, said, _ = fsctl("status", "--json", "web")
    found = json.loads(said)["services"]["web"]
    assert status == 0 and found["switch"] == "on" and found["summary"]["accepts"] == 3


def test_status_of_our_kernel(fsctl, root):
    """What the kernel counted stands below the services, and is there without any."""
    os.makedirs(root + "/proc/net")
    table = " ".join(("cpu",) + kernelstats.COUNTERS) + "\n0 3 1 0 0 0 2 0\n"
    with open(root + kernelstats.PATH, "w") as handle:
        handle.write(table)
    here = f"{ROOT}\nfrom fastsocket_fleet import kernelstats; kernelstats.PATH = {root + kernelstats.PATH!r}"
    lines = fsctl("status", load=here)[1].splitlines()
    assert lines[0] == "no service is wrapped on this host"
    assert lines[1].startswith("kernel (all of this network namespace): ") and "accepts 75.0 % local" in lines[1]
    assert json.loads(fsctl("status", "--json", load=here)[1])["kernel_stats"]["cpus"]["0"]["lookups_local"] == 2
    with open(root + kernelstats.PATH, "a") as handle:
        handle.write("1 2\n")
    status, said, error = fsctl("status", load=here)
    assert (status, said) == (1, "") and "is damaged: line 3 must be 8 numbers" in error and error.count("\n") == 1


def test_off_and_on(fsctl, root, web):
    """In force while traffic flows, remembered for the next boot, and said once."""
    folder, port = web
    stop = threading.Event()

    def traffic():
        while not stop.is_set():
            native.connect(port, CPU)

    thread = threading.Thread(target=traffic)
    thread.start()
    try:
        status, said, error = fsctl("off")
        assert (status, error) == (0, "") and re.fullmatch(r"web: off in 0\.\d\d s\n", said)
    finally:
        stop.set()
        thread.join()
    assert switch.read("web", folder) == switch.OFF and boot_line(root).endswith("- 0")
    assert fsctl("off", "web") == (0, "web: off already\n", "")
    assert "switch off" in fsctl("status")[1]
    before = json.loads(fsctl("status", "--json")[1])["services"]["web"]["summary"]["accepts"]
    native.connect(port, CPU, 5)  # off, it serves and does not count
    assert json.loads(fsctl("status", "--json")[1])["services"]["web"]["summary"]["accepts"] == before
    assert fsctl("on", "web.service") == (0, "web.service: on\n", "")
    assert switch.read("web", folder) == switch.ON and boot_line(root).endswith("- 1")
    assert fsctl("on") == (0, "web: on already\n", "")


def test_off_without_traffic(fsctl, web):
    status, said, _ = fsctl("off")
    # An idle worker looks four times a second.
    assert status == 0 and re.fullmatch(r"web: off in 0\.\d\d s\n", said), said


def test_off_goes_on_after_a_failure(fsctl, root):
    """The others are off all the same, and the exit status says that one is not proven."""
    folder = native.wrap(root, "a")
    native.wrap(root, "b")
    with open(folder + "/a.stats", "w") as handle:
        handle.write("not this")
    status, said, error = fsctl("off")
    assert status == 1 and said.startswith("b: off in 0.0") and error == (
        f"fsctl: {folder}/a.stats is not a statistics file of libfsocket\n")
    assert switch.read("a", folder) == switch.read("b", folder) == switch.OFF


def test_umask_of_the_caller(fsctl, root):
    """Services that are not root read the switch."""
    native.wrap(root, "web")
    os.rmdir(root + "/run/fastsocket")
    assert fsctl("off", load=ROOT + "\nos.umask(0o077)")[0] == 0
    assert os.stat(root + "/run/fastsocket").st_mode & 0o777 == 0o755
    assert os.stat(root + "/run/fastsocket/web.switch").st_mode & 0o777 == 0o644


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to drop it")
def test_without_rights(fsctl):
    drop = "import os; os.setgroups([]); os.setgid(65534); os.setuid(65534)"
    for words in (("off",), ("on", "web"), ("nic", "apply"), ("nic", "undo")):
        assert fsctl(*words, load=drop) == (1, "", "fsctl: fsctl %s needs root\n" % words[0])


def test_a_damaged_file_is_one_line(fsctl, root):
    folder = native.wrap(root, "web")
    with open(folder + "/web.stats", "w") as handle:
        handle.write("not this")
    assert fsctl("status") == (1, "", f"fsctl: {folder}/web.stats is not a statistics file of libfsocket\n")
