# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The packages of kernel and library as rpm, dnf and dpkg see them: beside what is there, gone whole, and the system's
own hooks called."""
import hashlib
import os
import re
import shutil
import subprocess

import fleet
import kernel_packages
import pytest
import scratch

VERSION = "6.12.7"
STOCK = "5.14.0-1.el9.x86_64"
# What kernel-install and run-parts hand to hooks is written down here.
SEEN = "/var/seen"
HOOK = f'#!/bin/sh\necho "{{0}} $* INITRD=$INITRD PARAMS=$DEB_MAINT_PARAMS" >>{SEEN}\n'
# kernel-install of EL 8 where GRUB_UPDATE_DEFAULT_KERNEL is true; COMMAND KERNEL ...
STEALS = '#!/bin/sh\n[ "$1" != add ] || grub2-editenv - set "saved_entry=stolen-by-$2"\n'
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="scratch roots need root")


def kver(release):
    return f"{VERSION}-{release}.fastsocket.x86_64"


def run(*words):
    return subprocess.run([str(word) for word in words], check=True, stdout=subprocess.PIPE, text=True).stdout


def build(folder, release="1", fragments="fastsocket lab", formats=("rpm", "deb")):
    """Packages of a tree as `make tree` leaves it, by the Makefile's own rules; {format: path}."""
    kernel = kver(release)
    modules = folder / "tree/lib/modules" / kernel
    (modules / "kernel/net").mkdir(parents=True)
    (modules / "vmlinuz").write_bytes(kernel_packages.vmlinuz(kernel))
    (modules / "vmlinuz").chmod(0o755)
    shutil.copyfile("/bin/true", modules / "kernel/net/fast.ko")     # an ELF file, for rpmlint
    for name in ("System.map", "config", "modules.dep", "modules.order", "modules.builtin"):
        (modules / name).write_text(f"{name} of {kernel}\n" * 100)
    (modules / "System.map").chmod(0o600)
    (folder / "KVER").write_text(kernel + "\n")
    (folder / "linux").mkdir()
    (folder / "linux/COPYING").write_text("GPL-2.0\n")
    stamp = folder / "tree.stamp"
    stamp.touch()
    run("make", "-s", "-C", fleet.TOP / "kernel-src", "-o", stamp, f"BUILD={folder}", f"RELEASE={release}",
        f"CONFIG={fragments}", *formats)
    return {form: next((folder / "packages").glob(f"*.{form}")) for form in formats}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """made(release): packages of that release, made once."""
    known = {}

    def make(release="1"):
        if release not in known:
            known[release] = build(tmp_path_factory.mktemp(f"made{release}"), release)
        return known[release]
    return make


@pytest.fixture
def root(tmp_path):
    (tmp_path / "mnt").mkdir()
    with scratch.root(tmp_path / "mnt") as one:
        one.sh(f": >{SEEN}")
        yield one


@pytest.fixture
def rpm_root(root, tmp_path):
    """A root that has an RPM database with a stock kernel in it, and a hook of kernel-install."""
    files = {f"lib/modules/{STOCK}/vmlinuz": b"stock", f"boot/vmlinuz-{STOCK}": b"stock"}
    stock = kernel_packages.rpm(tmp_path, "kernel-core", files, "5.14.0", "1.el9", Provides=[
        "installonlypkg(kernel)", f"kernel-uname-r = {STOCK}", "/bin/sh"])
    root.rpm("--install", stock)
    root.put("/etc/kernel/install.d/95-seen.install", HOOK.format("kernel-install"))
    return root


def seen(root):
    return root.sh(f"cat {SEEN}; : >{SEEN}").splitlines()


def of_ours(root, kernel):
    """All files below /boot and /lib/modules that carry the name of a kernel."""
    return root.sh(f"find /boot /lib/modules/ -path '*{kernel}*' 2>/dev/null | sort").split()


def test_rpm_says(made):
    path = made()["rpm"]
    assert path.name == f"kernel-fastsocket-{VERSION}-1.x86_64.rpm"
    provides = run("rpm", "-qp", "--provides", path).splitlines()
    assert "installonlypkg(kernel)" in provides and f"kernel-uname-r = {kver(1)}" in provides
    assert not [name for name in provides if re.match(r"kernel(-core|-modules)?\b(?!-fastsocket|-uname)", name)]
    assert run("rpm", "-qp", "--obsoletes", "--conflicts", path) == ""
    needs = {line.split()[0] for line in run("rpm", "-qp", "--requires", path).splitlines()}
    assert {name for name in needs if not name.startswith("rpmlib(")} == {"/bin/sh"}
    files = dict(reversed(line.split(" ", 1)) for line in run(
        "rpm", "-qp", "--qf", "[%{FILEFLAGS:fflags}%{FILEMODES:perms} %{FILENAMES}\n]", path).splitlines())
    ghosts = {name for name, flags in files.items() if flags.startswith("g")}
    assert ghosts == {f"/boot/{name}" for name in (
        f"vmlinuz-{kver(1)}", f"System.map-{kver(1)}", f"config-{kver(1)}", f"initramfs-{kver(1)}.img")}
    modules = f"/lib/modules/{kver(1)}"
    inside = ("vmlinuz", "System.map", "config", "kernel/net/fast.ko", "modules.dep")
    assert {f"{modules}/{name}" for name in inside} < set(files)
    assert files[f"{modules}/System.map"] == "-rw-------" and files[f"{modules}/modules.dep"].startswith("m")


def test_rpmlint(made):
    """No error but those that say: not signed, no packager, what only root may read."""
    done = subprocess.run(["rpmlint", made()["rpm"]], stdout=subprocess.PIPE, text=True, check=False).stdout
    errors = set(re.findall(r": E: (\S+)", done))
    assert "1 packages and 0 specfiles checked" in done
    assert errors <= {"no-signature", "no-packager-tag", "no-group-tag", "no-changelogname-tag", "non-readable"}, done


@pytest.mark.parametrize("fragments, depends", [
    ("fastsocket lab", "kmod"), ("fastsocket", "kmod, initramfs-tools | linux-initramfs-tool")])
def test_deb_says(tmp_path, fragments, depends):
    path = build(tmp_path, fragments=fragments, formats=["deb"])["deb"]
    assert path.name == f"kernel-fastsocket_{VERSION}-1_amd64.deb"
    fields = dict(line.split(": ", 1) for line in run("dpkg-deb", "-f", path).splitlines() if not line.startswith(" "))
    assert fields["Package"] == f"kernel-fastsocket-{VERSION}-1" and fields["Version"] == f"{VERSION}-1"
    assert fields["Depends"] == depends and fields["Architecture"] == "amd64"
    assert not {"Provides", "Replaces", "Conflicts", "Breaks"} & set(fields)
    listed = run("dpkg-deb", "-c", path)
    assert re.findall(r" \./boot/(\S+)", listed) == [
        f"{name}-{kver(1)}" for name in ("System.map", "config", "vmlinuz")]
    assert all(line.split()[1] == "root/root" for line in listed.splitlines())


def test_same_bytes(made, tmp_path):
    """Another folder, another day."""
    again = build(tmp_path / "elsewhere")
    for form, path in made().items():
        assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(again[form].read_bytes()).digest(), form


def test_nothing_to_do(made):
    folder = made()["rpm"].parents[1]
    times = [path.stat().st_mtime_ns for path in made().values()]
    run("make", "-C", fleet.TOP / "kernel-src", "-o", folder / "tree.stamp", f"BUILD={folder}",
        "CONFIG=fastsocket lab", "rpm", "deb")
    assert times == [path.stat().st_mtime_ns for path in made().values()]


def test_dnf_puts_it_beside(rpm_root, made, tmp_path):
    """A second release goes beside the first. With too many, the oldest of ours goes, never the stock kernel."""
    repository = tmp_path / "repository"
    repository.mkdir()
    for release in "1234":
        shutil.copy(made(release)["rpm"], repository)
        run("createrepo_c", "--quiet", repository)
        said = rpm_root.dnf(repository, "--refresh", "install" if release == "1" else "upgrade", "kernel-fastsocket")
        assert [line.split()[2] for line in seen(rpm_root) if " add " in line] == [kver(release)], said
        if release == "2":
            assert sorted(rpm_root.rpm("-qa").split()) == [
                "kernel-core-5.14.0-1.el9.x86_64", *(f"kernel-fastsocket-{VERSION}-{number}.x86_64" for number in "12")]
    # installonly_limit=3 counts by name.
    assert sorted(rpm_root.rpm("-qa").split()) == [
        "kernel-core-5.14.0-1.el9.x86_64", *(f"kernel-fastsocket-{VERSION}-{release}.x86_64" for release in "234")]
    assert rpm_root.sh(f"cat /boot/vmlinuz-{STOCK}") == "stock"
    assert of_ours(rpm_root, kver(1)) == []


def test_rpm_goes_whole(rpm_root, made):
    rpm_root.rpm("--install", made()["rpm"])
    modules = f"/lib/modules/{kver(1)}"
    # What kernel-install's own plug-ins do: depmod at the add, its files away at the removal.
    assert rpm_root.sh(f"ls {modules}/modules.symbols.bin")
    assert rpm_root.rpm("--verify", "kernel-fastsocket") == ""
    assert "warning" not in rpm_root.rpm("--erase", "kernel-fastsocket")
    assert [line.split()[:3] for line in seen(rpm_root)] == [
        ["kernel-install", way, kver(1)] for way in ("add", "remove")]
    assert of_ours(rpm_root, kver(1)) == []


def test_rpm_without_kernel_install(rpm_root, made):
    """EL 6 has none: the files come to /boot all the same, and go with the package."""
    rpm_root.sh("rm /usr/bin/kernel-install")
    rpm_root.rpm("--install", made()["rpm"])
    boot = [f"/boot/{name}-{kver(1)}" for name in ("System.map", "config", "vmlinuz")]
    assert of_ours(rpm_root, kver(1))[:3] == boot
    rpm_root.sh(f"cmp {boot[2]} /lib/modules/{kver(1)}/vmlinuz")
    rpm_root.rpm("--erase", "kernel-fastsocket")
    assert of_ours(rpm_root, kver(1)) == []


@pytest.mark.parametrize("before", ["stock-entry", None])
def test_rpm_leaves_the_default(rpm_root, made, before):
    """A kernel-install that makes every kernel the default: the package puts the old one back."""
    for path in re.findall(r"(/\S+)", run("ldd", "/usr/bin/grub-editenv")):
        rpm_root.run("cp", "-L", "-n", path, f"{rpm_root.path}/usr/lib/x86_64-linux-gnu/")
    rpm_root.run("cp", "/usr/bin/grub-editenv", f"{rpm_root.path}/usr/bin/grub2-editenv")
    rpm_root.sh("mkdir -p /boot/grub; grub2-editenv - create")
    if before:
        rpm_root.sh(f"grub2-editenv - set saved_entry={before}")
    rpm_root.put("/etc/kernel/install.d/20-grub.install", STEALS)
    rpm_root.rpm("--install", made()["rpm"])
    assert len(seen(rpm_root)) == 1
    assert rpm_root.sh("grub2-editenv - list") == (f"saved_entry={before}\n" if before else "")


def test_running_kernel_stays(rpm_root, made):
    rpm_root.rpm("--install", made()["rpm"])
    rpm_root.put("/usr/bin/uname", f"#!/bin/sh\necho {kver(1)}\n")
    assert f"{kver(1)} is running" in rpm_root.rpm("--erase", "kernel-fastsocket", status=1)
    assert "kernel-fastsocket" in rpm_root.rpm("-qa")


@pytest.fixture
def deb_root(root, made):
    """A root with hooks for kernels, and the packages of two releases in /root."""
    for when in ("postinst", "prerm", "postrm"):
        root.put(f"/etc/kernel/{when}.d/zz-seen", HOOK.format(when))
    for release in "12":
        root.run("cp", made(release)["deb"], f"{root.path}/root/{release}.deb")
    return root


def test_deb_goes_in_and_out(deb_root):
    deb_root.sh("dpkg -i /root/1.deb")
    boot = f"/boot/vmlinuz-{kver(1)}"
    assert seen(deb_root) == [f"postinst {kver(1)} {boot} INITRD=No PARAMS=configure "]
    deb_root.sh(f"cmp {boot} /lib/modules/{kver(1)}/vmlinuz; dpkg --verify kernel-fastsocket-{VERSION}-1")
    deb_root.sh(f"depmod {kver(1)}")
    deb_root.sh("dpkg -i /root/2.deb")
    assert deb_root.sh("dpkg-query -W -f '${db:Status-Status} ${Package}\\n' 'kernel-fastsocket-*'").split() == [
        "installed", f"kernel-fastsocket-{VERSION}-1", "installed", f"kernel-fastsocket-{VERSION}-2"]
    seen(deb_root)
    assert "not empty" not in deb_root.sh(f"dpkg -r kernel-fastsocket-{VERSION}-1")
    assert seen(deb_root) == [f"{when} {kver(1)} {boot} INITRD=No PARAMS=remove" for when in ("prerm", "postrm")]
    assert of_ours(deb_root, kver(1)) == [] and len(of_ours(deb_root, kver(2))) > 8
    deb_root.sh(f"dpkg -P kernel-fastsocket-{VERSION}-1 kernel-fastsocket-{VERSION}-2")
    assert of_ours(deb_root, kver(2)) == []


def test_deb_hook_fails(deb_root):
    """No room for the initramfs, for example: the package is not configured, and dpkg says so."""
    deb_root.put("/etc/kernel/postinst.d/initramfs", "#!/bin/sh\necho no room >&2; exit 1\n")
    said = deb_root.sh("dpkg -i /root/1.deb", status=1)
    assert "no room" in said and "half-configured" in deb_root.sh(f"dpkg -s kernel-fastsocket-{VERSION}-1")


def test_deb_of_the_running_kernel_stays(deb_root):
    deb_root.sh("dpkg -i /root/1.deb")
    deb_root.put("/usr/bin/uname", f"#!/bin/sh\necho {kver(1)}\n")
    seen(deb_root)
    assert f"{kver(1)} is running" in deb_root.sh(f"dpkg -r kernel-fastsocket-{VERSION}-1", status=1)
    assert seen(deb_root) == [] and len(of_ours(deb_root, kver(1))) > 8


# ---- libfsocket

BROKEN = "__attribute__((constructor)) static void start(void) { __builtin_trap(); }\n"
FOLDER, LINK = "/usr/lib/fastsocket", "/usr/lib/fastsocket/libfsocket.so"


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """library(release): the library's packages. Release 2 has another library, 9 one that no program lives with."""
    known = {}
    extra = {"2": "-O1"}

    def make(release="1"):
        if release not in known:
            folder = tmp_path_factory.mktemp(f"library{release}")
            source = fleet.TOP / "libfsocket"
            if release == "9":
                source = shutil.copytree(source, folder / "source", ignore=shutil.ignore_patterns("build"))
                (source / "src/broken.c").write_text(BROKEN)
            run("make", "-s", "-C", source, f"BUILD={folder}/b", f"RELEASE={release}",
                f"CFLAGS={extra.get(release, '')}", "rpm", "deb")
            known[release] = {form: next((folder / "b/packages").glob(f"*.{form}")) for form in ("rpm", "deb")}
        return known[release]
    return make


def _dpkg(root, path, status=0):
    root.run("cp", path, f"{root.path}/root/library.deb")
    return root.sh("dpkg -i /root/library.deb", status=status)


# Installs or upgrades; removes.
WAYS = {
    "rpm": (lambda root, path, status=0: root.rpm("--upgrade", "--nodeps", path, status=status),
            lambda root: root.rpm("--erase", "libfsocket")),
    "deb": (_dpkg, lambda root: root.sh("dpkg -P libfsocket")),
}


@pytest.mark.parametrize("form", WAYS)
def test_library_package(root, library, form):
    """The link appears, follows an upgrade, and goes with the package; a program lives with the library."""
    install, remove = WAYS[form]
    targets = []
    for release in "12":
        install(root, library(release)[form])
        targets.append(root.sh(f"readlink {LINK}").strip())
        assert re.fullmatch(rf"{FOLDER}/package/libfsocket\.so\.\d+\.\d+\.\d+-[0-9a-f]{{12}}", targets[-1])
        assert root.sh(f"sha256sum {targets[-1]}")[:12] == targets[-1][-12:]
        root.sh(f"mkdir /tmp/{release}; LD_PRELOAD={LINK} FSOCKET_DIR=/tmp/{release} FSOCKET_NAME=x /bin/true")
        root.sh(f"ls /tmp/{release}/x.stats")
    assert targets[0] != targets[1] and root.sh(f"ls {FOLDER}/package").split() == [os.path.basename(targets[1])]
    remove(root)
    assert root.sh(f"ls -d {FOLDER} || true") == f"ls: cannot access '{FOLDER}': No such file or directory\n"


@pytest.mark.parametrize("form", WAYS)
def test_library_package_and_role(root, library, form):
    """A link that the role has turned to its own version stays, in all that a package does."""
    install, remove = WAYS[form]
    root.sh(f"mkdir {FOLDER}; echo role >{LINK}.0.1.0-of-the-role; ln -s {LINK}.0.1.0-of-the-role {LINK}")
    for release in "12":
        install(root, library(release)[form])
    assert root.sh(f"readlink {LINK}") == f"{LINK}.0.1.0-of-the-role\n"
    remove(root)
    assert root.sh(f"cat {LINK}; ls {FOLDER}").split() == ["role", "libfsocket.so", "libfsocket.so.0.1.0-of-the-role"]


@pytest.mark.parametrize("form", WAYS)
def test_library_package_that_is_bad(root, library, form):
    install, dummy = WAYS[form]
    said = install(root, library("9")[form], status=None)
    assert "/bin/true does not live with" in said, said
    assert root.sh(f"ls {FOLDER}") == "package\n"


def test_library_packages_have_the_same_bytes(library, tmp_path):
    source = shutil.copytree(fleet.TOP / "libfsocket", tmp_path / "copy", ignore=shutil.ignore_patterns("build"))
    run("make", "-s", "-C", source, "BUILD=out", "CFLAGS=", "rpm", "deb")
    for form, path in library("1").items():
        assert path.read_bytes() == (source / "out/packages" / path.name).read_bytes(), form
