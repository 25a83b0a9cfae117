# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The reader of what the kernel counts: on captured trees, against the kernel's source, for real where it runs."""

import os
import re

import native
import pytest

from ansible_collections.fastsocket.fleet.plugins.module_utils import kernelstats
from ansible_collections.fastsocket.fleet.plugins.module_utils.errors import FleetError

TEXT = """\
cpu accepts_local accepts_remote accepts_global connects_local connects_remote lookups_local lookups_fallback
0 90 10 4 3 1 80 20
1 300 0 0 0 0 300 0
"""
NONE = dict.fromkeys(kernelstats.COUNTERS, 0)


def tree(folder, text=TEXT, present="0-1\n", **sysctls):
    """A host's /proc and /sys below `folder`."""
    for path, content in [(kernelstats.PATH, text), (kernelstats.PRESENT, present)] + [
            ("%s/%s" % (kernelstats.SYSCTLS, name), value) for name, value in sysctls.items()]:
        target = folder / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(folder)


def test_read(tmp_path):
    found = kernelstats.read(tree(tmp_path, local_listen="1\n", spill="50\n"))
    assert found["sysctls"] == {"local_listen": 1, "spill": 50}
    assert found["cpus"]["0"] == {
        "accepts_local": 90, "accepts_remote": 10, "accepts_global": 4, "connects_local": 3, "connects_remote": 1,
        "lookups_local": 80, "lookups_fallback": 20}
    assert found["summary"] == {
        "accepts": 400, "accept_local": 0.975, "accepts_global": 4, "connects": 4, "connect_local": 0.75,
        "lookups": 400, "lookup_local": 0.95, "lookups_fallback": 20, "spread": 1.5}


def test_a_kernel_without_it(tmp_path):
    assert kernelstats.read(str(tmp_path)) is None
    assert kernelstats.sysctls(str(tmp_path)) == {}


def test_the_columns_are_those_of_the_kernel():
    source = (native.ROOT / "kernel-src/net/fastsocket/stats.c").read_text()
    said = re.search(r'seq_puts\(seq, "cpu (.*?)\\n"\)', source)[1].split()
    assert tuple(said) == kernelstats.COUNTERS


def test_more_columns_than_we_know(tmp_path):
    lines = TEXT.splitlines()
    more = "\n".join([lines[0].replace("cpu ", "cpu spills ") + " rfd"] + [
        re.sub(r"^(\d+) ", r"\1 77 ", line) + " 9" for line in lines[1:]])
    assert kernelstats.parse(more) == kernelstats.parse(TEXT)


def test_cpus_that_are_not_there(tmp_path):
    """A machine that could have 64: only those that exist are in the table and in the spread, or that have counted."""
    rows = "".join("%d 0 0 0 0 0 0 0\n" % cpu for cpu in range(2, 63))
    found = kernelstats.read(tree(tmp_path, TEXT + rows + "63 0 0 0 1 0 0 0\n", present="0-2\n"))
    assert list(found["cpus"]) == ["0", "1", "2", "63"]
    assert len(kernelstats.read(tree(tmp_path, TEXT + rows, present=""))["cpus"]) == 63


@pytest.mark.parametrize("text, said", [
    ("", "must name the columns, and has no cpu, accepts_local"),
    (TEXT.replace(" lookups_local", ""), "and has no lookups_local"),
    (TEXT.splitlines()[0], "0 lines for 0 CPUs"),
    (TEXT + "1 2 3\n", "line 4 must be 8 numbers and is '1 2 3'"),
    (TEXT + "2 1 2 3 4 5 6 7 8\n", "line 4 must be 8 numbers"),
    (TEXT.replace("300", "-3"), "line 3 must be 8 numbers"),
    (TEXT.replace("300", "3e2"), "line 3 must be 8 numbers"),
    (TEXT + "0 1 2 3 4 5 6 7\n", "3 lines for 2 CPUs"),
    (b"\xff\xfe\0" * 99, "must name the columns"),
    (TEXT.encode() + b"2 \xc2\xb2 2 3 4 5 6 7\n", "line 4 must be 8 numbers"),
])
def test_damaged(tmp_path, text, said):
    with pytest.raises(FleetError, match="%s%s is damaged: .*%s" % (tmp_path, kernelstats.PATH, re.escape(said))):
        kernelstats.read(tree(tmp_path, text))


def test_a_sysctl_that_is_no_number(tmp_path):
    with pytest.raises(FleetError, match="net/fastsocket/spill must be a number and is 'much'"):
        kernelstats.read(tree(tmp_path, spill="much\n"))


def test_delta():
    before = {"cpus": {"0": dict(NONE, accepts_local=5)}}
    after = {"cpus": {"0": dict(NONE, accepts_local=7), "1": NONE}}
    assert kernelstats.delta(before, after) == {"0": dict(NONE, accepts_local=2), "1": NONE}
    assert kernelstats.delta(None, after) == after["cpus"]
    assert kernelstats.delta(after, before) == before["cpus"]  # reset in between: all of it came since


def test_documentation_names_every_column():
    text = (native.ROOT / "docs/statistics.md").read_text()
    names = [*kernelstats.COUNTERS, *kernelstats.summary({})]
    assert [name for name in names if "`%s`" % name not in text] == []


def test_summary_of_nothing():
    found = kernelstats.summary({"0": NONE})
    assert found["accept_local"] is found["connect_local"] is found["lookup_local"] is found["spread"] is None


@pytest.mark.skipif(not os.path.exists(kernelstats.PATH), reason="this machine does not run our kernel")
def test_this_machine():
    found = kernelstats.read()
    assert len(found["cpus"]) >= os.cpu_count() and set(found["sysctls"]) >= {"local_listen", "spill"}
