# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""KTAP as the test machine says it: one result a program, indented by four the results inside it."""
import re
from dataclasses import dataclass, field

LINE = re.compile(r"^(not )?ok \d+ (?:- )?([^#]*?)\s*(?:# *(.*))?$")
SUBTEST = re.compile(r"^# Subtest: (\S+)$")


@dataclass
class Result:
    """A test's outcome (passed, failed, skipped), why, and what it had said before."""

    outcome: str
    reason: str = ""
    log: list = field(default_factory=list)


@dataclass
class Program(Result):
    """A program; `tests` by name. Its outcome stays `missing` when the machine ended before it did."""

    tests: dict = field(default_factory=dict)


def result(line):
    """Return (name, Result) of a result line, None for any other."""
    found = LINE.match(line)
    if not found:
        return None
    failed, name, directive = found.groups()
    directive = directive or ""
    if failed:
        return name, Result("failed", directive)
    if directive.upper().startswith("SKIP"):
        return name, Result("skipped", directive[4:].strip())
    return name, Result("passed", directive)


def parse(lines):
    """Return programs by name, in order, and whether the machine came to its end."""
    programs, current, log, ended = {}, None, [], False
    for line in lines:
        inner = line[4:] if line.startswith("    ") else None
        begins = inner is not None and SUBTEST.match(inner)
        if begins:
            current, log = programs.setdefault(begins[1], Program("missing")), []
        elif inner is not None and current:
            current.log.append(inner)
            log.append(inner)
            found = result(inner)
            if found:
                current.tests[found[0]] = found[1]
                found[1].log, log = log, []
        elif inner is None:
            found = result(line)
            if found and current:
                current.outcome, current.reason = found[1].outcome, found[1].reason
            ended = ended or line == "# end"
    return programs, ended
