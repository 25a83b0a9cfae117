# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The oldest ansible-core, on hosts with Debian's Python and with Python 3.6: every module there and back."""
import subprocess
from pathlib import Path

import pytest
from fleet import TOP, Lab, differences, old_python

HOST = "web2"
ADDRESS = "web2=10.99.0.42:80"


@pytest.fixture(scope="module")
def oldest(lab):
    """The lab as the oldest ansible-core sees it: the environment that `make setup` made."""
    ask = ["make", "--no-print-directory", "--eval", "oldest:; @echo $(VENV_OLDEST)", "oldest"]
    asked = subprocess.run(ask, cwd=TOP, check=True, stdout=subprocess.PIPE, text=True)
    venv = Path(asked.stdout.strip())
    assert (venv / "bin/ansible").exists(), f"no {venv}: run `make setup`"
    one = Lab(lab.name, collections=lab.env["ANSIBLE_COLLECTIONS_PATH"], home=lab.env["ANSIBLE_HOME"], venv=venv)
    assert "[core 2.16." in one.run("ansible", "--version").stdout
    return one


@pytest.mark.parametrize("python", ["3.11", "3.6"])
def test_oldest_ansible(oldest, library, python):
    path = "/usr/bin/python3" if python == "3.11" else old_python()
    if not path:
        pytest.skip("no Python 3.6 under ~/.pyenv/versions to show to the host")
    before = oldest.snapshot(HOST, times=False)
    with oldest.load(ADDRESS) as load:
        run = oldest.playbook(Path(__file__).parent / "versions.yml", "--limit", HOST, "--diff",
                              "-e", f"ansible_python_interpreter={path}", "-e", f"expected_python={python}",
                              "-e", f"built_library={library}")
    assert run.status == 0 and run.failures == [], run.output
    assert "Traceback" not in run.output and "Deprecat" not in run.output
    assert load["failed"] == 0, load
    changed = differences(before, oldest.snapshot(HOST, times=False))
    # The wrap restarted nginx; all else is as it was.
    assert set(changed) <= {"service nginx.MainPID", "service nginx.ActiveEnterTimestampMonotonic"}, changed
