# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The part of test_old_kernel.py that runs in the machine: nginx and HAProxy, as Debian's units start them, without and
with the library, under clients on every CPU.

Prints one line of JSON: kernel, and of each service `stock` and `library`: what became of the requests while it was
reloaded, and with the library of those while it was switched off and on, and at rest before and after it; how many of
these were served on their client's CPU; and what statistics, `fsctl status` and `fsctl doctor` say."""
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time

sys.path.insert(0, "/root")

from module_utils import fsctl, stats

CPUS = range(4)
# A second and CPU: light, as the CPUs are emulated.
RATE, LIMIT = 12, 400
LOCAL = 0.95
TIMES = 2
# Of this host, and not loopback: what the library takes for another host.
AWAY = "10.99.0.1"
# (port, configuration, its place). The answer begins with who served it. HAProxy's second port leads to nginx.
SERVICES = {"nginx": (8080, "/etc/nginx/nginx.conf", f"""
user www-data; worker_processes {len(CPUS)}; worker_cpu_affinity auto; pid /run/nginx.pid;
events {{ worker_connections 768; }}
http {{ access_log off; server {{ listen 8080; location / {{ return 200 "$pid\\n"; }} }} }}
"""), "haproxy": (8081, "/etc/haproxy/haproxy.cfg", f"""
global
  chroot /var/lib/haproxy
  user haproxy
  group haproxy
  nbthread {len(CPUS)}
  cpu-map auto:1/1-{len(CPUS)} 0-{len(CPUS) - 1}
  tune.listener.multi-queue off
defaults
  mode http
  timeout connect 5s
  timeout client 5s
  timeout server 5s
frontend web
  bind :8081
  http-request return status 200 content-type text/plain lf-string "%[thread]\\n"
frontend chain
  bind :8082
  default_backend nginx
backend nginx
  http-reuse never
  server nginx {AWAY}:8080
""")}


def call(*words):
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout


class Clients:
    """RATE new connections a second from each CPU while the block runs; then `served` and `failed`."""

    def __init__(self, port):
        words = ["/root/clients", "127.0.0.1", str(port)]
        self.running = [subprocess.Popen([*words, str(cpu), str(RATE), str(LIMIT), "0"], stdout=subprocess.PIPE,
                                         text=True) for cpu in CPUS]
        self.results = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.running:
            process.send_signal(signal.SIGTERM)
        self.results = [json.loads(process.communicate(timeout=60)[0].splitlines()[-1]) for process in self.running]

    def tally(self):
        failed = {}
        for result in self.results:
            for kind, count in result["failed"].items():
                failed[kind] = failed.get(kind, 0) + count
        return {"opened": sum(result["opened"] for result in self.results), "failed": failed}

    def local(self, cpu_of):
        """(how many were served on their client's CPU, all that were served)"""
        served = [(cpu, cpu_of(name), count) for cpu, result in zip(CPUS, self.results, strict=True)
                  for name, count in result["served"].items()]
        return sum(count for cpu, at, count in served if cpu == at), sum(count for _cpu, _at, count in served)


def cpu_of_worker(name):
    allowed = os.sched_getaffinity(int(name))
    return min(allowed) if len(allowed) == 1 else None


# nginx answers with the worker's pid, HAProxy with the thread's number.
CPU_OF = {"nginx": cpu_of_worker, "haproxy": int}


def begin(name, library):
    folder = f"/run/systemd/system/{name}.service.d"
    os.makedirs(folder, exist_ok=True)
    with open(f"{folder}/library.conf", "w") as handle:
        handle.write(f"[Service]\nEnvironment=LD_PRELOAD=/root/libfsocket.so FSOCKET_NAME={name}\n" if library else "")
    call("systemctl", "daemon-reload")
    call("systemctl", "restart", name)
    time.sleep(1)


def reload_often(name):
    with Clients(SERVICES[name][0]) as clients:
        for _ in range(TIMES):
            time.sleep(0.5)
            call("systemctl", "reload", name)
        time.sleep(1)
    return clients.tally()


def switch_often(name):
    with Clients(SERVICES[name][0]) as clients:
        for _ in range(TIMES):
            for value in ("off", "on"):
                said("fsctl", value, name)
                time.sleep(0.3)
    return clients.tally()


def said(*words):
    with contextlib.redirect_stdout(io.StringIO()) as text:
        status = fsctl.main(words[1:])
    return {"status": status, "text": text.getvalue()}


def at_rest(name):
    """Counted in the first window in which nothing is shared: neither because a worker is far behind, as the emulated
    CPUs of a busy machine stand still for a while, nor because a slot has ended in the 2 s before, of a process that
    goes at last. By hash alone one of four connections is local, in every window."""
    for _ in range(20):
        before = stats.read(name)
        with Clients(SERVICES[name][0]) as clients:
            time.sleep(2)
        after = stats.read(name)
        counted = stats.summary(stats.delta(before, after))
        served_by = {row["cpu"] for row in before["slots"] if row["state"] == "on"}
        local, served = clients.local(CPU_OF[name])
        if served_by == set(CPUS) and not counted["spills"] and local >= LOCAL * served:
            break
    return {**clients.tally(), "local": (local, served), "counted": counted}


def connects():
    before = stats.read("haproxy")
    with Clients(8082) as clients:
        time.sleep(2)
    window = stats.delta(before, stats.read("haproxy"))
    return {**clients.tally(), **{way: sum(row[f"connects_{way}"] for row in window.values())
                                  for way in ("steered", "unsteered")}}


def measure(name):
    begin(name, library=False)
    found = {"stock": {"reload": reload_often(name)}}
    begin(name, library=True)
    found["library"] = {"rest": at_rest(name), "reload": reload_often(name), "switch": switch_often(name),
                        "again": at_rest(name), "stats": stats.read(name), "doctor": said("fsctl", "doctor", name),
                        "status": said("fsctl", "status", name)}
    return found


def main():
    call("ip", "address", "replace", f"{AWAY}/32", "dev", "lo")
    for _port, path, text in SERVICES.values():
        with open(path, "w") as handle:
            handle.write(text)
    result = {name: measure(name) for name in SERVICES}
    result["haproxy"]["library"]["connects"] = connects()
    result["kernel"] = os.uname().release
    print(json.dumps(result))


main()
