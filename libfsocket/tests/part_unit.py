# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""The C unit tests, plain and sanitized, and what the tools print."""
import json
import os
import re

import lab

INTEGER = re.compile(r"\d+")


def unit(program, **settings):
    out = lab.run(program, env={**os.environ, "FSOCKET_DIR": str(lab.DIR), "FSOCKET_NAME": "unit", **settings},
                  check=False)
    bad = [line for line in out.stdout.splitlines() if not re.match(r"ok |1\.\.", line)]
    count = out.stdout.count("\nok ")
    print(f"# {count + 1} checks")
    assert out.returncode == 0 and not bad and count > 100, f"status {out.returncode}, {count} good\n" + "\n".join(bad)


def test_unit():
    """settings, ports, environment, socket options, the choice by a program and the table, in C"""
    unit(lab.build / "tests/unit")


def test_unit_sanitized():
    """the same with ASan and UBSan"""
    unit(lab.build / "tests/unit-asan")


def test_abi_dump():
    """abi-dump names every byte of the structs, and the statistics file is laid out so"""
    structs = json.loads((lab.build / "abi.json").read_text())["structs"]
    assert len(structs) == 4
    for name, struct in structs.items():
        at = 0
        for field, f in sorted(struct["fields"].items(), key=lambda item: item[1]["offset"]):
            assert f["offset"] == at, f"{name}.{field} begins at {f['offset']}, {at} bytes are named before it"
            at += f["size"] * f["count"]
        assert at == struct["size"], f"{name}: {at} of {struct['size']} bytes named"
    header = lab.Stats("unit").read()["header"]
    assert header["header_size"] == structs["fsocket_header"]["size"]
    assert [header[kind + "_size"] for kind in ("cpu", "listener", "slot")] == [
        structs["fsocket_" + kind]["size"] for kind in ("cpu", "listener", "slot")]
    assert header["cpu_size"] == 128 and header["cpu_offset"] % 64 == 0, "a CPU's counters are two cache lines"


def test_documents():
    """the manual and the Markdown table have a row for each setting in settings.def"""
    names = re.findall(r'"(FSOCKET_\w+)"', (lab.HERE.parent / "src/settings.def").read_text())
    manual = (lab.build / "libfsocket.7").read_text()
    table = lab.run(lab.build / "settings-doc", "table").stdout
    readme = (lab.HERE.parent / "README.md").read_text()
    assert len(names) > 5
    for name in names:
        assert f"\n.B {name}\n" in manual, f"{name} is not in the manual"
    assert table in readme, "README.md has another table than `make docs-table` prints"
    lint = lab.run("groff", "-man", "-Tutf8", "-wall", "-z", lab.build / "libfsocket.7")
    assert not lint.stdout, lint.stdout
