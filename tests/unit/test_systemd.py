# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What systemd says of a unit is read as systemd means it."""

import os
import time

import captured
import pytest

from ansible_collections.fastsocket.fleet.plugins.module_utils import systemd
from ansible_collections.fastsocket.fleet.plugins.module_utils.errors import FleetError


@pytest.fixture
def systemctl(tmp_path, monkeypatch):
    """Put a systemctl on the path that prints a captured text."""

    def put(text, status=0):
        (tmp_path / "said").write_text(text)
        tool = tmp_path / "systemctl"
        tool.write_text(f"#!/bin/sh\necho \"$@\" > {tmp_path}/asked\ncat {tmp_path}/said\nexit {status}\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        monkeypatch.setattr(systemd.os.path, "isdir", lambda path: True)
        return tmp_path / "asked"

    return put


def odd(tmp_path):
    """ODD, its environment file in `tmp_path`."""
    (tmp_path / "odd.env").write_text(captured.ODD_FILE)
    return captured.properties(captured.ODD.replace("/etc/odd", f"{tmp_path}/odd"))


@pytest.mark.parametrize("text", [captured.NGINX, captured.HAPROXY, captured.MISSING, captured.ODD])
def test_show(systemctl, text):
    asked = systemctl(text)
    found = systemd.show("x.service")
    assert asked.read_text().split() == ["show", "x.service", "--property=" + ",".join(systemd.SHOWN)]
    assert set(found) == set(systemd.SHOWN)
    lines = [name + "=" + value for name in found for value in found[name].split("\n")]
    assert set(text.splitlines()) <= set(lines)
    assert len(found["EnvironmentFiles"].splitlines()) == text.count("\nEnvironmentFiles=")


def test_show_that_fails(systemctl):
    systemctl("Failed to connect to bus: No such file or directory\n", 1)
    with pytest.raises(FleetError, match=r"systemctl show x.service .* failed \(1\): Failed to connect to bus"):
        systemd.show("x.service")


@pytest.mark.skipif(os.path.isdir("/run/systemd/system"), reason="this machine runs systemd")
def test_show_without_systemd():
    with pytest.raises(FleetError, match="does not run systemd"):
        systemd.show("x.service")


def test_active():
    assert systemd.active(captured.properties(captured.NGINX))
    assert not systemd.active(captured.properties(captured.MISSING))
    assert systemd.active({"ActiveState": "reloading"}) and not systemd.active({"ActiveState": "failed"})


@pytest.mark.parametrize("text, words", [
    (captured.NGINX, "/usr/sbin/nginx -g daemon on; master_process on;"),
    (captured.HAPROXY, "/usr/sbin/haproxy -Ws -f $CONFIG -p $PIDFILE $EXTRAOPTS"),
    (captured.MISSING, ""),
    (captured.ODD, "/bin/sh -c sleep 1000; true $ARGS ${ONE} a b"),
])
def test_argv(text, words):
    assert systemd.argv(captured.properties(text)) == words.split()


def test_environment(tmp_path):
    """The file wins over the unit, a missing file counts for nothing, and one of ours can be left out."""
    assert systemd.environment(odd(tmp_path)) == {**captured.ODD_ENVIRONMENT, **captured.ODD_FILE_ENVIRONMENT}
    assert systemd.environment(odd(tmp_path), skip=(f"{tmp_path}/odd.env",)) == captured.ODD_ENVIRONMENT
    (tmp_path / "odd one.env").write_text("PLAIN=first\nDUP=first\n")
    both = systemd.environment(odd(tmp_path))
    assert (both["PLAIN"], both["DUP"]) == ("first", "b")
    assert systemd.environment(captured.properties(captured.MISSING)) == {}


def test_environment_file_that_is_missing(tmp_path):
    assert systemd.environment_file(str(tmp_path / "none")) == {}


def test_expand():
    """systemd.service(5): $NAME as a word of its own is split, ${NAME} is not, unknown ones are empty."""
    variables = {"A": "-x 'one word' two", "B": "b c", "EMPTY": ""}
    words = ["p", "$A", "${B}", "-f${B}.cfg", "$EMPTY", "$NONE", "${NONE}", "a$A", "$"]
    assert systemd.expand(words, variables) == ["p", "-x", "one word", "two", "b c", "-fb c.cfg", "", "a$A", "$"]
    assert systemd.expand(["$A"], {"A": "it's"}) == ["it's"]


def test_expand_haproxy(tmp_path):
    """What the process of the captured unit was started with."""
    found = captured.properties(captured.HAPROXY.replace("/etc/default/", f"{tmp_path}/"))
    words = systemd.expand(systemd.argv(found), systemd.environment(found))
    assert " ".join(words) == (
        "/usr/sbin/haproxy -Ws -f /etc/haproxy/haproxy.cfg -p /run/haproxy.pid -S /run/haproxy-master.sock")


def test_attempt_and_run():
    assert systemd.attempt("sh", "-c", "echo out; echo err >&2; exit 3") == (3, "out\nerr\n")
    assert systemd.run("echo", "a  b") == "a  b\n"
    assert systemd.run("cat") == ""  # no standard input to wait for
    with pytest.raises(FleetError, match=r"^sh -c echo a; echo b; exit 4 failed \(4\): a \| b$"):
        systemd.run("sh", "-c", "echo a; echo b; exit 4")
    with pytest.raises(FleetError, match="^no-such-program is not installed on this host$"):
        systemd.run("no-such-program", "-x")
    started = time.monotonic()
    with pytest.raises(FleetError, match="^sleep 60 did not end within 0.1 s$"):
        systemd.run("sleep", "60", timeout=0.1)
    assert time.monotonic() - started < 10


def test_output_that_is_no_text():
    """Whatever a journal holds, and whatever the locale is."""
    assert systemd.run("printf", r"\342\227\217 \377") == "\u25cf \ufffd"


def test_last_lines():
    assert systemd.last_lines("a\n b \n\nc\n", 2) == " | c" and systemd.last_lines("") == ""
    assert systemd.last_lines("\n".join(map(str, range(20)))).startswith("12 | 13")


def test_failed_units(systemctl):
    asked = systemctl("old.service loaded failed failed An old one\n"
                      "\u25cf fwupd.service     loaded failed failed Firmware update daemon\n\n"
                      "srv-data.mount loaded failed failed /srv/data\n")
    assert systemd.failed() == ["fwupd.service", "old.service", "srv-data.mount"]
    assert "--state=failed" in asked.read_text()
    systemctl("")
    assert systemd.failed() == []
