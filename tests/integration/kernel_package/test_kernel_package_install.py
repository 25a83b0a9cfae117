# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kernels go in beside others, whole or not at all, and away again."""
import contextlib
import json

import kernel_packages as make
import pytest
from kernel_packages import HOST, OURS, RECORD, RUNNING, STOCK, STOCK_PACKAGE, ours


@pytest.mark.parametrize("form", ["deb", "rpm"])
def test_beside_and_away(host, ansible, build, unchanged, form):
    """The module itself, by Ansible."""
    module, given = ansible, ours(build, form)
    with unchanged():
        checked = module(state="checked", **given)
        assert (checked["kernel"], checked["installed"], checked["changed"]) == (OURS, False, False)
        predicted = module("--check", "--diff", **given)
        assert predicted["changed"] and not predicted["installed"]
        assert [(change["before"], change["after"] is None) for change in predicted["changes"]] == [(None, False)]
        assert "+package kernel-fastsocket" in predicted["output"]
    with unchanged():
        done = module(**given)
        assert done["changes"] == predicted["changes"] and done["installed"] and done["kernel"] == OURS
        assert done["version"].startswith(("6.12.7-1", "1-1")) and done["name"].startswith("kernel-fastsocket")
        with unchanged():
            again = module(**given)
            assert again["changed"] is False and again["installed"] and again["packages"] == done["packages"]
            assert module("--check", kernel=OURS, state="absent")["changed"] is True
        record = json.loads(host.sh(HOST, f"cat {RECORD}"))
        assert record == {OURS: {"name": done["name"], "version": done["version"], "packages": done["packages"],
                                 "sha256": given["sha256"]}}
        host.sh(HOST, f"test -d /lib/modules/{OURS} -a -f /boot/vmlinuz-{STOCK['deb']}")
        gone = module(kernel=OURS, state="absent")
        assert gone["changed"] and not gone["installed"] and gone["changes"][0]["after"] is None


@pytest.mark.parametrize("form", ["deb", "rpm"])
def test_when_it_is_as_it_should_be(modules, build, form):
    given, gone = ours(build, form), {"kernel": OURS, "state": "absent"}
    runs = [given, {"state": "checked", **given}, given, gone, gone, {"state": "checked", **given}]
    assert [(run["installed"], run["changed"]) for run in modules(runs)] == [
        (True, True), (True, False), (True, False), (False, True), (False, False), (False, False)]


def test_rpm_on_debian_uses_the_system_database(host, module, build):
    module(**ours(build, "rpm"))
    assert OURS.split(".fast")[0] in host.sh(HOST, "rpm --dbpath /var/lib/rpm -q kernel-fastsocket")
    host.sh(HOST, "test ! -e /root/.rpmdb/rpmdb.sqlite")
    module(kernel=OURS, state="absent")


def test_same_name_and_older_beside_newer(host, module, build):
    """As the kernel of the original project: an RPM named `kernel`, older than the stock package of that name."""
    original = "2.6.32-431.29.2.el6.FASTSOCKET.x86_64"
    newer = build("rpm", "kernel", make.content("6.5.0-1.el9.x86_64"), "6.5.0", "1.el9")
    host.sh(HOST, f"rpm --dbpath /var/lib/rpm -i {newer['package']}")
    given = build("rpm", "kernel", make.content(original), "2.6.32", "431.29.2.el6.FASTSOCKET")
    assert module(**given)["kernel"] == original
    assert len(host.sh(HOST, "rpm --dbpath /var/lib/rpm -q kernel").split()) == 2
    assert module(state="absent", kernel=original)["changed"]
    host.sh(HOST, "rpm --dbpath /var/lib/rpm -q kernel-6.5.0 && rpm --dbpath /var/lib/rpm -e kernel-6.5.0")


@pytest.mark.parametrize("form, script", [
    ("deb", "preinst"), ("deb", "postinst"), ("rpm", "pre"), ("rpm", "post"), ("rpm", "posttrans")])
def test_failed_installation_is_put_back(host, module, build, unchanged, form, script):
    """Its scripts made an initramfs before they failed; no trace stays."""
    text = f"mkdir -p /lib/modules/{OURS}; echo >/lib/modules/{OURS}/modules.dep; echo >/boot/initrd.img-{OURS}\n" \
           "echo the disk is on fire >&2; exit 7\n"
    given = ours(build, form, scripts={script: text})
    with unchanged():
        result = module(**given)
        assert result["failed"], result
        for word in (OURS, "could not be installed", "the disk is on fire", "the host is as it was before"):
            assert word in result["msg"], result["msg"]


def test_real_hooks_make_and_remove_the_initramfs(host, module, build, unchanged):
    """Debian's own hooks, run as our package runs them; and one of them that fails: the package goes again."""
    scripts = {script: f"set -e\n[ $1 = {when} ] || exit 0\nexport DEB_MAINT_PARAMS=\"$*\"\n"
               f"run-parts --report --exit-on-error --arg={OURS} --arg=/boot/vmlinuz-{OURS} /etc/kernel/{script}.d\n"
               for script, when in (("postinst", "configure"), ("postrm", "remove"))}
    scripts["postrm"] += f"rm -f /lib/modules/{OURS}/modules.*; rmdir /lib/modules/{OURS} || true\n"
    given = ours(build, "deb", scripts=scripts)
    with unchanged():
        hook = "/etc/kernel/postinst.d/zzz-fails"
        host.sh(HOST, f"printf '#!/bin/sh\\necho no loader here; exit 3\\n' >{hook}; chmod 755 {hook}")
        result = module(**given)
        host.sh(HOST, f"rm {hook}")
        assert result["failed"] and "no loader here" in result["msg"] and "as it was before" in result["msg"]
    with unchanged():
        assert module(**given)["changed"]
        host.sh(HOST, f"test -s /boot/initrd.img-{OURS}")
        assert module(**given)["changed"] is False
        assert module(state="absent", kernel=OURS)["changed"]


@pytest.mark.parametrize("form", ["deb", "rpm"])
def test_damaged_installation_is_mended(host, module, build, form):
    given = ours(build, form)
    module(**given)
    image = f"/boot/vmlinuz-{OURS}" if form == "deb" else f"/lib/modules/{OURS}/vmlinuz"
    host.sh(HOST, f"cp {image} /tmp/whole; echo >{image}; rm /lib/modules/{OURS}/kernel/net/fast.ko")
    assert module(state="checked", **given)["installed"] is False
    assert module(check_mode=True, **given)["changes"][0]["before"] == "damaged"
    assert module(**given)["changed"] is True
    host.sh(HOST, f"cmp {image} /tmp/whole && test -e /lib/modules/{OURS}/kernel/net/fast.ko")
    assert module(**given)["changed"] is False
    # depmod's work is no damage
    host.sh(HOST, f"echo >>/lib/modules/{OURS}/modules.order")
    assert module(**given)["changed"] is False
    module(state="absent", kernel=OURS)


SLOW = "[ -e /tmp/go ] || { touch /tmp/slow; while [ ! -e /tmp/go ]; do sleep 0.1; done; }\n"


@contextlib.contextmanager
def in_progress(host, command):
    """A package tool that works on a package with the script SLOW while the block runs, then goes on to its end."""
    host.sh(HOST, f"rm -f /tmp/go /tmp/slow; nohup {command} >/tmp/slow.log 2>&1 </dev/null & "
                  "for i in $(seq 100); do [ -e /tmp/slow ] && exit 0; sleep 0.1; done; cat /tmp/slow.log; exit 1")
    try:
        yield
    finally:
        host.sh(HOST, "touch /tmp/go; while pgrep -x 'dpkg|rpm' >/dev/null; do sleep 0.1; done; rm -f /tmp/slow")


@pytest.mark.parametrize("form, command", [("deb", "dpkg -i"), ("rpm", "rpm --dbpath /var/lib/rpm -i")])
def test_lock_held_by_another(host, module, build, unchanged, form, command):
    given = ours(build, form)
    slow = build(form, "slow", {"usr/share/slow": b"x"}, scripts={"postinst" if form == "deb" else "post": SLOW})
    with in_progress(host, f"{command} {slow['package']}"):
        with unchanged():
            result = module(wait=1, **given)
            assert result["failed"], result
            for word in (form[:3] if form == "rpm" else "dpkg", "pid", "waited 1 s", "lock"):
                assert word in result["msg"], result["msg"]
        host.sh(HOST, "nohup sh -c 'sleep 4; touch /tmp/go' >/dev/null 2>&1 </dev/null &")
        assert module(wait=30, **given)["changed"]
    module(state="absent", kernel=OURS)
    host.sh(HOST, "dpkg --purge slow" if form == "deb" else "rpm --dbpath /var/lib/rpm -e slow")


def test_interrupted_dpkg(host, module, build, unchanged):
    """dpkg killed over another package is for its owner to mend; killed over ours, the next run mends it."""
    kill = "pkill -KILL -x dpkg; touch /tmp/go; sleep 0.5; rm -f /tmp/go /tmp/slow"
    given, slow = ours(build, "deb"), build("deb", "slow", {"usr/share/slow": b"x"}, scripts={"postinst": SLOW})
    host.sh(HOST, f"rm -f /tmp/go; nohup dpkg -i {slow['package']} >/dev/null 2>&1 </dev/null & "
                  f"until [ -e /tmp/slow ]; do sleep 0.1; done; {kill}")
    with unchanged():
        result = module(**given)
        assert result["failed"] and "dpkg was interrupted: slow" in result["msg"], result["msg"]
        assert "dpkg --configure -a" in result["msg"]
    host.sh(HOST, "touch /tmp/go; dpkg --configure -a; dpkg --purge slow; rm /tmp/go")
    given = ours(build, "deb", scripts={"postinst": SLOW})
    host.sh(HOST, f"nohup dpkg -i {given['package']} >/dev/null 2>&1 </dev/null & "
                  f"until [ -e /tmp/slow ]; do sleep 0.1; done; {kill}; touch /tmp/go")
    done = module(**given)
    assert done["changed"] and done["installed"], done
    assert host.sh(HOST, "dpkg --audit") == "" and module(**given)["changed"] is False
    assert module(state="absent", kernel=OURS)["changed"]


def test_host_that_died_half_way(host, module, build, unchanged):
    """rpm keeps no note of an installation that ended early, we do: files without a package, and our record."""
    given = ours(build, "rpm")
    note = json.dumps({OURS: {"name": "kernel-fastsocket", "version": "6.12.7-1", "sha256": given["sha256"],
                              "packages": ["kernel-fastsocket-6.12.7-1.x86_64"]}})
    left = f"mkdir -p /lib/modules/{OURS} /var/lib/fastsocket; echo half >/lib/modules/{OURS}/vmlinuz"
    with unchanged():
        host.sh(HOST, left)
        stranger = module(**given)
        assert stranger["failed"] and "no package" in stranger["msg"]
        by_hand = module(state="absent", kernel=OURS)
        assert by_hand["failed"] and "by hand" in by_hand["msg"]
        host.sh(HOST, f"echo '{note}' >{RECORD}")
        assert module(**given)["installed"] is True
        assert module(state="absent", kernel=OURS)["changed"] is True
        host.sh(HOST, f"{left}; echo '{note}' >{RECORD}")
        assert module(state="absent", kernel=OURS)["changed"] is True
        assert module(state="absent", kernel=OURS)["changed"] is False


def test_absent_refuses(host, module, build, unchanged):
    stock = STOCK["deb"]
    with unchanged():
        result = module(state="absent", kernel=stock)
        assert result["failed"] and "force: true" in result["msg"] and STOCK_PACKAGE["deb"] in result["msg"]
        assert module(check_mode=True, state="absent", kernel=stock, force=True)["changed"] is True
        assert module(state="absent", kernel="9.9.9")["changed"] is False
    host.sh(HOST, f"echo >/boot/vmlinuz-{RUNNING}")
    with unchanged():
        for force in (False, True):
            result = module(state="absent", kernel=RUNNING, force=force)
            assert result["failed"] and f"{RUNNING} is running" in result["msg"]
    host.sh(HOST, f"rm /boot/vmlinuz-{RUNNING}")
    given = ours(build, "deb")
    module(**given)
    # The stock kernels go: what is left is the RPM's, then ours alone.
    host.sh(HOST, f"mkdir /tmp/kept; mv /boot/vmlinuz-{stock} /tmp/kept/; mv /lib/modules/{STOCK['rpm']} /tmp/kept/")
    with unchanged():
        result = module(state="absent", kernel=OURS)
        assert result["failed"] and "the last one here" in result["msg"] and OURS in result["msg"], result["msg"]
    host.sh(HOST, f"mv /tmp/kept/vmlinuz* /boot/; mv /tmp/kept/{STOCK['rpm']} /lib/modules/; rmdir /tmp/kept")
    assert module(state="absent", kernel=OURS)["changed"]


def test_file_that_is_not_there_yet(ansible):
    """In check mode the task before this one only said that it would copy the file."""
    result = ansible("--check", package="/var/cache/none.rpm", sha256="0" * 64)
    assert result["changed"] is True and result["kernel"] is None and result["installed"] is False


def test_needs_root(host):
    result = host.module(HOST, "kernel_package", "-e", "ansible_user=nosudo", state="absent", kernel=OURS)
    assert result["failed"] and "needs root" in result["msg"]
