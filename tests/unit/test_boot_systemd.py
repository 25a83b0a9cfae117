# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""systemd-boot's backend on trees of hosts. bootctl cannot be run here, as there are no EFI variables: the tests carry
out what it would do to them."""

import os
from pathlib import Path

import boot_tree
import pytest
from boot_tree import NEW, STOCK

from ansible_collections.fastsocket.fleet.plugins.module_utils.boot import bls, kernels, loader, systemd_boot, trial
from ansible_collections.fastsocket.fleet.plugins.module_utils.errors import FleetError

MACHINE = "0123456789abcdef0123456789abcdef"
EFIVARS = systemd_boot.VARIABLES


def set_variable(root, name, value):
    path = boot_tree.write(root, f"{EFIVARS}/{name}-{systemd_boot.VENDOR}")
    path.write_bytes(b"\x07\0\0\0" + (value + "\0").encode("utf-16-le"))
    if not value:
        path.unlink()


@pytest.fixture
def root(tmp_path, monkeypatch):
    root = boot_tree.bare(tmp_path)
    boot_tree.mount(root, EFIVARS, "efivarfs", "0:40")
    set_variable(root, "LoaderInfo", "systemd-boot 252.39-1~deb12u1")
    boot_tree.write(root, "/efi/loader/loader.conf", f"timeout 3\ndefault {MACHINE}-*\n")
    for kernel in (STOCK, NEW):
        for name in ("linux", "initrd"):
            boot_tree.write(root, f"/efi/{MACHINE}/{kernel}/{name}", name)
        boot_tree.write(root, f"/efi/loader/entries/{MACHINE}-{kernel}.conf", (
            f"# by kernel-install\ntitle Debian\nversion {kernel}\nsort-key debian\nmachine-id {MACHINE}\n"
            f"options root=UUID=x ro\nlinux /{MACHINE}/{kernel}/linux\ninitrd /{MACHINE}/{kernel}/initrd\n"))
    set_variable(root, "LoaderEntryDefault", f"{MACHINE}-{STOCK}.conf")

    def bootctl(there, *words):
        if words[0] == "bootctl":
            set_variable(there, {"set-default": "LoaderEntryDefault", "set-oneshot": "LoaderEntryOneShot"}[words[1]],
                         words[2])
    monkeypatch.setattr(loader, "tell", bootctl)
    return root


def test_info(root):
    found = trial.info(NEW, root)
    assert (found["loader"], found["problems"]) == ("systemd-boot", [])
    assert found["default"] == {"id": f"{MACHINE}-{STOCK}", "kernel": STOCK}
    assert [entry["kernel"] for entry in found["entries"]] == [NEW, STOCK]
    assert found["entries"][0] == {"id": f"{MACHINE}-{NEW}", "title": "Debian", "kernel": NEW,
                                   "arguments": ["root=UUID=x", "ro"]}


def test_the_default_by_pattern_or_order(root):
    set_variable(root, "LoaderEntryDefault", "")
    assert trial.info(root=root)["default"]["kernel"] == NEW
    boot_tree.write(root, "/efi/loader/loader.conf", f"default *-{STOCK}.conf\n")
    assert trial.info(root=root)["default"]["kernel"] == STOCK
    boot_tree.write(root, "/efi/loader/loader.conf", "default none\n")
    assert trial.info(root=root)["default"]["kernel"] == NEW


@pytest.mark.parametrize("where", ["variable", "file"])
def test_the_default_is_what_was_booted_last(root, where):
    """`@saved`. The first of the menu, where nothing was noted or the entry is gone. A pin wins."""
    set_variable(root, "LoaderEntryDefault", "@saved" if where == "variable" else "")
    boot_tree.write(root, "/efi/loader/loader.conf", f"default {'@saved' if where == 'file' else 'none'}\n")
    assert trial.info(root=root)["default"]["kernel"] == NEW
    set_variable(root, "LoaderEntryLastBooted", f"{MACHINE}-{STOCK}.conf")
    found = trial.info(NEW, root)
    assert (found["default"]["kernel"], found["problems"], found["pinned"]) == (STOCK, [], None)
    assert trial.settle("pinned", root=root)["pinned"] == f"{MACHINE}-{STOCK}"
    set_variable(root, "LoaderEntryLastBooted", "gone.conf")
    assert trial.info(root=root)["default"]["kernel"] == STOCK
    trial.settle("released", root=root)
    assert systemd_boot.variable("LoaderEntryDefault", root) == ("@saved" if where == "variable" else None)
    assert trial.info(root=root)["default"]["kernel"] == NEW


@pytest.mark.parametrize("before", ["", f"{MACHINE}-*", f"{MACHINE}-{STOCK}.conf"])
def test_from_armed_to_released(root, before):
    set_variable(root, "LoaderEntryDefault", before)
    untouched = boot_tree_of(root)
    trial.settle("pinned", root=root)
    armed = trial.settle("armed", NEW, ["debug"], root=root)
    assert armed["changes"][-1]["after"] == "fastsocket-trial.conf" and armed["problems"] == []
    text = (Path(root) / "efi/loader/entries/fastsocket-trial.conf").read_text()
    assert f"linux /{MACHINE}/{NEW}/linux\n" in text and "sort-key" not in text
    assert bls.parse(text)["options"].startswith(f"root=UUID=x ro fastsocket.trial={armed['trial']['id']} panic=10")
    assert trial.settle("armed", NEW, ["debug"], root=root)["changed"] is False
    boot_tree.running(root, NEW, 1, f"fastsocket.trial={armed['trial']['id']}")
    set_variable(root, "LoaderEntryOneShot", "")    # the loader clears it
    done = trial.settle("committed", NEW, root=root)
    assert done["default"] == {"id": f"{MACHINE}-{NEW}", "kernel": NEW} and done["trial"]["state"] == "committed"
    assert systemd_boot.variable("LoaderEntryDefault", root) == f"{MACHINE}-{NEW}.conf"
    trial.settle("released", root=root)
    assert boot_tree_of(root) == untouched


def boot_tree_of(root):
    return {str(path): path.read_bytes() for folder in ("efi", "sys/firmware", "etc")
            for path in sorted((Path(root) / folder).rglob("*")) if path.is_file()}


def test_problems(root):
    def only(word, kernel=None):
        found = trial.info(kernel, root)["problems"]
        assert len(found) == 1 and word in found[0], found

    set_variable(root, "LoaderEntryOneShot", "other.conf")
    only("the next boot is other.conf for once already")
    set_variable(root, "LoaderEntryOneShot", "")
    os.unlink(f"{root}/efi/{MACHINE}/{NEW}/initrd")
    only(f"/{MACHINE}/{NEW}/initrd, named by the entry {MACHINE}-{NEW}, is not on this host", NEW)
    set_variable(root, "LoaderEntryDefault", f"{MACHINE}-5.0.conf")
    assert "the pinned entry" in trial.info(root=root)["problems"][0]
    set_variable(root, "LoaderEntryDefault", f"{MACHINE}-{STOCK}.conf")
    boot_tree.mount(root, EFIVARS, "efivarfs", "0:40", "ro")
    only("is not mounted for writing")
    with pytest.raises(FleetError, match="not mounted for writing"):
        trial.settle("armed", NEW, root=root)


def test_tries_in_the_name_are_not_the_id(root):
    folder = Path(root) / "efi/loader/entries"
    (folder / f"{MACHINE}-{NEW}.conf").rename(folder / f"{MACHINE}-{NEW}+2-1.conf")
    assert trial.find_loader(root).entry(NEW)["id"] == f"{MACHINE}-{NEW}"


@pytest.mark.parametrize(("path", "version"), [
    ("/boot/vmlinuz-6.1.0-56-amd64", "6.1.0-56-amd64"), (f"/{MACHINE}/6.1.0/linux", "6.1.0"),
    ("/lib/modules/6.12.1-1.x86_64/vmlinuz", "6.12.1-1.x86_64"), ("/vmlinuz", "6.1.0-56-cloud-amd64"),
    ("/boot/other", ""),
])
def test_versions_of_kernels(root, path, version):
    (Path(root) / "vmlinuz").symlink_to(f"boot/vmlinuz-{STOCK}")
    assert kernels.version(path, root) == version


def test_entries_are_in_the_order_of_versions(tmp_path):
    for name in ("m-5.9.0", "m-5.14.0-70", "m-5.14.0-427", "m-6.1~rc1", "m-6.1", "m-0-rescue"):
        boot_tree.write(tmp_path, f"/loader/{name}.conf", "title x\n")
    boot_tree.write(tmp_path, "/loader/README", "no entry")
    assert [entry["id"] for entry in bls.entries("/loader", str(tmp_path))] == [
        "m-6.1", "m-6.1~rc1", "m-5.14.0-427", "m-5.14.0-70", "m-5.9.0", "m-0-rescue"]
