# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real old kernel, Debian 11's 5.10: groups do not choose by SO_INCOMING_CPU (6.2), nothing migrates (5.14), there is
no IP_LOCAL_PORT_RANGE (6.3). Real nginx and HAProxy of Debian 12 on four CPUs, with clients on each: the library finds
that out, does what is left, loses nothing, and says what is missing."""
import json
import os
import sys
from pathlib import Path

import old_kernel
import pytest
from test_rss import TOP, call

GUEST = Path(__file__).with_name("old_kernel_guest.py")
SERVICES = ("nginx", "haproxy")
CPUS = 4


@pytest.fixture(scope="module", name="measured")
def fixture_measured(tmp_path_factory):
    if os.geteuid() != 0:
        pytest.skip("the lab needs root")
    folder = tmp_path_factory.mktemp("old")
    call("make", "-C", TOP / "libfsocket", f"BUILD={folder}/build")
    # CPUs that are emulated have other things to do than to look at the clock, and are slow.
    call("cc", "-O2", "-DSTEP_MS=20", "-DPATIENCE_MS=20000", "-o", folder / "clients",
         TOP / "libfsocket/tests/clients.c")
    files = [folder / "build/libfsocket.so", folder / "clients", TOP / "plugins/module_utils", GUEST]
    with old_kernel.machine(folder, CPUS, files) as machine:
        said = machine.run("python3", "-B", f"/root/{GUEST.name}")
    sys.stdout.write(said)
    return json.loads(said)


def test_the_kernel_is_that_old(measured):
    assert measured["kernel"] == old_kernel.RELEASE


@pytest.mark.parametrize("service", SERVICES)
def test_what_the_kernel_cannot_is_found_out(measured, service):
    found = measured[service]["library"]["stats"]["capabilities"]
    assert found == ["probed", "cbpf"]


@pytest.mark.parametrize("service", SERVICES)
def test_what_is_missing_is_said(measured, service):
    """`fsctl doctor` names it, no problem among it; `fsctl status` shows every CPU."""
    doctor, status = (measured[service]["library"][name] for name in ("doctor", "status"))
    assert doctor["status"] == 0 and f"{service}: problem" not in doctor["text"], doctor["text"]
    assert "no IP_LOCAL_PORT_RANGE" in doctor["text"] and "Linux before 5.14" in doctor["text"], doctor["text"]
    rows = [line.split()[0] for line in status["text"].splitlines()[3:3 + CPUS]]
    assert status["status"] == 0 and rows == [str(cpu) for cpu in range(CPUS)], status["text"]


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("action", ["rest", "reload", "switch", "again"])
def test_nothing_is_lost(measured, service, action):
    tally = measured[service]["library"][action]
    assert tally["opened"] > 50 and not tally["failed"], f"{tally}; stock, reloaded: {measured[service]['stock']}"


@pytest.mark.parametrize("service", SERVICES)
def test_without_the_library_reloads_lose_nothing_either(measured, service):
    """What the library is compared with."""
    assert not measured[service]["stock"]["reload"]["failed"]


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("when", ["rest", "again"])
def test_a_program_chooses(measured, service, when):
    """By what clients and workers say, and by what the library has counted: all of them, nearly all local."""
    row = measured[service]["library"][when]
    local, served = row["local"]
    assert local >= 0.95 * served and served == row["opened"] == row["counted"]["accepts"], row
    assert row["counted"]["accept_local"] >= 0.95, row


def test_ports_are_any(measured):
    row = measured["haproxy"]["library"]["connects"]
    assert not row["failed"] and row["steered"] == 0 and row["unsteered"] == row["opened"] > 0, row
