# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""HAProxy with an operator's own configuration, and a server that nobody knows by name, on one host: rolled out, looked
at, taken away one after the other. The tests follow one another."""
import os
import re

from fleet import differences
from scenario import SERVES, absent, converge, lab, mapped, remembered, status, verified, without_times

NODE = "node2"
CPUS = os.cpu_count()
WEB, HELLO = "haproxy=10.99.0.32:80", "hello=10.99.0.32:8088"
MIGRATE = "sysctl -n net.ipv4.tcp_migrate_req"
OWN = ("/etc/haproxy/haproxy.cfg", "/etc/default/haproxy", "/etc/systemd/system/hello.service")


def command_line():
    return lab.sh(NODE, "tr '\\0' ' ' </proc/$(systemctl show haproxy -p MainPID --value)/cmdline")


def test_the_operators_files_are_as_they_were():
    before, after = remembered(NODE), lab.snapshot(NODE)
    for path in OWN:
        for kind in ("file", "sum"):
            assert before[kind, path] == after[kind, path]


def test_extra_file_leaves_the_operators_plan_alone():
    extra = lab.sh(NODE, "cat /etc/fastsocket/haproxy.cfg").splitlines()
    assert extra[1:] == ["global", "    tune.listener.multi-queue off", "    tune.idle-pool.shared off"]
    words = command_line()
    assert "-L edge" in words and "-S /run/haproxy-master.sock" in words
    assert words.index("-f /etc/haproxy/haproxy.cfg") < words.index("-f /etc/fastsocket/haproxy.cfg")


def test_extra_file_brings_a_plan_where_there_is_none():
    lab.sh(NODE, "cp -p /etc/haproxy/haproxy.cfg /root/; sed -i '/nbthread/d; /cpu-map/d' /etc/haproxy/haproxy.cfg")
    try:
        found = lab.module(NODE, "preload", "--check", service="haproxy", settings={"pin": True})
    finally:
        lab.sh(NODE, "cp -p /root/haproxy.cfg /etc/haproxy/haproxy.cfg")
    assert [row["path"] for row in found["changes"]] == ["/etc/fastsocket/haproxy.cfg"]
    assert found["restarted"]
    cpus = f"0-{CPUS - 1}" if CPUS > 1 else "0"
    assert f"    nbthread {CPUS}\n    cpu-map auto:1/1-{CPUS} {cpus}\n" in found["extra_configuration"]


def test_check_mode_has_nothing_to_do():
    before = lab.snapshot(NODE)
    run = converge("--check", "--diff")
    assert run.status == 0 and run.changed() == {NODE: 0}, run.output
    assert differences(before, lab.snapshot(NODE)) == {}


def test_connections_stay_on_their_core():
    assert all(mapped(NODE, "haproxy.service").values())
    assert all(mapped(NODE, "hello.service").values())
    with lab.load(WEB, HELLO, rate=200) as load:
        run = verified(NODE)
    assert run.status == 0, run.output
    assert load["failed"] == 0, load
    found = status(NODE)
    assert found["haproxy"]["summary"]["connects"] > 0
    for name in ("haproxy", "hello"):
        assert {row["cpu"] for row in found[name]["slots"] if row["state"] in SERVES} == set(range(CPUS)), name


def test_operators_reload_keeps_everything():
    with lab.load(WEB) as load:
        lab.sh(NODE, "systemctl reload haproxy")
        run = verified(NODE, "-e", '{"verify_services": ["haproxy"]}')
    assert run.status == 0, run.output
    assert load["failed"] == 0, load
    assert all(mapped(NODE, "haproxy.service").values())


def test_off_and_on_by_the_module():
    def switch(state, *options):
        return lab.module(NODE, "preload", *options, service="haproxy", state=state)

    with lab.load(WEB) as load:
        assert switch("off", "--check")["changed"] and lab.sh(NODE, "cat /run/fastsocket/haproxy.switch") == "1"
        result = switch("off")
        assert result["changed"] and result["effect"]["seconds"] < 1, result
        counted = status(NODE)["haproxy"]["summary"]["accepts"]
        assert not switch("off")["changed"]
        assert status(NODE)["haproxy"]["summary"]["accepts"] == counted
        assert status(NODE)["hello"]["switch"] == "on"
        assert switch("on")["changed"]
    assert load["failed"] == 0, load
    assert status(NODE)["haproxy"]["summary"]["accepts"] > counted


def test_unknown_server_stays_preloaded_and_off():
    check = lab.module(NODE, "preload", "--check", service="hello", state="absent")
    result = lab.module(NODE, "preload", service="hello", state="absent")
    for found in (check, result):
        assert found["changed"] and found["left_preloaded"] and found["how"] is None
    assert [row["path"] for row in check["changes"]] == [row["path"] for row in result["changes"]]
    for found in (check, result):
        assert "hello cannot go on without the library by itself" in found["output"], found["output"]
    assert all(mapped(NODE, "hello.service").values())
    assert lab.sh(NODE, "cat /run/fastsocket/hello.switch") == "0"
    assert not lab.module(NODE, "preload", service="hello", state="absent")["changed"]
    with lab.load(HELLO) as load:
        # HAProxy is still wrapped.
        assert lab.sh(NODE, MIGRATE) == "1\n"
    assert load["failed"] == 0, load


def test_last_service_brings_the_sysctl_back():
    with lab.load(WEB) as load:
        result = lab.module(NODE, "preload", service="haproxy", state="absent")
        lab.sh(NODE, "sleep 1; systemctl reload haproxy; sleep 1")
    assert load["failed"] == 0, load
    assert result["how"] == "reload" and not result["left_preloaded"] and not result["draining"], result
    assert not any(mapped(NODE, "haproxy.service").values())
    main = "$(systemctl show haproxy -p MainPID --value)"
    assert not re.search("LD_PRELOAD|FSOCKET", lab.sh(NODE, f"tr '\\0' '\\n' </proc/{main}/environ"))
    assert lab.sh(NODE, MIGRATE) == remembered(NODE)["value", "/proc/sys/net/ipv4/tcp_migrate_req"] + "\n"


def test_after_restarts_nothing_is_left():
    lab.sh(NODE, "systemctl restart haproxy hello")
    assert not any(mapped(NODE, "hello.service").values())
    assert "/etc/fastsocket" not in command_line()
    run = absent(NODE, "haproxy", "hello")
    assert run.status == 0, run.output
    started = [key for key in remembered(NODE) if key[1].endswith(".ActiveEnterTimestampMonotonic")]
    before, after = without_times(remembered(NODE)), without_times(lab.snapshot(NODE))
    for key in started:
        del before[key], after[key]
    assert differences(before, after) == {}
    assert absent(NODE, "haproxy", "hello").changed() == {NODE: 0}
