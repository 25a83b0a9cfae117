# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""nginx as Debian installs it, rolled out: what stands on the host, that it works, and that all of it goes again. The
tests follow one another on one host."""
import json
import os
import re

from fleet import differences, wait
from scenario import SERVES, absent, converge, lab, mapped, remembered, status, verified, without_times

NODE = "node1"
CPUS = os.cpu_count()
TARGET = "node1=10.99.0.31:80"
DROPIN = """\
# Made by fastsocket.fleet; changes here are lost.
[Service]
Environment="LD_PRELOAD=/usr/lib/fastsocket/libfsocket.so"
Environment="FSOCKET_NAME=nginx"
Environment="FSOCKET_PIN=1"
"""


def summary():
    return status(NODE)["nginx"]["summary"]


def check_nic():
    """Every queue has its CPUs, and between them the transmit queues have all."""
    values = {name: fact for (kind, name), fact in lab.snapshot(NODE).items() if kind == "value" and "/eth0/" in name}
    sets = {kind: [int(fact, 16) for name, fact in values.items() if name.endswith(kind)]
            for kind in ("rps_cpus", "xps_cpus")}
    assert sets["xps_cpus"] and sum(sets["xps_cpus"]) == (1 << CPUS) - 1
    assert sets["rps_cpus"] and all(mask == (1 << CPUS) - 1 for mask in sets["rps_cpus"])
    assert all(int(fact) > 0 for name, fact in values.items() if name.endswith("rps_flow_cnt"))


def test_files():
    assert lab.sh(NODE, "cat /etc/systemd/system/nginx.service.d/zz-fastsocket.conf") == DROPIN
    made_at_boot = lab.sh(NODE, "cat /etc/tmpfiles.d/fastsocket-nginx.conf")
    assert "f /run/fastsocket/nginx.switch 0644 root root - 1\n" in made_at_boot
    link = lab.sh(NODE, "readlink /usr/lib/fastsocket/libfsocket.so").strip()
    checksum = lab.sh(NODE, f"sha256sum {link}").split()[0]
    assert link == f"/usr/lib/fastsocket/libfsocket.so.0.2.0-{checksum[:12]}"
    assert lab.sh(NODE, "cat /run/fastsocket/nginx.switch; sysctl -n net.ipv4.tcp_migrate_req") == "11\n"
    ours = "/run/fastsocket /run/fastsocket/* /etc/fastsocket/* /var/lib/fastsocket /usr/lib/fastsocket"
    assert set(lab.sh(NODE, f"stat -c '%a %U:%G' {ours}").split("\n")) == {"755 root:root", "644 root:root", ""}


def test_every_process_has_the_library():
    link = lab.sh(NODE, "readlink /usr/lib/fastsocket/libfsocket.so").strip()
    found = mapped(NODE, "nginx.service")
    assert len(found) == 1 + CPUS
    assert set(map(tuple, found.values())) == {(link,)}


def test_queues_have_cpus():
    check_nic()


def test_check_mode_has_nothing_to_do():
    before = lab.snapshot(NODE)
    run = converge("--check", "--diff")
    assert run.status == 0 and run.changed() == {NODE: 0}, run.output
    assert "\n+++ " not in run.output
    assert differences(before, lab.snapshot(NODE)) == {}


def test_connections_stay_on_their_core():
    before = summary()["accepts"]
    with lab.load(TARGET) as load:
        run = verified(NODE)
    assert run.status == 0, run.output
    assert load["failed"] == load["probe_failed"] == 0
    assert summary()["accepts"] - before >= load["ok"]
    workers = [row for row in status(NODE)["nginx"]["slots"] if row["state"] in SERVES]
    assert {row["cpu"] for row in workers} == set(range(CPUS))


def test_sockets_seen_from_outside_are_on_their_core():
    with lab.held("10.99.0.31"):
        found = lab.module(NODE, "core_stats_info", services=["nginx"], seconds=1, sample=True)
    passive = found["services"]["nginx"]["sample"]["passive"]
    assert passive["sampled"] >= 60 and passive["share"] >= 0.99, passive


def test_verify_fails_without_traffic():
    run = verified(NODE, "-e", "verify_seconds=0.5")
    run.one_failure(NODE, "nginx", "accepts (at least 100)")


def test_verify_takes_another_window_after_a_busy_moment():
    """Of a worker that is stopped for a while the others take the connections, on their cores: for that while."""
    stopped = status(NODE)["nginx"]["slots"][0]["pid"]
    with lab.load(TARGET):
        lab.sh(NODE, f"kill -STOP {stopped}; (sleep 10; kill -CONT {stopped}) >/dev/null 2>&1 &")
        run = verified(NODE, "-e", "verify_windows=12")
    assert run.status == 0 and "RETRYING" in run.output, run.output


def test_fsctl():
    def fsctl(words, status=0, user="root"):
        return lab.sh(NODE, f"/usr/sbin/fsctl {words}", status=status, user=user)

    table = fsctl("status").splitlines()
    assert table[0].startswith("nginx: switch on, accepts ") and " % local" in table[0]
    assert [row.split()[0] for row in table[3:]] == [str(cpu) for cpu in range(CPUS)]
    assert fsctl("off", status=1, user="nosudo") == "fsctl: fsctl off needs root\n"
    assert fsctl("status", user="nosudo").splitlines()[0] == table[0]
    assert fsctl("off mysql", status=1).startswith("fsctl: service mysql is unknown")
    assert fsctl("on haproxy", status=1).startswith("fsctl: haproxy is not wrapped")
    assert fsctl("status mysql", status=1) == "fsctl: mysql is not wrapped; wrapped are: nginx\n"
    assert "invalid choice" in fsctl("of", status=2)

    pids = mapped(NODE, "nginx.service")
    with lab.load(TARGET) as load:
        # Nobody ever comes to the IPv6 listener, and fsctl waits for its slots: look while it does.
        said = lab.sh(NODE, "fsctl off & sleep 0.5; fsctl status --json >/tmp/early; wait")
        assert re.fullmatch(r"nginx: off in 0\.\d\d s(, \d idle slots follow at their next call)?\n", said), said
        assert fsctl("off") == "nginx: off already\n"
        assert lab.sh(NODE, "cat /run/fastsocket/nginx.switch") == "0"
        lab.sh(NODE, "sleep 1")
        counted = summary()["accepts"]
        assert json.loads(lab.sh(NODE, "cat /tmp/early"))["services"]["nginx"]["summary"]["accepts"] == counted
        # A host that was turned off by hand stays so: the next run of the playbook does not turn it on again.
        assert lab.module(NODE, "preload", "--check", service="nginx", settings={"pin": True})["changed"] is False
        assert fsctl("status").startswith("nginx: switch off")
        assert fsctl("on") == "nginx: on\n"
        lab.sh(NODE, "sleep 1")
    assert load["failed"] == 0
    assert summary()["accepts"] > counted
    assert mapped(NODE, "nginx.service") == pids


def test_after_a_boot_all_is_there_again():
    # The lab's interface outlives the boot of its host; a real one comes back with nothing.
    lab.sh(NODE, "for file in /sys/class/net/eth0/queues/*/*ps_[cf]*; do echo 0 >$file; done")
    lab.reboot(NODE)
    assert lab.sh(NODE, "systemctl is-active fastsocket-nic nginx") == "active\nactive\n"
    check_nic()
    assert lab.sh(NODE, "cat /run/fastsocket/nginx.switch; sysctl -n net.ipv4.tcp_migrate_req") in ("11\n", "10\n")
    assert all(mapped(NODE, "nginx.service").values())
    with lab.load(TARGET):
        run = verified(NODE)
    assert run.status == 0, run.output
    assert converge("--check").changed() == {NODE: 0}


def test_absent_leaves_nothing_and_loses_no_connection():
    active = lab.sh(NODE, "systemctl show nginx -p ActiveEnterTimestampMonotonic")
    with lab.load(TARGET) as load:
        run = absent(NODE, "nginx")
    assert run.status == 0 and run.changed()[NODE] > 0, run.output
    assert load["failed"] == 0, load
    assert lab.sh(NODE, "systemctl show nginx -p ActiveEnterTimestampMonotonic") == active
    found = mapped(NODE, "nginx.service")
    assert len(found) == 1 + CPUS and not any(found.values())
    before, after = without_times(remembered(NODE)), without_times(lab.snapshot(NODE))
    # It was booted since.
    before["service", "nginx.ActiveEnterTimestampMonotonic"] = active.strip().partition("=")[2]
    assert differences(before, after) == {}


def test_second_absent_has_nothing_to_do():
    before = lab.snapshot(NODE)
    run = absent(NODE, "nginx")
    assert run.status == 0 and run.changed() == {NODE: 0}, run.output
    assert differences(before, lab.snapshot(NODE)) == {}


def test_reuseport_of_the_operator_is_his_again():
    """The switch that was off left nothing on the sockets that would send all connections to one of them."""
    site, pid = "/etc/nginx/sites-enabled/default", "/etc/nginx/conf.d/pid.conf"
    lab.sh(NODE, f"cp -p {site} /root/site; sed -Ei 's/(listen .*80 default_server);/\\1 reuseport;/' {site}")
    lab.sh(NODE, f"echo 'add_header X-Pid $pid;' >{pid}; systemctl reload nginx")
    try:
        ask = "for i in $(seq 100); do curl -sI http://10.99.0.31/ | grep X-Pid; done | sort | uniq -c"
        # The old workers finish first.
        wait(lambda: len(lab.run("sh", "-c", ask).stdout.splitlines()) == CPUS, 10)
    finally:
        lab.sh(NODE, f"cp -p /root/site {site}; rm {pid}; systemctl reload nginx")


def test_check_mode_predicts_what_the_next_rollout_does():
    before = lab.snapshot(NODE)
    check = converge("--check", "--diff")
    assert check.status == 0 and check.changed()[NODE] >= 4, check.output
    assert '+Environment="LD_PRELOAD=/usr/lib/fastsocket/libfsocket.so"' in check.output
    assert "queues/rx-0/rps_cpus" in check.output and "/usr/sbin/fsctl" in check.output
    assert differences(before, lab.snapshot(NODE)) == {}

    with lab.load(TARGET) as load:
        run = converge()
        proof = verified(NODE)
    assert load["failed"] == 0, load
    assert run.changed() == check.changed(), run.output
    # The sockets went to nginx without the library and back: none of them may remember the time before.
    assert proof.status == 0, proof.output
