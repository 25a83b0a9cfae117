# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""fsctl and the library behind it, put on a host from wherever it was loaded."""

import os
import subprocess
import sys
import zipfile

import native
import pytest

from ansible_collections.fastsocket.fleet.plugins.module_utils import install, nic, paths

SOURCE = native.ROOT / "plugins/module_utils"
# What hosts do not get: the file that knows Ansible, the packages' empty ones, and what only modules use.
PARTS = sorted(str(path.relative_to(SOURCE))[:-3] for path in (*SOURCE.glob("*.py"), *SOURCE.glob("boot/*.py"))
               if path.stem not in ("adapter", "features", "__init__"))


@pytest.fixture
def root(monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "LIB", str(tmp_path / "lib"))
    monkeypatch.setattr(paths, "FSCTL", str(tmp_path / "sbin/fsctl"))
    monkeypatch.setattr(install, "FOLDER", str(tmp_path / "lib/python/fastsocket_fleet"))
    return tmp_path


def tree(root):
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def test_parts_are_the_files():
    names = [part.__name__.partition(".module_utils.")[2].replace(".", "/") for part in install.PARTS]
    assert sorted(names + ["install"]) == PARTS


def test_install(root):
    predicted = install.install("present", True)
    assert tree(root) == {}
    result = install.install("present", False)
    assert result == predicted and result["changed"]
    assert {change["before"] for change in result["changes"]} == {None}
    found = tree(root)
    assert set(found) == {"sbin/fsctl", "share/man/man8/fsctl.8"} | {
        f"lib/python/fastsocket_fleet/{name}.py" for name in (*PARTS, "__init__", "boot/__init__")}
    for name in PARTS:
        assert found[f"lib/python/fastsocket_fleet/{name}.py"] == (SOURCE / f"{name}.py").read_text()
    assert os.stat(paths.FSCTL).st_mode & 0o7777 == 0o755
    assert found["sbin/fsctl"].splitlines()[0] == "#!" + sys.executable and paths.MADE_BY in found["sbin/fsctl"]
    assert install.install("present", False) == install.install("present", True) == {"changed": False, "changes": []}


def test_the_command_itself(root):
    install.install("present", False)
    done = subprocess.run([paths.FSCTL, "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: fsctl")
    assert not list(root.rglob("__pycache__"))  # what it leaves behind is what it installed
    assert "ExecStart=/usr/sbin/fsctl nic apply\n" in nic.UNIT_TEXT


def test_another_version_is_replaced(root):
    install.install("present", False)
    part, gone = f"{install.FOLDER}/stats.py", f"{install.FOLDER}/boot/gone.py"
    for path in (part, gone):
        with open(path, "a") as handle:
            handle.write("# older\n")
    assert install.install("present", False)["changes"] == [
        {"path": part, "before": "present", "after": "this version"},
        {"path": gone, "before": "present", "after": None}]
    assert not os.path.exists(gone) and install.install("present", False)["changed"] is False


def test_absent(root):
    (root / "lib").mkdir()
    (root / "lib/libfsocket.so.1").write_text("in use")
    install.install("present", False)
    subprocess.run([sys.executable, "-c", "import fastsocket_fleet.paths"], cwd=root / "lib/python", check=True, env={})
    assert (root / "lib/python/fastsocket_fleet/__pycache__").is_dir()  # somebody else's Python was there
    assert install.install("present", False)["changed"] is False
    assert install.install("absent", True)["changed"] and os.path.exists(paths.FSCTL)
    assert install.install("absent", False)["changed"]
    assert tree(root) == {"lib/libfsocket.so.1": "in use"} and os.listdir(root / "lib") == ["libfsocket.so.1"]
    assert install.install("absent", False) == {"changed": False, "changes": []}
    os.unlink(root / "lib/libfsocket.so.1")
    install.install("present", False)
    install.install("absent", False)
    assert not os.path.exists(root / "lib")


def test_from_the_zip_of_a_module(tmp_path):
    """A module comes to the host as a zip file; its sources are read out of that."""
    with zipfile.ZipFile(tmp_path / "module.zip", "w") as archive:
        for path in SOURCE.rglob("*.py"):
            archive.write(path, f"utils/{path.relative_to(SOURCE)}")
    code = (f"import sys; sys.path.insert(0, {str(tmp_path / 'module.zip')!r})\n"
            "from utils import install\n"
            "assert '.zip' in install.__file__\n"
            "sys.stdout.write(install.files()[install.FOLDER + '/boot/trial.py'])")
    for python in native.PYTHONS:
        assert subprocess.check_output([python, "-c", code], text=True) == (SOURCE / "boot/trial.py").read_text()


@pytest.mark.skipif(not native.OLD, reason="needs Python 3.6")
def test_the_oldest_python_takes_every_part():
    """Each alone, so that none leans on another's import."""
    code = ("import importlib, sys; sys.path.insert(0, sys.argv[1])\n"
            "for name in sys.argv[2:]:\n"
            "    for known in [known for known in sys.modules if known.startswith('module_utils')]:\n"
            "        del sys.modules[known]\n"
            "    importlib.import_module('module_utils.' + name.replace('/', '.'))\n"
            "    print(name)")
    command = [native.OLD, "-B", "-W", "error", "-c", code, str(SOURCE.parent)] + PARTS
    assert subprocess.check_output(command, text=True).split() == PARTS
