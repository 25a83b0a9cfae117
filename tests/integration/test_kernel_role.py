# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reboots of container hosts, which are real but for the kernel: what reboot_verified makes of each, and what the role
kernel refuses there. Real kernels are tried on the VM hosts."""
import contextlib
import json
import os
import re
import subprocess
import time

import fleet
import kernel_packages
import pytest

ONE, TWO, LOST = "boot1", "boot2", "boot3"
HERE = os.uname().release
NEW = "6.12.1-1.fastsocket.x86_64"
PORT = 8099


@pytest.fixture(scope="module")
def machines(collections, tmp_path_factory):
    """Hosts of their own: they are rebooted, and one of them does not come back."""
    if os.geteuid() != 0:
        pytest.skip("the lab needs root")
    folder = tmp_path_factory.mktemp("boots")
    name = f"boot{os.getpid()}"
    hosts = [{"name": host, "address": [f"10.99.0.{number}"]} for number, host in enumerate((ONE, TWO, LOST), 61)]
    (folder / "spec.json").write_text(json.dumps({"name": name, "host": hosts}))
    up = subprocess.run([fleet.LAB, "up", "--spec", folder / "spec.json"], check=False, stdout=subprocess.PIPE,
                        stderr=subprocess.STDOUT, text=True)
    assert up.returncode == 0, up.stdout
    try:
        one = fleet.Lab(name, collections=collections, home=folder / "ansible")
        one.scratch = folder
        yield one
    finally:
        subprocess.run([fleet.LAB, "down", "--name", name], check=True, stdout=subprocess.DEVNULL)


def boot_id(machines, host):
    return machines.sh(host, "cat /proc/sys/kernel/random/boot_id").strip()


def reboot(machines, hosts, *options, **wait):
    """Reboot hosts and wait, in two tasks; return the run, and {host: result} of the wait and of the reboot."""
    wait = {"phase": "wait", "since": "{{ asked }}", "kernel": HERE, "stable": 2, "timeout": 60, **wait}
    place = f"{machines.scratch}/{{{{ inventory_hostname }}}}.json"
    tasks = [
        {"fastsocket.fleet.reboot_verified": {"phase": "reboot"}, "register": "asked"},
        {"fastsocket.fleet.reboot_verified": wait, "register": "waited", "ignore_errors": True},
        {"ansible.builtin.copy": {"content": "{{ [waited, asked] | to_json }}", "dest": place},
         "delegate_to": "localhost", "check_mode": False},
    ]
    book = machines.scratch / "reboot.yml"
    book.write_text(json.dumps([{"hosts": ",".join(hosts), "gather_facts": False, "tasks": tasks}]))
    run = machines.playbook(book, *options)
    assert run.status == 0, run.output
    both = {host: json.loads((machines.scratch / f"{host}.json").read_text()) for host in hosts}
    return run, {host: pair[0] for host, pair in both.items()}, {host: pair[1] for host, pair in both.items()}


def test_new_kernel(machines):
    """The kernel of a container stays the same: it is the expected one."""
    before = boot_id(machines, ONE)
    run, waited, asked = reboot(machines, [ONE])
    found = waited[ONE]
    assert (found["outcome"], found["failed"], found["unhealthy"]) == ("new_kernel", False, []), found
    assert asked[ONE]["boot_id"] == before != found["boot_id"] == boot_id(machines, ONE)
    assert found["boot_ids"] == [found["boot_id"]] and found["kernel"] == HERE
    # A container may be back between two looks.
    told = rf"^{ONE}: (is going down|does not answer) \(\d+ s\)$.*^{ONE} runs {HERE} after \d+ s\.$"
    assert re.search(told, run.output, re.MULTILINE | re.DOTALL), run.output
    assert found["timeline"][-1]["settled"] >= 2


def test_check_mode_reboots_nothing(machines):
    before = boot_id(machines, ONE)
    run, waited, asked = reboot(machines, [ONE], "--check")
    assert asked[ONE]["changed"] and asked[ONE]["started"] is None and asked[ONE]["boot_id"] == before
    assert waited[ONE]["skipped"]
    time.sleep(3)
    assert boot_id(machines, ONE) == before


def test_two_hosts_fall_back_at_the_same_time_with_one_fork(machines):
    """Both take long to go down. One look at the second host, when the first one's wait is over, is enough: by its own
    clock it was stable all the time."""
    slow = ("systemd-run --quiet --unit=slow -p Type=oneshot -p RemainAfterExit=yes -p ExecStop='/bin/sleep 6' "
            "-p DefaultDependencies=no -p Conflicts=shutdown.target -p Before=shutdown.target /bin/true")
    for host in (ONE, TWO):
        machines.sh(host, slow)
    run, waited, asked = reboot(machines, [ONE, TWO], "--forks", "1", kernel=NEW, stable=4)
    for host in (ONE, TWO):
        found = waited[host]
        assert (found["outcome"], found["failed"], found["kernel"]) == ("fell_back", True, HERE), found
        assert re.match(f"{host} fell back to {HERE} after [0-9]+ s: {NEW} did not stay. ", found["msg"]), found
        assert found["timeline"][-1]["boot_id"] != asked[host]["boot_id"] and found["seconds"] >= 10
    assert len(waited[ONE]["timeline"]) > 1
    assert [part["until"] - part["since"] for part in waited[TWO]["timeline"]] == [0], run.output


def test_slices_come_to_the_same(machines):
    """A wait that gives its fork back early is gone on with."""
    book = machines.scratch / "slices.yml"
    look = {"phase": "wait", "since": "{{ seen }}", "kernel": HERE, "stable": 3, "timeout": 60}
    task = {"fastsocket.fleet.reboot_verified": {**look, "slice": 0.1}, "register": "seen"}
    book.write_text(json.dumps([{"hosts": ONE, "gather_facts": False, "tasks": [
        {"fastsocket.fleet.reboot_verified": {"phase": "reboot"}, "register": "seen"},
        *[task, {"ansible.builtin.assert": {"that": "seen.outcome == 'waiting' and seen.timeline | length >= 1"}}] * 3,
        {"fastsocket.fleet.reboot_verified": look, "register": "seen"},
        {"ansible.builtin.copy": {"content": "{{ seen | to_json }}", "dest": f"{machines.scratch}/seen.json"},
         "delegate_to": "localhost"}]}]))
    run = machines.playbook(book)
    assert run.status == 0, run.output
    seen = json.loads((machines.scratch / "seen.json").read_text())
    assert seen["outcome"] == "new_kernel" and len(seen["boot_ids"]) == 1, seen
    assert [part["boot_id"] for part in seen["timeline"] if part["boot_id"]][-1] == boot_id(machines, ONE)


def test_unit_that_failed_after_the_reboot(machines):
    """A unit that was failed before does not count; a new one does."""
    units = "\n".join(f"printf '[Service]\\nType=oneshot\\nExecStart=/bin/false\\n' >/etc/systemd/system/{name}.service"
                      for name in ("old", "new"))
    wants = "/etc/systemd/system/multi-user.target.wants"
    machines.sh(ONE, f"{units}\nln -s ../old.service ../new.service {wants}/\nsystemctl daemon-reload\n"
                     "systemctl start old || true")
    try:
        _, waited, asked = reboot(machines, [ONE])
        found = waited[ONE]
        assert asked[ONE]["failed_units"] == ["old.service"], asked
        assert (found["outcome"], found["failed"]) == ("new_kernel", True), found
        assert found["unhealthy"] == ["new.service failed"] and found["msg"].endswith("but new.service failed."), found
    finally:
        machines.sh(ONE, f"rm {wants}/old.service {wants}/new.service /etc/systemd/system/old.service "
                         "/etc/systemd/system/new.service; systemctl daemon-reload; systemctl reset-failed")


def test_boot_that_does_not_end(machines):
    """A host that answers, while a job of its boot hangs: that is no new kernel in good order."""
    wants = "/etc/systemd/system/multi-user.target.wants"
    machines.sh(ONE, "printf '[Service]\\nType=oneshot\\nExecStart=/bin/sleep 600\\n' "
                     f">/etc/systemd/system/hang.service\nln -s ../hang.service {wants}/")
    try:
        _, waited, _ = reboot(machines, [ONE], timeout=12)
        assert waited[ONE]["outcome"] == "new_kernel" and waited[ONE]["failed"], waited
        assert waited[ONE]["unhealthy"] == ["the boot is not over (systemd: starting)"]
    finally:
        machines.sh(ONE, f"rm {wants}/hang.service /etc/systemd/system/hang.service; systemctl daemon-reload; "
                         "systemctl stop hang")


def test_boot_loop(machines):
    """Three boots. Each ends a little after somebody looked at it."""
    wants = "/etc/systemd/system/multi-user.target.wants"
    machines.sh(TWO, f"""
        printf '[Unit]\\nAfter=ssh.service\\n[Service]\\nType=oneshot\\nExecStart=/usr/local/sbin/loop\\n' \\
            >/etc/systemd/system/loop.service
        ln -s ../loop.service {wants}/
        cat >/usr/local/sbin/loop <<'END'
#!/bin/sh
echo >>/root/boots
until journalctl -b -t sshd | grep -q Accepted; do sleep 1; done
sleep 15
[ $(wc -l </root/boots) -ge 3 ] || systemctl reboot
END
        chmod 755 /usr/local/sbin/loop""")
    try:
        _, waited, _ = reboot(machines, [TWO], stable=60, timeout=240)
        found = waited[TWO]
        assert found["outcome"] == "boot_loop" and found["failed"] and len(found["boot_ids"]) == 3, found
        assert found["msg"].startswith(f"{TWO} is in a boot loop, 3 boots after "), found["msg"]
    finally:
        machines.sh(TWO, f"rm {wants}/loop.service; systemctl stop loop; systemctl daemon-reload")


def test_host_that_never_went_down(machines):
    """Something on the host refuses the reboot: the old boot that goes on is no return."""
    machines.sh(TWO, "systemctl mask --runtime --quiet reboot.target")
    try:
        _, waited, asked = reboot(machines, [TWO], timeout=8)
    finally:
        machines.sh(TWO, "systemctl unmask --runtime --quiet reboot.target")
    found = waited[TWO]
    assert (found["outcome"], found["boot_id"]) == ("never_returned", asked[TWO]["boot_id"]), found
    assert "it never went down" in found["reason"]


def test_never_returned(machines):
    """The power goes while it reboots."""
    machines.sh(LOST, "printf '[Unit]\\nDefaultDependencies=no\\n[Service]\\nExecStart=/bin/systemctl -ff poweroff\\n' "
                      ">/etc/systemd/system/lost.service\nmkdir /etc/systemd/system/reboot.target.wants\n"
                      "ln -s ../lost.service /etc/systemd/system/reboot.target.wants/\nsystemctl daemon-reload")
    _, waited, _ = reboot(machines, [LOST], timeout=15)
    found = waited[LOST]
    assert found["outcome"] == "never_returned" and found["failed"] and found["kernel"] is None, found
    assert found["seconds"] >= 15 and "power-cycle" in found["msg"], found


@pytest.mark.parametrize("given, words", [
    ({"phase": "sleep"}, ["phase", "reboot, wait", "sleep"]),
    ({"phase": "wait"}, ["kernel"]),
    ({"phase": "wait", "kernel": HERE, "timeout": "long"}, ["timeout", "float"]),
])
def test_bad_input(machines, given, words):
    before = boot_id(machines, ONE)
    result = machines.module(ONE, "reboot_verified", **given)
    assert result["failed"] and all(word in result["msg"] for word in words), result
    assert boot_id(machines, ONE) == before


def test_no_rights(machines):
    before = boot_id(machines, ONE)
    result = machines.module(ONE, "reboot_verified", "-e", "ansible_user=nosudo", phase="reboot")
    assert result["failed"] and "needs root (become: true)" in result["msg"], result
    sudo = machines.module(ONE, "reboot_verified", "-e", "ansible_user=ops", "--become", phase="reboot")
    assert sudo["changed"] and sudo["boot_id"] == before, sudo
    fleet.wait(lambda: machines.sh(ONE, "cat /proc/sys/kernel/random/boot_id", status=None).strip() != before, 30)
    after = machines.module(ONE, "reboot_verified", phase="wait", kernel=HERE, stable=1, timeout=30)
    assert after["outcome"] == "new_kernel", after


def test_the_controller_is_not_rebooted(machines):
    result = machines.module("localhost", "reboot_verified", phase="reboot")
    assert result["failed"] and "would reboot the controller" in result["msg"], result


@pytest.fixture(scope="module")
def package(machines):
    """A package with nothing wrong in it."""
    return kernel_packages.deb(machines.scratch, "kernel-fastsocket", kernel_packages.content(NEW))


@pytest.fixture
def role(machines, package):
    """role(HOST, **variables): the role with this package."""
    book = machines.scratch / "role.yml"
    book.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "roles": ["fastsocket.fleet.kernel"]}]))

    def run(host, *options, **variables):
        given = {"kernel_package": str(package), "kernel_sha256": kernel_packages.sha256(package), **variables}
        return machines.playbook(book, "--limit", host, "-e", json.dumps(given), *options)
    return run


@contextlib.contextmanager
def unchanged(machines, host):
    """Nothing changes there and nothing reboots."""
    before, boot = machines.snapshot(host), boot_id(machines, host)
    yield
    assert fleet.differences(before, machines.snapshot(host)) == {} and boot_id(machines, host) == boot


def test_a_host_that_could_not_come_back_is_refused(machines, role):
    """A container has no boot loader. Consent makes no difference."""
    for options in ({}, {"kernel_preflight": True}, {"kernel_reboot_ok": True}):
        with unchanged(machines, ONE):
            run = role(ONE, **options)
        run.one_failure(ONE, "no kernel can be tried here, nothing was changed", "container")
        assert "No such file" in machines.sh(ONE, "ls /var/cache/fastsocket", status=None)


@pytest.mark.parametrize("given, words", [
    ({"kernel_reboot": True}, ["unknown variable kernel_reboot:", "kernel_reboot_ok", "kernel_other_variables"]),
    ({"kernel_package": ""}, ["kernel_package is empty"]),
    ({"kernel_package": "/nowhere.deb"}, ["/nowhere.deb", "found no such file"]),
    ({"kernel_sha256": "12ab"}, ["'12ab'", "64 digits"]),
    ({"kernel_sha256": "0" * 64}, ["0" * 64, "found "]),
    ({"kernel_state": "absent"}, ["kernel_state", "present, stock", "absent"]),
    ({"kernel_features": ["local_lisen", "spill=500"]},
     ["kernel_features local_lisen, spill=500", "local_listen (0 or 1)"]),
    ({"kernel_trial_seconds": 20}, ["kernel_trial_seconds 20", "60 to 86400", "kernel_stable_seconds 30"]),
    ({"kernel_reboot_timeout": 30}, ["kernel_reboot_timeout 30", "kernel_stable_seconds 30"]),
    ({"kernel_modules": [], "kernel_other_variables": ["kernel_modules"]}, ["container"]),
])
def test_role_bad_input(machines, role, given, words):
    with unchanged(machines, ONE):
        run = role(ONE, **given)
    run.one_failure(ONE, *words)


def test_a_kernel_without_its_features_is_not_committed(machines):
    """A container's kernel comes back from each reboot, and has none."""
    before = boot_id(machines, ONE)
    book = machines.scratch / "features.yml"
    book.write_text(json.dumps([{"hosts": ONE, "gather_facts": False, "tasks": [
        {"ansible.builtin.include_role": {"name": "fastsocket.fleet.kernel", "tasks_from": "trial"},
         "vars": {"kernel_features": ["local_listen"], "kernel_package": "other.deb", "kernel_reboot_ok": True,
                  "kernel_stable_seconds": 1, "__kernel_target": HERE, "__kernel_arm": False, "__kernel_reboot": True,
                  "__kernel_boot": {"default": {"kernel": HERE}}}}]}]))
    run = machines.playbook(book)
    said = f"{ONE} runs {HERE}, but not with kernel_features: kernel {HERE} has no feature local_listen; "
    run.one_failure(ONE, said, f"Then: {ONE} runs {HERE} after")
    assert "could not be committed" not in run.output and boot_id(machines, ONE) != before


def test_package_of_a_url(machines, role, package):
    """Loaded to the controller once; a checksum that is not right is refused there."""
    cache = machines.scratch / "cache"
    given = {"kernel_package": f"http://10.99.0.1:{PORT}{package}", "kernel_cache": str(cache)}
    server = subprocess.Popen([*machines.enter, "python3", "-u", "-m", "http.server", str(PORT), "--directory", "/"],
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert server.stdout.readline().startswith("Serving")
        with unchanged(machines, ONE):
            wrong = role(ONE, **given, kernel_sha256="0" * 64)
            right = role(ONE, **given)
    finally:
        server.terminate()
        server.wait()
    wrong.one_failure(ONE, "0" * 64)
    right.one_failure(ONE, "container")
    assert (cache / package.name).read_bytes() == package.read_bytes()
    # It is there, and right: nothing is loaded any more.
    role(ONE, **given).one_failure(ONE, "container")


def test_stock_where_we_never_were(machines, role):
    with unchanged(machines, TWO):
        run = role(TWO, kernel_state="stock", kernel_reboot_ok=True)
    assert run.status == 0 and run.changed() == {TWO: 0}, run.output


def test_stock_takes_features_away_where_the_package_is_not_ours(machines, role):
    """A kernel that was there before us is kept with its features, and is in no record of what we installed."""
    before = machines.snapshot(TWO)
    machines.sh(TWO, """
        mkdir -p /var/lib/fastsocket
        echo '{"local_listen": "0"}' >/var/lib/fastsocket/kernel-features.json
        echo '-net.fastsocket.local_listen = 1' >/etc/sysctl.d/60-fastsocket-kernel.conf""")
    with unchanged(machines, TWO):
        assert role(TWO, "--check", kernel_state="stock").changed() == {TWO: 1}
    assert role(TWO, kernel_state="stock").changed() == {TWO: 1}
    assert fleet.differences(before, machines.snapshot(TWO)) == {}
    assert role(TWO, kernel_state="stock").changed() == {TWO: 0}


def test_check_mode_of_the_role(machines, role):
    with unchanged(machines, TWO):
        role(TWO, "--check", "--diff").one_failure(TWO, "container")
        assert machines.sh(TWO, "ls /var/cache/fastsocket", status=None).count("No such file") == 1


@pytest.mark.parametrize("given, words", [
    ({"verify_accept_local": 99}, ["verify_accept_local 99", "a share is from 0 to 1"]),
    ({"verify_seconds": 0, "verify_min_accepts": -1, "verify_windows": 0},
     ["verify_seconds 0", "verify_min_accepts -1", "verify_windows 0: at least 1 window"]),
    ({"kernel_package": "/nowhere.deb", "kernel_sha256": "0" * 64}, ["/nowhere.deb", "found no such file"]),
])
def test_rollout_checks_proof_and_kernel_before_it_changes_anything(untouched, rollout, given, words):
    with untouched("web1"):
        run = rollout(["web1", "web2"], **given)
    run.one_failure("web1", *words)
    assert "web2" not in run.recap, run.output


def test_rollout_ends_at_a_host_that_takes_no_kernel(untouched, rollout, package):
    with untouched("web1"):
        run = rollout(["web1", "web2"], kernel_package=str(package), kernel_sha256=kernel_packages.sha256(package))
    run.one_failure("web1", "no kernel can be tried here", "container")
    assert "web2" not in run.recap, run.output


def test_rollback_to_stock_is_never_of_all_hosts_at_once(untouched, rollout):
    with untouched("web1", "web2"):
        run = rollout(["web1", "web2"], "-e", '{"kernel": true, "rollback_waves": ["100%"]}', book="rollback")
    run.one_failure("web1", "rollback_waves ['100%'] makes one wave of all 2 hosts")


def test_rollback_to_stock_where_no_kernel_of_ours_is(untouched, rollout):
    rollout(["web1", "web2"], "-e", "kernel=true", book="rollback")     # what other tests left goes
    with untouched("web1", "web2"):
        run = rollout(["web1", "web2"], "-e", "kernel=true", book="rollback", kernel_reboot_ok=True)
    assert run.status == 0 and run.changed() == {"web1": 0, "web2": 0}, run.output
    assert run.output.count("Read what was installed") == 2     # in waves
    assert run.output.index("PLAY [Away]") < run.output.index("PLAY [Stock kernel]")


def test_rollback_alone_leaves_the_kernel(rollout):
    run = rollout(["web1", "web2"], book="rollback", kernel_reboot_ok=True)
    assert run.status == 0 and "Read what was installed" not in run.output, run.output
