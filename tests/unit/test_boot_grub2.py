# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""GRUB's backend on trees of hosts: what it finds, what it refuses and why, what it writes."""

import os
import subprocess
from pathlib import Path

import boot_tree
import pytest
from boot_tree import NEW, STOCK

from ansible_collections.fastsocket.fleet.plugins.module_utils.boot import grub2, loader, trial
from ansible_collections.fastsocket.fleet.plugins.module_utils.errors import FleetError

CUSTOM = "boot/grub/custom.cfg"


@pytest.fixture
def root(tmp_path):
    return boot_tree.debian(tmp_path)


@pytest.fixture
def refused(root):
    """refused(WORDS): exactly one problem, and these words are in it."""
    def check(*words, kernel=None):
        found = trial.info(kernel, root)["problems"]
        assert len(found) == 1, found
        for word in words:
            assert word in found[0]
    return check


def edit(root, old, new, path="boot/grub/grub.cfg"):
    path = Path(root) / path
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_info(root):
    found = trial.info(NEW, root)
    assert (found["loader"], found["kernel"], found["boot_id"]) == ("grub2", STOCK, boot_tree.BOOT_IDS[0])
    assert found["default"] == {"id": boot_tree.DEFAULT_ID, "kernel": STOCK}
    assert (found["problems"], found["trial"], found["pinned"], found["warnings"]) == ([], None, None, [])
    assert [entry["kernel"] for entry in found["entries"]] == [STOCK, STOCK, STOCK, NEW, NEW]
    assert found["entries"][2]["arguments"] == [
        f"root=UUID={boot_tree.UUID}", "ro", "single", "console=ttyS0"]


def test_pinned_by_an_id_that_stays(root):
    """Not by the entry that is the newest kernel's, nor by the recovery one."""
    before = boot_tree.snapshot(root)
    assert trial.settle("pinned", root=root, check=True)["changed"] and boot_tree.snapshot(root) == before
    found = trial.settle("pinned", root=root)
    assert found["default"]["id"] == found["pinned"] == boot_tree.entry_id(STOCK)
    assert {name for name in boot_tree.snapshot(root) if before.get(name) != boot_tree.snapshot(root)[name]} == {
        CUSTOM, "var/lib/fastsocket/boot.json"}
    again = trial.settle("pinned", root=root)
    assert (again["changed"], again["changes"]) == (False, [])
    boot_tree.environment(root, saved_entry="0")     # another tool changes what is not ours
    assert trial.info(root=root)["default"]["kernel"] == STOCK


@pytest.mark.parametrize("text", [None, "", "menuentry 'Mine' --id mine {\n  true\n}\n", "set timeout=3", "\n"])
def test_released_is_as_it_was(root, text):
    """Byte for byte, and with the mode it had, whatever came in between."""
    if text is not None:
        path = boot_tree.write(root, CUSTOM, text)
        path.chmod(0o600)
    before = boot_tree.snapshot(root)
    trial.settle("pinned", root=root)
    trial.settle("armed", NEW, root=root)
    if text:
        assert boot_tree.snapshot(root)[CUSTOM][0] == 0o600
        assert boot_tree.snapshot(root)[CUSTOM][1].startswith(text)
    trial.settle("disarmed", root=root)
    trial.settle("pinned", NEW, root=root)
    trial.settle("released", root=root)
    after = boot_tree.snapshot(root)
    assert {name: fact for name, fact in after.items() if "grubenv" not in name} == {
        name: fact for name, fact in before.items() if "grubenv" not in name}
    assert trial.find_loader(root).block.get("next_entry") is None
    assert trial.settle("released", root=root)["changed"] is False


def test_the_block_is_grubs_language(root):
    trial.settle("armed", NEW, ["debug", "a.b=1,2"], root=root)
    subprocess.run(["grub-script-check", Path(root) / CUSTOM], check=True)
    found = trial.find_loader(root)
    entry = found.by_id("fastsocket-trial")
    assert entry["kernel"] == NEW and entry["arguments"][-2:] == ["debug", "a.b=1,2"]
    assert found.armed() and found.default()["kernel"] == STOCK


# ---- why not ---------------------------------------------------------------


@pytest.mark.parametrize(("kind", "device", "marks", "word"), [
    ("btrfs", "0:22", (), "is on btrfs"), ("zfs", "0:30", (), "is on zfs"), ("overlay", "0:31", (), "is on overlay"),
    ("ext4", "253:0", ("dm/uuid=LVM-abc",), "is on LVM"),
    ("xfs", "253:0", ("dm/uuid=CRYPT-LUKS2-a",), "is on an encrypted device"),
    ("ext4", "9:0", ("md/",), "is on a software RAID"),
    ("ext4", "253:0", ("dm/uuid=other",), "is on a device-mapper device"),
    ("ext4", "252:0", ("bcache/",), "is on bcache"),
])
def test_a_block_that_grub_cannot_write(root, refused, kind, device, marks, word):
    boot_tree.mount(root, "/boot", kind, device)
    folder = boot_tree.disk(root, device, "virtual/one", *[mark.partition("=")[0] for mark in marks if "=" not in mark])
    for mark in marks:
        if "=" in mark:
            boot_tree.write(folder, *mark.split("="))
    refused("/boot " + word, "/boot/grub/grubenv", "plain partition")


def test_layers_below_layers(root, refused):
    """LVM on an encrypted device on a RAID: all of it is named."""
    boot_tree.mount(root, "/", "ext4", "253:1")
    top = boot_tree.disk(root, "253:1", "virtual/dm-1")
    boot_tree.write(top, "dm/uuid", "LVM-x\n")
    below = boot_tree.disk(root, "253:0", "virtual/dm-0")
    boot_tree.write(below, "dm/uuid", "CRYPT-x\n")
    raid = boot_tree.disk(root, "9:0", "virtual/md0", "md/")
    for upper, lower in ((top, below), (below, raid)):
        (upper / "slaves").mkdir()
        (upper / "slaves" / lower.name).symlink_to(os.path.relpath(lower, upper / "slaves"))
    refused("/ is on LVM and a software RAID and an encrypted device")


def test_several_paths_to_one_disk_are_a_disk(root):
    boot_tree.mount(root, "/", "xfs", "253:1")
    boot_tree.write(boot_tree.disk(root, "253:1", "virtual/dm-1"), "dm/uuid", "part1-mpath-3600\n")
    assert trial.info(root=root)["problems"] == []


def test_the_block_itself(root, refused):
    block = Path(root) / "boot/grub/grubenv"
    whole = block.read_bytes()
    block.unlink()
    refused("grubenv is missing", "grub-editenv " + str(block) + " create")
    block.write_bytes(whole[:-1])
    refused("damaged (it has 1023 bytes", "create")
    block.write_bytes(b"x" * 1024)
    refused("damaged")
    block.unlink()
    with open(block, "wb") as handle:
        handle.truncate(1024)
    refused("damaged")
    block.write_bytes(whole)
    assert trial.info(root=root)["problems"] == []


def test_a_link_to_another_file_system(root, refused):
    block = Path(root) / "boot/grub/grubenv"
    boot_tree.mount(root, "/boot/efi", "vfat", "8:2")
    boot_tree.disk(root, "8:2", "pci/vda/vda2", "partition")
    (Path(root) / "boot/efi").mkdir()
    block.rename(Path(root) / "boot/efi/grubenv")
    block.symlink_to("../efi/grubenv")
    refused("is a link to /boot/efi/grubenv on another file system")


def test_a_journal_that_takes_back(root, refused):
    boot_tree.mount(root, "/", "ext4", options="rw,data=journal")
    refused("data=journal")


@pytest.mark.parametrize(("old", "new", "word"), [
    ("next_entry", "other", "does not know next_entry"), ("boot_once", "once", "does not know next_entry"),
    ("${config_directory}/custom.cfg", "${config_directory}/mine.cfg", "does not source custom.cfg"),
    ('set default="0"', 'set default="1>2"', f"the kernel {NEW}, but {STOCK} runs"),
    ('set default="0"', 'set default="9"', "(9) is no entry"),
    ('set default="0"', 'set default="1"', "(1) is no entry"),
    ('set default="0"', 'set superusers="root"; set default="0"', "password"),
    ("set timeout=1", "set timeout=-1", "the menu of GRUB has no end (timeout -1)"),
])
def test_a_configuration_that_will_not_do(root, refused, old, new, word):
    edit(root, old, new)
    refused(word)


def test_a_newer_kernel_is_the_default_and_pinned_helps(root, refused):
    edit(root, 'set default="0"', 'set default="1>2"')
    refused("reboot into the default, or pin the kernel that runs")
    assert trial.settle("pinned", root=root)["problems"] == []


def test_what_is_pending_already(root, refused):
    boot_tree.environment(root, next_entry="other")
    refused("the next boot is other for once already")
    boot_tree.environment(root, next_entry="", boot_counter="2")
    refused("boot_counter")


def test_the_host(root, refused):
    (Path(root) / "usr/bin/flock").unlink()
    refused("flock is not installed")
    boot_tree.write(root, "/usr/bin/flock").chmod(0o755)
    boot_tree.write(root, "/sys/kernel/kexec_loaded", "1\n")
    refused("kexec")
    boot_tree.write(root, "/sys/kernel/kexec_loaded", "0\n")
    (Path(root) / "run/systemd/system").rmdir()
    refused("does not run systemd")


def test_another_boot_of_the_firmware(root, refused):
    boot_tree.write(root, loader.BOOT_NEXT, "\7\0\0\0\1\0")
    refused("BootNext", "efibootmgr --delete-bootnext")


def test_boot_that_is_not_mounted(root):
    """What is in /boot then is from before it was a mount point: nothing is written there."""
    boot_tree.write(root, "/etc/fstab", "# /boot\nUUID=a / ext4\nUUID=b /boot/ ext4 noauto 0 2\n")
    before = boot_tree.snapshot(root)
    assert trial.info(root=root)["problems"] == [loader.Unmounted.reason]
    with pytest.raises(FleetError, match="not mounted"):
        trial.settle("pinned", root=root)
    assert boot_tree.snapshot(root) == before
    boot_tree.mount(root, "/boot", "ext4")
    assert trial.info(root=root)["problems"] == []


def test_boot_that_is_read_only(root, refused):
    boot_tree.mount(root, "/boot", "ext4", options="ro")
    refused("/boot is mounted read-only")


def test_text_of_another_encoding(root, refused):
    """An old title, an operator's file with line ends of its own: read, and left as they are."""
    path = Path(root) / "boot/grub/grub.cfg"
    path.write_bytes(path.read_bytes().replace(b"menuentry 'Debian GNU/Linux'", b"menuentry 'Debian f\xfcr uns'", 1))
    custom = boot_tree.write(root, CUSTOM)
    mine = b"# gr\xfc\xdfe\r\nset timeout=3\r\n"
    custom.write_bytes(mine)
    found = trial.settle("pinned", root=root)
    assert found["entries"][0]["title"] == "Debian f\ufffdr uns"
    assert "gr\ufffd\ufffde\r\n" in found["changes"][-1]["after"]
    assert custom.read_bytes().startswith(mine)
    trial.settle("released", root=root)
    assert custom.read_bytes() == mine
    block = Path(root) / "boot/grub/grubenv"
    block.write_bytes(block.read_bytes()[:-4] + b"\xff\xfe")
    refused("damaged (it has 1022 bytes")


def test_the_kernel(root, refused):
    refused("no entry that names the kernel 5.0", f"{STOCK}, {NEW}", kernel="5.0")
    os.unlink(f"{root}/boot/vmlinuz-{NEW}")
    refused(f"/boot/vmlinuz-{NEW}, the kernel of the entry", kernel=NEW)
    assert trial.info(root=root)["problems"] == []
    boot_tree.write(root, f"/boot/vmlinuz-{NEW}", "kernel")
    os.unlink(f"{root}/boot/initrd.img-{NEW}")
    refused(f"/boot/initrd.img-{NEW}, the initramfs of the entry", kernel=NEW)
    boot_tree.write(root, f"/boot/initrd.img-{NEW}", "initrd")
    edit(root, f"\t\tlinux\t/boot/vmlinuz-{NEW} root=UUID={boot_tree.UUID} ro console=ttyS0 quiet\n", (
        f"\t\tif true; then linux /boot/vmlinuz-{NEW}; fi\n\t\tlinux /boot/vmlinuz-{NEW}\n"
        f"\t\tlinux /boot/vmlinuz-{NEW}\n"))
    refused("is not of the usual form", kernel=NEW)
    os.unlink(f"{root}/boot/vmlinuz-{STOCK}")
    refused(f"/boot/vmlinuz-{STOCK}, the kernel of the default entry")
    boot_tree.write(root, f"/boot/vmlinuz-{STOCK}", "kernel")
    os.unlink(f"{root}/boot/initrd.img-{STOCK}")
    refused(f"/boot/initrd.img-{STOCK}, the initramfs of the default entry")
    trial.settle("pinned", root=root)
    refused(f"/boot/initrd.img-{STOCK}, the initramfs of the default entry")


def test_refused_before_anything_is_touched(root):
    boot_tree.mount(root, "/boot", "btrfs", "0:22")
    before = boot_tree.snapshot(root)
    with pytest.raises(FleetError, match="no trial of .* here: /boot is on btrfs") as caught:
        trial.settle("armed", NEW, root=root)
    assert len(caught.value.facts["problems"]) == 1 and boot_tree.snapshot(root) == before


@pytest.mark.parametrize(("given", "word"), [
    ({"kernel": None}, "state armed needs `kernel`"), ({"kernel": NEW, "seconds": 59}, "seconds 59: needs 60 to 86400"),
    ({"kernel": NEW, "arguments": ["a b"]}, "argument 'a b': one kernel argument"),
    ({"kernel": NEW, "arguments": ["a;reboot"]}, "argument 'a;reboot'"),
    ({"kernel": NEW, "arguments": ["$a"]}, "argument '$a'"), ({"kernel": "5.0"}, "no entry that names the kernel 5.0"),
])
def test_bad_input(root, given, word):
    before = boot_tree.snapshot(root)
    with pytest.raises(FleetError) as caught:
        trial.settle("armed", root=root, **given)
    assert word in str(caught.value) and boot_tree.snapshot(root) == before


def test_what_comes_after_our_block_is_seen(root, refused):
    trial.settle("pinned", root=root)
    with open(Path(root) / CUSTOM, "a") as handle:
        handle.write("set default=0\n")
    edit(root, 'set default="0"', 'set default="1>2"')
    refused("something after our block in /boot/grub/custom.cfg sets it")


def test_an_old_grub_cfg_is_a_warning(root):
    path = boot_tree.write(root, "/etc/default/grub", "GRUB_DEFAULT=0\n")
    now = os.stat(f"{root}/boot/grub/grub.cfg").st_mtime
    os.utime(path, (now + 10, now + 10))
    assert "older than" in trial.info(root=root)["warnings"][0]
    os.utime(path, (now - 10, now - 10))
    assert trial.info(root=root)["warnings"] == []


# ---- Enterprise Linux ------------------------------------------------------

HEADER = """\
set pager=1
if [ -f ${config_directory}/grubenv ]; then
  load_env -f ${config_directory}/grubenv
elif [ -s $prefix/grubenv ]; then
  load_env
fi
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
   set next_entry=
   save_env next_entry
   set boot_once=true
else
   set default="${saved_entry}"
fi
function load_video { true
}
set tuned_params="skew_tick=1"
"""
FOOTER = """
if [ -f  ${config_directory}/custom.cfg ]; then
  source ${config_directory}/custom.cfg
elif [ -z "${config_directory}" -a -f  $prefix/custom.cfg ]; then
  source $prefix/custom.cfg
fi
"""
MACHINE = "0123456789abcdef0123456789abcdef"
VERSIONS = ("5.14.0-70.el9.x86_64", "5.14.0-427.el9.x86_64")


def enterprise(root, body, folder="/boot/grub2"):
    boot_tree.bare(root)
    boot_tree.write(root, folder + "/grub.cfg", HEADER + body + FOOTER)
    subprocess.run(["grub-editenv", f"{root}{folder}/grubenv", "create"], check=True)
    for kernel in VERSIONS:
        boot_tree.write(root, f"/boot/vmlinuz-{kernel}", "kernel")
        boot_tree.write(root, f"/boot/initramfs-{kernel}.img", "initrd")
    boot_tree.running(root, VERSIONS[1])
    return str(root)


@pytest.fixture
def el9(tmp_path):
    root = enterprise(tmp_path, "insmod blscfg\nblscfg\n")
    for kernel in (*VERSIONS, "0-rescue-" + MACHINE):
        boot_tree.write(root, f"/boot/loader/entries/{MACHINE}-{kernel}.conf", (
            f"title Red Hat Enterprise Linux ({kernel})\nversion {kernel}\nlinux /vmlinuz-{kernel}\n"
            f"initrd /initramfs-{kernel}.img $tuned_initrd\noptions root=/dev/mapper/rhel-root ro $tuned_params "
            "dyndbg=\"file a.c +p\" $kernelopts\ngrub_users $grub_users\ngrub_arg --unrestricted\n"
            "grub_class kernel\n"))
    return root


def test_boot_loader_specification(el9):
    newest = f"{MACHINE}-{VERSIONS[1]}"
    found = trial.info(VERSIONS[0], el9)
    assert (found["loader"], found["problems"]) == ("bls", [])
    assert [entry["kernel"] for entry in found["entries"]] == [VERSIONS[1], VERSIONS[0], "0-rescue-" + MACHINE]
    assert found["default"] == {"id": newest, "kernel": VERSIONS[1]}
    assert found["entries"][0]["arguments"] == ["root=/dev/mapper/rhel-root", "ro", "skew_tick=1", "dyndbg=file a.c +p"]
    trial.settle("armed", VERSIONS[0], root=el9)
    text = (Path(el9) / "boot/grub2/custom.cfg").read_text()
    assert f"set default='{newest}'" in text and "--unrestricted" in text
    line = next(line for line in text.splitlines() if VERSIONS[0] in line and line.startswith("  if linux"))
    # What GRUB fills in at each boot it goes on filling in.
    assert "ro $tuned_params 'dyndbg=file a.c +p' $kernelopts fastsocket.trial=" in line
    assert f"if initrd /initramfs-{VERSIONS[0]}.img $tuned_initrd; then" in text
    subprocess.run(["grub-script-check", Path(el9) / "boot/grub2/custom.cfg"], check=True)
    # A package comes and takes the default for its own by its means.
    subprocess.run(["grub-editenv", Path(el9) / "boot/grub2/grubenv", "set", f"saved_entry={MACHINE}-{VERSIONS[0]}"],
                   check=True)
    assert trial.info(root=el9)["default"]["id"] == newest


def test_the_file_system_is_searched_by_its_uuid(el9):
    folder = Path(el9) / "dev/disk/by-uuid"
    folder.mkdir(parents=True)
    (folder / "aaaa-bbbb").symlink_to("../../vda1")
    boot_tree.write(el9, "/dev/vda1")
    trial.settle("armed", VERSIONS[0], root=el9)
    assert "  search --no-floppy --fs-uuid --set=root aaaa-bbbb\n" in (Path(el9) / "boot/grub2/custom.cfg").read_text()


def test_in_the_efi_system_partition(el9):
    """EL 8 has all of it there, and a link to it in /etc."""
    folder = "/boot/efi/EFI/redhat"
    boot_tree.write(el9, folder + "/x")
    for name in ("grub.cfg", "grubenv"):
        (Path(el9) / "boot/grub2" / name).rename(Path(el9) / folder.lstrip("/") / name)
    (Path(el9) / "etc").mkdir()
    (Path(el9) / "etc/grub2-efi.cfg").symlink_to("../boot/efi/EFI/redhat/grub.cfg")
    (Path(el9) / "sys/firmware/efi").mkdir(parents=True)
    found = trial.find_loader(el9)
    assert (found.name, found.custom, found.problems()) == ("bls", folder + "/custom.cfg", [])


def test_package_scripts_would_take_the_trials_arguments(el9):
    boot_tree.running(el9, VERSIONS[1], arguments="fastsocket.trial=x")
    assert "takes this boot's arguments" in trial.info(root=el9)["warnings"][0]
    boot_tree.write(el9, "/etc/kernel/cmdline", "ro\n")
    assert trial.info(root=el9)["warnings"] == []


def test_by_title(tmp_path):
    """EL 7: entries without submenu, the default by its title, commands of 16-bit boots."""
    body = "".join(
        f"menuentry 'CentOS Linux ({kernel}) 7 (Core)' --class gnu --unrestricted $menuentry_id_option "
        f"'gnulinux-{kernel}-advanced-x' {{\n\tload_video\n\tlinux16 /vmlinuz-{kernel} root=/dev/sda2 ro\n"
        f"\tinitrd16 /initramfs-{kernel}.img\n}}\n" for kernel in VERSIONS)
    root = enterprise(tmp_path, "menuentry_id_option=--id\n" + body)
    subprocess.run(["grub-editenv", f"{root}/boot/grub2/grubenv", "set",
                    f"saved_entry=CentOS Linux ({VERSIONS[1]}) 7 (Core)"], check=True)
    found = trial.info(VERSIONS[0], root)
    assert found["default"] == {"id": f"gnulinux-{VERSIONS[1]}-advanced-x", "kernel": VERSIONS[1]}
    assert (found["loader"], found["problems"]) == ("grub2", [])
    trial.settle("armed", VERSIONS[0], root=root)
    text = (Path(root) / "boot/grub2/custom.cfg").read_text()
    assert f"  if linux16 /vmlinuz-{VERSIONS[0]} root=/dev/sda2 ro fastsocket.trial=" in text
    assert f"    linux16 /vmlinuz-{VERSIONS[1]} root=/dev/sda2 ro\n" in text


# ---- no GRUB 2 -------------------------------------------------------------


@pytest.mark.parametrize(("path", "name", "word"), [
    ("run/systemd/container", None, "this is a container"), ("boot/grub/menu.lst", "grub-legacy", "GRUB legacy (0.97)"),
    ("boot/other", None, "no boot loader was found"),
])
def test_others_are_refused_by_name(tmp_path, path, name, word):
    root = boot_tree.bare(tmp_path)
    boot_tree.write(root, path)
    found = trial.info(NEW, root)
    assert (found["loader"], found["default"], found["entries"]) == (name, {"id": None, "kernel": None}, [])
    assert len(found["problems"]) == 1 and word in found["problems"][0]
    before = boot_tree.snapshot(root)
    for state in ("pinned", "armed", "committed"):
        with pytest.raises(FleetError, match=word.split()[0]):
            trial.settle(state, STOCK, root=root)
    for state in ("disarmed", "released"):
        assert trial.settle(state, root=root)["changed"] is False
    assert boot_tree.snapshot(root) == before


def test_grub_of_a_container_is_nobodys(root):
    boot_tree.write(root, "/run/systemd/container", "systemd-nspawn\n")
    assert isinstance(trial.find_loader(root), loader.Container)
    os.unlink(root + "/run/systemd/container")
    assert isinstance(trial.find_loader(root), grub2.Grub)
