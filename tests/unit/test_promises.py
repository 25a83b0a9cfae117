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
    kept, lines = promises.check(report)
    assert kept
    assert all(line.startswith("kept") for line in lines)


@pytest.mark.parametrize(("host", "phase", "name", "value"), [
    ("lb1", 1, "accept_local", 0.989), ("lb1", 1, "accept_local", None), ("lb2", 1, "accept_local_sampled", 0.98),
    ("lb2", 1, "connect_local", 0.949), ("lb2", 1, "connect_local", None), ("lb1", 0, "accept_local", 0.91),
    ("lb1", 0, "accept_local", None),
])
def test_a_bad_figure_breaks(report, host, phase, name, value):
    report["phases"][phase]["hosts"][host][name] = value
    kept, lines = promises.check(report)
    assert not kept
    assert [line for line in lines if line.startswith("BROKEN  %s " % host)]


@pytest.mark.parametrize(("name", "value"), [
    ("failed_total", 1), ("failed_total", None), ("switch_effect_s", 1.0), ("switch_effect_s", None)])
def test_a_bad_total_breaks(report, name, value):
    report[name] = value
    assert not promises.check(report)[0]


def test_a_demo_that_broke_off_has_kept_nothing(report):
    whole = copy.deepcopy(report)
    for phases in range(4):
        report["phases"] = whole["phases"][:phases]
        assert not promises.check(report)[0]


def test_table(report):
    lines = promises.table(report)
    assert lines[0].split()[:3] == ["host", "service", "phase"]
    assert [line.split()[2] for line in lines[2:6]] == ["stock", "rolled_out", "off", "rolled_back"]
    assert "99.9 %" in lines[3]
