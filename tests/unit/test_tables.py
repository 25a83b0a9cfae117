# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person reads, letter for letter."""

from ansible_collections.fastsocket.fleet.plugins.module_utils import kernelstats, stats, tables

GOLDEN = """\
web: switch on, accepts 97.5 % local, connects 75.0 % local, spread 2.25
  cpu  accepts  seen local  remote    share  connects seen local  remote    share  spills   slots: thread
  ---  -------  ----------  ------  -------  -------------------  ------  -------  ------  --------------
  0        250          90      10   90.0 %                   30       0  100.0 %       2  71(on) 81(off)
  2        750         300       0  100.0 %                    0      10    0.0 %       0    72(spilling)
  10         0           0       0        -                    0       0        -       0               -
  errors: taken 3, unpinned 1
"""


def row(**counted):
    return {**dict.fromkeys(stats.COUNTERS, 0), **counted}


def reading():
    cpus = {"10": row(), "2": row(accepts=750, accepts_local=300, connects_remote=10),
            "0": row(accepts=250, accepts_local=90, accepts_remote=10, connects_local=30, spills=2)}
    slots = [{"cpu": cpu, "tid": tid, "state": state} for cpu, tid, state in (
        (0, 71, "on"), (2, 72, "spilling"), (0, 81, "off"))]
    errors = {**dict.fromkeys(stats.ERRORS, 0), "unpinned": 1, "taken": 3}
    return {"cpus": cpus, "slots": slots, "errors": errors, "switch": "on", "summary": stats.summary(cpus)}


def test_a_service():
    """CPUs in the order of their numbers; a CPU without traffic has no share; only errors that happened."""
    assert tables.service_lines("web", reading()) == GOLDEN.splitlines()


def test_cpus_that_are_away():
    found = reading()
    for slot, runs_on in zip(found["slots"], ([0], [0, 1, 3], []), strict=True):
        slot["runs_on"] = runs_on
    lines = tables.service_lines("web", dict(found, offline=[2, 10]))
    assert [line.rpartition("  ")[2] for line in lines[3:6]] == [
        "71(on) 81(off, runs on none)", "offline 72(spilling, runs on 0-1,3)", "offline"]


def test_a_quiet_service():
    found = dict(reading(), cpus={"0": row()}, slots=[], errors=dict.fromkeys(stats.ERRORS, 0), switch="off",
                 summary=stats.summary({"0": row()}))
    lines = tables.service_lines("web", found)
    assert lines[0] == "web: switch off, accepts - local, connects - local, spread -"
    assert len(lines) == 4 and lines[3].split() == ["0", "0", "0", "0", "-", "0", "0", "-", "0", "-"]


def test_no_statistics():
    assert tables.service_lines("web", None) == ["web: wrapped, no statistics yet (not started since)"]


KERNEL = """\
kernel (all of this network namespace): local_listen on, accepts 97.5 % local, connects - local, look-ups 95.0 % \
local, spread 2.25
  cpu  accepts local  remote    share  look-ups local  fallback    share
  ---  -------------  ------  -------  --------------  --------  -------
  0               90      10   90.0 %              80        20   80.0 %
  2              300       0  100.0 %             300         0  100.0 %
  10               0       0        -               0         0        -
"""


def kernel():
    cpus = {cpu: dict.fromkeys(kernelstats.COUNTERS, 0) for cpu in ("10", "2", "0")}
    cpus["0"].update(accepts_local=90, accepts_remote=10, lookups_local=80, lookups_fallback=20)
    cpus["2"].update(accepts_local=300, lookups_local=300)
    return {"cpus": cpus, "sysctls": {"local_listen": 1}, "summary": kernelstats.summary(cpus)}


def test_the_kernel():
    assert tables.kernel_lines(kernel()) == KERNEL.splitlines()
    assert "local_listen off," in tables.kernel_lines(dict(kernel(), sysctls={"local_listen": 0}))[0]
    assert tables.kernel_lines(None) == []


def test_a_host():
    assert tables.host_lines({}, None) == ["no service is wrapped on this host"]
    assert tables.host_lines({}, kernel())[1:] == KERNEL.splitlines()
    both = tables.host_lines({"web": reading(), "other": None}, kernel())
    assert both == tables.service_lines("other", None) + GOLDEN.splitlines() + KERNEL.splitlines()


def test_a_window_is_shown_instead_of_the_sums():
    cpus = {"0": row(accepts=9, accepts_local=1)}
    found = dict(reading(), window=dict(stats.summary(cpus), cpus=cpus))
    lines = tables.host_lines({"web": found}, dict(kernel(), window=dict(kernelstats.summary({}), cpus={})))
    assert lines[0] == "web: switch on, accepts 100.0 % local, connects - local, spread 1.00"
    assert lines[3].split()[:4] == ["0", "9", "1", "0"] and lines[4].startswith("  errors")
    assert "accepts - local" in lines[5]


def test_render():
    assert tables.render(("a", "long"), [("wide one", 1), ("b", 22222)]) == [
        "a          long",
        "--------  -----",
        "wide one      1",
        "b         22222",
    ]
    assert tables.render(("a",), []) == ["a", "-"]


def test_numbers():
    shares = {None: "-", 0: "0.0 %", 0.99949: "99.9 %", 0.9996: "100.0 %"}
    assert {share: tables.percent(share) for share in shares} == shares
    assert (tables.number(None), tables.number(7), tables.number(1.005, "%.2f")) == ("-", "7", "1.00")
