# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What wraps a service, file by file. That systemd takes it is the matter of the molecule scenarios."""

import json
import os
import shutil
import subprocess
import time

import captured
import native
import pytest

from ansible_collections.fastsocket.fleet.plugins.module_utils import hostfile, paths, preload, systemd, wrapping
from ansible_collections.fastsocket.fleet.plugins.module_utils.errors import FleetError

MADE = paths.MADE_BY
DROPIN = "/etc/systemd/system/%s.service.d/zz-fastsocket.conf"
SWITCH_FILE = MADE + "d /run/fastsocket 0755 root root -\nf /run/fastsocket/%s.switch 0644 root root - 1\n"


def wrap(service, **settings):
    return wrapping.Wrap(service, paths.LIBRARY, settings)


def haproxy(tmp_path, **changed):
    """The captured unit, its environment file in `tmp_path`."""
    return captured.properties(captured.HAPROXY.replace("/etc/default/", f"{tmp_path}/"), **changed)


def test_nginx():
    properties = captured.properties(captured.NGINX)
    found, warnings = wrapping.files(wrap("nginx", pin=1, spill=0), properties, "", [0, 1], "on")
    assert dict(found) == {
        DROPIN % "nginx": MADE + (
            '[Service]\nEnvironment="LD_PRELOAD=/usr/lib/fastsocket/libfsocket.so"\nEnvironment="FSOCKET_NAME=nginx"\n'
            'Environment="FSOCKET_PIN=1"\nEnvironment="FSOCKET_SPILL=0"\n'),
        "/etc/tmpfiles.d/fastsocket-nginx.conf": SWITCH_FILE % "nginx",
        "/etc/fastsocket/nginx.json": hostfile.json_text({
            "service": "nginx", "unit": "nginx.service", "library": paths.LIBRARY, "settings": {"pin": 1, "spill": 0}}),
    }
    assert warnings == []


def test_haproxy(tmp_path):
    """The extra file is added to what the operator has in EXTRAOPTS, and a second run changes nothing."""
    properties = haproxy(tmp_path)
    found, warnings = wrapping.files(wrap("haproxy"), properties, "global\n  nbthread 2\n", [0, 1], "on")
    assert found["/etc/fastsocket/haproxy.cfg"] == MADE + (
        "global\n    tune.listener.multi-queue off\n    tune.idle-pool.shared off\n")
    assert found["/etc/fastsocket/haproxy.env"] == MADE + (
        'EXTRAOPTS="-S /run/haproxy-master.sock -f /etc/fastsocket/haproxy.cfg"\n')
    assert found[DROPIN % "haproxy"].splitlines()[-1] == "EnvironmentFile=-/etc/fastsocket/haproxy.env"
    assert found["/etc/tmpfiles.d/fastsocket-haproxy.conf"] == SWITCH_FILE % "haproxy"
    assert warnings == []
    wrapped = dict(properties)
    wrapped["Environment"] += ' "LD_PRELOAD=%s" FSOCKET_NAME=haproxy' % paths.LIBRARY
    wrapped["EnvironmentFiles"] += "\n/etc/fastsocket/haproxy.env (ignore_errors=no)"
    assert wrapping.files(wrap("haproxy"), wrapped, "global\n  nbthread 2\n", [0, 1], "on")[0] == found


@pytest.mark.parametrize("line, now", [
    ('EXTRAOPTS="-de -m 16"', "-de -m 16 "), ("EXTRAOPTS=", ""), ('EXTRAOPTS=-x "a b"', '-x \\"a b\\" ')])
def test_haproxy_with_options_of_the_operator(tmp_path, line, now):
    (tmp_path / "haproxy").write_text(line + "\n")
    found = wrapping.files(wrap("haproxy"), haproxy(tmp_path), "", [0, 1], "on")[0]
    text = found["/etc/fastsocket/haproxy.env"]
    assert text == MADE + 'EXTRAOPTS="%s-f /etc/fastsocket/haproxy.cfg"\n' % now
    written = tmp_path / "written"
    written.write_text(text)
    own, ours = (systemd.environment_file(str(path))["EXTRAOPTS"] for path in (tmp_path / "haproxy", written))
    assert ours == (own + " -f /etc/fastsocket/haproxy.cfg").strip()


def test_haproxy_with_another_variable(tmp_path):
    """Red Hat's unit calls it OPTIONS."""
    properties = haproxy(tmp_path, Environment="CONFIG=/c")
    properties["ExecStart"] = properties["ExecStart"].replace("$EXTRAOPTS", "$OPTIONS")
    assert wrapping.extra_variable("haproxy", properties) == ("OPTIONS", "-f /etc/fastsocket/haproxy.cfg")


def test_haproxy_without_such_a_variable(tmp_path):
    """Nothing is left half done: no file that nobody reads, and a warning that says what to do."""
    properties = haproxy(tmp_path)
    properties["ExecStart"] = properties["ExecStart"].replace(" $EXTRAOPTS", " ${EXTRAOPTS}")  # one word: no use
    found, warnings = wrapping.files(wrap("haproxy"), properties, "", [0, 1], "on")
    assert not [path for path in found if path.endswith((".cfg", ".env"))]
    assert "EnvironmentFile" not in found[DROPIN % "haproxy"]
    assert warnings == ["the unit of haproxy takes no EXTRAOPTS or OPTIONS: add /etc/fastsocket/haproxy.cfg to its "
                        "command line by hand, or its own balancing moves connections between cores"]


def test_sandbox_and_instance():
    properties = captured.properties(captured.NGINX, ProtectSystem="strict")
    found = wrapping.files(wrap("nginx@edge"), properties, "", [0], "off")[0]
    text = found[DROPIN % "nginx@edge"]
    assert text.splitlines()[-1] == "ReadWritePaths=-/run/fastsocket" and '"FSOCKET_NAME=nginx@edge"' in text
    assert found["/etc/tmpfiles.d/fastsocket-nginx@edge.conf"] == (SWITCH_FILE % "nginx@edge").replace("- 1", "- 0")


@pytest.mark.parametrize("own, kept", [
    ("LD_PRELOAD=/usr/lib/libjemalloc.so.2", "/usr/lib/libjemalloc.so.2:"),
    ('"LD_PRELOAD=/a.so /b.so"', "/a.so:/b.so:"),
    ('"LD_PRELOAD=/a.so /usr/lib/fastsocket/libfsocket.so:/b.so"', "/a.so:/b.so:"),
    ("LD_PRELOAD=/usr/lib/fastsocket/libfsocket.so.0.0.9-abc", ""),
])
def test_another_preload_is_kept_and_ours_stands_once(own, kept):
    text = wrapping.dropin(wrap("nginx"), captured.properties(captured.NGINX, Environment=own), False)
    assert text.splitlines()[2:] == [
        'Environment="LD_PRELOAD=%s%s"' % (kept, paths.LIBRARY), 'Environment="FSOCKET_NAME=nginx"']


@pytest.mark.parametrize(
    "value", ["", "plain", "two words", 'a "quote"', "back\\slash", "\\", "it's", "a=b", "#x", "$HOME"])
def test_quoting_round_trip(tmp_path, value):
    """As the value of a unit and as the value in an environment file."""
    words = wrapping.quote("A=" + value) + " " + wrapping.quote("B=2")
    assert systemd.environment({"Environment": words, "EnvironmentFiles": ""}) == {"A": value, "B": "2"}
    (tmp_path / "file").write_text("A=%s\n" % wrapping.quote(value))
    assert systemd.environment_file(str(tmp_path / "file")) == {"A": value}


def test_a_preload_out_of_a_file(tmp_path):
    """EnvironmentFile= wins over Environment=, so ours has to be in the last file."""
    (tmp_path / "nginx").write_text("LD_PRELOAD=/usr/lib/libjemalloc.so.2\n")
    properties = captured.properties(captured.NGINX, EnvironmentFiles=f"{tmp_path}/nginx (ignore_errors=yes)")
    found = wrapping.files(wrap("nginx"), properties, "", [0], "on")[0]
    value = "/usr/lib/libjemalloc.so.2:" + paths.LIBRARY
    assert found["/etc/fastsocket/nginx.env"] == MADE + 'LD_PRELOAD="%s"\n' % value
    assert found[DROPIN % "nginx"].splitlines()[-1] == "EnvironmentFile=-/etc/fastsocket/nginx.env"


@pytest.mark.parametrize("path", [
    "libfsocket.so", "/usr/lib/other.so", "/my lib/libfsocket.so", "/a:b/libfsocket.so", "/a/libfsocket.so.%n", "/a/"])
def test_a_library_path_that_cannot_work(path):
    with pytest.raises(FleetError) as caught:
        preload.present("nginx", path, {}, True, 1, False)
    assert str(caught.value) == (
        f"library {path}: needs an absolute path without blanks, colons or %, its name libfsocket.so...")


def test_folders_of_the_system_stay(monkeypatch, tmp_path):
    """Those of ours go with their last file."""
    monkeypatch.setattr(paths, "ETC", str(tmp_path / "fastsocket"))
    files = [str(tmp_path / name) for name in ("fastsocket/a", "x.service.d/a", "tmpfiles.d/a")]
    for path in files:
        hostfile.write(path, "")
    hostfile.write_all({"path": path, "after": None} for path in files)
    assert os.listdir(tmp_path) == ["tmpfiles.d"] and os.listdir(tmp_path / "tmpfiles.d") == []


def test_usable_cpus():
    """systemd lists CPUs with blanks between; an empty text means all. The operator's CPUAffinity= counts, too."""
    here = sorted(os.sched_getaffinity(0))
    for text, cpus in (("", here), ("0-4095", here), ("%d 4000-4095 5000" % here[-1], here[-1:])):
        for name in ("EffectiveCPUs", "CPUAffinity"):
            assert preload.usable_cpus(captured.properties(captured.NGINX, **{name: text})) == cpus


def test_wrapped_services(monkeypatch, tmp_path):
    """Counted by both files, so that one somebody removed by hand is not missed; nic.json is no service."""
    monkeypatch.setattr(paths, "ETC", str(tmp_path / "etc"))
    dropin_path = wrapping.dropin_path
    monkeypatch.setattr(wrapping, "dropin_path", lambda service: str(tmp_path) + dropin_path(service))
    assert wrapping.wrapped_services() == []
    for service in ("nginx", "haproxy", "nic", "gone"):
        hostfile.write_json(wrapping.desired_path(service), {})
        if service != "gone":
            hostfile.write(wrapping.dropin_path(service), "")
    hostfile.write(wrapping.variables_path("haproxy"), "")
    assert wrapping.wrapped_services() == ["haproxy", "nginx"]
    assert wrapping.wrapped("nginx.service") and not wrapping.wrapped("gone")


def test_changes(tmp_path):
    """From files to changes, there and back."""
    same, other, new = (str(tmp_path / name) for name in ("same", "other", "new"))
    hostfile.write(same, "s")
    hostfile.write(other, "before")
    changes = hostfile.changes_of({same: "s", other: "after", new: "n", str(tmp_path / "none"): None})
    assert changes == [
        {"path": other, "before": "before", "after": "after"}, {"path": new, "before": None, "after": "n"}]
    hostfile.write_all(changes)
    assert (hostfile.read(other), hostfile.read(new)) == ("after", "n")
    hostfile.write_all(dict(change, after=change["before"]) for change in changes)
    assert sorted(os.listdir(tmp_path)) == ["other", "same"] and hostfile.read(other) == "before"


@pytest.fixture(name="migrate")
def fixture_migrate(monkeypatch, tmp_path):
    """Paths of the sysctls' values, and of what preload keeps of them, in a folder."""
    names = {"MIGRATE": "value", "COOKIES": "cookies", "BEFORE": "saved", "SYSCTL_FILE": "sysctl.conf"}
    for name, file in names.items():
        monkeypatch.setattr(wrapping, name, str(tmp_path / file))
    (tmp_path / "cookies").write_text("1\n")
    return [tmp_path / file for file in names.values()]


@pytest.mark.parametrize("was", ["0", "1"])
def test_migrate_comes_and_goes(monkeypatch, tmp_path, migrate, was):
    """net.ipv4.tcp_migrate_req ends as it was, whoever turned it on."""
    value, dummy, saved, persistent = migrate
    value.write_text(was + "\n")
    change = wrapping.migrate_change(True)
    assert change == (None if was == "1" else {"path": str(value), "before": "0", "after": "1"})
    for _ in range(2):
        wrapping.migrate_apply(wrapping.migrate_change(True), True)
        assert value.read_text().strip() == "1" and persistent.read_text().endswith("net.ipv4.tcp_migrate_req = 1\n")
    wrapping.migrate_apply(wrapping.migrate_change(False), False)
    assert value.read_text().strip() == was and not saved.exists() and not persistent.exists()
    monkeypatch.setattr(wrapping, "MIGRATE", str(tmp_path / "none"))
    assert wrapping.migrate_change(True) is wrapping.migrate_change(False) is None  # before Linux 5.14


def test_nothing_migrates_without_cookies(migrate):
    """Nor does what was switched on before they were turned off."""
    value, cookies, saved, persistent = migrate
    value.write_text("0\n")
    cookies.write_text("0\n")
    assert wrapping.migrate_change(True) is None
    wrapping.migrate_apply(None, True)
    assert value.read_text() == "0\n" and not saved.exists() and not persistent.exists()
    cookies.write_text("1\n")
    wrapping.migrate_apply(wrapping.migrate_change(True), True)
    cookies.write_text("0\n")
    assert wrapping.migrate_change(True) == {"path": str(value), "before": "1", "after": "0"}
    wrapping.migrate_apply(wrapping.migrate_change(True), True)
    assert value.read_text() == "0" and not saved.exists() and not persistent.exists()


def test_running_with(monkeypatch, tmp_path):
    """The file behind the link is in the process, and the process is younger than what our files say."""
    version, link, extra = (str(tmp_path / name) for name in ("libfsocket.so.1", "libfsocket.so", "web.cfg"))
    shutil.copy(native.library(), version)
    os.symlink(version, link)
    monkeypatch.setattr(paths, "ETC", str(tmp_path))
    environment = {"PATH": os.environ["PATH"], "LD_PRELOAD": link, "FSOCKET_DIR": str(tmp_path)}
    begun = time.time()
    with subprocess.Popen(["sleep", "60"], env=environment) as process:
        try:
            properties = {"MainPID": str(process.pid)}
            native.wait_for(lambda: preload.running_with("web", properties))
            assert begun - 0.1 < preload.started(process.pid) < time.time()
            assert preload.running_with("web", properties, link) and preload.running_with("web", properties, version)
            hostfile.write(extra, "changed since")
            assert not preload.running_with("web", properties, link) and preload.running_with("web", properties)
            os.utime(extra, (begun - 60, begun - 60))
            assert preload.running_with("web", properties, link)
            os.unlink(link)
            os.symlink(native.library(), link)
            assert not preload.running_with("web", properties, link)
        finally:
            process.kill()
    assert not preload.running_with("web", {"MainPID": "0"}) and not preload.running_with("web", {"MainPID": ""}, link)
    assert not preload.running_with("web", {"MainPID": str(os.getpid())})


def test_desired_state_is_json_with_an_end():
    found = wrapping.files(wrap("nginx", log=2), captured.properties(captured.NGINX), "", [0], "on")[0]
    text = found["/etc/fastsocket/nginx.json"]
    assert json.loads(text)["settings"] == {"log": 2} and text.endswith("}\n")
