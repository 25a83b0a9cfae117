# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine on which a trial could not end, and kernels that are none for it: the role refuses each in one sentence,
with consent to reboot, and nothing on the machine changes. Real GRUB, LVM, btrfs and dpkg; one machine, one boot."""
import contextlib
import io
import json
import shutil
import subprocess
import sys
import tarfile

import fleet
import kernel_packages as make
import pytest
from conftest import PATIENCE, Play, up

sys.path.insert(0, str(fleet.TOP / "tests/lab"))
from hostlab import guest, image, root, snapshot

HOST = "r1"
NEW = "6.12.7-1.fastsocket.x86_64"
STOCK_PACKAGE = "linux-image-{stock}"
# All that a kernel's installation and a trial could touch. The cache may get the package.
STATE = """
cat /proc/sys/kernel/random/boot_id; uname -r
grub-editenv /boot/grub/grubenv list
dpkg-query -W -f '${Package} ${Version} ${db:Status-Abbrev}\\n'
find /boot /etc /lib/modules/ /usr/lib/fastsocket /var/lib/fastsocket ! -type d -printf '%p %s %m %l %T@\\n' \\
    2>/dev/null | sort
find /boot -type f -exec sha256sum {} + | sort
systemctl list-unit-files --no-legend 'fastsocket*' || true
"""
OTHER = "6.1.0-1-other"
# Disks and menus, made and taken away. `mounted`: a file system of a kind, with what GRUB has, in the place of it.
LOOP = "truncate -s {size} /var/tmp/disk && loop=$(losetup --find --show /var/tmp/disk)"
MOUNT = ("mkdir -p /var/tmp/new && mount $disk /var/tmp/new && cp -a {place}/. /var/tmp/new/ && umount /var/tmp/new && "
         "mount $disk {place}")
GONE = "losetup --detach-all; rm -rf /var/tmp/disk /var/tmp/new"


def disk(place, size, make_it, unmake="true"):
    """(what mounts a file system made by MAKE_IT of $loop over PLACE, what takes it away)"""
    return (" && ".join([LOOP.format(size=size), make_it, MOUNT.format(place=place)]),
            f"umount {place}; {unmake}; {GONE}")


# The second kernel is the first one under another name; GRUB's own tools make its entry and the default.
MENU = f"""cp -a /boot/grub/grub.cfg /etc/default/grub /var/tmp/
ln /boot/vmlinuz-$(uname -r) /boot/vmlinuz-{OTHER}
ln /boot/initrd.img-$(uname -r) /boot/initrd.img-{OTHER}
root=$(findmnt -n -o UUID /)
echo "GRUB_DEFAULT='gnulinux-advanced-$root>gnulinux-{OTHER}-advanced-$root'" >>/etc/default/grub
update-grub"""
MENU_GONE = (f"rm /boot/vmlinuz-{OTHER} /boot/initrd.img-{OTHER}; mv /var/tmp/grub.cfg /boot/grub/; mv /var/tmp/grub "
             "/etc/default/")
# This machine has a BIOS: the variable is put where UEFI firmware shows it, attributes first. The last test has real
# firmware.
EFI = "/sys/firmware/efi/efivars"
SECURE = (f"mount -t tmpfs none /sys/firmware && mkdir -p {EFI} && printf '\\006\\000\\000\\000\\001' "
          f">{EFI}/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c")

# {what: ((how it comes to be, how it goes), words of the sentence)}
MACHINE = {
    "environment block on LVM": (
        disk("/boot/grub", "96M", "vgcreate -qq -An refusal $loop && lvcreate -qq -An -y -l 20 -n grub refusal && "
             "disk=/dev/refusal/grub && mkfs.ext4 -q $disk", "vgremove -qq -An -f -y refusal"),
        ["no kernel can be tried here, nothing was changed: /boot/grub is on LVM", "put /boot on a plain partition"]),
    "environment block on btrfs": (
        disk("/boot/grub", "160M", "disk=$loop && mkfs.btrfs -q $disk"),
        ["no kernel can be tried here, nothing was changed: /boot/grub is on btrfs", "put /boot on a plain partition"]),
    "default is another kernel": (
        (MENU, MENU_GONE),
        [f"the default of grub2 is the kernel {OTHER}, but", "reboot into the default, or pin the kernel that runs"]),
    "/boot is too full": (
        disk("/boot", "48M", "disk=$loop && mkfs.ext4 -q $disk"),
        ["/boot is too full for " + NEW, "MiB are needed", "make room"]),
    "secure boot": ((SECURE, "umount /sys/firmware"), ["not signed, and secure boot is on"]),
}


@pytest.fixture(scope="module", name="host")
def fixture_host(collections, tmp_path_factory):
    """The one machine."""
    folder = tmp_path_factory.mktemp("refusals")
    with up("no", [{"name": HOST, "kind": "vm", "cpus": 1, "address": ["10.99.0.41"]}], collections, folder) as one:
        one.scratch = folder
        (folder / "role.yml").write_text(json.dumps([{"hosts": "load_balancers", "gather_facts": False,
                                                      "roles": ["fastsocket.fleet.kernel"]}]))
        yield one


@pytest.fixture(scope="module", name="package")
def fixture_package(host):
    """A package with nothing wrong in it."""
    return make.deb(host.scratch, "kernel-fastsocket-6.12.7-1", make.content(NEW))


def role(host, package, name="role", **variables):
    """Run the role, with consent; returns the fleet.Run."""
    given = {"kernel_package": str(package), "kernel_sha256": make.sha256(package), "kernel_reboot_ok": True}
    given.update(variables)
    return Play(host, host.scratch, name, host.scratch / "role.yml", given, {HOST: {}}).end()


@contextlib.contextmanager
def unchanged(host):
    before = host.inside(HOST, STATE).splitlines()
    yield
    after = host.inside(HOST, STATE).splitlines()
    assert [line for line in before if line not in after] == [line for line in after if line not in before] == []


def test_nothing_is_wrong_with_the_machine(host, package):
    """What the other tests begin with is not refused."""
    with unchanged(host):
        run = role(host, package, kernel_preflight=True)
    assert run.status == 0 and run.changed() == {HOST: 0}, run.output


@pytest.mark.parametrize("what", MACHINE)
def test_a_machine_that_could_not_come_back(host, package, what):
    (make_it, unmake), words = MACHINE[what]
    host.inside(HOST, f"set -e; exec 2>&1; {make_it}")
    try:
        with unchanged(host):
            run = role(host, package)
    finally:
        host.inside(HOST, unmake)
    run.one_failure(HOST, *words)
    assert "\n" not in run.failures[0][1]


def packages(host):
    """{what: (package, words of the sentence)}; each is wrong in one thing."""
    stock = STOCK_PACKAGE.format(stock=host.stock)
    files = make.content(NEW)
    return {
        "architecture": (make.deb(host.scratch, "foreign", files, arch="arm64"), ["is for arm64, this host is amd64"]),
        "replaces the stock kernel": (
            make.deb(host.scratch, "greedy", files, Replaces=stock, Conflicts=stock),
            [f"Conflicts: {stock} hits {stock} ", "would not go in beside what is there"]),
        "is the stock kernel, newer": (
            make.deb(host.scratch, stock, files, version="99"), [f"{stock} ", "dpkg would replace it"]),
        "has the stock kernel's files": (
            make.deb(host.scratch, "same", make.content(host.stock)),
            [f"brings files of the installed kernel package {stock}"]),
    }


@pytest.mark.parametrize("what", ["architecture", "replaces the stock kernel", "is the stock kernel, newer",
                                  "has the stock kernel's files"])
def test_a_package_that_is_none_for_it(host, what):
    package, words = packages(host)[what]
    with unchanged(host):
        run = role(host, package)
    run.one_failure(HOST, *words)
    assert "\n" not in run.failures[0][1]


def test_a_wrong_checksum(host, package):
    """Found on the controller; and on the host, where the file may have changed since."""
    with unchanged(host):
        run = role(host, package, kernel_sha256="0" * 64)
        there = host.module(HOST, "kernel_package", package=f"/var/cache/fastsocket/{package.name}", sha256="0" * 64)
    run.one_failure(HOST, "0" * 64, f"found {make.sha256(package)}")
    assert there["failed"] and f"has the wrong checksum: its sha256 is {make.sha256(package)}" in there["msg"], there


# UEFI with the keys of a machine that one can buy, secure boot on. It gets kernel and initramfs from QEMU, which it
# lets pass; from then on all is as on a machine whose GRUB checks signatures.
FIRMWARE = "/usr/share/OVMF/OVMF_{}_4M.ms.fd"
CHECK = """
cd /var/tmp && tar -xz && exec python3 -B -c '
import json, sys
from module_utils import errors
from module_utils.kernel_package import package
def run(given):
    try:
        return package.ensure("checked", "/var/tmp/" + given[0], given[1])["kernel"]
    except errors.FleetError as error:
        return str(error)
print(json.dumps([run(given) for given in json.loads(sys.argv[1])]))' "$1"
"""


@pytest.fixture(scope="module", name="secure")
def fixture_secure(host, tmp_path_factory):
    """The socket of the agent of a machine whose firmware has secure boot on."""
    folder, base = tmp_path_factory.mktemp("uefi"), image.location(root.location())
    shutil.copyfile(FIRMWARE.format("VARS"), folder / "vars")
    snapshot.overlay(str(folder / "disk"), f"{base}/disk", "raw")
    disk = host.inside(HOST, "findmnt -n -o UUID /")
    flash = "if=pflash,format=raw,unit={},file={}"
    machine = subprocess.Popen([
        *snapshot.MACHINE, *snapshot.ACCELERATORS[snapshot.accelerate(base)], "-smp", "2", "-m", "768",
        "-global", "driver=cfi.pflash01,property=secure,value=on",
        "-drive", flash.format(0, FIRMWARE.format("CODE")) + ",readonly=on", "-drive", flash.format(1, folder / "vars"),
        "-drive", f"file={folder}/disk,if=virtio,format=qcow2,cache=unsafe",
        "-chardev", f"file,id=console,path={folder}/console", "-serial", "chardev:console",
        "-chardev", f"socket,id=agent,path={folder}/agent,server=on,wait=off", "-serial", "chardev:agent",
        "-kernel", f"{base}/vmlinuz", "-initrd", f"{base}/initrd", "-append",
        f"root=UUID={disk} ro console=ttyS0 hung_task_panic=1 panic=30"])
    try:
        yield str(folder / "agent")
    finally:
        machine.kill()
        machine.wait()


def test_secure_boot_of_a_real_firmware(secure, tmp_path):
    """The kernel says that it is on; a package without signature is refused, one with a signature is not."""
    with io.BytesIO() as buffer:
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            archive.add(fleet.TOP / "plugins/module_utils", "module_utils")
            given = []
            for name, signed in (("kernel-unsigned", False), ("kernel-signed", True)):
                path = make.deb(tmp_path, name, make.content(NEW, make.vmlinuz(NEW, signed=signed)))
                archive.add(path, path.name)
                given.append([path.name, make.sha256(path)])
        content = buffer.getvalue()
    said = guest.run(secure, ["dmesg"], patience=PATIENCE)[1][1]
    assert b"secureboot: Secure boot enabled" in said, said
    status, output = guest.run(secure, ["sh", "-c", CHECK, "sh", json.dumps(given)], content, PATIENCE)
    assert status == 0, output
    unsigned, accepted = json.loads(output[1])
    assert unsigned.endswith("turn secure boot off") and "its vmlinuz is not signed, and secure boot is on" in unsigned
    assert accepted == NEW
