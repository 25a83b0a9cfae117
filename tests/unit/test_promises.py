# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo's judgement: what is broken must be called broken."""

import copy
import importlib.util
from pathlib import Path

import pytest

SPEC = importlib.util.spec_from_file_location("promises", Path(__file__).parents[1] / "demo/promises.py")
promises = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(promises)
STOCK, OURS = "6.1.0-32-amd64", "6.12.9-1.fastsocket.x86_64"


def row(service, local):
    connects = local if service == "haproxy" else None
    return {"service": service, "accepts": 3000, "accept_local": local, "accept_local_sampled": local, "sampled": 400,
            "connects": 3000, "connect_local": connects, "spread": 1.02, "cps": 250.0, "failed": 0}


@pytest.fixture
def report():
    shares = (("stock", 0.5), ("rolled_out", 0.999), ("off", 0.5), ("rolled_back", 0.5))
    phases = [{"name": name, "hosts": {"lb1": row("nginx", share), "lb2": row("haproxy", share)}}
              for name, share in shares]
    return {"schema": 1, "kernel": "6.18", "cpus": 2, "failed_total": 0, "requests_total": 9, "switch_effect_s": 0.1,
            "phases": phases}


def test_kept(report):
    kept, lines = promises.check(promises.of_demo(report))
    assert kept
    assert all(line.startswith("kept") for line in lines)


@pytest.mark.parametrize(("host", "phase", "name", "value"), [
    ("lb1", 1, "accept_local", 0.989), ("lb1", 1, "accept_local", None), ("lb2", 1, "accept_local_sampled", 0.98),
    ("lb2", 1, "connect_local", 0.949), ("lb2", 1, "connect_local", None), ("lb1", 0, "accept_local", 0.91),
    ("lb1", 0, "accept_local", None),
])
def test_a_bad_figure_breaks(report, host, phase, name, value):
    report["phases"][phase]["hosts"][host][name] = value
    kept, lines = promises.check(promises.of_demo(report))
    assert not kept
    assert [line for line in lines if line.startswith("BROKEN  %s " % host)]


@pytest.mark.parametrize(("name", "value"), [
    ("failed_total", 1), ("failed_total", None), ("switch_effect_s", 1.0), ("switch_effect_s", None)])
def test_a_bad_total_breaks(report, name, value):
    report[name] = value
    assert not promises.check(promises.of_demo(report))[0]


def test_a_demo_that_broke_off_has_kept_nothing(report):
    whole = copy.deepcopy(report)
    for phases in range(4):
        report["phases"] = whole["phases"][:phases]
        assert not promises.check(promises.of_demo(report))[0]


@pytest.fixture
def kernel_report():
    def phase(name, share, kernel, counted):
        return {"name": name, "hosts": {"lb1": dict(
            row("nginx", share), kernel=kernel, kernel_accept_local=counted, kernel_lookup_local=counted)}}

    phases = [phase("stock", 0.3, STOCK, None), phase("rolled_out", 0.999, OURS, 1),
              phase("rolled_back", 0.3, STOCK, None)]
    return {"schema": 1, "cpus": 4, "kver": OURS, "failed_total": 0, "requests_total": 9, "phases": phases,
            "reboots": [{"seconds": 99.6, "failed": 7}, {"seconds": 80.2, "failed": 5}]}


def test_kernel_kept(kernel_report):
    kept, lines = promises.check(promises.of_kernel_demo(kernel_report))
    assert kept, lines
    assert "kept    2 of 2 announced reboots; 12 requests failed in their 100+80 s" in lines


@pytest.mark.parametrize(("phase", "name", "value"), [
    (0, "kernel", OURS), (1, "kernel", STOCK), (1, "kernel_accept_local", 0.98),
    (1, "kernel_lookup_local", 0.98), (1, "kernel_lookup_local", None), (1, "accept_local", 0.98),
    (1, "accept_local_sampled", 0.98), (2, "kernel", OURS), (0, "accept_local", 0.51),
])
def test_a_bad_figure_of_the_kernel_breaks(kernel_report, phase, name, value):
    kernel_report["phases"][phase]["hosts"]["lb1"][name] = value
    assert not promises.check(promises.of_kernel_demo(kernel_report))[0]


def test_a_kernel_demo_that_broke_off_has_kept_nothing(kernel_report):
    for broken in (dict(kernel_report, failed_total=1), dict(kernel_report, reboots=kernel_report["reboots"][:1]),
                   *(dict(kernel_report, phases=kernel_report["phases"][:phases]) for phases in range(3)),
                   dict(kernel_report, phases=[], reboots=[], kver=None, failed_total=None)):
        assert not promises.check(promises.of_kernel_demo(broken))[0]
        promises.table(broken)


def seconds(text, begin=100):
    """A letter a second of load: o answered, f failed, m both, p a failed probe, - nothing asked or not yet over."""
    return [{"t": begin + number, "ok": letter in "om", "failed": letter in "fm", "probe_failed": letter == "p"}
            for number, letter in enumerate(text)]


@pytest.mark.parametrize(("text", "end"), [
    ("ooooo", 101.5), ("oooffffmmoo", 108), ("oop-ooo", 103), ("oooff---oof", 107), ("ooofff", 105),
    ("ofooooo", 101.5)])
def test_outage(text, end):
    """Answers between the announcement and the first failure do not end it; a failure after its end is not in it."""
    assert promises.outage(seconds(text), 101.5) == (101.5, end)


def test_kernel_table(kernel_report):
    lines = promises.table(kernel_report)
    assert lines[0].split()[:4] == ["host", "service", "phase", "kernel"] and "by kernel" in lines[0]
    assert [line.split()[3] for line in lines[2:]] == [STOCK, OURS, STOCK]


def test_table(report):
    lines = promises.table(report)
    assert lines[0].split()[:3] == ["host", "service", "phase"]
    assert [line.split()[2] for line in lines[2:6]] == ["stock", "rolled_out", "off", "rolled_back"]
    assert "99.9 %" in lines[3]
