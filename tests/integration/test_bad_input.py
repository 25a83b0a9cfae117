# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bad input: one clear error that names the value and what would be right, and nothing changed on the host."""
import base64
import contextlib
import hashlib
import json
import struct
import subprocess

import pytest
from fleet import differences

WEB, LB = "web1", "lb"


@pytest.fixture(scope="module")
def libraries(lab, library, tmp_path_factory):
    """Files that are no library to preload, {name: path on the controller}; on WEB they are /opt/libfsocket.so.NAME."""
    folder = tmp_path_factory.mktemp("libraries")

    def compiled(name, source):
        command = ["gcc", "-shared", "-fPIC", "-o", folder / name, "-x", "c", "-"]
        subprocess.run(command, input=source, text=True, check=True)

    compiled("crashes", "__attribute__((constructor)) static void start(void) { __builtin_trap(); }")
    compiled("fails", "#include <unistd.h>\n__attribute__((constructor)) static void start(void) { _exit(3); }")
    compiled("alien", "int nothing;")
    real = library.read_bytes()
    (folder / "aarch64").write_bytes(real[:18] + struct.pack("<H", 183) + real[20:])
    (folder / "text").write_text("no library\n" * 10)
    (folder / "short").write_bytes(real[:12])
    paths = {path.name: path for path in folder.iterdir()}
    for name, path in paths.items():
        put(lab, WEB, f"/opt/libfsocket.so.{name}", path.read_bytes())
    put(lab, LB, "/opt/libfsocket.so", real)
    put(lab, WEB, "/opt/libfsocket.so", real)
    return paths


def put(lab, host, path, data):
    lab.sh(host, f"base64 -d >{path} <<END\n{base64.encodebytes(data).decode()}END\nchmod 755 {path}")


@contextlib.contextmanager
def changed_file(lab, host, path, command):
    """A file of the operator's that is broken by a shell command while the block runs."""
    lab.sh(host, f"cp -p {path} /root/kept && {command}")
    try:
        yield
    finally:
        lab.sh(host, f"cp -p /root/kept {path}")


def nginx(library):
    return "preload", {"service": "nginx", "library": f"/opt/libfsocket.so.{library}"}


SETTINGS = "listen, connect, pin, spill, log"
BAD = {
    "unknown service": ("preload", {"service": "mysql"}, ["mysql", "unknown", "haproxy, nginx"]),
    "no unit name": ("preload", {"service": "../nginx"}, ["'../nginx' is not a unit name", "nginx"]),
    "unit without a program": ("preload", {"service": "network-online.target"}, ["network-online.target"]),
    "state": ("preload", {"service": "nginx", "state": "foo"}, ["present, absent, on, off", "foo"]),
    "unknown setting": ("preload", {"service": "nginx", "settings": {"pni": True}}, ["pni", SETTINGS]),
    "setting out of range": ("preload", {"service": "nginx", "settings": {"spill": 101}}, ["spill=101", "0 to 100"]),
    "setting no number": ("preload", {"service": "nginx", "settings": {"log": "much"}}, ["log=much", "0 to 2"]),
    "setting no bool": ("preload", {"service": "nginx", "settings": {"pin": "often"}}, ["pin=often", "true or false"]),
    "on, not wrapped": ("preload", {"service": "nginx", "state": "on"}, ["nginx is not wrapped", "present"]),
    "library missing": ("preload", {"service": "nginx"}, ["/usr/lib/fastsocket/libfsocket.so", "No such file"]),
    "library of another machine": (*nginx("aarch64"), ["64-bit aarch64", "64-bit x86_64"]),
    "library crashes": (*nginx("crashes"), ["so.crashes", "dies of signal"]),
    "library fails": (*nginx("fails"), ["so.fails", "fails with it (3)"]),
    "another library": (*nginx("alien"), ["so.alien", "not libfsocket"]),
    "library is text": (*nginx("text"), ["so.text", "not an ELF file"]),
    "library cut off": (*nginx("short"), ["so.short", "not an ELF file"]),
    "library of another name": (
        "preload", {"service": "nginx", "library": "/opt/fast.so"}, ["/opt/fast.so", "libfsocket.so..."]),
    "interface": ("nic_steering", {"interfaces": ["eth9"]}, ["eth9", "eth0"]),
    "CPUs that do not exist": ("nic_steering", {"cpus": "0-4095"}, ["4095"]),
    "CPU list": ("nic_steering", {"cpus": "0-x"}, ["0-x", "0-3"]),
}


@pytest.fixture(scope="module")
def results(lab, libraries, tmp_path_factory):
    """All of BAD in one play: {name: result}, and what that changed on the host."""
    folder = tmp_path_factory.mktemp("bad")
    tasks = [{f"fastsocket.fleet.{module}": given, "register": f"bad{number}", "ignore_errors": True}
             for number, (module, given, _) in enumerate(BAD.values())]
    every = "{{ [%s] | to_json }}" % ", ".join(f"bad{number}" for number in range(len(BAD)))
    tasks.append({"ansible.builtin.copy": {"content": every, "dest": f"{folder}/results"}, "delegate_to": "localhost"})
    (folder / "bad.yml").write_text(json.dumps([{"hosts": WEB, "gather_facts": False, "tasks": tasks}]))
    before = lab.snapshot(WEB)
    run = lab.playbook(folder / "bad.yml")
    assert run.status == 0 and "Traceback" not in run.output, run.output
    changed = differences(before, lab.snapshot(WEB))
    return dict(zip(BAD, json.loads((folder / "results").read_text()), strict=True)), changed


@pytest.mark.parametrize("name", BAD)
def test_module(results, name):
    result = results[0][name]
    assert result["failed"] and not result.get("changed")
    for word in BAD[name][2]:
        assert word in result["msg"], result["msg"]
    assert len(result["msg"]) < 500


def test_modules_changed_nothing(results):
    assert results[1] == {}


def test_service_is_not_installed(lab, untouched):
    places = "/lib/systemd/system/nginx.service /etc/init.d/nginx"
    lab.sh(LB, f"mkdir /root/away && mv {places} /root/away && systemctl daemon-reload")
    try:
        with untouched(LB):
            result = lab.module(LB, "preload", service="nginx")
    finally:
        lab.sh(LB, "cd /root/away; mv nginx.service /lib/systemd/system/; mv nginx /etc/init.d/")
        lab.sh(LB, "systemctl daemon-reload")
    assert result["failed"] and "nginx is not installed on this host" in result["msg"], result


@pytest.mark.parametrize("host, service, path, command, words", [
    (WEB, "nginx", "/etc/nginx/nginx.conf", "echo 'listen on;' >>/etc/nginx/nginx.conf", ["nginx -t", "nginx.conf:"]),
    (LB, "haproxy", "/etc/haproxy/haproxy.cfg", "echo 'bend :81' >>/etc/haproxy/haproxy.cfg", ["haproxy.cfg", "bend"]),
])
def test_configuration_check_fails(lab, untouched, libraries, host, service, path, command, words):
    with changed_file(lab, host, path, command), untouched(host):
        result = lab.module(host, "preload", service=service, library="/opt/libfsocket.so")
    assert result["failed"]
    for word in ["does not pass its own check, nothing was changed", *words]:
        assert word in result["msg"], result["msg"]


@contextlib.contextmanager
def operators_unit(lab, service, *lines):
    """A drop-in of the operator's while the block runs."""
    folder = f"/etc/systemd/system/{service}.service.d"
    text = "\n".join(["[Service]", *lines])
    lab.sh(LB, f"mkdir {folder}\ncat >{folder}/90-operator.conf <<'END'\n{text}\nEND\nsystemctl daemon-reload")
    try:
        yield
    finally:
        lab.sh(LB, f"rm -r {folder}; systemctl daemon-reload; systemctl reset-failed {service}")
        lab.sh(LB, f"systemctl restart {service}")


def test_configuration_check_fails_with_our_extra_file_only(lab, untouched, libraries):
    """The service must not even be restarted."""
    refuse = "case $* in */etc/haproxy/haproxy.cfg*-f*) echo one file is enough; exit 1 ;; esac"
    put(lab, LB, "/usr/local/sbin/picky", f'#!/bin/sh\n{refuse}\nexec haproxy "$@"\n'.encode())
    start = "ExecStart=/usr/local/sbin/picky -Ws -f $CONFIG -p $PIDFILE $EXTRAOPTS"
    with operators_unit(lab, "haproxy", "ExecStart=", start):
        with untouched(LB):
            result = lab.module(LB, "preload", service="haproxy", library="/opt/libfsocket.so")
    assert result["failed"] and "one file is enough" in result["msg"], result["msg"]


def test_service_does_not_start_with_the_library(lab, libraries):
    with operators_unit(lab, "haproxy", "ExecStartPre=/bin/sh -c 'test -z \"$$LD_PRELOAD\"'"):
        before = lab.snapshot(LB)
        result = lab.module(LB, "preload", service="haproxy", library="/opt/libfsocket.so")
        after = lab.snapshot(LB)
        assert lab.sh(LB, "systemctl is-active haproxy") == "active\n"
    assert result["failed"] and "haproxy.service was put back as it was" in result["msg"], result["msg"]
    # It had to be started twice.
    restarted = {"service haproxy.MainPID", "service haproxy.ActiveEnterTimestampMonotonic"}
    assert set(differences(before, after)) == restarted, differences(before, after)


LOOPING = """[Service]
ExecStart=/bin/sh -c 'test -z "$$LD_PRELOAD" && exec sleep 1000; sleep {0}; kill -SEGV $$$$'
Restart=always
RestartSec=50ms
StartLimitIntervalSec=0
"""


@pytest.mark.parametrize("seconds", [0, 0.5, 1.5])
def test_unknown_service_that_crashes_with_the_library_over_and_over(lab, libraries, seconds):
    """systemd starts it again each time, so that at any one moment it may well be active."""
    unit = "/etc/systemd/system/looping.service"
    put(lab, LB, unit, LOOPING.format(seconds).encode())
    lab.sh(LB, "systemctl daemon-reload; systemctl start looping")
    try:
        before = lab.snapshot(LB)
        result = lab.module(LB, "preload", service="looping", library="/opt/libfsocket.so")
        assert differences(before, lab.snapshot(LB)) == {}
        shown = lab.sh(LB, "systemctl show looping -p ActiveState,Environment").split()
        assert sorted(shown) == ["ActiveState=active", "Environment="]
        # Not by NRestarts: systemd goes on counting when it is told to restart what it was about to start itself.
        left = lab.sh(LB, "sleep 0.5; xargs -0n1 </proc/$(systemctl show looping -P MainPID)/environ")
        assert left and "LD_PRELOAD" not in left
    finally:
        lab.sh(LB, f"systemctl stop looping; rm {unit}; systemctl daemon-reload")
    assert result["failed"] and "looping.service was put back as it was" in result["msg"], result["msg"]
    assert "ended soon after its start with the library" in result["msg"], result["msg"]


@pytest.mark.parametrize("become, words", [((), ["root", "become: true"]), (("--become",), ["sudo password"])])
def test_no_rights(lab, untouched, become, words):
    wrap = {"service": "nginx", "library": "/opt/libfsocket.so"}
    with untouched(WEB):
        for module, given in (("nic_steering", {"cpus": "0"}), ("preload", wrap)):
            result = lab.module(WEB, module, "-e", "ansible_user=nosudo", *become, **given)
            assert result["failed"], result
            for word in words:
                assert word in result["msg"] + result.get("module_stdout", ""), result["msg"]


ROLE = [{"hosts": WEB, "gather_facts": False, "roles": ["fastsocket.fleet.libfsocket"]}]


@pytest.mark.parametrize("name, given, words", [
    ("aarch64", {}, ["aarch64"]),
    ("crashes", {}, ["dies of signal"]),
    ("alien", {"libfsocket_sha256": "0" * 64}, ["alien", "0" * 64, "found "]),
    ("none", {}, ["none", "no such file"]),
    ("alien", {"libfsocket_state": "foo"}, ["libfsocket_state", "present, absent", "foo"]),
])
def test_library_role(lab, untouched, libraries, tmp_path, name, given, words):
    path = libraries.get(name, tmp_path / name)
    right = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "0" * 64
    (tmp_path / "role.yml").write_text(json.dumps(ROLE))
    asked = {"libfsocket_file": str(path), "libfsocket_sha256": right, "libfsocket_build_dir": str(lab.build)}
    with untouched(WEB):
        run = lab.playbook(tmp_path / "role.yml", "-e", json.dumps({**asked, **given}))
    run.one_failure(WEB, *words)


@pytest.mark.parametrize("given, words", [
    ({"preload_services": ["nginx", "mysql"]}, ["mysql", "unknown"]),
    ({"nic_interfaces": ["eth9"]}, ["eth9"]),
    ({"preload_state": "foo"}, ["preload_state", "foo"]),
])
def test_rollout_changes_nothing_before_all_input_is_checked(untouched, rollout, given, words):
    with untouched(WEB):
        run = rollout([WEB, "web2"], **given)
    run.one_failure(WEB, *words)
    assert "web2" not in run.recap, run.output
