# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What follows from what a host said of its boots: every outcome from looks as they come."""
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.fastsocket.fleet.plugins.plugin_utils import boots

NEW, STOCK = "6.12.48-1.fastsocket.x86_64", "6.1.0-40-amd64"
STABLE = 10


def boot_id(number):
    return f"{number:08x}-0000-4000-8000-000000000000"


def seen(number, kernel=STOCK, settled=None):
    """A host's answer in boot `number`; number 0 is the boot that was asked to end."""
    return {"boot_id": boot_id(number), "kernel": kernel, "settled": settled, "state": "running", "failed": []}


def timeline(*looks):
    made = []
    for second, look in enumerate(looks):
        boots.extend(made, look, float(second))
    return made


def outcome(*looks, expired=False):
    return boots.outcome(timeline(*looks), boot_id(0), NEW, STABLE, expired)


GOING, SILENT = seen(0, settled=900.0), None
STARTING, EARLY, STEADY = seen(1, NEW), seen(1, NEW, 2.0), seen(1, NEW, 10.0)
FALLEN = seen(2, STOCK, 10.0)


@pytest.mark.parametrize("looks, while_open, in_the_end", [
    ([GOING, SILENT, STARTING, EARLY, STEADY], "new_kernel", "new_kernel"),
    # Looked at late: the host's own clock counts, not the time of watching.
    ([seen(1, NEW, 300.0)], "new_kernel", "new_kernel"),
    ([GOING, SILENT, FALLEN], "fell_back", "fell_back"),
    ([GOING, SILENT, EARLY, SILENT, FALLEN], "fell_back", "fell_back"),
    # Not settled: nothing is clear before the time is over.
    ([GOING, SILENT, EARLY], None, "new_kernel"),
    ([GOING, SILENT, STARTING], None, "new_kernel"),
    ([GOING, SILENT, seen(1, STOCK, 2.0)], None, "fell_back"),
    # The old boot, however settled, is no answer.
    ([], None, "never_returned"),
    ([GOING], None, "never_returned"),
    ([GOING, SILENT, GOING], None, "never_returned"),
    ([GOING, SILENT], None, "never_returned"),
    ([GOING, SILENT, EARLY, SILENT], None, "never_returned"),
    ([SILENT, seen(1), SILENT, seen(2), SILENT, seen(3)], "boot_loop", "boot_loop"),
    ([SILENT, seen(1), seen(2), seen(3, NEW, 99.0)], "boot_loop", "boot_loop"),
    # One boot that comes and goes.
    ([EARLY, SILENT, EARLY, SILENT, EARLY, SILENT], None, "boot_loop"),
    ([EARLY, SILENT, EARLY, SILENT, seen(1, NEW, 5.0)], None, "boot_loop"),
    ([EARLY, SILENT, EARLY, SILENT, STEADY], "new_kernel", "new_kernel"),
])
def test_outcome(looks, while_open, in_the_end):
    assert outcome(*looks) == while_open
    if looks[-1:] != [STEADY]:
        assert outcome(*looks, expired=True) == in_the_end


LOOKS = st.lists(st.one_of(st.none(), st.builds(
    seen, st.integers(0, 4), st.sampled_from([NEW, STOCK]), st.one_of(st.none(), st.floats(0, 100)))), max_size=30)


@given(LOOKS)
def test_every_wait_ends_and_nothing_but_the_expected_kernel_at_rest_passes_early(looks):
    early, late = outcome(*looks), outcome(*looks, expired=True)
    assert late in boots.WHAT
    assert early in (None, *boots.WHAT) and early != "never_returned"
    if early == "new_kernel":
        assert looks[-1]["kernel"] == NEW and looks[-1]["settled"] >= STABLE and looks[-1]["boot_id"] != boot_id(0)


@given(LOOKS, st.integers(0, 30))
def test_a_timeline_can_be_handed_on(looks, cut):
    """A wait in slices comes to what one wait comes to."""
    made = timeline(*looks[:cut])
    for second, look in enumerate(looks[cut:], len(looks[:cut])):
        boots.extend(made, look, float(second))
    assert made == timeline(*looks)


def test_timeline_is_short():
    assert timeline(GOING, SILENT, SILENT, STARTING, EARLY) == [
        {"boot_id": boot_id(0), "kernel": STOCK, "settled": 900.0, "since": 0.0, "until": 0.0},
        {"boot_id": None, "kernel": None, "settled": None, "since": 1.0, "until": 2.0},
        {"boot_id": boot_id(1), "kernel": NEW, "settled": 2.0, "since": 3.0, "until": 4.0}]


ANSWER = f"""boot_id={boot_id(1)}
kernel={NEW}
uptime=61.50 100.00
FinishTimestampMonotonic=41200000
SystemState=degraded
failed=nginx.service loaded failed failed A high performance web server
failed=\u25cf haproxy.service loaded failed failed HAProxy
end=
"""


def test_look():
    assert boots.look(ANSWER) == {"boot_id": boot_id(1), "kernel": NEW, "settled": 20.3, "state": "degraded",
                                  "failed": ["haproxy.service", "nginx.service"]}


@pytest.mark.parametrize("old, new, settled", [
    ("=degraded", "=starting", None),
    ("=degraded", "=stopping", None),
    ("=41200000", "=0", None),
    ("SystemState=degraded\n", "", 20.3),
])
def test_look_at_rest(old, new, settled):
    assert boots.look(ANSWER.replace(old, new))["settled"] == settled


@pytest.mark.parametrize("old, new", [
    (boot_id(1), ""), (boot_id(1), "00000001"), (boot_id(1), boot_id(1).upper() + "x"), ("61.50 100.00", ""),
    ("61.50", "soon"), ("41200000", "[not set]"), ("end=", ""), (ANSWER, ""), (ANSWER, "System is going down."),
])
def test_no_look(old, new):
    assert boots.look(ANSWER.replace(old, new)) is None


def test_look_at_this_machine():
    """The command itself, in the shell of this machine, whatever its init is."""
    said = subprocess.run(["sh", "-c", boots.LOOK], check=True, stdout=subprocess.PIPE, text=True).stdout
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        assert boots.look(said)["boot_id"] == file.read().strip()


def noted(number, kernel):
    return {"boot_id": boot_id(number), "kernel": kernel, "trial": kernel == NEW, "time": 0}


def test_boots_that_only_the_host_saw_count():
    trial = {"armed_boot_id": boot_id(0), "boots": [noted(number, NEW) for number in (0, 1, 2)] + [noted(3, STOCK)]}
    made = timeline(seen(3, STOCK, 99.0))
    boots.remember(made, boot_id(0), trial)
    assert boots.boot_ids(made, boot_id(0)) == [boot_id(1), boot_id(2), boot_id(3)]
    assert boots.outcome(made, boot_id(0), NEW, STABLE, False) == "boot_loop"
    boots.remember(made, boot_id(0), trial)
    assert len(made) == 3


def test_boots_without_a_trial():
    made = timeline(FALLEN)
    boots.remember(made, boot_id(0), {})
    assert made == timeline(FALLEN)


def test_unhealthy():
    look = boots.look(ANSWER)
    assert boots.unhealthy(look, ["haproxy.service"], STABLE) == ["nginx.service failed"]
    assert boots.unhealthy(dict(look, failed=[], settled=None, state="starting"), [], STABLE) == [
        "the boot is not over (systemd: starting)"]
    assert boots.unhealthy(dict(look, failed=[], settled=3.4), [], STABLE) == ["the boot was over for 3 of 10 s only"]


@pytest.mark.parametrize("given, since, trial, units", [
    (["a.service"], {"failed_units": ["b.service"]}, {"failed_units": ["c.service"]}, ["a.service"]),
    ([], {"failed_units": ["b.service"]}, {}, []),
    (None, {"failed_units": []}, {"failed_units": ["c.service"]}, []),
    (None, {"skipped": True}, {"failed_units": ["c.service"]}, ["c.service"]),
    (None, {}, {}, []),
])
def test_failed_before(given, since, trial, units):
    assert boots.failed_before(given, since, trial) == units


@pytest.mark.parametrize("looks, trial, error, words", [
    ([FALLEN], {"reason": "The trial panicked."}, "", "The trial panicked."),
    ([FALLEN], {}, "", ""),
    ([GOING], {}, "", "never went down"),
    ([EARLY, SILENT], {}, "timed out", f"it answered with {NEW} and then no more: timed out"),
    ([SILENT], {}, "timed out", "timed out"),
])
def test_reason(looks, trial, error, words):
    assert words in boots.reason(timeline(*looks), boot_id(0), trial, error)


def found(**more):
    return {"kernel": STOCK, "boot_ids": [1, 2, 3], "seconds": 93.4, "reason": "", "console": [], "unhealthy": [],
            **more}


@pytest.mark.parametrize("more, said", [
    ({"outcome": "new_kernel", "kernel": NEW}, f"web1 runs {NEW} after 93 s."),
    ({"outcome": "new_kernel", "kernel": NEW, "unhealthy": ["a.service failed", "b.service failed"]},
     f"web1 runs {NEW} after 93 s, but a.service failed, b.service failed."),
    ({"outcome": "fell_back", "reason": "It broke."}, f"web1 fell back to {STOCK} after 93 s: It broke. It is on"),
    ({"outcome": "fell_back"}, f"web1 fell back to {STOCK} after 93 s: {NEW} did not stay. It is on"),
    ({"outcome": "never_returned", "reason": "timed out"}, "web1 never returned after 93 s: timed out. If its kernel"),
    ({"outcome": "boot_loop"}, f"web1 is in a boot loop, 3 boots after 93 s: {NEW} did not stay. Look at"),
])
def test_message(more, said):
    assert boots.message("web1", NEW, found(**more)).startswith(said)


def test_message_ends_with_the_console():
    lines = [f"[ {number}.0] line" for number in range(40)]
    said = boots.message("web1", NEW, found(outcome="fell_back", console=lines)).splitlines()
    assert said[1:] == ["Its last lines:", *("  " + line for line in lines)]
