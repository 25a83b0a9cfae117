# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""fsctl(8) tells what fsctl takes, and groff takes the page without a word."""

import argparse
import subprocess

from ansible_collections.fastsocket.fleet.plugins.module_utils import fsctl, manual


def rendered(page):
    done = subprocess.run(["groff", "-man", "-Tascii", "-P-cbou", "-wall"], input=page, text=True, capture_output=True)
    assert not done.stderr, done.stderr
    return done.stdout


def test_every_command():
    """Each one that --help knows, by its name; the help of a group is in none of them."""
    text = rendered(manual.page(fsctl.parser()))
    names = [words for words, _, _, _ in manual.commands(fsctl.parser())]
    assert {"status", "off", "on", "nic apply", "nic undo", "boot status", "boot disarm"} <= set(names)
    assert [name for name in names if "\n       %s" % name not in text] == []
    assert "off [service...]" in text and "status [--json] [service...]" in text


def test_any_parser():
    """Options with a value, arguments that must be there, dashes, dots at the beginning of a help."""
    top = argparse.ArgumentParser()
    one = top.add_subparsers().add_parser("try-it", help=".so it's \\d - one")
    one.add_argument("--wait", metavar="SECONDS", help="how long")
    one.add_argument("host")
    text = rendered(manual.page(top))
    assert "try-it [--wait SECONDS] host" in text and ".so it's \\d - one." in text and "How long." in text
