# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is known of nginx and HAProxy, judged by the real programs where they are."""

import shutil
import subprocess

import captured
import native
import pytest

from ansible_collections.fastsocket.fleet.plugins.module_utils import leave, paths, services, systemd
from ansible_collections.fastsocket.fleet.plugins.module_utils.errors import FleetError

PROPERTIES = {"Environment": "", "EnvironmentFiles": ""}
ALL = ["nbthread 3", "cpu-map auto:1/1-3 0 2-3", "tune.listener.multi-queue off", "tune.idle-pool.shared off"]
THREADS, BALANCING = ALL[:2], ALL[2:]
HAPROXY = "global\n  %s\ndefaults\n  mode http\n  timeout connect 1s\n  timeout client 1s\n  timeout server 1s\n" \
          "frontend f\n  bind 127.0.0.1:1\n"


@pytest.mark.parametrize("own, added", [
    ("maxconn 10", ALL),
    ("# nbthread 4\n  # cpu-map 1 1", ALL),
    ("nbthread 4", BALANCING),
    ("cpu-map auto:1/1-4 0-3", BALANCING),
    ("nbthread\t4\n\tcpu-map 1/all 0", BALANCING),
    ("tune.listener.multi-queue on", THREADS + ALL[3:]),
    ("tune.idle-pool.shared on", ALL[:3]),
    ("tune.idle-pool.shared-not 1", ALL),
    ("nbthread 4\n  tune.listener.multi-queue on\n  tune.idle-pool.shared on", []),
])
def test_haproxy_extra(own, added):
    """Nothing that the operator has decided is decided again; threads and their CPUs are one decision."""
    lines = services.haproxy_extra(HAPROXY % own, [0, 2, 3]).splitlines()
    assert lines == [paths.MADE_BY.rstrip("\n"), "global"] + ["    " + line for line in added]


@pytest.mark.skipif(not shutil.which("haproxy"), reason="needs haproxy")
@pytest.mark.parametrize("cpus", [[0], [0, 1], [1, 3, 4, 5], list(range(24)), list(range(128))])
def test_haproxy_takes_the_extra_file(tmp_path, cpus):
    own, extra = tmp_path / "own.cfg", tmp_path / "extra.cfg"
    own.write_text(HAPROXY % "maxconn 10")
    extra.write_text(services.haproxy_extra(own.read_text(), cpus))
    words = ["haproxy", "-Ws", "-f", str(own), "-p", "/run/x"]
    services.check_configuration("haproxy", PROPERTIES, words, ["-f", str(extra)])
    said = subprocess.run(["haproxy", "-c", "-f", own, "-f", extra], capture_output=True, text=True, check=True)
    assert "WARNING" not in said.stdout + said.stderr


@pytest.mark.skipif(not shutil.which("haproxy"), reason="needs haproxy")
def test_the_check_of_haproxy_says_why(tmp_path):
    own = tmp_path / "own.cfg"
    own.write_text(HAPROXY % "nonsense 1")
    with pytest.raises(FleetError, match="unknown keyword 'nonsense'"):
        services.check_configuration("haproxy", PROPERTIES, ["haproxy", "-Ws", "-f", str(own)])


@pytest.mark.skipif(not shutil.which("nginx"), reason="needs nginx")
def test_the_check_of_nginx(tmp_path):
    conf = tmp_path / "nginx.conf"
    words = ["nginx", "-g", "daemon", "on;", "-p", str(tmp_path), "-c", str(conf), "-e", str(tmp_path / "log")]
    for own, fails in (("events { }", False), ("events { } http { nonsense; }", True)):
        conf.write_text(f"pid {tmp_path}/pid; error_log {tmp_path}/log; {own}")
        if not fails:
            services.check_configuration("nginx", PROPERTIES, words)
            continue
        with pytest.raises(FleetError) as caught:
            services.check_configuration("nginx", PROPERTIES, words)
        assert str(caught.value).startswith(
            "the configuration of nginx does not pass its own check, nothing was changed: "
            f"`nginx -p {tmp_path} -c {conf} -e {tmp_path}/log -t -q` says: ")
        assert 'unknown directive "nonsense"' in str(caught.value)


def test_a_service_without_a_check_of_its_own():
    services.check_configuration("sshd", PROPERTIES, ["/no/such/program"])


def test_names():
    for service in ("nginx", "nginx.service"):
        assert services.unit_of(service) == "nginx.service" and services.name_of(service) == "nginx"
        assert services.known(service) is services.SERVICES["nginx"]
    assert services.known("nginx@edge.service") is services.SERVICES["nginx"]
    assert services.name_of("nginx@edge.service") == "nginx@edge"
    assert services.known("varnish") is services.OTHER and services.known("nginxed") is services.OTHER


def test_every_way_to_leave_exists():
    assert {row.leave for row in services.SERVICES.values()} == set(leave.WAYS)


@pytest.mark.parametrize(
    "service", ["", "-x", "a/b", "a b", "../nginx", "nginx;reboot", "ngin\u00fc", ".nginx", "nginx\n"])
def test_what_is_no_unit_name(service):
    with pytest.raises(FleetError, match="is not a unit name; give a name like nginx or haproxy.service") as caught:
        services.find(service)
    assert repr(service) in str(caught.value)


@pytest.mark.parametrize("service, text, said", [
    ("nginx", captured.MISSING, "nginx is not installed on this host: there is no unit nginx.service"),
    ("nginy", captured.MISSING, "service nginy is unknown: there is no unit nginy.service on this host; known by name "
                                "are haproxy, nginx, and any systemd service works"),
    ("nginx", captured.NGINX.replace("=loaded", "=masked"), "unit nginx.service cannot be used: systemd says masked"),
    ("web.service", "LoadState=loaded\n", "unit web.service starts no program (no ExecStart)"),
])
def test_a_service_that_cannot_be_wrapped(monkeypatch, service, text, said):
    monkeypatch.setattr(systemd, "show", lambda unit: captured.properties(text))
    with pytest.raises(FleetError) as caught:
        services.find(service)
    assert str(caught.value) == said


def test_find(monkeypatch):
    monkeypatch.setattr(systemd, "show", lambda unit: {"haproxy.service": captured.properties(captured.HAPROXY)}[unit])
    assert services.find("haproxy") == services.find("haproxy.service") == captured.properties(captured.HAPROXY)


def test_command(tmp_path):
    """The operator's file wins over the unit; ours does not count when it is left out."""
    found = captured.properties(captured.HAPROXY.replace("/etc/default/", f"{tmp_path}/"))
    (tmp_path / "haproxy").write_text("CONFIG=/srv/h.cfg\nEXTRAOPTS='-f \"/srv/two words.cfg\"'\n")
    ours = tmp_path / "ours.env"
    ours.write_text("EXTRAOPTS=-f /ours\n")
    found["EnvironmentFiles"] += f"\n{ours} (ignore_errors=no)"
    assert services.command("haproxy", found)[-2:] == ["-f", "/ours"]
    words = services.command("haproxy", found, skip=(str(ours),))
    assert words == [
        "/usr/sbin/haproxy", "-Ws", "-f", "/srv/h.cfg", "-p", "/run/haproxy.pid", "-f", "/srv/two words.cfg"]
    assert services.kept_options("haproxy", words) == ["-f", "/srv/h.cfg", "-f", "/srv/two words.cfg"]


def test_kept_options():
    words = "nginx -g daemon on; -c /a -p /b -e stderr -t -c".split()
    assert services.kept_options("nginx", words) == ["-c", "/a", "-p", "/b", "-e", "stderr"]
    words = "haproxy -C /d -f a -p pid -f b".split()
    assert services.kept_options("haproxy", words) == ["-C", "/d", "-f", "a", "-f", "b"]
    assert services.kept_options("varnish", words) == []


def test_configurations(tmp_path):
    """Files and folders that -f names, a folder's files in order."""
    for name in ("b.cfg", "a.cfg"):
        (tmp_path / name).write_bytes(name.encode() + b"\xff")
    words = ["haproxy", "-f", str(tmp_path), "-f", str(tmp_path / "a.cfg"), "-p", "x", "-f"]
    assert services.configurations("haproxy", words).split("\n") == ["a.cfg\ufffd", "b.cfg\ufffd", "a.cfg\ufffd", ""]
    with pytest.raises(FleetError, match=f"haproxy: configuration file {tmp_path}/none cannot be read: .*No such file"):
        services.configurations("haproxy", ["haproxy", "-f", str(tmp_path / "none")])


def test_roles_and_library_know_the_same_services():
    assert set(services.SERVICES) == {"nginx", "haproxy"}
    text = (native.ROOT / "plugins/modules/preload.py").read_text()
    assert all(f"C({name})" in text for name in services.SERVICES)
