# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask and tell systemd, through systemctl(1)."""

import os
import re
import shlex
import subprocess

from .errors import FleetError

SHOWN = (
    "LoadState", "ActiveState", "MainPID", "Environment", "EnvironmentFiles", "ExecStart", "ProtectSystem", "PIDFile",
    "User", "EffectiveCPUs", "CPUAffinity", "NRestarts",
)

# src/basic/env-file.c: a comment, or NAME=, quoted parts with blanks between, and a rest in which quotes mean nothing.
_QUOTED = re.compile(r"""'([^']*)'|"((?:[^"\\]|\\.)*)\"""", re.DOTALL)
_ENTRY = re.compile(
    r"""^[ \t]*(?:[#;](?:[^\n\\]|\\.)*|([^=\n]*?)[ \t]*="""
    r"""((?:[ \t]*'[^']*'|[ \t]*"(?:[^"\\]|\\.)*")*)((?:[^\n\\]|\\.)*))$""",
    re.DOTALL | re.MULTILINE)


def attempt(*words, **options):
    """Run a command; return its exit status and output. FleetError when it is not there or takes too long."""
    timeout = options.pop("timeout", 180)
    try:
        done = subprocess.run(
            list(words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            encoding="utf-8", errors="replace", check=False, timeout=timeout, **options)
    except FileNotFoundError as error:
        raise FleetError("%s is not installed on this host" % words[0]) from error
    except subprocess.TimeoutExpired as error:
        raise FleetError("%s did not end within %s s" % (" ".join(words), timeout)) from error
    return done.returncode, done.stdout


def run(*words, **options):
    """Run a command; return its output. FleetError with its last lines when it fails."""
    status, output = attempt(*words, **options)
    if status:
        raise FleetError("%s failed (%d): %s" % (" ".join(words), status, last_lines(output)))
    return output


def failed():
    """Return the names of the units that have failed; [] where there is no systemd."""
    if not os.path.isdir("/run/systemd/system"):
        return []
    return failed_in(attempt("systemctl", "list-units", "--state=failed", "--plain", "--no-legend", "--no-pager",
                             "--full")[1])


def failed_in(text):
    """Return the names in what `systemctl list-units --state=failed` says, sorted; some put a bullet before them."""
    return sorted(name for line in text.splitlines() for name in [word for word in line.split() if "." in word][:1])


def last_lines(text, count=8):
    return " | ".join(line.strip() for line in text.strip().splitlines()[-count:])


def show(unit):
    """Return the properties SHOWN of a unit as {name: text}."""
    if not os.path.isdir("/run/systemd/system"):
        raise FleetError("this host does not run systemd; only systemd services can be wrapped")
    text = run("systemctl", "show", unit, "--property=" + ",".join(SHOWN))
    found = {name: "" for name in SHOWN}
    for line in text.splitlines():
        name, sep, value = line.partition("=")
        if sep and name in found:
            # Properties with several values (EnvironmentFiles, ExecStart) come as several lines.
            found[name] = found[name] + "\n" + value if found[name] else value
    return found


def active(properties):
    return properties["ActiveState"] in ("active", "reloading", "activating")


def argv(properties):
    """Return the words of ExecStart, variables not yet replaced. systemd prints them unquoted, so words with blanks
    fall apart: good enough to find options and their values."""
    match = re.search(r"argv\[\]=(.*?) ; ignore_errors=", properties["ExecStart"])
    return match.group(1).split() if match else []


def environment(properties, skip=()):
    """Return the environment a start of the unit would have: Environment= and then its files, the later winning."""
    found = {}
    for word in _split(properties["Environment"]):
        name, sep, value = word.partition("=")
        if sep:
            found[name] = value
    for line in properties["EnvironmentFiles"].splitlines():
        path = line.rsplit(" (", 1)[0]
        if path not in skip:
            found.update(environment_file(path))
    return found


def environment_file(path):
    """Return {name: value} of an EnvironmentFile (systemd.exec(5)); empty when there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as handle:
            text = handle.read()
    except OSError:
        return {}
    found = {}
    for name, quoted, rest in _ENTRY.findall(text):
        if re.match(r"^[A-Za-z_]\w*$", name):
            parts = [single or re.sub(r'\\([\n"\\`$])', _escaped, double) for single, double in _QUOTED.findall(quoted)]
            found[name] = "".join(parts) + re.sub(r"\\(.)", _escaped, rest.strip(), flags=re.DOTALL)
    return found


def _escaped(match):
    """What a backslash and this character stand for: an escaped newline is none."""
    return match.group(1).strip("\n")


def expand(words, variables):
    """Replace $NAME (split at blanks) and ${NAME} in command words, as systemd.service(5) does."""
    found = []
    for word in words:
        if re.match(r"^\$\w+$", word):
            found += _split(variables.get(word[1:], ""))
        else:
            found.append(re.sub(r"\$\{(\w+)\}", lambda match: variables.get(match.group(1), ""), word))
    return found


def _split(text):
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def journal(unit, lines=10):
    """Return the unit's last journal lines, for a failure message."""
    dummy, text = attempt("journalctl", "--unit", unit, "--no-pager", "--lines=%d" % lines, "--output=cat")
    return last_lines(text, lines)
