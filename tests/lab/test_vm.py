# SPDX-License-Identifier: GPL-3.0-or-later
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
"""The virtual machines of the lab, for real: their interrupts, their GRUB, their console. Needs root."""
import json
import os
import re
import signal
import subprocess
import time

import pytest
from labcalls import LAB, RUN, lab, namespaces, processes, traces

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the lab needs root")

NAME = f"t{os.getpid()}v"
BOOT = 300.0  # seconds; 50 on 2 idle cores
QUEUES = 4
BOOT_ID = "cat /proc/sys/kernel/random/boot_id"
# A second entry: the first one's lines under a name of its own, with two arguments more.
ENTRY = r"""set -e
sed -n '/^menuentry/,/^}/p' /boot/grub/grub.cfg | sed -e "s/gnulinux-simple-[^']*/lab-trial/" \
    -e 's/ quiet/ quiet lab.trial panic=1/' >/boot/grub/custom.cfg
grub-reboot lab-trial
sync
systemctl reboot
"""
HELLO = "import socket; print(socket.create_connection(('10.97.0.10', 22), 10).recv(7).decode())"


def write_spec(folder, name=NAME):
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"name": name, "network": "10.97.0.0/24", "host": [
        {"name": "vm1", "kind": "vm", "address": ["10.97.0.2", "10.97.0.3"], "profile": "nginx", "cpus": QUEUES,
         "memory": 1024}, {"name": "client", "address": ["10.97.0.10"]}]}))
    return str(path)


def ssh(command, login="root", check=True):
    return lab("ssh", "--name", NAME, "--login", login, "vm1", command, check=check).stdout.strip()


def run(command, check=True):
    """COMMAND of a shell in the machine, by its agent."""
    return lab("exec", "--name", NAME, "vm1", "--", "sh", "-c", command, check=check).stdout.strip()


def booted(former):
    """Wait for another boot than FORMER and its end; returns its boot id."""
    limit = time.monotonic() + BOOT
    while time.monotonic() < limit:
        now = run(BOOT_ID, check=False)
        if now not in ("", former):
            assert run("systemctl is-system-running --wait", check=False) == "running"
            return now
    raise AssertionError(f"no other boot than {former} in {BOOT:.0f} s")


@pytest.fixture(scope="module", name="up")
def fixture_up(tmp_path_factory):
    before = traces(NAME)
    spec = write_spec(tmp_path_factory.mktemp("lab"))
    lab("up", "--spec", spec)
    spaces = set(processes(NAME).values()) - {os.readlink("/proc/self/ns/net")}
    yield spec
    lab("down", "--spec", spec)
    assert spaces and not spaces & namespaces()
    assert traces(NAME) == before


def test_ssh_users_and_systemd(up):
    name, running, identity, journal = ssh("hostname; systemctl is-system-running; cat /etc/machine-id;"
                                           " ls /var/log/journal").split()
    assert (name, running) == ("vm1", "running") and identity == journal
    assert ssh("sudo -n id -un", login="ops") == "root"
    assert ssh("sudo -n true || echo refused", login="nosudo") == "refused"


def test_containers_and_machines_talk(up):
    fetch = "import urllib.request as u; print(*[u.urlopen(f'http://10.97.0.{n}/').status for n in (2, 3)])"
    assert lab("exec", "--name", NAME, "client", "--", "python3", "-c", fetch).stdout.split() == ["200", "200"]
    assert ssh(f'python3 -c "{HELLO}"') == "SSH-2.0"


def irqs():
    """Queue -> (number of its interrupt, its count on each CPU)."""
    lines = [line.split() for line in ssh("grep -E 'virtio0-input' /proc/interrupts").splitlines()]
    return {int(line[-1].rpartition(".")[2]): (line[0].rstrip(":"), [int(word) for word in line[1:1 + QUEUES]])
            for line in lines}


def test_one_interrupt_a_queue_and_it_moves(up):
    before = irqs()
    assert sorted(before) == list(range(QUEUES))
    # Every queue to CPU 2, so that whatever comes in from now on is counted there.
    ssh("; ".join(f"echo 4 >/proc/irq/{number}/smp_affinity" for number, _counts in before.values()))
    begin = irqs()
    for _time in range(5):
        end = irqs()  # asking is traffic, too
    for queue in range(QUEUES):
        grown = [now - then for then, now in zip(begin[queue][1], end[queue][1], strict=True)]
        assert sum(grown) - grown[2] <= 1, (queue, grown)  # an interrupt moves when it next comes
    assert sum(end[queue][1][2] - begin[queue][1][2] for queue in end) > 5


def test_exec_needs_no_network(up):
    run("ip link set eth0 down")
    refused = lab("exec", "--name", NAME, "vm1", "--", "sh", "-c", "ip -br link show eth0; echo no >&2; exit 7",
                  check=False)
    run("ip link set eth0 up")
    assert (refused.returncode, refused.stderr) == (7, "no\n") and " DOWN " in refused.stdout


def test_grub_tries_an_entry_once_and_a_panic_comes_back(up):
    first = run(BOOT_ID)
    run(ENTRY)
    second = booted(first)
    assert "lab.trial" in run("cat /proc/cmdline")
    assert "next_entry=lab" not in run("grub-editenv list")
    run("echo 1 >/proc/sys/kernel/sysrq; sync; (sleep 1; echo c >/proc/sysrq-trigger) >/dev/null 2>&1 &")
    booted(second)
    assert "lab.trial" not in run("cat /proc/cmdline")
    assert "sysrq triggered crash" in run("cat /var/lib/systemd/pstore/*/dmesg.txt")
    with open(f"{RUN}/{NAME}/vm1.log", encoding="utf-8", errors="replace") as console:
        assert re.search(r"sysrq triggered crash.*GNU GRUB.*Booting `Debian GNU/Linux'", console.read(), re.DOTALL)
    assert ssh("systemctl is-active nginx; journalctl --list-boots | wc -l").split()[0] == "active"


def test_monitor_stops_and_goes_on(up):
    lab("monitor", "--name", NAME, "vm1", "stop")
    assert json.loads(lab("monitor", "--name", NAME, "vm1", "query-status").stdout)["status"] == "paused"
    lab("monitor", "--name", NAME, "vm1", "cont")
    assert run("echo here") == "here"
    wrong = lab("monitor", "--name", NAME, "client", "stop", check=False)
    assert wrong.returncode == 1 and "is a container, only a vm has a monitor" in wrong.stderr


def test_ended_machine_is_seen(up):
    lab("monitor", "--name", NAME, "vm1", "quit")
    limit = time.monotonic() + 10
    while lab("status", "--name", NAME, check=False).returncode == 0 and time.monotonic() < limit:
        time.sleep(0.1)
    assert json.loads(lab("status", "--name", NAME, "--json", check=False).stdout)[0]["status"] == "broken"
    gone = lab("exec", "--name", NAME, "vm1", "--", "true", check=False)
    assert gone.returncode == 1 and "vm1 of lab" in gone.stderr and "is not running" in gone.stderr


def test_killed_launcher_then_down_leaves_nothing(tmp_path):
    name = NAME + "-k"
    before = traces(name)
    launcher = subprocess.Popen([LAB, "up", "--spec", write_spec(tmp_path, name)], text=True, stdout=subprocess.PIPE)
    try:
        for line in launcher.stdout:
            if "started after" in line:
                break
        time.sleep(1)
        spaces = set(processes(name).values()) - {os.readlink("/proc/self/ns/net")}
        launcher.send_signal(signal.SIGKILL)
        launcher.communicate()
    finally:
        launcher.kill()
        lab("down", "--name", name)
    assert spaces and not spaces & namespaces()
    assert traces(name) == before
