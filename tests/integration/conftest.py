# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One lab for all tests here that need hosts, and the collection as a user installs it."""
import contextlib
import json
import os
import subprocess
from pathlib import Path

import fleet
import pytest

HOSTS = {"web1": "nginx", "web2": "nginx", "lb": "haproxy"}
# An address that nobody has.
GHOST = "10.99.0.99"


@pytest.fixture(scope="session")
def collections(tmp_path_factory):
    return fleet.build(tmp_path_factory.mktemp("fleet"))


@pytest.fixture(scope="session")
def lab(collections, tmp_path_factory):
    if os.geteuid() != 0:
        pytest.skip("the lab needs root")
    folder = tmp_path_factory.mktemp("lab")
    name = f"it{os.getpid()}"
    hosts = [{"name": host, "address": [f"10.99.0.{number}"], "profile": profile}
             for number, (host, profile) in enumerate(HOSTS.items(), 41)]
    (folder / "spec.json").write_text(json.dumps({"name": name, "host": hosts}))
    binds = ["--bind", "web2={0}:{0}".format(Path(fleet.old_python()).parents[1])] if fleet.old_python() else []
    up = subprocess.run([fleet.LAB, "up", "--spec", folder / "spec.json", *binds], check=False,
                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert up.returncode == 0, up.stdout
    try:
        one = fleet.Lab(name, collections=collections, home=folder / "ansible")
        one.build = folder / "build"
        yield one
    finally:
        subprocess.run([fleet.LAB, "down", "--name", name], check=True, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="session")
def library(lab):
    """libfsocket.so, built as the role builds it."""
    subprocess.run(["make", "-C", fleet.TOP / "libfsocket", f"BUILD={lab.build}/build"], check=True,
                   stdout=subprocess.DEVNULL)
    return lab.build / "build/libfsocket.so"


@pytest.fixture
def untouched(lab):
    """untouched(HOST...): in its block nothing on these hosts may change, nor any service be started anew."""
    @contextlib.contextmanager
    def block(*hosts):
        before = {host: lab.snapshot(host) for host in hosts}
        yield
        for host in hosts:
            assert fleet.differences(before[host], lab.snapshot(host)) == {}, host
    return block


@pytest.fixture
def rollout(lab, tmp_path):
    """rollout(GROUP, *options, book=, **variables): a playbook of the collection on these hosts, in this order."""
    def run(group, *options, book="rollout", **variables):
        members = {host: {} if host in HOSTS else {"ansible_host": GHOST} for host in group}
        given = {"libfsocket_build_dir": str(lab.build), "preload_services": ["nginx"], "verify_seconds": 1}
        given.update(variables)
        (tmp_path / "fleet.yml").write_text(json.dumps({"load_balancers": {"hosts": members, "vars": given}}))
        return lab.playbook(f"fastsocket.fleet.{book}", *options, inventory=tmp_path / "fleet.yml", cwd=tmp_path)
    return run
