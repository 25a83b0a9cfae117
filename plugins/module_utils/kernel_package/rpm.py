# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""RPM packages: rpm for a file, dnf or yum for a name. Formats: rpm(8), cpio(5) "newc", dnf.conf(5)."""

import configparser
import functools
import glob
import os
import re

from ..errors import FleetError
from . import files, image, tools

WHAT = "RPM package"
MAGIC = b"\xed\xab\xee\xdb"
DATABASE = "/var/lib/rpm"
MANAGERS = ("dnf", "yum")
MANAGER_LOCKS = ("/var/run/yum.pid", "/var/cache/dnf/*_lock.pid", "/var/lib/dnf/*_lock.pid")
IDENT = "%{NAME}-%{VERSION}-%{RELEASE}.%{ARCH}"
HEADER = "%{NAME}\\t%|EPOCH?{%{EPOCH}:}|%{VERSION}-%{RELEASE}\\t%{ARCH}\\t" + IDENT + "\\n"
CONTENT = "[%{FILENAMES}\\t%{LONGFILESIZES}\\t%{FILEFLAGS}\\t%{FILEMODES:octal}\\n]"
GHOST = 1 << 6      # rpmfileAttrs: listed, not in the payload
OBSOLETES = "[%{OBSOLETENAME}\\t%{OBSOLETEFLAGS:depflags}\\t%{OBSOLETEVERSION}\\n]"
CONFLICTS = "[%{CONFLICTNAME}\\t%{CONFLICTFLAGS:depflags}\\t%{CONFLICTVERSION}\\n]"
# Headings of the transaction dnf (yum) shows, which take something away or put another version in its place.
MOVED = re.compile(
    r"^((?:Upgrading|Updating|Downgrading|Removing|Obsoleting)\b[^:\n]*):\n +(\S+)|^ +(replacing) +(\S+)",
    re.MULTILINE)
# What each kind of segment weighs where two versions differ; the end of a version weighs 0.
SEGMENT = re.compile(r"(~)|(\^)|([A-Za-z]+)|(\d+)")


def native():
    """Does rpm manage this host?"""
    return tools.have("rpm") and bool(tools.attempt(_rpm("--query", "--all", "--last"))[1].strip())


@functools.lru_cache(maxsize=None)
def _database():
    """Return the folder of the host's package database. rpm on Debian looks in the home folder by default."""
    default = tools.ask("rpm", "--eval", "%{_dbpath}").strip()
    return default if default.startswith(("/var/", "/usr/")) else DATABASE


def _rpm(mode, *words):
    return ("rpm", mode, "--dbpath", _database()) + words


def _manager(*words):
    """dnf or yum, which here never removes the oldest kernel to make place, and never pulls in what is only
    recommended."""
    program = next((name for name in MANAGERS if tools.have(name)), None)
    if program is None:
        raise FleetError("this host has neither dnf nor yum: give the package as a file with its sha256")
    return (program, "-y", "--setopt=installonly_limit=0", "--setopt=install_weak_deps=False") + words


def architecture():
    return os.uname().machine


def read(path):
    """Return the Package in a file; its digests were compared."""
    status, output, errors = tools.attempt(_rpm("--checksig", "--nosignature", path))
    if status:
        raise FleetError("%s is damaged: rpm says %s" % (path, tools.last_lines(errors + output, 2)))
    query = _rpm("--query", "--package", "--nosignature", path, "--queryformat")
    name, version, arch, ident = tools.ask(*(query + (HEADER,))).rstrip("\n").split("\t")
    sizes, shipped = {}, set()
    for line in tools.ask(*(query + (CONTENT,))).splitlines():
        if line.startswith("/"):
            where, size, flags, mode = line.rsplit("\t", 3)
            where, ghost = image.merged(where), int(flags) & GHOST
            if mode.startswith("4"):
                continue    # a folder (040755), which kernels may share
            sizes[where] = int(size)
            if not ghost and image.version_at(where):
                shipped.add(where)
    return files.Package(path, ident, name, version, arch, sizes, _heads(path, shipped) if shipped else {})


def _heads(path, wanted):
    """Return {path: (first bytes, size)} of these files in the payload."""
    found = {}
    with tools.stream(path, "rpm2cpio") as pipe:
        while wanted - set(found):
            head = pipe.read(110)
            if head[:6] not in (b"070701", b"070702"):
                raise FleetError("%s is damaged: rpm2cpio gives no cpio archive" % path)
            fields = [int(head[at:at + 8], 16) for at in range(6, 110, 8)]
            size, length = fields[6], fields[11]
            name = pipe.read(length + -(110 + length) % 4).rstrip(b"\0").decode("utf-8", "replace")
            if name == "TRAILER!!!":
                break
            name = image.merged("/" + name.lstrip("./"))
            # Hard links carry their content once, with the last name; symbolic links are no image.
            if name in wanted and size and fields[1] & 0o170000 == 0o100000:
                found[name] = (pipe.read(min(size, image.HEAD)), size)
                size -= len(found[name][0])
                left = size + -found[name][1] % 4
            else:
                left = size + -size % 4
            while left:
                skipped = len(pipe.read(min(left, 1 << 20)))
                if not skipped:
                    raise FleetError("%s is damaged: its payload ends early" % path)
                left -= skipped
    return found


def ready(seconds, ours=()):
    """FleetError when rpm, dnf or yum is in use for longer than `seconds`, or the database cannot be read."""
    dummy = ours
    managers = [path for pattern in MANAGER_LOCKS for path in sorted(glob.glob(pattern))]
    tools.wait_for_locks([_database() + "/.rpm.lock"] + managers, seconds)
    tools.ask(*_rpm("--query", "--all", "--queryformat", "%{NAME}\\n"))


def _query(name, form=IDENT + "\\n"):
    """Return the lines of a query for installed packages, none when there is no such."""
    status, output, dummy = tools.attempt(_rpm("--query", name, "--queryformat", form))
    return [] if status else output.splitlines()


def installed(package):
    return package.ident in _query(package.ident)


def installed_as(name):
    found = _query(name, "%{INSTALLTIME}\\t" + IDENT + "\\n")
    return max(found, key=lambda line: int(line.split("\t")[0])).split("\t")[1] if found else None


def versions(ident):
    return _query(ident, "%|EPOCH?{%{EPOCH}:}|%{VERSION}-%{RELEASE}\\n")[0]


def owner(paths):
    for path in paths:
        status, output, dummy = tools.attempt(_rpm("--query", "--file", path, "--queryformat", IDENT + "\\n"))
        if not status:
            return output.splitlines()[0]
    return None


def paths_of(ident):
    """Return the paths of a package: not the folders, which kernels share."""
    return {image.merged(line) for line in _query(ident, "[%{FILENAMES}\\n]") if line.startswith("/")}


def requires(ident):
    """Return the idents of the installed packages that a package needs."""
    names = [line.split()[0] for line in tools.ask(*_rpm("--query", "--requires", ident)).splitlines()
             if not line.startswith("rpmlib(")]
    found = [tools.attempt(_rpm("--query", "--whatprovides", name, "--queryformat", IDENT + "\\n")) for name in names]
    return [line for status, output, dummy in found if not status for line in output.splitlines()]


def damaged(ident):
    return files.damaged(tools.attempt(_rpm("--verify", "--nodeps", "--noscripts", ident), tools.CHANGE_S)[1])


def _key(version):
    """Return a key that sorts versions (or releases) as rpm does: ~ is before the end, ^ after it but before
    anything else, letters before numbers."""
    weighed = [(-1, "", 0) if tilde else (1, "", 0) if caret else (2, word, 0) if word else (3, "", int(number))
               for tilde, caret, word, number in SEGMENT.findall(version)]
    return weighed + [(0, "", 0)]


def compare(one, two):
    """Return -1, 0 or 1 as [EPOCH:]VERSION[-RELEASE] `one` is older than, as old as, newer than `two`. A release counts
    when both have one."""
    keys = []
    releases = "-" in one and "-" in two
    for text in (one, two):
        epoch, sep, rest = text.rpartition(":")
        version, dummy, release = rest.partition("-")
        keys.append((int(epoch) if sep else 0, _key(version), _key(release) if releases else []))
    return (keys[0] > keys[1]) - (keys[0] < keys[1])


def _relations(path, form):
    """Return [(name, operator, version)] of a relation of a package file."""
    words = _rpm("--query", "--package", "--nosignature", path, "--queryformat", form)
    rows = [line.split("\t") for line in tools.ask(*words).splitlines()]
    return [(name, operator.strip(), version) for name, operator, version in rows if name != "(none)"]


def displaced(package, kernels):
    """Return a sentence for the first installed package that this one obsoletes or conflicts with, None when there is
    none. `rpm -i` would obey no Obsoletes, but the next run of dnf would."""
    dummy = kernels
    for field, form in (("Obsoletes", OBSOLETES), ("Conflicts", CONFLICTS)):
        for name, operator, version in _relations(package.path, form):
            for line in _query(name, IDENT + "\\t%|EPOCH?{%{EPOCH}:}|%{VERSION}-%{RELEASE}\\n"):
                ident, has = line.split("\t")
                order = {-1: "<", 0: "=", 1: ">"}[compare(has, version)] if operator else ""
                if ident != package.ident and order in operator:
                    relation = " ".join((name, operator, version)).strip()
                    return "its field %s: %s hits %s, which is installed" % (field, relation, ident)
    return None


def unmet(packages):
    """Return a sentence when packages in files cannot be installed by themselves, None when they can."""
    status, output, errors = tools.attempt(_install(packages, "--test"))
    lines = [line.strip() for line in (output + errors).splitlines() if line.startswith(("\t", " "))]
    return "rpm refuses it: %s" % (" | ".join(lines[:4]) or tools.last_lines(errors)) if status else None


def _install(packages, *options):
    """Beside what is there, be it newer. Its content was compared with the sum the operator gave, so no signature."""
    return _rpm("--install", "--oldpackage", "--nosignature", *(
        options + tuple(package.path for package in packages)))


def resolve(name, folder):
    """Download what dnf (yum) would install for a name into a folder; return the paths. FleetError when it would not
    only add packages, or when one comes from a repository whose signatures nobody looks at."""
    # No signature is looked at here: that would import keys, and nothing may change yet.
    status, output, errors = tools.attempt(
        _manager("--nogpgcheck", "install", "--downloadonly", "--downloaddir=" + folder, name), tools.CHANGE_S)
    found = sorted(glob.glob(folder + "/*.rpm"))
    if not found:
        raise FleetError("package %s: %s (%d). Is it spelled as in the host's repositories?"
                         % (name, tools.last_lines(errors or output, 3), status))
    moved = MOVED.search(output)
    if moved:
        raise FleetError("package %s: besides installing, the transaction has: %s %s; a kernel must go in beside "
                         "everything else. Bring the host up to date first"
                         % (name, moved.group(1) or moved.group(3), moved.group(2) or moved.group(4)))
    for repository in sorted(_repositories(found) & _unsigned()):
        raise FleetError("package %s: its repository %s has no gpgcheck=1: sign it, or give the package as a file with "
                         "its sha256" % (name, repository))
    return found


def _repositories(paths):
    """Return the names of the repositories that offer these packages; of all that are enabled where only yum could be
    asked."""
    found = set()
    if tools.have("dnf"):
        idents = [os.path.basename(path)[:-len(".rpm")] for path in paths]
        for ident in idents:
            found |= set(tools.ask(*_manager("-q", "repoquery", "--qf", "%{repoid}\\n", ident)).split())
        return found
    return set(_sections())


def _sections():
    """Return {repository: its settings, those of [main] where it has none}."""
    found, main = {}, {}
    for path in ["/etc/dnf/dnf.conf", "/etc/yum.conf"] + sorted(glob.glob("/etc/yum.repos.d/*.repo")):
        parser = configparser.RawConfigParser(strict=False)
        try:
            parser.read(path, encoding="utf-8")
        except configparser.Error as error:
            raise FleetError("%s cannot be read: %s" % (path, " ".join(str(error).split()))) from error
        for section in parser.sections():
            settings = dict(parser.items(section))
            if section == "main":
                main = dict(settings, **main)
            elif settings.get("enabled", "1").strip().lower() in ("1", "yes", "true", "on"):
                found[section] = settings
    return {name: dict(main, **settings) for name, settings in found.items()}


def _unsigned():
    return {name for name, settings in _sections().items()
            if settings.get("gpgcheck", "0").strip().lower() not in ("1", "yes", "true", "on")}


def install(packages, again):
    """Install packages from files, `again`: over the same ones; return None or what went wrong."""
    return tools.change(*_install(packages, *(("--replacepkgs",) if again else ())))


def install_by_name(packages, folder, again):
    """The same from the repositories, these very versions; every signature is looked at."""
    dummy = folder
    words = ("reinstall" if again else "install",) + tuple(package.ident for package in packages)
    return tools.change(*_manager("--setopt=gpgcheck=1", "--setopt=*.gpgcheck=1", *words))


def remove(idents, force):
    """Remove packages; return None or what went wrong. `force`: also when their scripts fail."""
    there = [ident for ident in idents if _query(ident)]
    options = ("--nodeps", "--noscripts") if force else ()
    return tools.change(*_rpm("--erase", *(options + tuple(there)))) if there else None
