# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""nginx under valgrind's memcheck."""
import xml.etree.ElementTree as ElementTree

import lab
from lab import Load, Nginx

lab.patience = 4


def errors_with_us(path):
    """Texts of memcheck's errors that have libfsocket in a stack."""
    found = []
    for error in ElementTree.parse(path).getroot().iter("error"):
        frames = [(f.findtext("obj", ""), f.findtext("fn", "?"), f.findtext("line", "?")) for f in error.iter("frame")]
        if any("libfsocket" in obj for obj, _, _ in frames):
            found.append(f"{error.findtext('kind')}: " + " < ".join(f"{fn}:{line}" for _, fn, line in frames))
    return found


def test_memcheck():
    """some hundred requests, the switch and a reload: no error in any stack with libfsocket"""
    logs = lab.RUN / "valgrind"
    logs.mkdir()
    logs.chmod(0o1777)
    wrapper = ["valgrind", "-q", "--trace-children=yes", "--leak-check=no", "--track-origins=no", "--xml=yes",
               f"--xml-file={logs}/%p.xml"]
    with Nginx("memcheck", 8130, env=lab.environment("memcheck"), wrapper=wrapper) as nginx:
        lab.ask("127.0.0.1", 8130, 200)
        total = nginx.stats.total()
        assert total["accepts"] == 200, total
        load = Load("127.0.0.1", 8130)
        nginx.switch.set("0")
        nginx.switch.set("1")
        nginx.reload()
        failed, answers = load.end()
        assert not failed and len(answers) > 20, f"{failed} of {len(answers)}"
        status = nginx.stop()
    files = list(logs.iterdir())
    assert len(files) >= 5, "a master and two workers, twice"
    found = [text for path in files for text in errors_with_us(path)]
    # nginx's own errors, if any, are not ours to judge.
    assert not found and status == 0, f"status {status}\n" + "\n".join(found)
