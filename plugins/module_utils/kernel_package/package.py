# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A kernel package beside the kernels that are there: looked at in full before anything is touched, installed or put
back whole, removed only when it is ours. The boot default is never touched here."""

import contextlib
import hashlib
import os
import re
import shutil
import tempfile

from .. import hostfile, paths
from ..errors import FleetError
from . import deb, files, image, room, rpm

FORMATS = {"deb": deb, "rpm": rpm}
RECORD = "kernel.json"
# A name for apt, dnf or yum, perhaps with a version: no option, no pattern, none of apt's NAME- (remove).
NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._+:~^=-]*[A-Za-z0-9]$")
SHA256 = re.compile(r"^[0-9a-f]{64}$")


def ensure(state, package=None, sha256=None, repository=False, kernel=None, force=False, wait=60, check_mode=False):
    """Do what the module kernel_package says; return its result."""
    if state == "absent":
        return absent(kernel, force, wait, check_mode)
    if repository:
        with _folder() as folder:
            return _beside(_from_repository(package, sha256, folder, wait), state == "present", wait, check_mode)
    if check_mode and state == "present" and os.path.isabs(package) and not os.path.exists(package):
        # On a bare host the task before this one only said that it would copy it.
        return _result(None, package, None, False, [_change(package, None, "installed")])
    return _beside(_from_file(package, sha256), state == "present", wait, check_mode)


class Found:
    """What there is to install: the packages, the one of them that brings the kernel, and where all that is from.
    `again`: they are installed, but damaged."""

    def __init__(self, tool, packages, kernel, main, folder=None, sha256=None):
        self.tool, self.packages, self.kernel, self.main = tool, packages, kernel, main
        self.folder, self.sha256 = folder, sha256
        self.installed = all(tool.installed(package) for package in packages)
        self.again = self.installed and bool(tool.damaged(main.ident))
        self.idents = [package.ident for package in packages]

    def install(self):
        if self.folder:
            return self.tool.install_by_name(self.packages, self.folder, self.again)
        return self.tool.install(self.packages, self.again)


@contextlib.contextmanager
def _folder():
    # /tmp may be memory, and a kernel has hundreds of megabytes.
    folder = tempfile.mkdtemp(prefix="fastsocket-kernel-", dir="/var/tmp")
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _from_file(path, sha256):
    """Return what a package file brings. FleetError when it is not the wanted file, damaged, or no kernel."""
    if not path or not os.path.isabs(path):
        raise FleetError("package %s is no absolute path of an .rpm or .deb on this host; with repository: true it "
                         "would be a name" % path)
    if not SHA256.match((sha256 or "").lower()):
        raise FleetError("sha256 %s of package %s is not 64 hexadecimal digits: a package file is installed only with "
                         "its checksum (sha256sum FILE)" % (sha256 or "(none)", path))
    try:
        with open(path, "rb") as handle:
            magic = handle.read(8)
            digest = hashlib.sha256(magic)
            for chunk in iter(lambda: handle.read(1 << 20), b""):
                digest.update(chunk)
    except OSError as error:
        raise FleetError("package %s cannot be read: %s" % (path, error.strerror)) from error
    if digest.hexdigest() != sha256.lower():
        raise FleetError("package %s has the wrong checksum: its sha256 is %s, %s was asked for"
                         % (path, digest.hexdigest(), sha256.lower()))
    tool = next((tool for tool in FORMATS.values() if magic.startswith(tool.MAGIC)), None)
    if tool is None:
        raise FleetError("package %s is neither an RPM nor a Debian package" % path)
    if not tool.native():
        raise FleetError("package %s is a %s, and this host's packages are not of that kind: give it the other one"
                         % (path, tool.WHAT))
    one = tool.read(path)
    return Found(tool, [one], *_brings([one]), sha256=sha256.lower())


def _from_repository(name, sha256, folder, wait):
    """Return what a name in the host's repositories brings; downloaded into `folder` when it is not installed."""
    if sha256:
        raise FleetError("sha256 %s: that is for a package file; packages of a repository are checked by its signature"
                         % sha256)
    if not NAME.match(name or ""):
        raise FleetError("package %s is no name of a package in a repository; it looks like linux-image-amd64 or "
                         "kernel-ml" % name)
    tool = next((tool for tool in FORMATS.values() if tool.native()), None)
    if tool is None:
        raise FleetError("this host has neither dpkg nor rpm packages")
    ident = tool.installed_as(name)
    if ident:
        kernel, main = _installed_kernel(tool, ident)
        one = files.Package(None, main, main, tool.versions(main), None, {}, {})
        return Found(tool, [one], kernel, one, folder)
    tool.ready(wait)
    packages = [tool.read(path) for path in tool.resolve(name, folder)]
    return Found(tool, packages, *_brings(packages), folder=folder)


def _installed_kernel(tool, ident):
    """Return (kernel, ident) of the kernel that an installed package, or one that it needs, brings."""
    for near in [ident] + sorted(tool.requires(ident)):
        kernels = files.kernels_in(tool.paths_of(near)) if tool.installed_as(near) else []
        if kernels:
            return kernels[0], near
    raise FleetError("package %s is installed, and neither it nor what it needs brings a kernel (/boot/vmlinuz-VERSION "
                     "or /lib/modules/VERSION/vmlinuz)" % ident)


def _brings(packages):
    """Return (kernel, package) that these packages bring. FleetError when it is not exactly one, or no whole one."""
    names = ", ".join(package.path for package in packages)
    kernels = files.kernels_in(path for package in packages for path in package.files)
    if len(kernels) != 1:
        raise FleetError("%s: %s; what is wanted is exactly one /boot/vmlinuz-VERSION or /lib/modules/VERSION/vmlinuz"
                         % (names, "brings kernels %s" % ", ".join(kernels) if kernels else "brings no kernel"))
    for package in packages:
        if any(size for dummy, size in package.heads.values()):
            return kernels[0], package
    raise FleetError("%s: the vmlinuz of %s in it is empty or no file" % (names, kernels[0]))


def _beside(found, wanted, wait, check_mode):
    """Check all, install when `wanted`; return the result."""
    main, tool = found.main, found.tool
    machine = tool.architecture()
    for package in found.packages:
        if package.arch not in (machine, "noarch", "all", None):
            raise FleetError("package %s is for %s, this host is %s" % (package.path, package.arch, machine))
    if found.installed and not found.again:
        return _result(found.kernel, main.name, main.version, True, [], found.idents)
    check(found, wait)
    if not wanted:
        return _result(found.kernel, main.name, main.version, False, [], found.idents)
    if not check_mode:
        _install(found)
    before = "damaged" if found.again else None
    return _result(found.kernel, main.name, main.version, not check_mode, [
        _change(package.name, before, "%s %s" % (package.version, package.arch or "")) for package in found.packages],
        found.idents)


def check(found, wait):
    """FleetError for the first reason not to install. Nothing is touched."""
    tool, kernel = found.tool, found.kernel
    tool.ready(wait, found.idents)
    here = files.kernels_here()
    owners = {version: tool.owner(images) for version, images in here.items()}
    others = sorted({owner for owner in owners.values() if owner and owner not in found.idents})
    if found.again:
        return room.check(_sizes(found), kernel)
    for package in found.packages:
        label = "package %s" % package.path
        reason = tool.displaced(package, others)
        if reason:
            raise FleetError("%s would not go in beside what is there: %s" % (label, reason))
        for other in others:
            shared = sorted(tool.paths_of(other) & set(package.files))
            if [path for path in shared if path.startswith(("/boot/", "/lib/modules/"))]:
                raise FleetError("%s brings files of the installed kernel package %s, such as %s: build it with a "
                                 "version of its own" % (label, other, shared[0]))
    # One that no package owns and that is in our record was left by a run that never came to its end.
    if kernel in here and owners[kernel] not in found.idents and (owners[kernel] or kernel not in _record()):
        raise FleetError("%s brings kernel %s, which is on this host already (%s, of %s): build it with a version of "
                         "its own" % (found.main.path, kernel, here[kernel][0], owners[kernel] or "no package"))
    if kernel == os.uname().release:
        raise FleetError("%s brings kernel %s, the very one that runs: build it with a version of its own"
                         % (found.main.path, kernel))
    reason = tool.unmet(found.packages) if not found.folder else None
    if reason:
        raise FleetError("package %s cannot be installed: %s" % (found.main.path, reason))
    for head, size in found.main.heads.values():
        image.check("package %s" % found.main.path, kernel, head, size, os.uname().machine)
    return room.check(_sizes(found), kernel)


def _sizes(found):
    return {path: size for package in found.packages for path, size in package.files.items()}


def _install(found):
    """Install, and see that it is there whole. When it is not, put the host back and fail."""
    tool, kernel = found.tool, found.kernel
    before = files.traces(kernel)
    kept = _record().get(kernel)
    new = [package.ident for package in found.packages if not tool.installed(package)]
    # Written first: should the host die half way, `absent` still knows whose kernel this is.
    if new:
        _note(kernel, {"name": found.main.name, "version": found.main.version, "packages": new, "sha256": found.sha256})
    wrong = found.install()
    if wrong is None:
        missing = [package.ident for package in found.packages if not tool.installed(package)]
        spoiled = missing or tool.damaged(found.main.ident)
        wrong = "it ended well, but these are not there whole: %s" % ", ".join(spoiled[:5]) if spoiled else None
    if wrong is None:
        return
    if not new:
        raise FleetError("kernel %s was damaged and could not be mended: %s" % (kernel, wrong))
    left = _put_back(tool, new, kernel, before)
    if not left:
        _note(kernel, kept)
    raise FleetError("kernel %s could not be installed: %s; %s" % (
        kernel, wrong, "what it left could not be removed: " + left if left else "the host is as it was before"))


def _put_back(tool, idents, kernel, before):
    """Remove packages that were not there before, and every file of their kernel; return None or what went wrong."""
    wrong = tool.remove(idents, False)
    if wrong is not None:
        wrong = tool.remove(idents, True)
    if wrong is None:
        _sweep(files.traces(kernel) - before)
    return wrong


def _sweep(places):
    for path in places:
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)


def absent(kernel, force, wait, check_mode):
    """Remove the package of a kernel and what came with it. FleetError when it runs, when we did not install it (unless
    `force`), or when no kernel but ours would be left."""
    if not kernel:
        raise FleetError("kernel is missing: say which one to remove, as uname -r calls it")
    here, noted = files.kernels_here(), _record()
    tool, owner = next(((tool, owner) for tool, owner in _owners(here.get(kernel, [])) if owner), (None, None))
    ours = noted.get(kernel)
    idents = [(tool, ident) for tool in FORMATS.values() if tool.native() for ident in (ours or {}).get("packages", [])
              if _there(tool, ident)] or ([(tool, owner)] if owner else [])
    if kernel == os.uname().release:
        raise FleetError("kernel %s is running: boot another one before it is removed" % kernel)
    if not idents:
        if kernel in here and not ours:
            raise FleetError("kernel %s (%s) belongs to no package: remove it by hand" % (kernel, here[kernel][0]))
        # Ours, and no package any more: files of a run that never came to its end, or an entry that outlived them.
        left = files.traces(kernel) if ours else set()
        if ours and not check_mode:
            _sweep(left)
            _note(kernel, None)
        return _result(kernel, ours and ours["name"], None, False, [
            {"path": path, "before": "present", "after": None} for path in sorted(left)])
    if not ours and not force:
        raise FleetError("kernel %s (package %s) was not installed by fastsocket.fleet: it stays, unless force: true"
                         % (kernel, idents[0][1]))
    if not [other for other in here if other != kernel and other not in noted]:
        raise FleetError("kernel %s is the last one here beside those that fastsocket.fleet installed (%s): it stays; "
                         "install the distribution's kernel first" % (kernel, ", ".join(sorted(noted)) or "none"))
    tool, names = idents[0][0], [ident for dummy, ident in idents]
    tool.ready(wait, names)
    changes = [_change(ident, tool.versions(ident), None) for ident in names]
    if not check_mode:
        wrong = tool.remove(names, False)
        if wrong:
            raise FleetError("kernel %s could not be removed: %s" % (kernel, wrong))
        _note(kernel, None)
    return _result(kernel, names[0], None, check_mode, changes)


def _owners(images):
    return [(tool, tool.owner(images)) for tool in FORMATS.values() if images and tool.native()]


def _there(tool, ident):
    try:
        tool.versions(ident)
    except LookupError:
        return False
    return True


def _record():
    """Return {kernel: what we installed for it}."""
    return hostfile.read_json(os.path.join(paths.VAR, RECORD), {})


def _note(kernel, entry):
    """Put an entry into the record, or take it out (None)."""
    with hostfile.locked(paths.VAR):
        known = _record()
        known.pop(kernel, None)
        if entry is not None:
            known[kernel] = entry
        path = os.path.join(paths.VAR, RECORD)
        if known:
            hostfile.write_json(path, known)
        else:
            hostfile.remove(path)


def _change(name, before, after):
    return {"path": "package %s" % name, "before": before, "after": after and after.strip()}


def _result(kernel, name, version, installed, changes, packages=()):
    return {"changed": bool(changes), "changes": changes, "kernel": kernel, "name": name, "version": version,
            "installed": installed, "packages": list(packages)}
