# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel's selftests said, ours on 2 to 24 CPUs, the kernel's own with local_listen off and on."""
import pytest


def passed(result, boot, where):
    """This Result is there and passed: here every feature exists, so a skipped test is a failed one."""
    assert result is not None, f"{where}: no result; {boot.trouble or 'the program ended before it'}"
    assert result.outcome == "passed", "\n".join([f"{where}: {result.outcome} {result.reason}", *result.log[-60:]])


def test_selftest(bench, selftest):
    cpus, program, name = selftest
    boot = bench.selftests(cpus)
    whole = boot.programs.get(program)
    passed(whole and whole.tests.get(name), boot, f"{program} on {cpus} CPUs")


def test_the_machine_is_well_afterwards(bench, cpus):
    """Every program came to its end, and the kernel said nothing that a healthy one does not say."""
    boot = bench.selftests(cpus)
    assert not boot.trouble, f"{boot.trouble}\n" + "\n".join(boot.console[-40:])
    assert boot.splats == [], "\n\n".join(boot.splats[:3])
    for name, program in boot.programs.items():
        assert program.outcome == "passed", f"{name}: {program.outcome} {program.reason}"


def test_upstream(bench, own):
    """Exit status 0, every test inside passed; and the namespace was in the mode that it claims."""
    mode, program, label = own
    boot = bench.upstream()
    result = boot.programs.get(f"{mode}:{label}")
    passed(result, boot, label)
    for name, inner in result.tests.items():
        passed(inner, boot, f"{label} {name}")
    said = [line for line in result.log if line.startswith("# local_listen: ")]
    value = {"off": "0", "on": "1", "base": "none"}[mode]
    assert said, f"{label} said nothing of its namespace"
    assert set(said) == {f"# local_listen: {value}"}


def test_the_machine_is_well_after_upstream(bench):
    boot = bench.upstream()
    assert not boot.trouble, f"{boot.trouble}\n" + "\n".join(boot.console[-40:])
    assert boot.splats == [], "\n\n".join(boot.splats[:3])


def test_upstream_counts(bench):
    """Off and on, the programs ran the same tests."""
    if len(bench.modes) < 2:
        pytest.skip("a kernel without our patches has one mode")
    programs = bench.upstream().programs
    for label in {name.split(":", 1)[1] for name in programs}:
        assert list(programs[f"off:{label}"].tests) == list(programs[f"on:{label}"].tests), label
