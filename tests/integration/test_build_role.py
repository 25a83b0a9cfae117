# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbook build, from the installed tarball to packages on the controller. In the lab's configuration: the
smallest whole kernel, and what tools/kernel has compiled is in the same ccache."""
import functools
import hashlib
import http.server
import json
import os
import re
import subprocess
import tarfile
import threading
import time
from pathlib import Path

import fleet
import pytest

SOURCE = Path("/usr/src/linux-source-6.12.tar.xz")
LAB = {"build_fragments": ["fastsocket", "lab"], "build_free_gb": 4, "build_repository": True}
NO_SUM = "0" * 64
pytestmark = pytest.mark.skipif(not SOURCE.exists(), reason="Debian's linux-source-6.12 is not installed")


@pytest.fixture(scope="module")
def play(collections, tmp_path_factory):
    """play(*options, folder=, **variables): the playbook on this machine, in a folder; a fleet.Run with `seconds`."""
    home = tmp_path_factory.mktemp("home")

    def run(*options, folder, book="fastsocket.fleet.build", **variables):
        given = {"build_dir": f"{folder}/build", "build_output": f"{folder}/out", "build_prepare": False}
        given.update(variables)
        env = {**os.environ, **fleet.QUIET, "ANSIBLE_COLLECTIONS_PATH": collections, "ANSIBLE_HOME": str(home),
               "ANSIBLE_INVENTORY_UNPARSED_WARNING": "0"}
        begin = time.monotonic()
        command = ["ansible-playbook", book, "-e", json.dumps(given), *options]
        done = subprocess.run(command, check=False, cwd=folder, env=env, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=3000)
        result = fleet.Run(done)
        result.seconds = time.monotonic() - begin
        return result
    return run


@pytest.fixture(scope="module")
def built(play, tmp_path_factory):
    """The first run, after one in check mode that left nothing; (folder, run)."""
    folder = tmp_path_factory.mktemp("built")
    # It fills the ccache, or another suite is at it: two at a time would compile everything twice.
    subprocess.run([fleet.TOP / "tools/kernel", "lab"], check=True, stdout=subprocess.DEVNULL)
    check = play("--check", folder=folder, **LAB)
    assert check.status == 0, check.output
    assert check.recap["localhost"]["changed"] == 1 and list(folder.iterdir()) == [], check.output
    run = play(folder=folder, **LAB)
    assert run.status == 0, run.output
    return folder, run


def packages(folder):
    return {path.name: path for path in (folder / "out").iterdir() if path.suffix in (".rpm", ".deb")}


def state(folder):
    """{file of the output: when it was written}"""
    return {path: path.stat().st_mtime_ns for path in (folder / "out").rglob("*") if path.is_file()}


def test_packages(built):
    folder, run = built
    names = sorted(packages(folder))
    assert [re.sub(r"6\.12\.\d+", "6.12.N", name) for name in names] == [
        "kernel-fastsocket-6.12.N-1.x86_64.rpm", "kernel-fastsocket_6.12.N-1_amd64.deb",
        "libfsocket-0.2.0-1.x86_64.rpm", "libfsocket_0.2.0-1_amd64.deb"]
    sums = dict(reversed(line.split()) for line in (folder / "out/SHA256SUMS").read_text().splitlines())
    assert sums == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in packages(folder).items()}
    assert run.recap["localhost"]["changed"] > 3


def test_progress(built):
    """A line every half minute: time, objects, of how many."""
    said = r"^localhost: Build the kernel: \d+:\d\d (\d+) of about (\d+), .+$"
    lines = [(int(steps), int(total)) for steps, total in re.findall(said, built[1].output, re.MULTILINE)]
    assert lines or built[1].seconds < 100, built[1].output
    assert lines == sorted(lines) and all(500 < total < 4000 for dummy, total in lines), lines


def test_kernel_inside(built, tmp_path):
    """One kernel in both packages, with our feature in it; its image says the name that the package has."""
    rpm, deb = (next((built[0] / "out").glob(f"kernel*.{form}")) for form in ("rpm", "deb"))
    provides = subprocess.run(["rpm", "-qp", "--provides", rpm], check=True, stdout=subprocess.PIPE, text=True).stdout
    kernel = re.search(r"kernel-uname-r = (\S+)", provides)[1]
    assert re.fullmatch(r"6\.12\.\d+-1\.fastsocket\.x86_64", kernel)
    subprocess.run(["dpkg-deb", "-x", deb, tmp_path / "deb"], check=True)
    (tmp_path / "rpm").mkdir()
    subprocess.run(f"rpm2cpio '{rpm}' | cpio -id --quiet", shell=True, check=True, cwd=tmp_path / "rpm")
    image = tmp_path / "deb/boot" / f"vmlinuz-{kernel}"
    assert image.read_bytes()[0x202:0x206] == b"HdrS" and kernel.encode() in image.read_bytes()[:0x8000]
    assert "CONFIG_FASTSOCKET=y\n" in (tmp_path / "deb/boot" / f"config-{kernel}").read_text()
    for tree in ("deb", "rpm"):
        modules = tmp_path / tree / "lib/modules" / kernel
        assert (modules / "vmlinuz").read_bytes() == image.read_bytes()
        assert list(modules.glob("kernel/**/*.ko")) and (modules / "modules.dep").exists()


def test_repository(built, tmp_path):
    """dnf takes it for a repository."""
    (tmp_path / ".rpmmacros").write_text("%_dbpath /var/lib/rpm\n")
    listed = subprocess.run(
        ["dnf", "--installroot", tmp_path / "root", "--repofrompath", f"ours,{built[0]}/out", "--repo", "ours",
         "--releasever", "9", "--setopt", "reposdir=/nowhere", "--setopt", f"cachedir={tmp_path}/cache", "--noplugins",
         "-q", "repoquery", "--qf", "%{name}"],
        check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, "HOME": str(tmp_path)}).stdout.split()
    assert sorted(listed) == ["kernel-fastsocket", "libfsocket"]


def test_again(built, play):
    """Nothing is built, nothing is written, in seconds."""
    before = state(built[0])
    run = play(folder=built[0], **LAB)
    assert run.status == 0 and run.recap["localhost"]["changed"] == 0, run.output
    assert state(built[0]) == before and "Build the kernel" not in run.output
    assert run.seconds < 150      # 12 s of CPU; the suites share two cores


def test_damaged_package(built, play):
    """A package that is no longer what its checksum says comes again, with the same bytes and without compiling."""
    folder = built[0]
    sums = (folder / "out/SHA256SUMS").read_text()
    for path in (folder / "build/output").glob("kernel*.rpm"):
        path.write_bytes(b"damaged")
    for path in (folder / "out").glob("kernel*.rpm"):
        path.unlink()
    run = play(folder=folder, **LAB)
    assert run.status == 0, run.output
    assert (folder / "out/SHA256SUMS").read_text() == sums
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder / "out", check=True)
    assert "  CC " not in (folder / "build/kernel.log").read_text()


def tarball(folder, version):
    """A source tarball that holds a Makefile only; (path, checksum)."""
    (folder / "linux").mkdir()
    (folder / "linux/Makefile").write_text("VERSION = {}\nPATCHLEVEL = {}\nSUBLEVEL = 1\n".format(*version))
    with tarfile.open(folder / "linux.tar.gz", "w:gz") as archive:
        archive.add(folder / "linux", "linux")
    return folder / "linux.tar.gz", hashlib.sha256((folder / "linux.tar.gz").read_bytes()).hexdigest()


BAD = {
    "format": ({"build_formats": ["tgz"]}, ["build_formats", "rpm, deb", "tgz"]),
    "no format": ({"build_formats": []}, ["build_formats is empty"]),
    "release": ({"build_release": "1-2"}, ["build_release 1-2", "letters, digits and dots"]),
    "no checksum": ({"build_source": "/etc/hosts"}, ["build_source_sha256 is not given", "/etc/hosts"]),
    "half a checksum": ({"build_source_sha256": "abc"}, ["build_source_sha256 abc", "64 hexadecimal digits"]),
    "no such source": (
        {"build_source": "/no/linux.tar.xz", "build_source_sha256": NO_SUM}, ["/no/linux.tar.xz: no such file"]),
    "wrong checksum": ({"build_source": "/etc/hosts", "build_source_sha256": NO_SUM},
                       [NO_SUM, hashlib.sha256(Path("/etc/hosts").read_bytes()).hexdigest()]),
    "no such base": ({"build_config": "/no/config"}, ["build_config /no/config", "x86_64_defconfig"]),
    "no base": ({"build_config": "Some"}, ["build_config Some", "x86_64_defconfig"]),
    "fragment": ({"build_fragments": ["fastsocket", "desktop"]}, ["fastsocket, desktop", "debug, lab"]),
    "room": ({"build_free_gb": 999999}, ["GB are free", "build_free_gb asks for 999999"]),
}


@pytest.fixture(scope="module")
def refused(play, tmp_path_factory):
    """{name: the message} of all of BAD, in one play, and what that left in the folder."""
    folder = tmp_path_factory.mktemp("bad")
    fact = "ansible.builtin.set_fact"
    tasks = [{"block": [{"ansible.builtin.include_role": {"name": "fastsocket.fleet.build"}, "vars": given},
                        {fact: {f"said{number}": "not refused"}}],
              "rescue": [{fact: {f"said{number}": "{{ ansible_failed_result.msg }}"}}]}
             for number, (given, dummy) in enumerate(BAD.values())]
    every = "{{ [%s] | to_json }}" % ", ".join(f"said{number}" for number in range(len(BAD)))
    tasks.append({"ansible.builtin.copy": {"content": every, "dest": f"{folder}/said.json"}})
    (folder / "bad.yml").write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": tasks}]))
    # Extra variables would win over those of the tasks.
    run = play(folder=folder, book=folder / "bad.yml")
    assert run.status == 0, run.output
    said = json.loads((folder / "said.json").read_text())
    return dict(zip(BAD, said, strict=True)), {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(refused, name):
    for word in BAD[name][1]:
        assert word in refused[0][name], refused[0][name]


def test_bad_input_left_nothing(refused):
    assert refused[1] == {"bad.yml", "said.json"}


def test_download_with_a_wrong_checksum(play, tmp_path):
    (tmp_path / "www").mkdir()
    path, right = tarball(tmp_path / "www", (6, 12))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / "www")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{path.name}"
        run = play(folder=tmp_path, build_source=url, build_source_sha256=NO_SUM, **LAB)
        server.shutdown()
    run.one_failure("localhost", NO_SUM, right)
    assert list((tmp_path / "build").iterdir()) == [] and not (tmp_path / "out").exists()


def test_another_linux(play, tmp_path):
    """Found out as soon as it is unpacked; the failure shows the build's own last words."""
    path, right = tarball(tmp_path, (6, 6))
    run = play(folder=tmp_path, build_source=str(path), build_source_sha256=right, **LAB)
    run.one_failure("localhost", "is not Linux 6.12", str(tmp_path / "build/config.log"))
    assert not (tmp_path / "out").exists()
