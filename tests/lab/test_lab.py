# SPDX-License-Identifier: GPL-3.0-or-later
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
"""The lab, for real: boots hosts, looks at them from inside and outside, and breaks `up` half way. Needs root."""
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from labcalls import LAB, lab, namespaces, processes, traces

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the lab needs root")

NAME = f"t{os.getpid()}"

GETFD = """
import ctypes, os, socket, time
server = socket.create_server(("127.0.0.1", 0))
child = os.fork() or (time.sleep(5), os._exit(0))
libc = ctypes.CDLL(None, use_errno=True)
handle = os.pidfd_open(child)
assert libc.syscall(438, handle, server.fileno(), 0) >= 0, os.strerror(ctypes.get_errno())
os.kill(child, 9)
"""

FETCH = """
import time, urllib.request
for path in ("", "slow"):
    begin = time.monotonic()
    answer = urllib.request.urlopen("http://10.98.0.2/" + path)
    body = answer.read()
    print(answer.status, len(body), time.monotonic() - begin)
"""


def ssh(command, login="root", name=NAME, check=True):
    return lab("ssh", "--name", name, "--login", login, "web", command, check=check)


def write_spec(folder, lab_name=NAME, **host):
    path = folder / f"{lab_name}.json"
    path.write_text(json.dumps({"name": lab_name, "network": "10.98.0.0/24", "host": [
        {"name": "web", "address": ["10.98.0.2", "10.98.0.3"], "profile": "nginx", "queues": 3} | host]}))
    return str(path)


@pytest.fixture(scope="module", name="up")
def fixture_up(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    (folder / "shown").mkdir()
    (folder / "shown" / "word").write_text("seen")
    spec = write_spec(folder)
    done = lab("up", "--spec", spec, "--bind", f"web={folder}/shown:/opt/shown")
    yield {"spec": spec, "output": done.stdout}
    lab("down", "--spec", spec)


def test_ssh_and_systemd(up):
    assert "up: 1 hosts" in up["output"]
    assert ssh("hostname; systemctl is-system-running").stdout.split() == ["web", "running"]
    assert "nginx: worker process" in ssh("systemctl status nginx").stdout  # cgroups work
    assert json.loads(lab("status", "--name", NAME, "--json").stdout)[0]["status"] == "up"


def test_users(up):
    assert ssh("sudo -n id -un", login="ops").stdout.strip() == "root"
    assert "password is required" in ssh("sudo -n id -un", login="nosudo", check=False).stderr


QUEUES = "/sys/class/net/eth0/queues"


def test_queues_are_writable(up):
    script = (f"set -e; cd {QUEUES}; echo 3 >rx-2/rps_cpus; echo 4096 >rx-2/rps_flow_cnt; echo 1 >tx-2/xps_cpus;"
              " ls | wc -l; cat rx-2/rps_cpus rx-2/rps_flow_cnt tx-2/xps_cpus")
    queues, rps, flows, xps = ssh(script).stdout.split()
    assert (queues, int(rps, 16), int(flows), int(xps, 16)) == ("6", 3, 4096, 1)


def test_only_its_own_sysctls_are_writable(up):
    assert ssh("sysctl -w net.ipv4.tcp_fin_timeout=31").stdout.strip() == "net.ipv4.tcp_fin_timeout = 31"
    files = "kernel/panic vm/swappiness fs/file-max"
    refused = ssh(f"cd /proc/sys; for f in {files}; do echo $(cat $f) >$f && echo $f; done", check=False)
    assert refused.stdout == "" and refused.stderr.count("Read-only file system") == 3


def test_sockets_can_be_read_from_outside_a_process(up):
    ssh(f"python3 -c '{GETFD}'")


def test_nginx_answers_the_controller(up):
    fast, slow = lab("run", "--name", NAME, "--", "python3", "-c", FETCH).stdout.splitlines()
    assert fast.split()[:2] == ["200", "64"] and float(fast.split()[2]) < 0.3
    assert slow.split()[:2] == ["200", "8192"] and 0.4 < float(slow.split()[2]) < 2


def test_bind_is_read_only(up):
    assert ssh("cat /opt/shown/word").stdout == "seen"
    assert "Read-only" in ssh("echo x >/opt/shown/word", check=False).stderr


def test_nothing_of_it_is_on_the_machine(up):
    seen = traces(NAME)
    assert seen["mounts"] == [] and "web" not in seen["links"] and "br0" not in seen["links"]
    assert os.readlink("/proc/self/ns/net") not in seen["processes"].values()
    with open("/proc/sys/net/core/rps_sock_flow_entries", encoding="ascii") as file:
        assert int(file.read()) >= 32768


def test_host_reboots(up):
    before = ssh("cat /proc/sys/kernel/random/boot_id").stdout
    ssh("systemctl reboot", check=False)
    limit = time.monotonic() + 20
    while time.monotonic() < limit:
        time.sleep(0.1)
        after = ssh("cat /proc/sys/kernel/random/boot_id", check=False)
        if after.returncode == 0 and after.stdout != before:
            break
    assert after.returncode == 0 and after.stdout != before
    ssh(f"echo 1 >{QUEUES}/rx-0/rps_cpus")


def test_second_lab_with_the_same_addresses(up, tmp_path):
    other = NAME + "-b"
    spec = write_spec(tmp_path, other, profile="bare")
    try:
        lab("up", "--spec", spec)
        assert ssh("systemctl is-active nginx", name=other, check=False).stdout.strip() == "inactive"
        assert ssh("systemctl is-active nginx").stdout.strip() == "active"
    finally:
        lab("down", "--name", other)
    assert not any(value for key, value in traces(other).items() if key != "links")


def test_up_on_top_of_up_starts_afresh(up):
    before = traces(NAME)["processes"]
    lab("up", "--spec", up["spec"])
    assert not set(before) & set(processes(NAME))
    assert ssh("true").returncode == 0


@pytest.fixture(name="begun")
def fixture_begun(tmp_path):
    """Start `up` of a lab; the test ends the launcher."""
    name = NAME + "-k"
    before = traces(name), namespaces()
    launcher = subprocess.Popen([LAB, "up", "--spec", write_spec(tmp_path, name)], text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    yield name, launcher, before[0]
    launcher.kill()
    launcher.communicate()
    lab("down", "--name", name)


def watch(name, launcher, seconds):
    """Let `up` work for so long; returns the namespaces of the processes it has by then."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit and launcher.poll() is None:
        time.sleep(0.01)
    return set(processes(name).values()) - {os.readlink("/proc/self/ns/net")}


@pytest.mark.parametrize("seconds", [0.15, 0.3, 0.5, 0.9])
def test_killed_launcher_then_down_leaves_nothing(begun, seconds):
    name, launcher, before = begun
    spaces = watch(name, launcher, seconds)
    launcher.send_signal(signal.SIGKILL)
    launcher.wait()
    lab("down", "--name", name)
    assert traces(name) == before
    assert not spaces & namespaces()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_interrupted_up_cleans_by_itself(begun, number):
    name, launcher, before = begun
    for line in launcher.stdout:
        if "started after" in line:
            break
    spaces = watch(name, launcher, 0.3)
    assert spaces
    launcher.send_signal(number)
    assert launcher.wait(timeout=30) == 128 + number
    assert traces(name) == before
    assert not spaces & namespaces()


def test_busy_name_is_refused(begun, tmp_path):
    name, launcher, _before = begun
    assert "started after" in next(line for line in launcher.stdout if "started after" in line)
    refused = lab("down", "--name", name, check=False)
    assert refused.returncode == 1 and f"in use: process {launcher.pid} " in refused.stderr
    launcher.stdout.read()
    assert launcher.wait() == 0


@pytest.mark.parametrize("change, words", [
    ({"profile": "apache"}, "profile 'apache' is unknown"),
    ({"kind": "jail"}, "kind 'jail' is unknown"),
    ({"cpus": 4}, "{'cpus': 4} is for kind vm"),
    ({"kind": "vm", "memory": 64}, "memory is 64, must be 384"),
    ({"kind": "vm", "cpus": 0}, "cpus is 0, must be 1"),
    ({"kind": "vm", "bind": ["/etc:/x"]}, "a virtual machine sees no path of the machine"),
    ({"queues": 0}, "queues is 0"),
    ({"queues": "two"}, "queues is 'two'"),
    ({"address": ["10.97.0.2"]}, "must be an address of 10.98.0.0/24"),
    ({"address": ["10.98.0.1"]}, "belongs to the controller already"),
    ({"address": []}, "address is empty"),
    ({"name": "a-name-too-long-for-a-port"}, "must be 1 to 15"),
    ({"bind": ["/no/such/folder:/x"]}, "/no/such/folder does not exist"),
    ({"colour": "red"}, "unknown key 'colour'"),
])
def test_bad_spec_is_one_clear_error(tmp_path, change, words):
    name = NAME + "-e"
    done = lab("up", "--spec", write_spec(tmp_path, name, **change), check=False)
    assert done.returncode == 1 and words in done.stderr and done.stderr.count("\n") == 1
    assert not any(value for key, value in traces(name).items() if key != "links")


def test_not_root_is_refused():
    done = subprocess.run(["setpriv", "--reuid=65534", "--clear-groups", LAB, "status"],
                          stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1 and "must run as root" in done.stderr


def test_missing_tool_names_its_package(tmp_path):
    os.symlink(sys.executable, tmp_path / "python3")
    for tool in ("dirname", "readlink"):
        os.symlink(shutil.which(tool), tmp_path / tool)
    done = lab("up", check=False, env={"PATH": str(tmp_path)})
    assert done.returncode == 1 and "apt-get install " in done.stderr and "systemd-container" in done.stderr
