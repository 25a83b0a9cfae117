# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""hotplug_guest.py start|stages|counts: the part of test_hotplug.py that runs in the machine.

`stages` takes CPUs away and gives them back, and prints one line of JSON, of each stage: cpu, online (what it did to
that CPU; null: nothing), services ({name: what it counted in a window, by CPU; CPUs that the thread of each slot may
run on}), shown and json (`fsctl status`, and as JSON). `counts`: all accepts of each service."""
import contextlib
import io
import json
import os
import subprocess
import sys
import time

sys.path.insert(0, "/root")

from module_utils import fsctl, stats

CPUS = 4
PORTS = {"nginx": 8080, "haproxy": 8081}
CONFIG = {
    "nginx": f"""
worker_processes {CPUS}; worker_cpu_affinity auto; pid /run/hotplug-nginx.pid; error_log stderr;
events {{ worker_connections 512; }}
http {{ access_log off; server {{ listen {PORTS["nginx"]}; location / {{ return 200 "ok"; }} }} }}
""",
    # The chroot of Debian's own file: no /sys and no /proc in there.
    "haproxy": f"""
global
  chroot /var/lib/haproxy
  user haproxy
  group haproxy
  nbthread {CPUS}
  cpu-map auto:1/1-{CPUS} 0-{CPUS - 1}
  tune.listener.multi-queue off
defaults
  mode http
  timeout client 30s
frontend web
  bind :{PORTS["haproxy"]}
  http-request return status 200 content-type text/plain string ok
"""}
COMMANDS = {"nginx": ["nginx", "-c"], "haproxy": ["haproxy", "-D", "-f"]}
# CPU 0 of a PC cannot go (CONFIG_BOOTPARAM_HOTPLUG_CPU0).
STAGES = [(None, None), *((cpu, online) for cpu in (3, 1, 3) for online in (False, True))]
# The library asks once a second; the rest is for a machine that is busy.
SETTLE, WINDOW = 3, 4


def start():
    for name, text in CONFIG.items():
        path = f"/run/hotplug-{name}.conf"
        with open(path, "w") as handle:
            handle.write(text)
        env = dict(os.environ, LD_PRELOAD="/root/libfsocket.so", FSOCKET_NAME=name)
        with open(f"/run/hotplug-{name}.log", "w") as log:
            subprocess.run([*COMMANDS[name], path], check=True, env=env, stdout=log, stderr=log)


def serving(found):
    """{CPU of a slot: CPUs its thread may run on}"""
    return {str(row["cpu"]): sorted(os.sched_getaffinity(row["tid"])) for row in found["slots"]}


def status(*words):
    with contextlib.redirect_stdout(io.StringIO()) as said:
        if fsctl.main(["status", *words, *PORTS]):
            raise SystemExit("fsctl status has failed")
    return said.getvalue()


def at_rest(before):
    """No worker was, then or since, so far behind that its connections are shared: the emulated CPUs of a busy machine
    stand still for a while."""
    return all(row["state"] != "spilling" for found in before.values() for row in found["slots"]) and \
        all(stats.read(name)["summary"]["spills"] == found["summary"]["spills"] for name, found in before.items())


def at_home(window):
    """All CPUs have workers of their own again. By hash three of four connections would be remote in every window."""
    local, remote = (sum(row["accepts_" + where] for row in window.values()) for where in ("local", "remote"))
    return local >= 0.95 * (local + remote)


def stage(cpu, online):
    if cpu is not None:
        with open(f"/sys/devices/system/cpu/cpu{cpu}/online", "w") as handle:
            handle.write(str(int(online)))
    time.sleep(SETTLE)
    for _ in range(20):
        before = {name: stats.read(name) for name in PORTS}
        time.sleep(WINDOW)
        after = {name: stats.read(name) for name in PORTS}
        shown, found = status(), json.loads(status("--json"))["services"]
        windows = {name: stats.delta(before[name], after[name]) for name in PORTS}
        if at_rest(before) and (online is False or all(map(at_home, windows.values()))):
            break
    return {"cpu": cpu, "online": online, "shown": shown, "json": found,
            "services": {name: {"cpus": windows[name], "serving": serving(after[name])} for name in PORTS}}


def main():
    if sys.argv[1] == "start":
        start()
    elif sys.argv[1] == "stages":
        print(json.dumps([stage(*one) for one in STAGES]))
    else:
        print(json.dumps({name: stats.read(name)["summary"]["accepts"] for name in PORTS}))


main()
