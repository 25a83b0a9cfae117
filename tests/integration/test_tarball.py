# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection as a user has it: built from the tree, installed offline, its playbooks found by name."""
import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
PLAYBOOKS = ("build", "rollout", "rollback", "status")


@pytest.fixture(scope="module")
def tarball(tmp_path_factory):
    """Built from the checkout itself, with all that builds and tests left there: galaxy.yml must keep it out."""
    out = tmp_path_factory.mktemp("tarball")
    subprocess.run(["ansible-galaxy", "collection", "build", "--output-path", out], cwd=TOP, check=True)
    return next(out.glob("fastsocket-fleet-*.tar.gz"))


@pytest.fixture(scope="module")
def names(tarball):
    with tarfile.open(tarball) as archive:
        return {member.name for member in archive if member.isfile()}


@pytest.fixture(scope="module")
def installed(tarball, tmp_path_factory):
    path = tmp_path_factory.mktemp("collections")
    subprocess.run(["ansible-galaxy", "collection", "install", "--offline", "-p", path, tarball], check=True)
    return path


def test_holds_what_a_host_needs(names):
    wanted = {f"playbooks/{name}.yml" for name in PLAYBOOKS}
    wanted |= {f"plugins/modules/{name}.py" for name in ("core_stats_info", "nic_info", "nic_steering", "preload")}
    wanted |= {f"roles/{name}/meta/argument_specs.yml" for name in ("build", "libfsocket", "nic", "preload", "verify")}
    wanted |= {"meta/runtime.yml", "LICENSES/GPL-3.0-or-later.txt", "LICENSES/GPL-2.0-or-later.txt"}
    assert wanted - names == set()


@pytest.mark.parametrize("folder", ["libfsocket", "kernel-src"])
def test_holds_every_source(names, folder):
    """The build host compiles what the tarball brings: all that git knows there but the library's tests."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", folder],
        cwd=TOP, check=True, stdout=subprocess.PIPE, text=True,
    ).stdout.split("\0")
    present = {name for name in listed if (TOP / name).is_file()}
    sources = {name for name in present if not name.startswith("libfsocket/tests/")}
    assert f"{folder}/Makefile" in sources
    assert {name for name in names if name.startswith(f"{folder}/")} == sources


def test_holds_nothing_that_was_built(names):
    tops = {"build", "tests", "molecule", "tools", "requirements"}
    suffixes = (".pyc", ".o", ".so", ".tar.gz")
    wrong = {name for name in names if name.split("/")[0] in tops or name.startswith(".") or name.endswith(suffixes)}
    assert wrong == set()


def test_action_group_names_every_module(names):
    """A module that is missing there misses the user's module_defaults."""
    import yaml

    group = yaml.safe_load((TOP / "meta/runtime.yml").read_text())["action_groups"]["fleet"]
    assert sorted(group) == sorted(Path(name).stem for name in names if name.startswith("plugins/modules/"))


def test_installed_whole(installed, names):
    fleet = installed / "ansible_collections/fastsocket/fleet"
    manifest = json.loads((fleet / "FILES.json").read_text())["files"]
    listed = {entry["name"] for entry in manifest if entry["ftype"] == "file"}
    assert listed == names - {"FILES.json", "MANIFEST.json"}
    assert [name for name in listed if not (fleet / name).is_file()] == []


@pytest.mark.parametrize("playbook", PLAYBOOKS)
def test_playbook_runs_by_name(installed, playbook, tmp_path):
    """Found by name in the installed collection, with all roles and modules that it calls."""
    env = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(installed), "ANSIBLE_NOCOLOR": "1"}
    command = ["ansible-playbook", "-i", "localhost,", "--syntax-check", f"fastsocket.fleet.{playbook}"]
    done = subprocess.run(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    assert f"playbook: {installed}/ansible_collections/fastsocket/fleet/playbooks/{playbook}.yml" in done.stdout
