# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The runner finds what is wrong: machines in which tests fail, hang, skip, or the kernel complains or dies."""
import re

import ktap
import pytest
from conftest import SLOW

# LKDTM does to the kernel what its name says; each leaves another kind of report.
PROVOKE = "sh -c 'echo {} >/sys/kernel/debug/provoke-crash/DIRECT'"


@pytest.fixture
def run(bench, request):
    """run(plan, ...): boot a plan of its own on one CPU. Seconds are those of a kernel that is not slow."""
    name = "runner-" + re.sub(r"\W+", "-", request.node.name.removeprefix("test_")).strip("-")
    slow = SLOW[bench.flavour]
    return lambda plan, **options: bench.boot(name, plan, 1, **{
        key: value * slow if key in ("silence", "limit") else value for key, value in options.items()})


def test_results_are_told_apart(run):
    boot = run([("good", "true"), ("bad", "sh -c 'echo because; exit 3'"), ("idle", "sh -c 'exit 4'"),
                ("inside", "printf 'ok 1 one\\nwhy\\nnot ok 2 two\\nok 3 three # SKIP no such thing\\n'")])
    assert boot.trouble == ""
    assert boot.splats == []
    assert {name: program.outcome for name, program in boot.programs.items()} == {
        "good": "passed", "bad": "failed", "idle": "skipped", "inside": "passed"}
    assert boot.programs["bad"].log == ["because"]
    inside = boot.programs["inside"].tests
    assert [(name, test.outcome) for name, test in inside.items()] == [
        ("one", "passed"), ("two", "failed"), ("three", "skipped")]
    assert inside["two"].log == ["why", "not ok 2 two"]
    assert inside["three"].reason == "no such thing"


@pytest.mark.parametrize("provoked, word", [("WARNING", "WARNING:"), ("SOFTLOCKUP", "soft lockup")])
def test_a_complaint_of_the_kernel_is_found(run, provoked, word):
    arguments = "watchdog_thresh=2" if provoked == "SOFTLOCKUP" else ""
    boot = run([("before", "true"), ("provoked", PROVOKE.format(provoked)), ("after", "true")],
               arguments=arguments, silence=30)
    assert boot.programs["before"].outcome == "passed"
    assert any(word in splat for splat in boot.splats), boot.splats


def test_a_kernel_that_dies(run):
    boot = run([("before", "true"), ("provoked", PROVOKE.format("PANIC")), ("after", "true")])
    assert boot.programs["before"].outcome == "passed"
    assert boot.programs["provoked"].outcome == "missing"
    assert "after" not in boot.programs
    assert "went before its plan was done" in boot.trouble
    assert any("Kernel panic" in splat for splat in boot.splats)


def test_a_machine_that_says_no_more(run):
    boot = run([("before", "true"), ("hangs", "sleep 100000")], silence=30)
    assert boot.programs["before"].outcome == "passed"
    assert boot.programs["hangs"].outcome == "missing"
    assert re.search(r"silent for \d+ s", boot.trouble)


def test_a_machine_that_takes_too_long(run):
    boot = run([("endless", "sh -c 'while :; do echo going on; sleep 1; done'")], limit=20)
    assert boot.programs["endless"].outcome == "missing"
    assert "it took too long" in boot.trouble


def test_an_output_cut_off():
    programs, ended = ktap.parse(["1..2", "    # Subtest: a", "    ok 1 x", "ok 1 a", "    # Subtest: b", "    ok 1"])
    assert not ended
    assert programs["a"].outcome == "passed"
    assert programs["b"].outcome == "missing"
    assert programs["b"].tests == {}
