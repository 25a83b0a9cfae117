# SPDX-License-Identifier: GPL-3.0-or-later
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
"""A Debian tree by mmdebstrap, from the machine's own apt sources."""
import os
import shlex

from hostlab import cache
from hostlab.errors import LabError, call
from hostlab.spec import LAB

SUITE = "bookworm"
EXCLUDED = ("doc", "man", "locale", "info", "lintian", "bug")


def make(tree: str, log: str, packages: str, customize: str, *options: str) -> None:
    """Make TREE with what the file PACKAGES of the lab's directory lists; its script CUSTOMIZE finishes it."""
    with open(log, "wb"):
        pass  # the last one's lines are of no use any more
    cache.build(["mmdebstrap", "--mode=root", "--format=directory", f"--include={','.join(_packages(packages))}",
                 *_proxies(), '--aptopt=Acquire::Languages "none"', "--dpkgopt=force-unsafe-io",
                 *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in EXCLUDED),
                 f"--customize-hook={shlex.quote(os.path.join(LAB, customize))} \"$1\"", *options, SUITE, tree, "-"],
                log, tree, _sources())


def _packages(name: str) -> list[str]:
    with open(os.path.join(LAB, name), encoding="utf-8") as file:
        return [line.strip() for line in file if line.strip() and not line.startswith("#")]


def _sources() -> str:
    """The machine's own Debian sources of the suite, as apt lines: no mirror is named here."""
    lines = call("apt-get", "indextargets", "--format", "deb $(REPO_URI) $(RELEASE) $(COMPONENT)",
                 "Created-By: Packages", "Origin: Debian").splitlines()
    lines = sorted({line for line in lines if line.split()[2].split("-")[0] == SUITE})
    if not lines:
        raise LabError(f"apt has no package lists of Debian {SUITE}: run apt-get update, or add {SUITE} to its sources")
    return "\n".join(lines) + "\n"


def _proxies() -> list[str]:
    """The machine's proxy settings: apt inside mmdebstrap does not read the machine's apt.conf."""
    return [f"--aptopt={line.rstrip(';')}" for line in call("apt-config", "dump").splitlines()
            if line.startswith("Acquire::http") and "proxy" in line.lower()]
