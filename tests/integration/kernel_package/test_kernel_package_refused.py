# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is refused before anything is touched, and in which words."""
import contextlib
import os
import re

import kernel_packages as make
import pytest
from kernel_packages import HOST, OURS, RUNNING, STOCK, STOCK_PACKAGE, ours


def deb_cases(build):
    name, stock = "kernel-fastsocket-6.12.7-1", STOCK_PACKAGE["deb"]

    def one(*words, files=None, name=name, **fields):
        return build("deb", name, files or make.content(OURS), **fields), words

    wide = {f"lib/modules/{OURS}/kernel/big.ko": bytes(100), **make.content(OURS)}
    return {
        "replaces": one("Replaces", stock, Replaces=stock),
        "conflicts": one("Conflicts", stock, "linux-image", Conflicts="linux-image"),
        "breaks": one("Breaks", stock, "(<< 6.6)", Breaks="linux-image (<< 6.6)"),
        "breaks another": one("Breaks", "initramfs-tools", Breaks="initramfs-tools"),
        "same name": one(stock, "would replace it", "1-1", name=stock, version="2-1"),
        "no package for it": one("nobody-has-this", "apt-get refuses", Depends="nobody-has-this"),
        "architecture": one("arm64", "amd64", arch="arm64"),
        "its files": one(stock, "brings files", files={
            f"lib/modules/{STOCK['deb']}/kernel/net/fast.ko": b"y", **wide}),
    }


def rpm_cases(build):
    def one(*words, files=None, name="kernel-fastsocket", version="6.12.7", **fields):
        return build("rpm", name, files or make.content(OURS, folder="modules"), version, **fields), words

    stock = STOCK_PACKAGE["rpm"]
    return {
        "obsoletes": one("Obsoletes", f"{stock} < 6", stock, Obsoletes=f"{stock} < 6"),
        "conflicts": one("Conflicts", stock, Conflicts=stock),
        "no package for it": one("nobody-has-this is needed by", Requires="nobody-has-this"),
        "architecture": one("aarch64", "x86_64", arch="aarch64"),
        "its files": one(stock, "brings files", files={
            f"lib/modules/{STOCK['rpm']}/kernel/net/fast.ko": b"y", **make.content(OURS)}),
    }


def common_cases(build, form):
    def one(*words, files, **fields):
        more = {"version": "6.12.7"} if form == "rpm" else {}
        return build(form, "kernel-odd", files, **more, **fields), words

    kernel = STOCK[form]
    good, path = one(files=make.content(OURS))[0], f"/lib/modules/{RUNNING}/kernel/x.ko"
    cases = {
        "checksum": ({**good, "sha256": "0" * 64}, ("wrong checksum", good["sha256"], "0" * 64)),
        "no checksum": ({"package": good["package"]}, ("sha256 (none)", "64 hexadecimal")),
        "short checksum": ({**good, "sha256": "abc"}, ("sha256 abc", "64 hexadecimal")),
        "relative": ({**good, "package": "kernel.rpm"}, ("kernel.rpm", "absolute path")),
        "missing": ({**good, "package": "/share/none.rpm"}, ("/share/none.rpm", "No such file")),
        "folder": ({**good, "package": "/share"}, ("/share", "Is a directory")),
        "no kernel": one("brings no kernel", files={"usr/share/x": b"x"}),
        "two kernels": one("kernels", OURS, "1.2.3", files={"boot/vmlinuz-1.2.3": b"x", **make.content(OURS)}),
        "empty image": one("empty", OURS, files=make.content(OURS, b"")),
        "no image": one("no Linux kernel for x86_64", files=make.content(OURS, b"hello" * 9000)),
        "other image": one("6.12.8", OURS, files=make.content(OURS, make.vmlinuz("6.12.8"))),
        "kernel that is here": one(kernel, "version of its own", files=make.content(
            kernel, folder="modules" if form == "deb" else "boot", modules=5)),
        "kernel that runs": one(RUNNING, "the very one that runs", files={
            f"boot/vmlinuz-{RUNNING}": make.vmlinuz(RUNNING), path[1:]: b"x"}),
    }
    return cases


@pytest.mark.parametrize("form", ["deb", "rpm"])
def test_refused(modules, build, unchanged, form):
    cases = {**common_cases(build, form), **(deb_cases if form == "deb" else rpm_cases)(build)}
    runs = [(name, {"state": state, **given}, words)
            for name, (given, words) in cases.items() for state in ("checked", "present")]
    with unchanged():
        results = modules([given for dummy, given, dummy in runs])
    for (name, dummy, words), result in zip(runs, results, strict=True):
        assert result["failed"], name
        for word in words:
            assert word in result["msg"], (name, result["msg"])


@pytest.mark.parametrize("form", ["deb", "rpm"])
def test_damaged_file(module, build, unchanged, share, form):
    given = ours(build, form)
    path = share / given["package"][len("/share/"):]
    whole = path.read_bytes()
    turned = bytearray(whole)
    turned[len(whole) * 2 // 3] ^= 0xff
    broken = {"cut": whole[:len(whole) // 2], "short": whole[:200], "a bit": bytes(turned), "text": b"hello\n"}
    for name, data in broken.items():
        path.write_bytes(data)
        with unchanged():
            result = module(package=given["package"], sha256=make.sha256(path))
            assert result["failed"] and given["package"] in result["msg"], name
            words = "neither an RPM nor a Debian" if name == "text" else "damaged"
            assert words in result["msg"], (name, result["msg"])


@pytest.mark.parametrize("place, size, options", [
    ("/boot", "8M", {}), ("/boot", "40M", {"initramfs": 36}), ("/lib/modules", "12M", {}),
    ("/boot", "90M,nr_inodes=1", {})])
def test_too_full(host, module, build, unchanged, place, size, options):
    """Small file systems, and one where there is room for the kernel but not for an initramfs like the others."""
    given = ours(build, "deb")
    host.sh(HOST, f"mount -t tmpfs -o size={size} tmpfs {place}")
    try:
        if options:
            host.sh(HOST, f"head -c {options['initramfs']}M /dev/zero >/boot/initrd.img-5.0; "
                          "mount -o remount,size=60M /boot")
        with unchanged():
            result = module(**given)
            assert result["failed"] and f"{place} is too full for {OURS}" in result["msg"], result["msg"]
            assert ("files can be made" if "inodes" in size else "MiB are needed") in result["msg"]
    finally:
        host.sh(HOST, f"umount {place}")
    assert module(state="checked", **given)["kernel"] == OURS


def test_read_only(host, module, build, unchanged):
    given = ours(build, "deb")
    host.sh(HOST, "mount -t tmpfs -o ro tmpfs /boot")
    try:
        with unchanged():
            result = module(**given)
            assert result["failed"] and "/boot is mounted read-only" in result["msg"], result["msg"]
    finally:
        host.sh(HOST, "umount /boot")


@contextlib.contextmanager
def firmware(host, secure):
    """The host's firmware says whether it boots signed kernels only."""
    variable = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
    host.sh(HOST, f"mount -t tmpfs tmpfs /sys/firmware; mkdir -p {os.path.dirname(variable)}; "
                  f"printf '\\6\\0\\0\\0\\{secure}' >{variable}")
    try:
        yield
    finally:
        host.sh(HOST, "umount /sys/firmware")


def test_secure_boot(host, module, build, unchanged):
    unsigned = ours(build, "deb")
    with unchanged():
        with firmware(host, 1):
            result = module(**unsigned)
            assert result["failed"] and "not signed" in result["msg"] and "secure boot is on" in result["msg"], result
            signed = build("deb", "kernel-signed", make.content(OURS, make.vmlinuz(OURS, signed=True)))
            assert module(state="checked", **signed)["failed"] is False
        with firmware(host, 0):
            assert module(state="checked", **unsigned)["failed"] is False


def test_the_distributions_own(host, module, share, unchanged):
    """Debian's signed kernel goes in and away again with all its hooks; what it was signed from is refused."""
    asked = make.run("apt-cache", "depends", "linux-image-cloud-amd64")
    name = re.search(r"Depends: (linux-image-\S+)", asked)[1]
    folder, kernel = share / "debian", name[len("linux-image-"):]
    folder.mkdir()
    make.run("apt-get", "download", name, name + "-unsigned", cwd=folder)
    signed, unsigned = (next(folder.glob(f"{start}_*.deb")) for start in (name, name + "-unsigned"))
    given = {"package": f"/share/debian/{signed.name}", "sha256": make.sha256(signed)}
    with unchanged(), firmware(host, 1):
        result = module(package=f"/share/debian/{unsigned.name}", sha256=make.sha256(unsigned))
        assert result["failed"] and "not signed" in result["msg"], result
        done = module(**given)
        assert not done["failed"] and (done["kernel"], done["name"]) == (kernel, name), done
        host.sh(HOST, f"test -s /boot/initrd.img-{kernel} -a -s /lib/modules/{kernel}/modules.dep")
        assert module(**given)["changed"] is False
        result = module(package=f"/share/debian/{unsigned.name}", sha256=make.sha256(unsigned))
        assert result["failed"] and "Conflicts" in result["msg"] and name in result["msg"], result
        assert module(state="absent", kernel=kernel)["changed"] is True
        host.sh(HOST, "rm -f /boot/initrd.img /boot/vmlinuz*.old /initrd.img* /vmlinuz*")


def test_wrong_kind_of_package(host, module, build, unchanged):
    given = ours(build, "rpm")
    host.sh(HOST, "mv /var/lib/rpm /var/lib/rpm.off")
    try:
        result = module(**given)
        assert result["failed"] and "RPM package" in result["msg"] and "not of that kind" in result["msg"]
    finally:
        host.sh(HOST, "rm -rf /var/lib/rpm; mv /var/lib/rpm.off /var/lib/rpm")
