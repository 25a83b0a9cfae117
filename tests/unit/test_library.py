# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Only a library that a program lives with becomes the one services get."""

import os
import shutil
import struct
import subprocess
import sys
import tempfile
import threading

import native
import pytest

from ansible_collections.fastsocket.fleet.plugins.module_utils import library, paths
from ansible_collections.fastsocket.fleet.plugins.module_utils.errors import FleetError

CONSTRUCTOR = "#include <stdlib.h>\n#include <unistd.h>\n__attribute__((constructor)) static void start(void) { %s; }\n"
MACHINE = library.elf_kind("/bin/true")


@pytest.fixture
def folder(tmp_path):
    """A place for versions; not there yet."""
    return tmp_path / "lib"


@pytest.fixture
def version(folder):
    """Put the real library there under the name of a version; return the path."""

    def put(name):
        folder.mkdir(exist_ok=True)
        return str(shutil.copy(native.library(), folder / ("libfsocket.so." + name)))

    return put


def patched(path, offset, value):
    data = bytearray(path.read_bytes())
    data[offset:offset + len(value)] = value
    path.write_bytes(data)


def head(elf_class, order, machine):
    """The first 20 bytes of an ELF file."""
    return b"\x7fELF" + bytes([elf_class, order]) + bytes(10) + struct.pack("<HH" if order == 1 else ">HH", 3, machine)


@pytest.mark.parametrize("data, kind", [
    (head(2, 1, 62), "64-bit x86_64"), (head(2, 1, 183), "64-bit aarch64"), (head(1, 1, 3), "32-bit i386"),
    (head(1, 1, 62), "32-bit x86_64"), (head(2, 2, 22), "64-bit s390x"), (head(2, 1, 999), "64-bit machine 999"),
    (head(9, 1, 62), "? x86_64"),
])
def test_elf_kind(tmp_path, data, kind):
    path = tmp_path / "x.so"
    path.write_bytes(data)
    assert library.elf_kind(str(path)) == kind


def test_elf_kind_of_this_machine():
    assert library.elf_kind(native.library()) == library.elf_kind(sys.executable) == MACHINE
    assert MACHINE.endswith(os.uname().machine)


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh\nexit 0\n# long enough\n", head(2, 1, 62)[:19]])
def test_no_elf_file(tmp_path, data):
    path = tmp_path / "x.so"
    path.write_bytes(data)
    with pytest.raises(FleetError, match=f"^library {path} is no shared library"):
        library.check(str(path))


def test_no_file(tmp_path):
    for path, said in ((tmp_path / "none", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(FleetError, match=f"^library {path} cannot be read: {said}$"):
            library.check(str(path))


def test_check_leaves_nothing_behind(monkeypatch):
    """It stays in a folder of its own, wherever a running service has its files."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setattr(library.tempfile, "tempdir", folder)
        run = os.path.isdir(paths.RUN) and os.listdir(paths.RUN)
        library.check(native.library())
        assert os.listdir(folder) == [] and run == (os.path.isdir(paths.RUN) and os.listdir(paths.RUN))


@pytest.mark.parametrize("offset, value, kind", [
    (18, struct.pack("=H", 183 if MACHINE.endswith("x86_64") else 62), "aarch64|x86_64"), (4, b"\x01", "32-bit"),
])
def test_another_machine(tmp_path, offset, value, kind):
    path = shutil.copy(native.library(), tmp_path / "libfsocket.so")
    patched(path, offset, value)
    with pytest.raises(FleetError, match=f"^library {path} is for .*({kind}).*, this host needs {MACHINE}$"):
        library.check(str(path))


@pytest.mark.parametrize("code, said", [
    ("abort()", "/bin/true dies of signal 6 with it"),
    ("*(volatile int *)8 = 1", "/bin/true dies of signal 11 with it"),
    ('write(1, "oh\\n", 3); _exit(3)', r"/bin/true fails with it \(3\): oh"),
    ("(void)0", "loads, but is not libfsocket: it made no statistics file"),
])
def test_a_program_does_not_live_with_it(tmp_path, code, said):
    path = native.shared_object(tmp_path / "libfsocket.so", CONSTRUCTOR % code)
    with pytest.raises(FleetError, match=f"^library {path}:? {said}$"):
        library.check(path)


def test_it_hangs(tmp_path, monkeypatch):
    run = subprocess.run
    monkeypatch.setattr(library.subprocess, "run", lambda *words, **options: run(*words, **dict(options, timeout=0.3)))
    path = native.shared_object(tmp_path / "libfsocket.so", CONSTRUCTOR % "pause()")
    with pytest.raises(FleetError, match=f"^library {path}: /bin/true hangs with it$"):
        library.check(path)


def test_it_cannot_be_loaded(tmp_path):
    """Cut off behind the header: the dynamic linker goes on without it, and says so."""
    path = tmp_path / "libfsocket.so"
    with open(native.library(), "rb") as source:
        path.write_bytes(source.read(100))
    with pytest.raises(FleetError, match=f"^library {path}: /bin/true fails with it .*cannot be preloaded"):
        library.check(str(path))


def test_link(folder, version):
    one, two, name = version("0.1.0-a"), version("0.1.0-b"), str(folder / "libfsocket.so")
    assert library.link(one, name, check_mode=True)["changed"] is True and not os.path.lexists(name)
    assert library.link(one, name) == {
        "changed": True, "changes": [{"path": name, "before": None, "after": one}], "library": one}
    assert os.readlink(name) == one
    assert library.link(one, name) == library.link(one, name, True) == {"changed": False, "changes": [], "library": one}
    assert library.link(two, name)["changes"] == [{"path": name, "before": one, "after": two}]
    assert sorted(os.listdir(folder)) == ["libfsocket.so", "libfsocket.so.0.1.0-a", "libfsocket.so.0.1.0-b"]


def test_link_is_atomic(folder, version):
    """Whoever starts a service meanwhile finds one version or the other."""
    versions, name, stop, seen = [version("a"), version("b")], str(folder / "libfsocket.so"), threading.Event(), set()
    library.link(versions[0], name)

    def look():
        while not stop.is_set():
            seen.add(os.path.realpath(name) if os.path.exists(name) else None)

    reader = threading.Thread(target=look)
    reader.start()
    for turn in range(40):
        library.link(versions[turn % 2], name)
    stop.set()
    reader.join()
    assert seen <= {os.path.realpath(path) for path in versions}


def test_link_to_a_version_that_is_bad(folder, version):
    """It does not stay, the good one does; in check mode nothing is removed."""
    good, bad, name = version("good"), version("bad"), str(folder / "libfsocket.so")
    library.link(good, name)
    native.shared_object(bad, CONSTRUCTOR % "abort()")
    for check_mode, left in ((True, True), (False, False)):
        with pytest.raises(FleetError, match="dies of signal 6"):
            library.link(bad, name, check_mode)
        assert os.path.exists(bad) is left and os.readlink(name) == good
    native.shared_object(good, CONSTRUCTOR % "abort()")
    with pytest.raises(FleetError, match="dies of signal 6"):
        library.link(good, name)
    assert os.path.exists(good)  # running services may have it mapped


@pytest.mark.parametrize("other", ["libfsocket.so.1", "hosts"])
def test_link_never_removes_what_is_no_version(folder, version, tmp_path, other):
    """A path named by mistake: one clear error, and the file stays."""
    good, name, path = version("good"), str(folder / "libfsocket.so"), tmp_path / other
    path.write_text("something else, and long enough")
    library.link(good, name)
    with pytest.raises(FleetError, match=f"library {path} is no shared library"):
        library.link(str(path), name)
    assert path.exists() and os.readlink(name) == good
    with pytest.raises(FleetError, match=f"library {tmp_path} cannot be read: Is a directory"):
        library.link(str(tmp_path), name)


def test_link_on_a_bare_host(folder):
    """In check mode the task before this one has copied nothing yet."""
    path, name = str(folder / "libfsocket.so.1"), str(folder / "libfsocket.so")
    assert library.link(path, name, True)["changes"] == [{"path": name, "before": None, "after": path}]
    with pytest.raises(FleetError, match="cannot be read: No such file"):
        library.link(path, name)
    with pytest.raises(FleetError, match="library path libfsocket.so.1 must be absolute"):
        library.link("libfsocket.so.1", name)


def test_unlink_keeps_what_is_in_use(folder, version):
    used, old, name = version("used"), version("old"), str(folder / "libfsocket.so")
    library.link(old, name)
    (folder / "other.so").write_text("not ours")
    environment = {"PATH": os.environ["PATH"], "LD_PRELOAD": used, "FSOCKET_DIR": str(folder / "run")}
    with subprocess.Popen(["sleep", "60"], env=environment) as process:
        try:
            native.wait_for(lambda: library.mapped_into(process.pid))
            assert library.mapped_into(process.pid) == {used} and library.mapped_by(used) == [process.pid]
            assert library.mapped_by(old) == []
            expected = {"changed": True, "library": None, "in_use": [used], "changes": [
                {"path": name, "before": old, "after": None}, {"path": old, "before": "present", "after": None}]}
            assert library.unlink(name, check_mode=True) == expected and os.path.exists(old)
            assert library.unlink(name) == expected
            assert library.unlink(name) == {"changed": False, "library": None, "in_use": [used], "changes": []}
            left = {entry for entry in os.listdir(folder) if entry != "run"}
            assert left == {"libfsocket.so.used", "other.so"}
        finally:
            process.kill()
    assert library.unlink(name)["changes"] == [{"path": used, "before": "present", "after": None}]
    assert library.mapped_into(process.pid) == set()


def test_unlink_on_a_bare_host(tmp_path):
    assert library.unlink(str(tmp_path / "none" / "libfsocket.so")) == {
        "changed": False, "changes": [], "library": None, "in_use": []}
