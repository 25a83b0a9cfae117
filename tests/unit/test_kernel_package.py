# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is known of a kernel image, of the room for it, of versions and reports, before a package tool is asked. Whole
installations: tests/integration/kernel_package."""

import fcntl
import os
import shutil
import struct
import subprocess
import sys

import pytest

from ansible_collections.fastsocket.fleet.plugins.module_utils import paths
from ansible_collections.fastsocket.fleet.plugins.module_utils.errors import FleetError
from ansible_collections.fastsocket.fleet.plugins.module_utils.kernel_package import (
    deb,
    files,
    image,
    room,
    rpm,
    tools,
)
from ansible_collections.fastsocket.fleet.plugins.module_utils.kernel_package import package as kernel_package

KERNEL = "6.12.7-1.fastsocket.x86_64"
MACHINE_ID = "0123456789abcdef0123456789abcdef"


def vmlinuz(magic=0x20b, table=(7680, 512), directories=6, release=KERNEL, size=8192):
    """A PE image with an x86 boot header, as Linux lays it out (arch/x86/boot/header.S)."""
    data = bytearray(size)
    data[0:2], data[0x202:0x206] = b"MZ", b"HdrS"
    struct.pack_into("<H", data, 0x20e, 0x1000 - 0x200)
    data[0x1000:0x1000 + len(release) + 8] = release.encode() + b" (a@b) \0"
    struct.pack_into("<I", data, 0x3c, 0x40)
    data[0x40:0x44] = b"PE\0\0"
    struct.pack_into("<H", data, 0x58, magic)
    start = 0x58 + (112 if magic == 0x20b else 96)
    struct.pack_into("<I", data, start - 4, directories)
    struct.pack_into("<II", data, start + 32, *table)
    return bytes(data)


def firmware(root, value):
    path = root / image.SECURE_BOOT.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x06\0\0\0" + value)


def test_release():
    assert image.release(vmlinuz()) == KERNEL
    assert image.release(vmlinuz()[:0x1000]) is None  # cut before the text
    assert image.release(b"") is None and image.release(b"\x7fELF" + bytes(9000)) is None


@pytest.mark.parametrize("head, expected", [
    (vmlinuz(), True),
    (vmlinuz(magic=0x10b), True),
    (vmlinuz(table=(0, 0)), False),
    (vmlinuz(table=(8000, 512)), False),  # past the end of the file
    (vmlinuz(directories=4), False),
    (vmlinuz(magic=0x107), False),
    (vmlinuz()[:0x60], False),
    (b"MZ", False), (b"", False), (b"MZ" + b"\xff" * 200, False)])
def test_signed(head, expected):
    assert image.signed(head, 8192) is expected


@pytest.mark.parametrize("value, expected", [(b"\1", True), (b"\0", False), (b"", False), (None, False)])
def test_secure_boot(tmp_path, value, expected):
    if value is not None:
        firmware(tmp_path, value)
    assert image.secure_boot(str(tmp_path)) is expected


def test_image_check(tmp_path):
    unsigned = vmlinuz(table=(0, 0))
    image.check("k.deb", KERNEL, unsigned, 8192, "x86_64", str(tmp_path))
    image.check("k.deb", KERNEL, b"any", 8192, "riscv64", str(tmp_path))
    with pytest.raises(FleetError, match="k.deb: its vmlinuz is no Linux kernel for x86_64"):
        image.check("k.deb", KERNEL, b"any", 8192, "x86_64", str(tmp_path))
    with pytest.raises(FleetError, match="says it is 6.1, its files say " + KERNEL):
        image.check("k.deb", KERNEL, vmlinuz(release="6.1"), 8192, "x86_64", str(tmp_path))
    firmware(tmp_path, b"\1")
    image.check("k.deb", KERNEL, vmlinuz(), 8192, "x86_64", str(tmp_path))
    with pytest.raises(FleetError, match="k.deb: its vmlinuz is not signed, and secure boot is on"):
        image.check("k.deb", KERNEL, unsigned, 8192, "x86_64", str(tmp_path))


def test_kernels_in():
    assert files.kernels_in(["/boot/vmlinuz-1", "/lib/modules/2/vmlinuz", "/lib/modules/2/vmlinuz.x", "/boot/vmlinuz-",
                             "/boot/a/vmlinuz-3", "/usr/share/vmlinuz-4"]) == ["1", "2"]
    assert image.merged("/usr/lib/modules/1/vmlinuz") == "/lib/modules/1/vmlinuz"
    assert image.merged("/usr/lib/x") == "/usr/lib/x"


def put(root, *names, size=1):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        with open(root / name, "wb") as handle:
            handle.truncate(size)


def test_kernels_here(tmp_path):
    put(tmp_path, "boot/vmlinuz-1", "lib/modules/1/vmlinuz", "lib/modules/2/vmlinuz",
        f"boot/vmlinuz-0-rescue-{MACHINE_ID}")
    assert files.kernels_here(str(tmp_path)) == {
        "1": ["/boot/vmlinuz-1", "/lib/modules/1/vmlinuz"], "2": ["/lib/modules/2/vmlinuz"]}


def test_traces_are_of_one_kernel_alone(tmp_path):
    mine = {"boot/vmlinuz-6.1.0", "boot/initrd.img-6.1.0", "boot/initramfs-6.1.0.img", "boot/.vmlinuz-6.1.0.hmac",
            "boot/initramfs-6.1.0kdump.img", "boot/vmlinuz-6.1.0;65a1b2c3", "boot/initrd.img-6.1.0.new",
            f"boot/loader/entries/{MACHINE_ID}-6.1.0.conf"}
    put(tmp_path, *mine)
    folders = {"lib/modules/6.1.0", f"boot/{MACHINE_ID}/6.1.0", "var/lib/initramfs-tools/6.1.0"}
    for name in folders:
        (tmp_path / name).mkdir(parents=True)
    others = ("boot/vmlinuz-6.1.0.5", "boot/initramfs-6.1.0.5.img", "boot/vmlinuz-16.1.0", "boot/vmlinuz-6.1.0-5",
              f"boot/loader/entries/{MACHINE_ID}-6.1.0.5.conf", "lib/modules/6.1.0.5/vmlinuz")
    put(tmp_path, *others)
    assert files.traces("6.1.0", str(tmp_path)) == {str(tmp_path / name) for name in mine | folders}
    assert files.traces("[6]*", str(tmp_path)) == set()


def test_damaged():
    report = ("missing     /boot/vmlinuz-1\n??5??????   /usr/lib/modules/1/kernel/a.ko\nS.5....T.  c /boot/config-1\n"
              "S.5....T.    /lib/modules/1/modules.dep\n.......T.    /lib/modules/1/kernel/b.ko\n"
              "missing   g /boot/initramfs-1.img\nmissing     /usr/share/doc/x\n"
              "missing     /boot/System.map-1 (Permission denied)\nUnsatisfied dependencies for x\n")
    assert files.damaged(report) == ["/boot/vmlinuz-1", "/lib/modules/1/kernel/a.ko", "/boot/System.map-1"]


def test_needed_counts_what_the_host_will_make(tmp_path):
    root, makers = str(tmp_path), any(shutil.which(maker) for maker in room.MAKERS)
    first = room.FIRST_INITRAMFS if makers else 0
    modules = f"/lib/modules/{KERNEL}"
    brought = {f"/boot/vmlinuz-{KERNEL}": 5000, f"{modules}/kernel/a.ko": 1, f"{modules}/kernel/b.ko": 4096}
    assert room.needed(brought, KERNEL, root) == {"/boot": 8192 + first, f"{modules}/kernel": 8192}
    # the largest of the ordinary ones, and a quarter more
    put(tmp_path, "boot/initrd.img-1", size=4 << 20)
    put(tmp_path, f"boot/initramfs-0-rescue-{MACHINE_ID}.img", "boot/initramfs-1kdump.img", size=64 << 20)
    assert room.needed(brought, KERNEL, root)["/boot"] == 8192 + (5 << 20)
    # an image beside the modules is copied to /boot; an initramfs that is listed is not counted twice
    beside = {f"{modules}/vmlinuz": 10 << 20, f"{modules}/config": 1 << 20, f"/boot/vmlinuz-{KERNEL}": 0,
              f"/boot/initramfs-{KERNEL}.img": 40 << 20}
    assert room.needed(beside, KERNEL, root)["/boot"] == 4096 + (40 << 20) + (11 << 20)
    put(tmp_path, f"efi/{MACHINE_ID}/1/linux", f"efi/{MACHINE_ID}/1/initrd")
    assert room.boot_folder(root) == "/efi" and room.needed(beside, KERNEL, root)["/efi"] == 11 << 20


def test_room(tmp_path):
    (tmp_path / "boot").mkdir()
    room.check({f"/boot/vmlinuz-{KERNEL}": 5000}, KERNEL, str(tmp_path))
    with pytest.raises(FleetError, match=f"is too full for {KERNEL}: .* MiB are free, 1048576.* are needed"):
        room.check({f"/boot/vmlinuz-{KERNEL}": 100 << 40}, KERNEL, str(tmp_path))


VERSIONS = ("1", "1.0", "1.0.1", "1.0a", "1.0~rc1", "1.0~rc1~x", "1.0^git1", "1.0^", "1.10", "1.2", "2.6.32", "a",
            "1.a", "1.0.0", "01.0", "1..0", "1.fastsocket", "1.1.fc3", "1.el9", "1.el10", "20240101", "1_0")


@pytest.mark.skipif(not shutil.which("rpm"), reason="needs rpm")
def test_versions_compare_as_rpm_compares_them():
    pairs = [(one, two) for one in VERSIONS for two in VERSIONS]
    code = "".join(f'print(rpm.vercmp("{one}", "{two}") .. " ")' for one, two in pairs)
    said = subprocess.check_output(["rpm", "--eval", "%{lua:" + code + "}"], text=True)
    assert [rpm.compare(one, two) for one, two in pairs] == [int(word) for word in said.split()]


@pytest.mark.parametrize("one, two, expected", [
    ("1:1-1", "2-1", 1), ("0:2-1", "2-1", 0), ("2-1", "2", 0), ("2-2", "2-1", 1),
    ("2.6.32-431.el6", "2.6.32-431.29.2.el6", -1)])
def test_epoch_and_release(one, two, expected):
    assert rpm.compare(one, two) == expected and rpm.compare(two, one) == -expected


TRANSACTION = """
================================================================================
 Package            Arch         Version               Repository          Size
================================================================================
Installing:
 kernel-needy       x86_64       6.7.0-1               test                10 k
     replacing  kernel-core.x86_64 5.14.0-1.el9
Upgrading:
 library            x86_64       2-1                   test               6.5 k

Transaction Summary
"""


def test_transaction_that_only_adds():
    assert rpm.MOVED.search(TRANSACTION.split("     repl")[0]) is None
    assert rpm.MOVED.search("Dependencies resolved.\nDownloading Packages:\n kernel x\nRemoving nothing\n") is None
    assert rpm.MOVED.search(TRANSACTION).groups() == (None, None, "replacing", "kernel-core.x86_64")
    assert rpm.MOVED.search(TRANSACTION.replace("     repl", "")).groups()[:2] == ("Upgrading", "library")
    # yum's heading
    assert rpm.MOVED.search("Updating for dependencies:\n linux-firmware noarch\n").group(2) == "linux-firmware"


def test_deb_relations():
    assert deb._relations("a, b (>= 1:2.0~x) | c:any (<< 3), d [amd64], ${x}") == [
        ("a", "", ""), ("b", ">=", "1:2.0~x"), ("c", "<<", "3")]
    assert deb._fields("Package: a\nDepends: b,\n c\nDescription: x\n .\n y\n")["Depends"] == "b, c"


@pytest.mark.parametrize("line, source", [
    ("deb [trusted=yes] http://h/x ./", "http://h/x"), ("deb [arch=amd64 Trusted=YES] file:/x ./", "file:/x"),
    ("# deb [trusted=yes] http://h/x ./", None), ("deb [trusted=no] http://h/x ./", None), ("deb http://h/x ./", None),
    ("deb [signed-by=/trusted=yes.asc] http://h/x ./", None)])
def test_sources_trusted_without_a_signature(line, source):
    assert deb.TRUSTED.findall(line + "\n") == ([source] if source else [])


def test_names_that_may_reach_a_package_manager():
    for name in ("linux-image-amd64", "kernel-ml", "kernel-ml-6.1.0-1.el9", "linux-image-6.1.0-9-amd64=6.1.9-1~deb1"):
        assert kernel_package.NAME.match(name), name
    for name in ("-y", "linux-image-amd64-", "a b", "kernel*", "/x.deb", "./x.deb", "x;y", "", "x+"):
        assert not kernel_package.NAME.match(name), name


def test_lock_of_a_live_process(tmp_path):
    path = tmp_path / "lock"
    path.write_text("")
    tools.wait_for_locks([str(path), str(tmp_path / "none")], 0)
    code = ("import fcntl, sys\nlock = open(sys.argv[1], 'w')\nfcntl.lockf(lock, fcntl.LOCK_EX)\n"
            "print('held', flush=True)\nsys.stdin.read()")
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        with pytest.raises(FleetError, match=rf"lock is held by .*\(pid {process.pid}\), waited 0 s"):
            tools.wait_for_locks([str(path)], 0)
        process.stdin.close()
        tools.wait_for_locks([str(path)], 10)
    mine = tmp_path / "rpmdb_lock.pid"
    mine.write_text(f"{os.getpid()}\n")
    with pytest.raises(FleetError, match=rf"rpmdb_lock.pid is held by .*\(pid {os.getpid()}\)"):
        tools.wait_for_locks([str(mine)], 0)
    for stale in ("99999999", "", "text"):
        mine.write_text(stale)
        tools.wait_for_locks([str(mine)], 0)


def test_looking_for_a_lock_takes_none(tmp_path):
    path = tmp_path / "lock"
    with open(path, "w") as handle:
        fcntl.lockf(handle, fcntl.LOCK_EX)
        tools.wait_for_locks([str(path)], 0)  # our own is no obstacle


def test_stream_of_a_tool_that_fails():
    with pytest.raises(FleetError, match="/x is damaged: sh says the end is missing"):
        with tools.stream("/x", "sh", "-c", "echo half; echo the end is missing >&2; exit 2") as pipe:
            assert pipe.read() == b"half\n"
    with tools.stream("/x", "sh", "-c", "yes; exit 2") as pipe:
        assert pipe.read(2) == b"y\n"  # who stops early is not told


def test_change_says_what_went_wrong():
    assert tools.change("true") is None
    assert tools.change("sh", "-c", "echo one; echo two >&2; exit 3") == "sh -c failed (3): one | two"
    assert "scriptlet failed" in tools.change("sh", "-c", "echo 'warning: %post(x) scriptlet failed' >&2")
    assert "is not installed" in tools.change("/no/such/tool")


def test_record(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "VAR", str(tmp_path / "fastsocket"))
    assert kernel_package._record() == {}
    kernel_package._note("1", {"name": "a"})
    kernel_package._note("2", {"name": "b"})
    kernel_package._note("1", None)
    assert kernel_package._record() == {"2": {"name": "b"}}
    kernel_package._note("2", None)
    assert not os.path.exists(tmp_path / "fastsocket")


@pytest.mark.parametrize("given, words", [
    ({"package": "x.deb", "sha256": "0" * 64}, "x.deb is no absolute path"),
    ({"package": "/x.deb", "sha256": None}, "sha256 \\(none\\) of package /x.deb"),
    ({"package": "/x.deb", "sha256": "0" * 63}, "is not 64 hexadecimal digits"),
    ({"package": "/no/such.deb", "sha256": "0" * 64}, "/no/such.deb cannot be read: No such file"),
    ({"package": "linux-image*", "repository": True}, "linux-image\\* is no name"),
    ({"package": "linux-image-amd64", "repository": True, "sha256": "0" * 64}, "that is for a package file"),
    ({"state": "absent", "kernel": ""}, "kernel is missing")])
def test_bad_input(given, words):
    with pytest.raises(FleetError, match=words):
        kernel_package.ensure(**{"state": "checked", **given})
