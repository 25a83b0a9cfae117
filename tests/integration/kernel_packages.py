# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Small kernel packages by the real dpkg-deb and rpmbuild, laid out as real ones; repositories of them, signed."""
import hashlib
import os
import shutil
import struct
import subprocess
from pathlib import Path

KIB = 1024
# The lab host of the tests, the kernels of two distributions on it, and ours.
HOST = "host"
STOCK = {"deb": "6.1.0-1-amd64", "rpm": "5.14.0-1.el9.x86_64"}
STOCK_PACKAGE = {"deb": f"linux-image-{STOCK['deb']}", "rpm": "kernel-core"}
OURS = "6.12.7-1.fastsocket.x86_64"
RUNNING = os.uname().release
RECORD = "/var/lib/fastsocket/kernel.json"


def run(*words, **options):
    done = subprocess.run([str(word) for word in words], check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, **options)
    assert done.returncode == 0, f"{words}\n{done.stdout}"
    return done.stdout


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def vmlinuz(kernel, size=64 * KIB, signed=False):
    """The headers of an x86 image (boot protocol and PE32+) that says it is `kernel`; no code."""
    data = bytearray(size)
    data[0:2], data[0x1fe:0x200], data[0x202:0x206] = b"MZ", b"\x55\xaa", b"HdrS"
    struct.pack_into("<H", data, 0x20e, 0x1000 - 0x200)
    text = kernel.encode() + b" (fleet@test) #1 SMP\0"
    data[0x1000:0x1000 + len(text)] = text
    struct.pack_into("<I", data, 0x3c, 0x40)
    data[0x40:0x44] = b"PE\0\0"
    struct.pack_into("<HH", data, 0x44, 0x8664, 0)
    struct.pack_into("<H", data, 0x58, 0x20b)
    struct.pack_into("<I", data, 0x58 + 108, 6)
    if signed:
        struct.pack_into("<II", data, 0x58 + 112 + 32, size - 512, 512)
    return bytes(data)


def content(kernel, image=None, folder="boot", modules=16 * KIB):
    """{path: bytes} of a kernel, its image in /boot or (folder="modules") beside the modules."""
    place = f"boot/vmlinuz-{kernel}" if folder == "boot" else f"lib/modules/{kernel}/vmlinuz"
    return {place: vmlinuz(kernel) if image is None else image,
            f"lib/modules/{kernel}/kernel/net/fast.ko": b"\x7fELF" + bytes(modules),
            f"lib/modules/{kernel}/modules.order": b"kernel/net/fast.ko\n",
            f"boot/config-{kernel}": b"CONFIG_RD_GZIP=y\n"}


def _lay(root, files):
    for path, data in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)


def deb(folder, name, files, version="1-1", arch="amd64", scripts=(), **fields):
    """Build a Debian package; fields with _ for -. Return its path."""
    root = Path(folder) / f".{name}"
    shutil.rmtree(root, ignore_errors=True)
    (root / "DEBIAN").mkdir(parents=True)
    _lay(root, files)
    sums = [f"{hashlib.md5(data).hexdigest()}  {path}\n" for path, data in files.items()]
    (root / "DEBIAN/md5sums").write_text("".join(sums))
    given = {"Package": name, "Version": version, "Architecture": arch, "Maintainer": "Test <test@test.invalid>",
             "Section": "kernel", "Description": "a kernel", **fields}
    (root / "DEBIAN/control").write_text("".join(f"{key.replace('_', '-')}: {value}\n" for key, value in given.items()))
    for script, text in dict(scripts).items():
        (root / "DEBIAN" / script).write_text("#!/bin/sh\n" + text)
        (root / "DEBIAN" / script).chmod(0o755)
    path = Path(folder) / f"{name}_{version}_{arch}.deb"
    run("dpkg-deb", "--root-owner-group", "-Zgzip", "--build", root, path)
    shutil.rmtree(root)
    return path


def rpm(folder, name, files, version="1", release="1", arch="x86_64", ghosts=(), scripts=(), **fields):
    """Build an RPM; a field may have several values. Return its path."""
    work = Path(folder) / f".{name}"
    shutil.rmtree(work, ignore_errors=True)
    _lay(work / "tree", files)
    for path in ghosts:
        _lay(work / "tree", {path: b""})
    lines = [f"Name: {name}", f"Version: {version}", f"Release: {release}", "Summary: a kernel", "License: GPL",
             "AutoReqProv: no"]
    for key, values in fields.items():
        lines += [f"{key}: {value}" for value in ([values] if isinstance(values, str) else values)]
    lines += ["%description", "a kernel", "%install", f"mkdir -p %{{buildroot}}; cp -a {work}/tree/. %{{buildroot}}"]
    for script, text in dict(scripts).items():
        lines += [f"%{script}", text]
    # A kernel owns its folder below /lib/modules, whole.
    owned = sorted({"/".join(path.split("/")[:3]) if path.startswith("lib/modules/") else path for path in files})
    lines += ["%files", *(f"/{path}" for path in owned), *(f"%ghost /{path}" for path in ghosts)]
    (work / "spec").write_text("\n".join(lines) + "\n")
    run("rpmbuild", "-bb", "--quiet", "--target", f"{arch}-linux", "--dbpath", work / "db",
        *(word for define in (f"_topdir {work}/top", "__os_install_post %{nil}", "debug_package %{nil}",
                              "_build_id_links none", "_binary_payload w1.gzdio", f"_rpmdir {work}/out")
          for word in ("--define", define)), work / "spec")
    built = next((work / "out").rglob("*.rpm"))
    path = Path(folder) / built.name
    shutil.move(built, path)
    shutil.rmtree(work)
    return path


def ours(build, form, kernel=OURS, **more):
    """Our kernel as packaging makes it: one name a version in a .deb, the image beside the modules in an RPM."""
    if form == "deb":
        return build("deb", f"kernel-fastsocket-{kernel.split('.fast')[0]}", content(kernel), **more)
    version, release = kernel.split(".fast")[0].split("-")
    return build("rpm", "kernel-fastsocket", content(kernel, folder="modules"), version, release,
                 ghosts=[f"boot/vmlinuz-{kernel}"], Provides="installonlypkg(kernel)", **more)


class Key:
    """A signing key made for one test run; public: its public half in a file."""

    def __init__(self, folder):
        self.home, self.name = Path(folder) / "gnupg", "fleet test <test@test.invalid>"
        self.home.mkdir(mode=0o700)
        self.gpg("--quick-gen-key", self.name, "rsa2048", "sign", "never")
        self.public = Path(folder) / "key.asc"
        self.public.write_text(self.gpg("--armor", "--export"))

    def gpg(self, *words):
        return run("gpg", "--homedir", self.home, "--batch", "--quiet", "--pinentry-mode", "loopback",
                   "--passphrase", "", *words)

    def sign_rpm(self, path):
        run("rpmsign", "--addsign", "--define", f"_gpg_name {self.name}", "--define", f"_gpg_path {self.home}",
            "--define", f"__gpg {shutil.which('gpg')}", path, env={**os.environ, "GNUPGHOME": str(self.home)})


def apt_repository(folder, key):
    """Make a signed flat repository of the .deb files in a folder."""
    packages = run("dpkg-scanpackages", "--multiversion", ".", cwd=folder)
    packages = packages[packages.index("Package:"):packages.rindex("\n\n") + 2]
    (folder / "Packages").write_text(packages)
    data = packages.encode()
    (folder / "Release").write_text(
        "Origin: test\nDate: Thu, 01 Jan 2026 00:00:00 UTC\nSHA256:\n"
        f" {hashlib.sha256(data).hexdigest()} {len(data)} Packages\n")
    (folder / "InRelease").unlink(missing_ok=True)
    key.gpg("--clearsign", "--output", folder / "InRelease", folder / "Release")
