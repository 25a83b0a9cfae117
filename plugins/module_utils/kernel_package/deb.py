# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian packages: dpkg for a file, apt for a name. Formats: deb(5), deb-control(5), sources.list(5)."""

import glob
import os
import re
import tarfile

from ..errors import FleetError
from . import files, image, tools

WHAT = "Debian package"
MAGIC = b"!<arch>\n"
LOCKS = ("/var/lib/dpkg/lock-frontend", "/var/lib/dpkg/lock")
STATUS = "/var/lib/dpkg/status"
APT = (
    "apt-get", "-y", "-q", "--no-install-recommends", "-o", "Dpkg::Options::=--force-confdef",
    "-o", "Dpkg::Options::=--force-confold", "-o", "APT::Get::AllowUnauthenticated=false",
    "-o", "Acquire::AllowInsecureRepositories=false", "-o", "APT::Sandbox::User=root")
# dpkg-query's states in which a package is not there, and those that an interrupted dpkg leaves.
GONE = ("not-installed", "config-files")
HALF = ("half-installed", "unpacked", "half-configured")
# One alternative of a relation: a name, perhaps with an architecture, perhaps with a version.
RELATION = re.compile(r"^\s*([a-z0-9][a-z0-9+.-]*)(?::\S+)?\s*(?:\(\s*(<<|<=|=|>=|>>)\s*([^)\s]+)\s*\))?\s*$")
# What a line of `apt-get -s` or --print-uris says.
SIMULATED = re.compile(r"^(Inst|Remv) (\S+)(?: \[([^]]+)\])?(?: \((\S+))?", re.MULTILINE)
URIS = re.compile(r"^'([^']+)' (\S+) ", re.MULTILINE)
TRUSTED = re.compile(r"^deb\s+\[(?:[^]]*\s)?trusted=(?:yes|true|1|on)[]\s][^\n]*?(\w[\w+.-]*:\S+)",
                     re.MULTILINE | re.IGNORECASE)


def native():
    """Does dpkg manage this host?"""
    return tools.have("dpkg") and os.path.exists(STATUS) and os.path.getsize(STATUS) > 0


def architecture():
    return tools.ask("dpkg", "--print-architecture").strip()


def read(path):
    """Return the Package in a file; all of it is unpacked once, so nothing of it is damaged."""
    status, output, errors = tools.attempt(("dpkg-deb", "--field", path))
    fields = _fields(output)
    if status or not all(fields.get(name) for name in ("Package", "Version", "Architecture")):
        raise FleetError("%s is damaged: dpkg-deb says %s" % (path, tools.last_lines(errors, 2) or "nothing"))
    sizes, heads = {}, {}
    try:
        with tools.stream(path, "dpkg-deb", "--fsys-tarfile") as pipe:
            with tarfile.open(fileobj=pipe, mode="r|") as archive:
                for member in archive:
                    name = image.merged("/" + member.name.lstrip("./"))
                    if not member.isdir():
                        sizes[name] = member.size
                    if image.version_at(name) and member.isfile():
                        heads[name] = (archive.extractfile(member).read(image.HEAD), member.size)
            while pipe.read(1 << 20):
                pass
    except tarfile.TarError as error:
        raise FleetError("%s is damaged: %s" % (path, error)) from error
    return files.Package(path, fields["Package"], fields["Package"], fields["Version"], fields["Architecture"], sizes,
                         heads)


def _fields(text):
    """Return {field: value} of a control paragraph, long values in one line."""
    found, name = {}, None
    for line in text.splitlines():
        if line[:1] in " \t":
            found[name] = found.get(name, "") + " " + line.strip()
        else:
            name, dummy, value = line.partition(":")
            found[name] = value.strip()
    return found


def _status():
    """Return {name: (version, state, provides)} of the packages dpkg knows, of whatever architecture."""
    form = "${Package}\t${Version}\t${db:Status-Status}\t${Provides}\n"
    rows = [line.split("\t") for line in tools.ask("dpkg-query", "--show", "--showformat=" + form).splitlines()]
    return {name: (version, state, provides) for name, version, state, provides in rows if state not in GONE}


def ready(seconds, ours=()):
    """FleetError when dpkg is in use for longer than `seconds`, or was interrupted over packages other than `ours`:
    those are what this run mends."""
    tools.wait_for_locks(LOCKS, seconds)
    half = sorted(name for name, (dummy, state, dummy) in _status().items() if state in HALF and name not in ours)
    if half:
        raise FleetError("dpkg was interrupted: %s not fully installed. Run dpkg --configure -a first"
                         % ", ".join(half))
    if not ours and [name for name in os.listdir("/var/lib/dpkg/updates") if name.isdigit()]:
        raise FleetError("dpkg was interrupted (/var/lib/dpkg/updates is not empty). Run dpkg --configure -a first")


def installed(package):
    """Is this very version of a package wholly installed?"""
    found = _status().get(package.name)
    return found is not None and found[:2] == (package.version, "installed")


def installed_as(name):
    """Return the ident of what `name` (NAME or NAME=VERSION) of the repositories is on this host; None when it is not
    there."""
    name, dummy, version = name.partition("=")
    found = _status().get(name)
    return name if found and found[1] == "installed" and version in ("", found[0]) else None


def versions(ident):
    return _status()[ident][0]


def owner(paths):
    """Return the ident of the package that owns one of these files, None when none does."""
    dummy, output, dummy = tools.attempt(("dpkg-query", "--search") + tuple("*" + path for path in paths))
    for line in output.splitlines():
        names, sep, path = line.partition(": ")
        if sep and image.merged(path) in paths:
            return names.split(", ")[0].split(":")[0]
    return None


def paths_of(ident):
    return {image.merged(path) for path in tools.ask("dpkg-query", "--listfiles", ident).splitlines()}


def requires(ident):
    """Return the idents that a package needs, as far as they are named."""
    return [name for name, dummy, dummy in _relations(
        tools.ask("dpkg-query", "--show", "--showformat=${Depends}, ${Pre-Depends}", ident))]


def damaged(ident):
    return files.damaged(tools.attempt(("dpkg", "--verify", ident), tools.CHANGE_S)[1])


def _relations(text):
    """Return [(name, operator or "", version)] of a relation field, alternatives side by side."""
    found = [RELATION.match(part) for part in re.split(r"[,|]", text)]
    return [(match.group(1), match.group(2) or "", match.group(3) or "") for match in found if match]


def _holds(version, operator, wanted):
    words = {"<<": "lt", "<=": "le", "=": "eq", ">=": "ge", ">>": "gt"}
    return not operator or (
        bool(version) and tools.attempt(("dpkg", "--compare-versions", version, words[operator], wanted))[0] == 0)


def displaced(package, kernels):
    """Return a sentence for the first thing that installing a package would push aside, None when there is none:
    an older or newer one of the same name, one it conflicts with or breaks, a kernel (idents) that it replaces."""
    known = _status()
    same = known.get(package.name)
    if same and same[0] != package.version:
        return ("%s %s is installed, and dpkg would replace it: a kernel that stays beside another needs a name of "
                "its own, as in linux-image-VERSION; or remove that one first" % (package.name, same[0]))
    fields = _fields(tools.ask("dpkg-deb", "--field", package.path))
    for field in ("Conflicts", "Breaks", "Replaces"):
        for name, operator, version in _relations(fields.get(field, "")):
            for ident, (has, dummy, provides) in known.items():
                offers = [(ident, has)] + [(offer, offered) for offer, dummy, offered in _relations(provides)]
                if ident != package.name and (field != "Replaces" or ident in kernels) and any(
                        offer == name and _holds(offered, operator, version) for offer, offered in offers):
                    relation = "%s (%s %s)" % (name, operator, version) if operator else name
                    return "its field %s: %s hits %s %s, which is installed" % (field, relation, ident, has)
    return None


def unmet(packages):
    """Return a sentence when packages in files cannot be installed by themselves, None when they can. dpkg finds that
    out half way through, apt in advance."""
    if not tools.have("apt-get"):
        return None
    status, output, errors = tools.attempt(APT + ("--simulate", "--allow-downgrades", "install") + tuple(
        package.path for package in packages))
    if status:
        return "apt-get refuses it: %s" % tools.last_lines(output[output.find("The following"):] + errors, 4)
    own = {package.name for package in packages}
    more = [(what, name) for what, name, dummy, dummy in SIMULATED.findall(output) if name not in own]
    lines = {"Inst": "it needs %s, not installed here: install that first",
             "Remv": "it can only be installed when %s goes"}
    return lines[more[0][0]] % ", ".join(name for what, name in more if what == more[0][0]) if more else None


def resolve(name, folder):
    """Download what apt would install for NAME or NAME=VERSION into a folder; return the paths. FleetError when it
    would not only add packages, or when one comes from a source that is trusted without a signature."""
    status, output, errors = tools.attempt(APT + ("--simulate", "install", name))
    if status:
        raise FleetError("package %s: %s. Is it spelled as in the host's repositories, and their lists fresh (apt-get "
                         "update)?" % (name, tools.last_lines(errors, 3)))
    steps = SIMULATED.findall(output)
    moved = ["%s %s" % ("remove" if what == "Remv" else "upgrade", other)
             for what, other, before, dummy in steps if before or what == "Remv"]
    if moved:
        raise FleetError("package %s: apt would also %s; a kernel must go in beside everything else. Bring the host up "
                         "to date first" % (name, ", ".join(moved)))
    if name.partition("=")[0] not in [other for dummy, other, dummy, dummy in steps]:
        raise FleetError("package %s is not a package of the host's repositories" % name)
    uris = URIS.findall(tools.ask(*(APT + ("--print-uris", "install", name))))
    for uri, dummy in uris:
        for source in _unsigned_sources():
            if uri.startswith(source.rstrip("/") + "/"):
                raise FleetError("package %s: its source %s is trusted without a signature (trusted=yes): sign that "
                                 "repository, or give the package as a file with its sha256" % (name, source))
    os.makedirs(folder + "/partial")
    tools.ask(*(APT + ("-o", "Dir::Cache::archives=" + folder, "--download-only", "install", name)))
    local = [uri[5:] for uri, dummy in uris if uri.startswith("file:")]
    return sorted(glob.glob(folder + "/*.deb") + [re.sub("^/+", "/", path) for path in local])


def _unsigned_sources():
    """Return the URIs of the sources that apt was told to trust: one-line and deb822 style."""
    found = []
    for path in ["/etc/apt/sources.list"] + sorted(glob.glob("/etc/apt/sources.list.d/*")):
        if not os.path.isfile(path):
            continue
        with open(path, encoding="utf-8", errors="replace") as handle:
            text = handle.read()
        found += TRUSTED.findall(text)
        if path.endswith(".sources"):
            for paragraph in re.split(r"\n\s*\n", text):
                fields = {name.lower(): value for name, value in _fields(re.sub(r"(?m)^#.*\n", "", paragraph)).items()}
                if fields.get("trusted", "").lower() in ("yes", "true", "1", "on"):
                    found += fields.get("uris", "").split()
    return found


def install(packages, again):
    """Install packages from files, `again` or not; return None or what went wrong."""
    dummy = again    # dpkg installs a version that is there without being asked twice
    words = ("dpkg", "--install", "--force-confdef", "--force-confold")
    return tools.change(*(words + tuple(package.path for package in packages)))


def install_by_name(packages, folder, again):
    """The same from the repositories: these very versions, from the folder they were downloaded to. apt compares them
    with the signed lists once more."""
    os.makedirs(folder + "/partial", exist_ok=True)
    words = tuple("%s=%s" % (package.name, package.version) for package in packages)
    return tools.change(*(APT + ("-o", "Dir::Cache::archives=" + folder) + ("--reinstall",) * again
                          + ("install",) + words))


def remove(idents, force):
    """Remove packages with all that is theirs; return None or what went wrong. `force`: half-installed ones too."""
    options = ("--force-remove-reinstreq", "--force-depends") if force else ()
    there = [ident for ident in idents if force or ident in _status()]
    return tools.change(*(("dpkg",) + options + ("--purge",) + tuple(there))) if there else None
