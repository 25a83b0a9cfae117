# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Real nginx and real HAProxy with every kind of listener at once: each TCP one is local, the others are as ever."""
import collections
import os
import socket
import ssl

import lab
from lab import Haproxy, Nginx

HOST, COUNT = "127.0.0.1", 40
REQUEST = b"GET / HTTP/1.0\r\n\r\n"
UNIX = lab.RUN / "more.sock"


def hear(address, request=REQUEST, count=COUNT, tls=None):
    """`count` clients in turn of CPUs; returns [[CPU, word...]], the words of the last line each heard."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    heard = []
    for number in range(count):
        cpu = lab.CPUS[number % len(lab.CPUS)]
        os.sched_setaffinity(0, [cpu])
        with socket.socket(family) as plain:
            plain.settimeout(5)
            plain.connect(address)
            with tls.wrap_socket(plain) if tls else plain as s:
                s.sendall(request)
                heard.append([cpu, *s.makefile("rb").read().splitlines()[-1].decode().split()])
    os.sched_setaffinity(0, lab.CPUS)
    return heard


def rows(stats):
    """How many rows of slots each process has."""
    return collections.Counter(row["pid"] for row in stats.read()["slots"])


class Web(Nginx):
    """TCP listeners of all families, one with `reuseport`, one of the stream module; a unix and a UDP one."""

    TCP = {"first": (HOST, 8170), "second": (HOST, 8171), "IPv6": ("::1", 8170), "dual, IPv4": (HOST, 8172),
           "dual, IPv6": ("::1", 8172), "reuseport": (HOST, 8173)}
    STREAM, DATAGRAM = (HOST, 8174), (HOST, 8175)
    LISTENERS = 6
    CONFIG = Nginx.CONFIG.replace("{listen}", f"""{{listen}} listen {HOST}:8171; listen [::1]:8170;
listen [::]:8172 ipv6only=off; listen {HOST}:8173 reuseport; listen unix:{UNIX};""") + f"""
stream {{{{ server {{{{ listen {HOST}:8174; return "$pid $remote_port\\n"; }}}}
  server {{{{ listen {HOST}:8175 udp; return "$pid $remote_port\\n"; }}}} }}}}
"""

    def __init__(self, name, env):
        super().__init__(name, 8170, env=env, main="load_module /usr/lib/nginx/modules/ngx_stream_module.so;")

    def wait_for_slots(self, pids, each):
        if self.served():
            lab.wait_for("all slots", lambda: all(rows(self.stats)[pid] == self.LISTENERS for pid in pids))


def datagrams(address):
    """Answers to COUNT datagrams, each from a port of its own."""
    heard = []
    for _ in range(COUNT):
        with socket.socket(type=socket.SOCK_DGRAM) as s:
            s.settimeout(5)
            s.connect(address)
            s.send(b"x")
            heard.append(int(s.recv(100).split()[1]) == s.getsockname()[1])
    return heard


def all_kinds(web, local):
    """All listeners answer; `local`: the TCP ones by the worker of the client's CPU."""
    workers = web.workers()
    for name, address in [*web.TCP.items(), ("stream", web.STREAM)]:
        heard = hear(address, b"" if name == "stream" else REQUEST)
        strays = [row for row in heard if workers[int(row[1])] != row[0]]
        assert not local or not strays, f"{name}: {len(strays)} of {COUNT} not on their CPU"
    assert {int(row[1]) for row in hear(str(UNIX))} <= set(workers)
    assert all(datagrams(web.DATAGRAM))
    return (len(web.TCP) + 1) * COUNT


def test_listeners():
    """nginx: two ports, IPv6, dual stack, `reuseport`, unix, stream, UDP, before and after a reload: TCP local"""
    lab.sysctl("net.ipv4.tcp_migrate_req", 1)
    with Web("more-stock", None) as web:
        all_kinds(web, local=False)
    with Web("more", lab.environment("more")) as web:
        wanted = all_kinds(web, local=True)
        state = web.stats.read()
        total = web.stats.total()
        assert (total["accepts"], total["accepts_remote"], web.stats.errors()) == (wanted, 0, {}), total
        modes = {(row["address"], row["port"]): row["mode"] for row in state["listeners"]}
        assert len(modes) == web.LISTENERS and modes.pop((HOST, 8173)) == "SHARDED", modes
        assert set(modes.values()) == {"SLOTS"}, modes
        web.reload()
        lab.wait_for("the old workers to end", lambda: len(web.workers()) == 2)
        all_kinds(web, local=True)
        web.switch.set("0")
        all_kinds(web, local=False)


class Proxy(Haproxy):
    """Answers by itself: the thread's number. Several binds, shards, TLS; unix, peers and stats beside them."""

    TCP = {"first": (HOST, 8180), "second": (HOST, 8181), "dual, IPv4": (HOST, 8182), "dual, IPv6": ("::1", 8182),
           "shards": (HOST, 8184)}
    TLS, STATS, PEERS = (HOST, 8183), (HOST, 8186), (lab.AWAY, 8185)
    # A thread has one in each listener, but in the shards one of the two.
    SLOTS = 2 * 7
    CONFIG = Haproxy.CONFIG.split("frontend f")[0].replace("global\n", f"""global
  localpeer me
  stats socket {HOST}:8186 level admin
""") + f"""
peers others
  peer me {lab.AWAY}:8185
  peer absent {lab.AWAY}:8187
frontend f
  bind {HOST}:{{port}}
  bind {HOST}:8181
  bind :::8182 v4v6
  bind {HOST}:8183 ssl crt {{run}}/both.pem
  bind {HOST}:8184 shards 2
  bind {UNIX}
  stick-table type ip size 100 peers others
  http-request return status 200 content-type text/plain lf-string "%[thread]\\n"
"""

    def __init__(self, name, env):
        run = lab.RUN / f"{name}.d"
        run.mkdir()
        lab.run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                "-days", "2", "-subj", "/CN=localhost", "-keyout", f"{run}/key.pem", "-out", f"{run}/cert.pem")
        (run / "both.pem").write_text((run / "cert.pem").read_text() + (run / "key.pem").read_text())
        super().__init__(name, 8180, "", env)

    def wait_for_slots(self, pids, each):
        if self.served():
            lab.wait_for("all slots", lambda: all(rows(self.stats)[pid] >= self.SLOTS for pid in pids))


def all_binds(proxy, local):
    anyone = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
    for name, address in [*proxy.TCP.items(), ("TLS", proxy.TLS)]:
        heard = hear(address, tls=anyone if name == "TLS" else None)
        strays = [row for row in heard if lab.CPUS[int(row[1])] != row[0]]
        assert not local or not strays, f"{name}: {len(strays)} of {COUNT} not on their CPU"
    assert len(hear(str(UNIX))) == COUNT
    with socket.create_connection(proxy.STATS, 5) as s:
        s.sendall(b"show peers\n")
        peers = s.makefile().read()
    assert "id=me" in peers and "absent" in peers, peers
    with socket.create_connection(proxy.PEERS, 5) as s:
        s.sendall(b"HAProxyS 2.1\nme\nabsent 1 1\n")
        assert s.recv(100).startswith(b"200"), "the peers listener does not talk"


def test_binds():
    """HAProxy: two ports, dual stack, TLS, `shards`, unix, peers, stats over TCP, before and after a reload: local"""
    lab.sysctl("net.ipv4.tcp_migrate_req", 1)
    with Proxy("binds-stock", None) as proxy:
        all_binds(proxy, local=False)
    with Proxy("binds", lab.environment("binds")) as proxy:
        all_binds(proxy, local=True)
        assert not proxy.stats.errors(), proxy.stats.errors()
        proxy.reload()
        all_binds(proxy, local=True)
        proxy.switch.set("0")
        all_binds(proxy, local=False)
