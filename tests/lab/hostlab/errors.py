# SPDX-License-Identifier: GPL-3.0-or-later
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
"""The one exception of the lab, and the one way to run a helper command."""
import subprocess


class LabError(Exception):
    """What went wrong and what would be right, in one line a person can act on."""


def call(*argv: str, **options) -> str:
    """Run ARGV and return its output; LabError with its last words when it fails."""
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, check=False, **options)
    if done.returncode:
        raise LabError("%s: %s" % (" ".join(argv), done.stderr.strip() or "exit status %d" % done.returncode))
    return done.stdout
