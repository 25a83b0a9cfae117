# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What real GRUB makes of our block: disks with Debian's grub.cfg, booted again and again in QEMU. The kernels on them
print their command line and reset the machine, so a test sees which entry came up how often."""

import importlib.util
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[1] / "unit"
sys.path.insert(0, str(UNIT))
import boot_tree  # noqa: E402

# The unit tests' way to import the collection from the checkout.
SPEC = importlib.util.spec_from_file_location("checkout", UNIT / "conftest.py")
SPEC.loader.exec_module(importlib.util.module_from_spec(SPEC))

from ansible_collections.fastsocket.fleet.plugins.module_utils.boot import trial  # noqa: E402

GRUB = Path("/usr/lib/grub/i386-pc")
SECTOR, START, SIZE_MIB = 512, 2048, 48
BOOT = re.compile(r"\[(BOOT_IMAGE=[^\]]*)\]")


def run(*words):
    done = subprocess.run([str(word) for word in words], check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True)
    assert done.returncode == 0, f"{words}\n{done.stdout}"


@pytest.fixture(scope="session")
def kernel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kernel")
    run("gcc", "-c", "-m32", "-o", folder / "kernel.o", Path(__file__).parent / "tiny_kernel.S")
    run("objcopy", "-O", "binary", "-j", ".text", folder / "kernel.o", folder / "kernel")
    return folder / "kernel"


@pytest.fixture
def host(kernel, tmp_path):
    """The tree of a host with two kernels that GRUB can boot."""
    root = Path(boot_tree.debian(tmp_path / "host"))
    for name in (boot_tree.STOCK, boot_tree.NEW):
        shutil.copyfile(kernel, root / f"boot/vmlinuz-{name}")
    shutil.copytree(GRUB, root / "boot/grub/i386-pc", ignore=shutil.ignore_patterns("*.img", "*.image"))
    return root


def make_disk(root, image, kind="ext4"):
    """A disk with one partition that holds the tree, and GRUB in front of it."""
    part = image.with_suffix(".part")
    if kind == "btrfs":
        run("truncate", "-s", "160M", part)
        run("mkfs.btrfs", "-q", "-U", boot_tree.UUID, "--rootdir", root, part)
    else:
        run("truncate", "-s", f"{SIZE_MIB}M", part)
        run("mkfs.ext4", "-q", "-O", "^metadata_csum_seed,^orphan_file", "-U", boot_tree.UUID, "-d", root, part)
    core = image.with_suffix(".core")
    run("grub-mkimage", "-O", "i386-pc", "-p", "(hd0,msdos1)/boot/grub", "-o", core, "biosdisk", "part_msdos",
        "btrfs" if kind == "btrfs" else "ext2")
    entry = bytes([0x80, 0, 0, 0, 0x83, 0, 0, 0]) + START.to_bytes(4, "little") \
        + (part.stat().st_size // SECTOR).to_bytes(4, "little")
    with open(image, "wb") as disk:
        disk.write((GRUB / "boot.img").read_bytes()[:440].ljust(446, b"\0") + entry.ljust(64, b"\0") + b"\x55\xaa")
        disk.write(core.read_bytes())
        disk.seek(START * SECTOR)
    run("dd", f"if={part}", f"of={image}", "bs=1M", "seek=1", "conv=notrunc,sparse", "status=none")
    run("truncate", "-s", START * SECTOR + part.stat().st_size, image)
    return image


def boots(image, count, readonly=False, seconds=400):
    """Return the command lines of the first `count` boots from a disk, and all that GRUB said."""
    console = image.with_suffix(".console")
    drive = f"file={image},format=raw,if=virtio,cache=unsafe" + (",readonly=on" if readonly else "")
    command = ["qemu-system-x86_64", "-accel", "tcg,tb-size=64", "-cpu", "qemu64,-svm", "-m", "256", "-machine", "q35",
               "-nodefaults", "-vga", "none", "-display", "none", "-serial", f"file:{console}", "-drive", drive]
    deadline = time.monotonic() + seconds
    with subprocess.Popen(command) as machine:
        try:
            while True:
                text = console.read_text(errors="replace") if console.exists() else ""
                found = BOOT.findall(text)
                if len(found) >= count:
                    return found[:count], text
                assert time.monotonic() < deadline and machine.poll() is None, f"{found}\n{text[-2000:]}"
                time.sleep(0.2)
        finally:
            machine.kill()


def arm(host):
    trial.settle("pinned", root=str(host))
    return trial.settle("armed", boot_tree.NEW, ["loglevel=7"], root=str(host))["trial"]["id"]


def kernels(lines):
    return [line.split()[0].rpartition("vmlinuz-")[2] for line in lines]


def test_the_trial_boots_once(host, tmp_path):
    name = arm(host)
    lines, text = boots(make_disk(host, tmp_path / "disk"), 3)
    assert kernels(lines) == [boot_tree.NEW, boot_tree.STOCK, boot_tree.STOCK], text
    words = lines[0].split()
    assert {f"fastsocket.trial={name}", "panic=10", "loglevel=7", f"root=UUID={boot_tree.UUID}"} <= set(words)
    assert words[-1] == "loglevel=7" and "fastsocket" not in "".join(lines[1:])
    assert "error" not in text


@pytest.mark.parametrize("gone", ["vmlinuz", "initrd.img"])
def test_a_missing_file_leads_to_stock(host, tmp_path, gone):
    """By itself: without our own way out GRUB waits in its menu for ever."""
    arm(host)
    (host / f"boot/{gone}-{boot_tree.NEW}").unlink()
    lines, text = boots(make_disk(host, tmp_path / "disk"), 2)
    assert kernels(lines) == [boot_tree.STOCK] * 2 and "not found" in text
    assert "fastsocket" not in "".join(lines)


@pytest.mark.parametrize(("kind", "readonly"), [("ext4", True), ("btrfs", False)])
def test_no_trial_where_grub_cannot_write(host, tmp_path, kind, readonly):
    """The preflight refuses such hosts; should it be wrong, GRUB finds out itself and the trial never boots."""
    arm(host)
    lines, text = boots(make_disk(host, tmp_path / "disk", kind), 2, readonly)
    assert kernels(lines) == [boot_tree.STOCK] * 2, text


def test_pinned_stays_whatever_is_first(host, tmp_path):
    """A newer kernel that update-grub puts first does not become the default; released, it does."""
    path = host / "boot/grub/grub.cfg"
    simple, rest = path.read_text().split("submenu ", 1)
    path.write_text(simple.replace(boot_tree.STOCK, boot_tree.NEW) + "submenu " + rest)
    trial.settle("pinned", boot_tree.STOCK, root=str(host))
    lines, text = boots(make_disk(host, tmp_path / "disk"), 1)
    assert kernels(lines) == [boot_tree.STOCK], text
    trial.settle("released", root=str(host))
    lines, text = boots(make_disk(host, tmp_path / "other"), 1)
    assert kernels(lines) == [boot_tree.NEW], text


def test_a_trial_that_grub_does_not_see(host, tmp_path):
    """After a crash GRUB may read the files of before, as it replays no journal: what was armed is there, its entry is
    not. The pinned kernel boots, not the first entry."""
    path = host / "boot/grub/grub.cfg"
    simple, rest = path.read_text().split("submenu ", 1)
    path.write_text(simple.replace(boot_tree.STOCK, boot_tree.NEW) + "submenu " + rest)
    trial.settle("pinned", boot_tree.STOCK, root=str(host))
    boot_tree.environment(host, next_entry="fastsocket-trial")
    lines, text = boots(make_disk(host, tmp_path / "disk"), 2)
    assert kernels(lines) == [boot_tree.STOCK] * 2, text


def test_committed(host, tmp_path):
    name = arm(host)
    boot_tree.running(host, boot_tree.NEW, 1, f"fastsocket.trial={name}")
    boot_tree.environment(host, next_entry="")  # GRUB did that
    assert trial.settle("committed", boot_tree.NEW, root=str(host))["trial"]["state"] == "committed"
    lines, text = boots(make_disk(host, tmp_path / "disk"), 2)
    assert kernels(lines) == [boot_tree.NEW] * 2 and "panic=10" not in lines[0], text
