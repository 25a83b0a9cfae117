# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kernel features on a tree of files: there, kept, and back."""
import json

import pytest

from ansible_collections.fastsocket.fleet.plugins.module_utils import features
from ansible_collections.fastsocket.fleet.plugins.module_utils.errors import FleetError


@pytest.fixture
def root(tmp_path):
    live = tmp_path / features.LIVE[1:]
    live.mkdir(parents=True)
    (live / "local_listen").write_text("0\n")
    (live / "spill").write_text("75\n")
    return tmp_path


def live(root):
    return {path.name: path.read_text().strip() for path in (root / features.LIVE[1:]).iterdir()}


def apply(root, *wanted, check=False):
    return features.apply(list(wanted), check=check, root=str(root))


def files(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_there_and_back(root):
    before = files(root)
    predicted = apply(root, "local_listen", "spill=90", check=True)
    assert files(root) == before and live(root) == {"local_listen": "0", "spill": "75"}
    done = apply(root, "local_listen", "spill=90")
    assert done == predicted and done["changed"]
    assert live(root) == {"local_listen": "1", "spill": "90"}
    assert (root / features.BOOT[1:]).read_text().splitlines()[1:] == [
        "-net.fastsocket.local_listen = 1", "-net.fastsocket.spill = 90"]
    assert json.loads((root / features.BEFORE[1:]).read_text()) == {"local_listen": "0", "spill": "75"}
    assert apply(root, "local_listen", "spill=90") == {"changed": False, "changes": []}
    # One of them goes, and what was there before us comes back.
    changes = apply(root, "local_listen")["changes"]
    assert [change["path"] for change in changes] == ["net.fastsocket.spill", features.BOOT]
    assert live(root) == {"local_listen": "1", "spill": "75"}
    assert apply(root)["changed"] and live(root) == {"local_listen": "0", "spill": "75"} and files(root) == before
    assert apply(root) == {"changed": False, "changes": []}


def test_before_is_what_was_before_the_first_boot_with_us(root):
    apply(root, "spill=90")
    apply(root, "spill=95")
    assert json.loads((root / features.BEFORE[1:]).read_text()) == {"spill": "75"}


def test_before_on_the_trial_boot_is_what_the_kernel_has_by_itself(root, monkeypatch):
    """The trial was told its features on the command line: that is no value from before us. One that somebody set after
    that is."""
    (root / "proc/cmdline").write_text("ro sysctl.net.fastsocket.local_listen=1 sysctl.net.fastsocket.spill=90\n")
    (root / features.LIVE[1:] / "local_listen").write_text("1\n")
    asked = []

    def attempt(*words):
        asked.append(words)
        return (0, "systemd 252\n") if words[0] == "systemctl" else (0, "0\n")

    monkeypatch.setattr(features.systemd, "attempt", attempt)
    changes = apply(root, "local_listen", "spill=90")["changes"]
    assert [change["path"] for change in changes] == ["net.fastsocket.spill", features.BOOT]
    assert json.loads((root / features.BEFORE[1:]).read_text()) == {"local_listen": "0", "spill": "75"}
    assert [words for words in asked if words[0] == "unshare"] == [
        ("unshare", "--net", "cat", f"{root}{features.LIVE}/local_listen")]
    apply(root)
    assert live(root) == {"local_listen": "0", "spill": "75"}


def test_back_on_a_kernel_that_has_no_features(root):
    apply(root, "local_listen")
    for path in (root / features.LIVE[1:]).iterdir():
        path.unlink()
    (root / features.LIVE[1:]).rmdir()
    assert apply(root)["changed"] and files(root) == []


def test_drift_is_mended(root):
    apply(root, "local_listen")
    (root / features.LIVE[1:] / "local_listen").write_text("0\n")
    changes = apply(root, "local_listen")["changes"]
    assert changes == [{"path": "net.fastsocket.local_listen", "before": "0", "after": "1"}]
    assert live(root)["local_listen"] == "1"


@pytest.mark.parametrize("wanted, words", [
    (["locallisten"], ["no feature locallisten", "it has local_listen, spill"]),
    (["spill=much"], ["'spill=much'", "name=number"]),
    (["../../kernel/panic"], ["'../../kernel/panic'"]),
    (["spill=1", "spill=2"], ["spill is given twice"]),
])
def test_bad_input(root, wanted, words):
    before = files(root)
    with pytest.raises(FleetError) as error:
        apply(root, *wanted)
    assert all(word in str(error.value) for word in words), error.value
    assert files(root) == before


def test_stock_kernel_has_none(tmp_path):
    with pytest.raises(FleetError, match="has no feature local_listen; it has none, as it is not ours"):
        apply(tmp_path, "local_listen")


def test_value_that_the_kernel_refuses(root, monkeypatch):
    """The kernel's EINVAL; a file of the test's takes every value. What was set before it is set back."""
    done = apply(root, "local_listen")
    assert done["changed"]
    real = features._set

    def refuse(name, value, root):
        if (name, value) == ("spill", "101"):
            raise OSError(22, "Invalid argument")
        real(name, value, root)

    monkeypatch.setattr(features, "_set", refuse)
    with pytest.raises(FleetError, match=r"refuses net.fastsocket.spill = 101: Invalid argument"):
        apply(root, "local_listen=0", "spill=101")
    assert live(root) == {"local_listen": "1", "spill": "75"}


@pytest.mark.parametrize("version, line", [(0, "-net"), (239, "net"), (243, "-net"), (252, "-net")])
def test_old_systemd_takes_the_dash_for_a_part_of_the_name(version, line):
    assert features.boot_text({"spill": "9"}, version).splitlines()[1] == f"{line}.fastsocket.spill = 9"
