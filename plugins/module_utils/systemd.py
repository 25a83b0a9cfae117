# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask and tell systemd, through systemctl(1)."""

import os
import re
import shlex
import subprocess

from .errors import FleetError

SHOWN = (
    "LoadState", "ActiveState", "SubState", "MainPID", "FragmentPath", "Environment", "EnvironmentFiles", "ExecStart",
    "ProtectSystem", "PIDFile", "EffectiveCPUs",
)


def attempt(*words, **options):
    """Run a command; return its exit status and output. FleetError when it is not there or takes too long."""
    timeout = options.pop("timeout", 90)
    try:
        done = subprocess.run(
            list(words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            universal_newlines=True, check=False, timeout=timeout, **options)
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
        with open(path, encoding="utf-8") as handle:
            lines = handle.read().replace("\\\n", "").splitlines()
    except OSError:
        return {}
    found = {}
    for line in lines:
        name, sep, value = line.strip().partition("=")
        if sep and not name.startswith(("#", ";")):
            found[name.strip()] = " ".join(_split(value)) if value.strip()[:1] in "\"'" else value.strip()
    return found


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
