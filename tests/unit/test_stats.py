# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The reader of the statistics file against the C header, and on files that the real library wrote."""

import os
import re
import signal
import struct
import threading
import time

import native
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.fastsocket.fleet.plugins.module_utils import stats, switch, tables
from ansible_collections.fastsocket.fleet.plugins.module_utils.errors import FleetError

HEADER = (native.ROOT / "libfsocket/include/fsocket_abi.h").read_text()
STRUCTS = {
    "fsocket_header": stats.header_fields(), "fsocket_cpu": stats.CPU[2], "fsocket_listener": stats.LISTENER,
    "fsocket_slot": stats.SLOT,
}
needs_two_cpus = pytest.mark.skipif(len(native.CPUS) < 2, reason="needs two CPUs")


def members(kind, name):
    """Names in a struct or enum of the header, in order, without the last ENUM_COUNT."""
    body = re.search(r"%s %s \{(.*?)\};" % (kind, name), HEADER, re.DOTALL).group(1)
    body = re.sub(r"/\*.*?\*/", "", body, flags=re.DOTALL)
    pattern = r"(\w+)(?:\[\w+\])?;" if kind == "struct" else r"(\w+)\s*(?:=\s*\d+)?\s*(?:,|$)"
    return [found for found in re.findall(pattern, body.strip()) if not found.endswith("_COUNT")]


def file_of(folder):
    native.true(folder)
    return (folder / "web.stats").read_bytes()


def patched(data, name, value):
    """The file as a process gone wild may leave it: its workers can write it."""
    return data[:at(name)] + struct.pack("=I", value) + data[at(name) + 4:]


def at(name):
    return stats.layout(stats.header_fields())[0][name][0]


def test_header_defines_what_is_compared():
    assert set(re.findall(r"^struct (\w+) \{", HEADER, re.MULTILINE)) == set(STRUCTS)
    enums = {"fsocket_error", "fsocket_mode", "fsocket_state"}
    assert set(re.findall(r"^enum (\w+) \{", HEADER, re.MULTILINE)) == enums


@pytest.mark.parametrize("name", STRUCTS)
def test_layout_is_that_of_the_compiler(name):
    found = native.abi()["structs"][name]
    assert list(found["fields"]) == members("struct", name)
    expected, unread = {}, 0
    for field, row in found["fields"].items():
        letter = {"uint": {2: "H", 4: "I", 8: "Q"}, "int": {4: "i"}}.get(row["kind"], {}).get(row["size"])
        code = letter or "%ds" % row["size"]
        if field == "errors":
            for index, error in enumerate(stats.ERRORS):
                expected["errors_" + error] = (row["offset"] + 8 * index, 8, code)
        elif field == "reserved" and field not in dict(STRUCTS[name]):
            unread += row["size"] * row["count"]
        else:
            expected[field] = (row["offset"], row["size"], code)
    offsets, size = stats.layout(STRUCTS[name])
    assert {field: offsets[field] + (code,) for field, code in STRUCTS[name]} == expected
    assert size == struct.calcsize("@" + "".join(code for _, code in STRUCTS[name])) == found["size"] - unread


def test_names_are_those_of_the_header():
    constants = native.abi()["constants"]

    def of(prefix):
        return {value: name[len(prefix):].lower() for name, value in constants.items() if name.startswith(prefix)}

    errors = of("FSOCKET_ERR_")
    assert errors.pop(len(stats.ERRORS)) == "count"
    assert [errors[index] for index in sorted(errors)] == list(stats.ERRORS)
    assert members("enum", "fsocket_error") == ["FSOCKET_ERR_" + name.upper() for name in stats.ERRORS]
    assert of("FSOCKET_CAP_") == stats.CAPABILITIES
    assert of("FSOCKET_MODE_") == stats.MODES
    states = of("FSOCKET_SLOT_")
    assert states.pop(0) == "free" and states == stats.STATES
    for kind, prefix in (("fsocket_mode", "FSOCKET_MODE_"), ("fsocket_state", "FSOCKET_SLOT_")):
        assert members("enum", kind) == [name for name in constants if name.startswith(prefix)]
    assert set(re.findall(r"#define (FSOCKET_CAP_\w+)", HEADER)) == {name for name in constants if "_CAP_" in name}
    assert constants["FSOCKET_MAGIC"].encode() == stats.MAGIC and constants["FSOCKET_ABI_VERSION"] == max(stats.CPU)
    assert constants["FSOCKET_SWITCH_MS"] / 1000 < stats.EFFECT_S


def test_documentation_names_every_field():
    """Also every state, mode, capability and error; the words stand in backquotes in docs/statistics.md."""
    text = (native.ROOT / "docs/statistics.md").read_text()
    names = [name for kind in STRUCTS for name in members("struct", kind)]
    names += [*stats.ERRORS, *stats.STATES.values(), *stats.MODES.values(), *stats.CAPABILITIES.values()]
    names += [*stats.summary({"0": dict.fromkeys(stats.COUNTERS, 0)}), "free"]
    assert [name for name in names if "`%s`" % name not in text] == []


def test_parse_a_fresh_file(tmp_path):
    found = stats.parse(file_of(tmp_path), "web")
    source = (native.ROOT / "libfsocket/src/shared.c").read_text()
    assert found["library"] == re.search(r'#define VERSION "(.*)"', source)[1]
    assert len(found["cpus"]) == os.sysconf("SC_NPROCESSORS_CONF")
    assert set(found["cpus"]["0"]) == set(stats.COUNTERS) and not any(found["cpus"]["0"].values())
    assert found["errors"] == dict.fromkeys(stats.ERRORS, 0)
    assert found["listeners"] == found["slots"] == []
    assert abs(found["created"] - os.stat(tmp_path / "web.stats").st_mtime) < 5
    assert found["port_block"] & (found["port_block"] - 1) == 0


@pytest.mark.parametrize("spoil, said", [
    (lambda data: b"", "is not a statistics file of libfsocket"),
    (lambda data: data[:at("library")], "is not a statistics file of libfsocket"),
    (lambda data: b"X" + data[1:], "is not a statistics file of libfsocket"),
    (lambda data: data[:-1], "is cut short: [0-9]+ bytes"),
    (lambda data: patched(data, "cpu_size", 8), "is damaged: rows of 8 bytes for a cpu"),
    (lambda data: patched(data, "cpu_count", 0xFFFFFFFF), "is cut short: [0-9]+ bytes"),
    (lambda data: patched(data, "listener_offset", 0x7FFFFFFF), "is cut short: [0-9]+ bytes"),
    (lambda data: data[:8] + struct.pack("=I", 7) + data[12:], "has format 7; this version reads format 1 and 2"),
])
def test_a_damaged_file_is_named(tmp_path, spoil, said):
    path = tmp_path / "web.stats"
    path.write_bytes(spoil(file_of(tmp_path)))
    with pytest.raises(FleetError, match="%s %s" % (path, said)):
        stats.read("web", str(tmp_path))


NUMBERS = st.one_of(st.integers(0, 2 ** 32 - 1), st.sampled_from([0, 1, 2, 63, 64, 128, 0x7FFFFFFF, 0xFFFFFFFF]))
WORDS = st.lists(st.tuples(st.integers(2, 59), NUMBERS), max_size=6)  # (which word of the header, its value)
BYTES = st.lists(st.tuples(st.integers(0, 2 ** 16), st.binary(min_size=1, max_size=16)), max_size=4)


@given(WORDS, BYTES, st.none() | st.integers(0, 2 ** 16), st.none() | st.binary(max_size=400))
@settings(max_examples=1500, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_any_bytes(tmp_path_factory, words, pieces, length, whole):
    """A file that anything was written into: a reading, or one FleetError that names it."""
    folder = tmp_path_factory.getbasetemp() / "any"
    if not folder.exists():
        folder.mkdir()
        file_of(folder)
        (folder / "web.stats").rename(folder / "base")
    data = bytearray((folder / "base").read_bytes() if whole is None else stats.MAGIC + whole)
    for index, value in words:
        if len(data) >= 4 * index + 4:
            struct.pack_into("=I", data, 4 * index, value)
    for offset, piece in pieces:
        begin = offset % (len(data) + 1)
        data[begin:begin + len(piece)] = piece
    (folder / "web.stats").write_bytes(data[:length])
    try:
        found = stats.read("web", str(folder))
    except FleetError as error:
        assert str(folder / "web.stats") in str(error)
        return
    assert set(found["errors"]) == set(stats.ERRORS) and found["summary"] == stats.summary(found["cpus"])
    assert tables.service_lines("web", found)
    assert stats.delta(found, found).keys() == found["cpus"].keys()


def test_the_format_before(tmp_path):
    """A service that runs with libfsocket 0.1 while the collection is newer: each connection was looked at."""
    fresh = stats.parse(file_of(tmp_path), "web")
    head = {name: at(name) for name in ("version", "cpu_size", "cpu_offset")}
    data = bytearray(file_of(tmp_path))
    struct.pack_into("=I", data, head["version"], 1)
    struct.pack_into("=I", data, head["cpu_size"], 64)
    struct.pack_into("=8Q", data, struct.unpack_from("=I", data, head["cpu_offset"])[0], 90, 10, 4, 3, 1, 5, 6, 2)
    found = stats.parse(bytes(data), "web")
    assert found["cpus"]["0"] == row(
        accepts=100, accepts_local=90, accepts_remote=10, accepts_global=4, connects_local=3, connects_remote=1,
        connects_steered=5, connects_unsteered=6, spills=2)
    assert set(found["cpus"]) == set(fresh["cpus"])


def test_files_by_name(tmp_path):
    assert stats.read("web", str(tmp_path / "none")) is None
    for name in ("web", "nginx@edge"):
        native.true(tmp_path, name)
        assert stats.read(name, str(tmp_path))["switch"] == "on"


@needs_two_cpus
def test_a_live_service(tmp_path):
    """Accepts are booked to the worker's CPU, by where they arrived; what a dead worker left is not shown."""
    here, there = native.CPUS
    with native.server(tmp_path, here) as (process, port):
        native.connect(port, here, 5)
        before = stats.read("web", str(tmp_path))
        time.sleep(0.6)     # a pause: it looks at a few connections again
        native.connect(port, there, 3)
        found = stats.read("web", str(tmp_path))
        row = found["cpus"][str(here)]
        assert (row["accepts"], row["accepts_remote"]) == (8, 3) and 4 <= row["accepts_local"] <= 5, row
        assert found["switch"] == "on" and "incoming_cpu" in found["capabilities"]
        assert found["summary"] == stats.summary(found["cpus"]) and found["summary"]["accepts_looked_at"] < 9
        listener, = found["listeners"]
        assert (listener["port"], listener["address"], listener["pid"]) == (port, "127.0.0.1", process.pid)
        assert (listener["mode"], listener["sole"], listener["orphans"]) == ("slots", True, 0)
        slot, = found["slots"]
        assert (slot["state"], slot["cpu"], slot["pid"], slot["tid"]) == ("on", here, process.pid, process.pid)
        assert slot["listener"] == listener["cookie"] != slot["cookie"] and slot["backlog"] == 16
        assert slot["runs_on"] == [here] and not stats.strayed(slot) and here not in found["offline"]
        window = stats.delta(before, found)
        assert window[str(here)]["accepts_local"] == 0 and window[str(here)]["accepts_remote"] == 3
    native.wait_for(lambda: not os.path.exists("/proc/%d" % process.pid))
    found = stats.read("web", str(tmp_path))
    assert found["slots"] == found["listeners"] == [] and found["summary"]["accepts"] == 8


def test_wait_off(tmp_path):
    """Traffic makes the owner see the switch; one that stands still is waited for no longer than it may take, and that
    time is not what the others needed."""
    folder, cpu = str(tmp_path), native.CPUS[0]
    with native.server(folder, cpu) as (process, port):
        native.connect(port, cpu)
        process.send_signal(signal.SIGSTOP)
        switch.write("web", switch.OFF, folder)
        begun = time.monotonic()
        assert stats.wait_off("web", folder, 0.2) == {"seconds": 0, "idle": 1}  # nothing changed all that time
        assert 0.2 <= time.monotonic() - begun < stats.EFFECT_S
        process.send_signal(signal.SIGCONT)
        traffic = threading.Thread(target=native.connect, args=(port, cpu, 20))
        traffic.start()
        result = stats.wait_off("web", folder)
        traffic.join()
        assert result["idle"] == 0 and 0 <= result["seconds"] < stats.EFFECT_S
        assert stats.read("web", folder)["slots"][0]["state"] == "off"
        switch.write("web", switch.ON, folder)
        native.wait_for(lambda: native.connect(port, cpu) or stats.read("web", folder)["slots"][0]["state"] == "on")
    assert stats.wait_off("nothing", folder) == {"seconds": pytest.approx(0, abs=0.1), "idle": 0}


def row(**counted):
    return {**dict.fromkeys(stats.COUNTERS, 0), **counted}


def test_delta():
    old = {"created": 1, "cpus": {"0": row(accepts_local=5, spills=1)}}
    new = {"created": 1, "cpus": {"0": row(accepts_local=7, spills=1), "1": row(accepts_remote=2)}}
    assert stats.delta(old, new) == {"0": row(accepts_local=2), "1": row(accepts_remote=2)}
    assert stats.delta(None, new) == new["cpus"]
    assert stats.delta(dict(old, created=0), new) == new["cpus"]  # made anew since: all of it came since


def test_shares():
    assert stats.share(0, 0) is None and stats.share(1, 3) == 0.25 and stats.share(0, 4) == 0
    assert stats.spread([]) is stats.spread([0, 0]) is None
    assert stats.spread([5, 5, 5]) == 1 and stats.spread([0, 8, 0, 0]) == 4 and stats.spread([1, 3]) == 1.5


def test_summary():
    cpus = {
        "0": row(accepts=250, accepts_local=90, accepts_remote=10, accepts_global=4, spills=2, connects_local=30,
                 connects_steered=40),
        "1": row(accepts=750, accepts_local=300, connects_remote=10, connects_unsteered=5),
    }
    assert stats.summary(cpus) == {
        "accepts": 1000, "accepts_looked_at": 400, "accept_local": 0.975, "accepts_global": 4, "connects": 45,
        "connect_local": 0.75,
        "connects_steered": 40, "spills": 2, "spread": 1.5}
    assert stats.summary({"0": row()})["accept_local"] is None
