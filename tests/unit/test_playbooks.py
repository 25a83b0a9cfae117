# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which hosts a playbook comes to, in which waves, by ansible-playbook itself; and what the role kernel works out from
a host's boot menu. No task is run on a host here: tests/integration does that."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

TOP = Path(__file__).resolve().parents[2]
HOSTS = ["2001:db8::1", "lb-2", "lb-3.example.com", "lb4", "lb5", "lb6"]
MAKE = ["make", "--no-print-directory", "--eval", "venvs:; @echo $(VENV) $(VENV_OLDEST)", "venvs"]
# What a play's head sees of variables, and the order that filters keep, have changed between versions.
BOTH = pytest.mark.parametrize("ansible", [0, 1], ids=["newest", "oldest"], indirect=True)


@pytest.fixture(name="ansible")
def fixture_ansible(request):
    """The ansible-playbook of the newest ansible-core, or the oldest."""
    made = subprocess.run(MAKE, cwd=TOP, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    found = Path(made[getattr(request, "param", 0)], "bin/ansible-playbook")
    if not found.exists():
        pytest.skip(f"no {found}: run `make setup`")
    return [str(found)]


@pytest.fixture(name="play")
def fixture_play(ansible, tmp_path):
    """play(PLAYS, inventory variables, *options): what ansible-playbook prints."""
    def run(plays, variables, *options, own=None):
        hosts = {host: {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, **(own or {}).get(
            host, {})} for host in HOSTS}
        inventory = {"all": {"vars": variables, "children": {"load_balancers": {"hosts": hosts},
                                                             "edge": {"hosts": {"lb5": {}, "lb6": {}}}}}}
        (tmp_path / "inventory.yml").write_text(json.dumps(inventory))
        (tmp_path / "play.yml").write_text(yaml.safe_dump(plays))
        done = subprocess.run(
            [*ansible, "-i", "inventory.yml", "play.yml", *options], cwd=tmp_path, check=False, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "ANSIBLE_NOCOLOR": "1", "LC_ALL": "C.UTF-8",
                 "ANSIBLE_LOCALHOST_WARNING": "0", "ANSIBLE_DEPRECATION_WARNINGS": "0"})
        return done.stdout
    return run


def said(output, name):
    """What tasks printed as NAME=JSON."""
    return [json.loads(json.loads(f'"{text}"')) for text in re.findall(f'"msg": "{name}=(.*)"$', output, re.MULTILINE)]


def batches(book, play):
    """The head of each play of a playbook that comes to hosts, with one task instead of its own; returns a function
    that gives the batches that these plays come to."""
    heads = []
    for head in yaml.safe_load((TOP / f"playbooks/{book}.yml").read_text()):
        head = {key: value for key, value in head.items() if key != "roles"}
        if head["hosts"] in ("all", "localhost"):
            heads.append(head)
            continue
        task = {"ansible.builtin.debug": {"msg": "batch={{ ansible_play_batch | to_json }}"}, "run_once": True}
        heads.append({**head, "tasks": [task], "strategy": "linear"})

    def run(variables, *options, own=None):
        output = play(heads, variables, *options, own=own)
        return said(output, "batch") or output
    return run


@pytest.mark.parametrize(("variables", "options", "wanted"), [
    ({}, [], [HOSTS[:1], HOSTS[1:2], HOSTS[2:4], HOSTS[4:]]),
    ({"rollout_waves": [2, "100%"], "rollout_canary": "lb4"}, [], [["lb4"], HOSTS[:2], [*HOSTS[2:3], "lb5", "lb6"]]),
    ({"rollout_waves": [2], "rollout_canary": "lb4"}, ["-e", "rollout_waves=5", "-e", "rollout_canary=lb6"],
     [["lb6"], HOSTS[:5]]),
    ({"rollout_group": "edge"}, [], [["lb5"], ["lb6"]]),
    ({"rollout_waves": 3}, ["--limit", "lb-2,lb4,lb5,lb6"], [["lb-2", "lb4", "lb5"], ["lb6"]]),
])
def test_canary_and_waves_of_a_rollout(play, variables, options, wanted):
    """By default, from the inventory, and from -e, which wins."""
    assert batches("rollout", play)(variables, *options) == wanted


@BOTH
def test_waves_of_a_group_in_the_inventory(play):
    """A variable of the group's hosts will do; it need not be one of all."""
    own = {host: {"rollout_waves": 5} for host in HOSTS}
    assert batches("rollout", play)({}, own=own) == [HOSTS[:1], HOSTS[1:]]


@pytest.mark.parametrize(("variables", "words"), [
    ({"rollout_group": "nowhere"}, "the inventory has no hosts in group nowhere"),
    ({"rollout_canary": "web1"}, "rollout_canary web1 is not in group load_balancers: 2001:db8::1, lb-2"),
])
def test_a_group_or_canary_that_is_none(play, variables, words):
    output = batches("rollout", play)(variables)
    assert words in output and "PLAY [Canary]" not in output and "PLAY [Waves]" not in output


@pytest.mark.parametrize(("variables", "options", "wanted"), [
    ({}, [], [HOSTS, HOSTS, HOSTS[:1], HOSTS[1:4], HOSTS[4:]]),
    ({"rollback_waves": [4, 2]}, [], [HOSTS, HOSTS, HOSTS[:4], HOSTS[4:]]),
    ({"rollout_group": "edge"}, [], [["lb5", "lb6"], ["lb5", "lb6"], ["lb5"], ["lb6"]]),
    ({"rollback_group": "edge", "rollout_group": "x"}, ["-e", "rollback_waves=1"],
     [["lb5", "lb6"], ["lb5", "lb6"], ["lb5"], ["lb6"]]),
])
def test_waves_of_a_rollback(play, variables, options, wanted):
    assert batches("rollback", play)(variables, *options) == wanted


# ---- the role kernel -------------------------------------------------------


def entries(*kernels):
    return [{"kernel": kernel} for kernel in kernels]


# (the last trial, the default, the menu) and the stock kernel to go back to; "ours" is what we installed.
STOCK = [
    ({"stock": "6.1.3"}, "ours", entries("ours", "6.1.4", None, "6.1.3"), "6.1.3"),
    # Updates have removed the one that the trial started from.
    ({"stock": "6.1.2"}, "ours", entries("ours", "6.1.4", None, "6.1.3"), "6.1.4"),
    ({"stock": "ours"}, "6.1.3", entries("ours", "6.1.4", "6.1.3"), "6.1.3"),
    (None, None, entries(None, "6.1.1", "6.1.9", "6.1.4", "6.1.3"), "6.1.1"),
    (None, "ours", entries("ours", None), ""),
]


def evaluate(play, expression, cases):
    """The values of an expression with the role's own variables, for each case of others."""
    book = [{"hosts": "lb4,lb5,lb6", "gather_facts": False, "vars": {"role_path": str(TOP / "roles/kernel")},
             "vars_files": [str(TOP / f"roles/kernel/{name}/main.yml") for name in ("defaults", "vars")],
             "tasks": [{"ansible.builtin.debug": {"msg": "value={{ %s | to_json }}" % expression}, "run_once": True,
                        "vars": case} for case in cases]}]
    output = play(book, {}, "--forks", "2")
    found = said(output, "value")
    assert len(found) == len(cases), output
    return found


@BOTH
def test_the_kernel_to_go_back_to(play):
    cases = [{"__kernel_boot": {"trial": trial, "default": {"kernel": default}, "entries": menu},
              "__kernel_installed": ["ours"]} for trial, default, menu, dummy in STOCK]
    assert evaluate(play, "__kernel_stock", cases) == [wanted for *dummy, wanted in STOCK]


@BOTH
def test_features_are_those_of_our_kernel(play):
    """What the role takes is what net/fastsocket/main.c has; names of another kernel are for that to know."""
    source = (TOP / "kernel-src/net/fastsocket/main.c").read_text()
    numbers = {"SYSCTL_ZERO": 0, "SYSCTL_ONE": 1, "SYSCTL_ONE_HUNDRED": 100}
    table = {name: range(numbers[low], numbers[high] + 1) for name, low, high in re.findall(
        r'procname\s*= "(\w+)".*?extra1\s*= (\w+).*?extra2\s*= (\w+)', source, re.DOTALL)}
    assert len(table) == source.count(".procname")
    given = [f"{name}={value}" for name in table for value in range(203)]
    given += [*table, "local_lisen", "x=1", "local-listen", "x="]
    known = {*table, *(f"{name}={value}" for name, values in table.items() for value in values)}
    cases = [{"kernel_features": given, "kernel_package": package}
             for package in ("/srv/kernel-fastsocket_6.12.1-1_amd64.deb", "kernel-fastsocket", "/srv/linux.rpm")]
    ours, named, other = evaluate(play, "__kernel_bad_features", cases)
    assert ours == named == [one for one in given if one not in known]
    assert other == [one for one in ours if one not in ("local_lisen", "x=1")]
    assert evaluate(play, "__kernel_feature_arguments", [{"kernel_features": ["local_listen", "spill=80"]}]) == [
        ["sysctl.net.fastsocket.local_listen=1", "sysctl.net.fastsocket.spill=80"]]
    asked = {"kernel_package": "kernel-fastsocket", "kernel_repository": True}
    wrong = evaluate(play, "__kernel_wrong", [
        {**asked, "kernel_features": one} for one in (["spill=500"], ["spill=5", "spill"], ["spill"])])
    assert wrong == [["kernel_features spill=500: give name or name=number; our kernel has local_listen (0 or 1) and "
                      "spill (1 to 100)"], ["kernel_features spill=5, spill: give each once"], []]


def test_no_kernel_waits_too_long_for_its_commit(play):
    """Three hosts and two forks. However long a host may take, they are looked at no more than 50 times: each look is
    an include in an include, of which Ansible takes some 200."""
    times = [(600, 900, 20, True), (600, 7200, 144, True), (600, 10800, 216, False), (60, 900, 20, False),
             (80, 900, 20, True)]
    cases = [{"kernel_trial_seconds": trial, "kernel_reboot_timeout": timeout, "kernel_package": "a.deb",
              "kernel_sha256": "0" * 64, "kernel_reboot_ok": consent}
             for consent in (True, False) for trial, timeout, *dummy in times]
    found = evaluate(play, "[__kernel_slice | int, __kernel_rounds | int, __kernel_wrong]", cases)
    for (seconds, rounds, wrong), (dummy, timeout, slice_s, well) in zip(found, times * 2, strict=True):
        assert (seconds, rounds) == (slice_s, 2) and timeout / seconds <= 50
        assert not well or wrong == []
    refused = [wrong for dummy, dummy, wrong in found if wrong]
    assert [one[0][:44] for one in refused] == ["with 3 hosts at a time and 2 forks a kernel "] * 2, refused
