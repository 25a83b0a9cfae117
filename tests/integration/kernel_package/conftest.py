# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host with real dpkg, apt, rpm and dnf, and with the stock kernels of two distributions, for kernel packages."""
import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import fleet
import kernel_packages as make
import pytest
from kernel_packages import HOST, OURS, RUNNING, STOCK, STOCK_PACKAGE

# apt-get resolves these against the packages that the host has; no mirror is named.
TOOLS = ("rpm", "dnf", "linux-base", "initramfs-tools")
# All that a refusal must leave as it is, and all that a removal must take along.
STATE = """
dpkg-query -W -f '${Package} ${Version} ${db:Status-Abbrev}\\n'
rpm --dbpath /var/lib/rpm -qa | sort
find /boot /lib/modules /usr/lib/modules /var/lib/fastsocket -printf '%p %s\\n' 2>/dev/null | sort
cat /var/lib/fastsocket/* 2>/dev/null; ls /var/tmp
"""
RUN = """
import json, sys
sys.path.insert(0, "/share/code")
from module_utils import errors
from module_utils.kernel_package import package as kernel_package
def run(given):
    try:
        return dict(kernel_package.ensure(**given), failed=False)
    except errors.FleetError as error:
        return {"failed": True, "msg": str(error)}
print(json.dumps([run(given) for given in json.loads(sys.argv[1])]))
"""
PACKAGES = """
dpkg-query -W -f '${Package}\n' | sort >/tmp/%s.deb; rpm --dbpath /var/lib/rpm -qa | sort >/tmp/%s.rpm
"""
CLEAN = PACKAGES % ("after", "after") + f"""
touch /tmp/go; sleep 0.1; rm -f /tmp/go /tmp/slow
comm -13 /tmp/before.deb /tmp/after.deb | xargs -r dpkg --purge --force-remove-reinstreq
comm -13 /tmp/before.rpm /tmp/after.rpm | xargs -r rpm --dbpath /var/lib/rpm -e --noscripts
rm -rf /var/lib/fastsocket /boot/*{OURS}* /lib/modules/{OURS} /boot/*{RUNNING}
"""
BUILD = {"deb": make.deb, "rpm": make.rpm}
# Python 3.6 where this machine has one, shown to the host at the same path.
PYTHON = next(iter(sorted(Path.home().glob(".pyenv/versions/3.6.*/bin/python3.6"))), None)


@pytest.fixture(scope="session")
def share(tmp_path_factory):
    """The folder whose packages the host sees as /share."""
    folder = tmp_path_factory.mktemp("share")
    folder.chmod(0o755)     # apt reads keys as its own user
    shutil.copytree(fleet.TOP / "plugins/module_utils", folder / "code/module_utils")
    return folder


@pytest.fixture(scope="session")
def host(collections, share, tmp_path_factory):
    """A lab of one host, managed by dpkg and rpm at once, with a stock kernel of each. Yields sh(script)."""
    if os.geteuid() != 0:
        pytest.skip("the lab needs root")
    folder, name = tmp_path_factory.mktemp("klab"), f"kp{os.getpid()}"
    bind = [f"{share}:/share"] + ["{0}:{0}".format(PYTHON.parents[1])] * bool(PYTHON)
    (folder / "spec.json").write_text(json.dumps({"name": name, "host": [
        {"name": HOST, "address": ["10.99.0.61"], "bind": bind}]}))
    up = subprocess.run([fleet.LAB, "up", "--spec", folder / "spec.json"], check=False, stdout=subprocess.PIPE,
                        stderr=subprocess.STDOUT, text=True)
    assert up.returncode == 0, up.stdout
    try:
        lab = fleet.Lab(name, collections=collections, home=folder / "ansible")
        lab.share = share
        _prepare(lab, share)
        yield lab
    finally:
        subprocess.run([fleet.LAB, "down", "--name", name], check=True, stdout=subprocess.DEVNULL)


def _prepare(lab, share):
    (share / "tools/partial").mkdir(parents=True)
    (share / "status").write_text(lab.sh(HOST, "cat /var/lib/dpkg/status"))
    make.run("apt-get", "-y", "-q", "--no-install-recommends", "--download-only", "-o",
             f"Dir::State::status={share}/status", "-o", f"Dir::Cache::archives={share}/tools", "install", *TOOLS)
    lab.sh(HOST, "dpkg --force-unsafe-io -i /share/tools/*.deb >/tmp/log 2>&1 || { tail -20 /tmp/log; exit 1; }")
    stock_deb = make.deb(share, STOCK_PACKAGE["deb"], make.content(STOCK["deb"]), Provides="linux-image (= 6.1)")
    stock_rpm = make.rpm(share, STOCK_PACKAGE["rpm"], make.content(STOCK["rpm"], folder="modules"), "5.14.0", "1.el9",
                         ghosts=[f"boot/vmlinuz-{STOCK['rpm']}"], Provides=["installonlypkg(kernel)"])
    # What scripts run with; the host's own is not in the RPM database.
    shell = make.rpm(share, "shell", {"usr/share/shell": b"x"}, Provides="/bin/sh")
    # A small initramfs is one as well.
    lab.sh(HOST, "echo MODULES=list >/etc/initramfs-tools/conf.d/small")
    lab.sh(HOST, f"dpkg -i /share/{stock_deb.name} && rpm --dbpath /var/lib/rpm -i /share/{shell.name} "
                 f"/share/{stock_rpm.name}" + PACKAGES % ("before", "before"))


@pytest.fixture
def ansible(host):
    """ansible(*options, **given): a run of the module by Ansible."""
    return lambda *options, **given: host.module(HOST, "kernel_package", *options, **given)


@pytest.fixture
def modules(host):
    """modules([options, ...]): results of what the module calls, without Ansible's two seconds each, by the oldest
    Python there is."""
    def call(runs):
        words = [str(PYTHON or "python3"), "-B", "-c", RUN, json.dumps([{"state": "present", **run} for run in runs])]
        return json.loads(host.sh(HOST, shlex.join(words)).splitlines()[-1])
    return call


@pytest.fixture
def module(modules):
    """module(**options): one of them."""
    return lambda **given: modules([given])[0]


@pytest.fixture(autouse=True)
def clean(host):
    """Whatever a failed test left, the next one finds the host as it should be."""
    yield
    host.sh(HOST, CLEAN, status=None)


@pytest.fixture
def build(share, request):
    """build(format, name, files, ...): the options for a package of the real tool, whose files go with the test."""
    def call(form, *given, **fields):
        folder = Path(tempfile.mkdtemp(prefix=re.sub(r"\W", "_", request.node.name) + "-", dir=share))
        folder.chmod(0o755)
        path = BUILD[form](folder, *given, **fields)
        return {"package": f"/share/{path.relative_to(share)}", "sha256": make.sha256(path)}
    return call


@pytest.fixture
def unchanged(host):
    """In its block nothing on the host may change."""
    @contextlib.contextmanager
    def block():
        before = host.sh(HOST, STATE, status=None)
        yield
        assert host.sh(HOST, STATE, status=None) == before
    return block
