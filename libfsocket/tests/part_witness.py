# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs that the library is not made for: their answers, their end and what they leave are as without it."""
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import lab
from lab import Nginx, Service

COUNT = 200
# How a program runs: settings of the library, or None for without it. Pinned, its listener's slot is really used.
WAYS = {"stock": None, "plain": {}, "pinned": {"pin": 1}}
# A thread that is not pinned and one too many on a CPU are no fault.
COUNTED = {"UNPINNED", "TAKEN"}


def opened(how="Passive"):
    """TCP connections accepted ("Active": opened) in this network namespace, as the kernel counts them."""
    names, values = (line.split() for line in Path("/proc/net/snmp").read_text().splitlines() if line[:4] == "Tcp:")
    return int(values[names.index(f"{how}Opens")])


def listens(port):
    """Does anybody, at an address of any family? Java has 10.99.0.1 as ::ffff:10.99.0.1."""
    return lab.run("ss", "-Hltn", f"sport = :{port}").stdout


def alarms(path):
    return [line for line in path.read_text(errors="replace").splitlines() if "libfsocket: " in line]


def processes():
    """{pid: command} of this namespace."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if command:
            found[int(path.parent.name)] = command
    return found


def sane(stats, come):
    """The statistics of an ended service can be true, after `come` connections. Returns the accepts it counted."""
    state, total = stats.read(), stats.total()
    assert not state["header"]["lock"] and set(stats.errors()) <= COUNTED, (state["header"], stats.errors())
    assert total["accepts_local"] + total["accepts_remote"] <= total["accepts"] <= come, (total, come)
    assert total["accepts_global"] <= total["accepts"], total
    return total["accepts"]


def server(name, port, command, load, end=signal.SIGTERM, counts=True):
    """Run a server in all WAYS under load(), which returns what it heard: the same, and the same exit status."""
    results = {}
    for way, settings in WAYS.items():
        before, known = opened(), processes()
        env = lab.environment(f"{name}-{way}", **settings) if settings is not None else None
        with Service(f"{name}-{way}", list(map(str, command)), env) as service:
            lab.wait_for(f"{name} to listen", lambda: listens(port))
            heard = load(service)
            status = service.stop(end) if end else service.process.wait(lab.PATIENCE_S)
            lab.wait_for("the end of all its processes", lambda k=known: not set(processes()) - set(k))
            assert not listens(port), "somebody still listens"
            results[way] = heard, status, alarms(service.log)
            if settings is not None:
                accepts = sane(service.stats, opened() - before)
                assert accepts >= COUNT or not counts, f"{way}: {accepts} of {opened() - before} accepts counted"
                if way == "pinned":
                    assert service.stats.total()["accepts_global"] < accepts, "no slot was used"
    assert all(result == results["stock"] for result in results.values()), results
    return results["stock"]


def answer(port, path="/"):
    """Body of the answer to one request."""
    return lab.run("curl", "-sS", "--max-time", "10", f"http://{lab.AWAY}:{port}{path}", env=None).stdout


def ab(port, *options, path="/", env=None):
    """ApacheBench: (complete, failed, bytes of bodies) of COUNT requests from 8 clients."""
    out = lab.run("ab", "-q", "-n", str(COUNT), "-c", "8", "-s", "10", *options,
                  f"http://{lab.AWAY}:{port}{path}", env=env, stderr=subprocess.PIPE)
    return [re.search(rf"{what}: +(\d+)", out.stdout)[1] for what in (
        "Complete requests", "Failed requests", "HTML transferred")]


def page(name, size=2000):
    """A folder with one file to serve."""
    folder = lab.RUN / name
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    (folder / "index.html").write_text("".join(f"{number}\n" for number in range(size // 5)))
    return folder


APACHE = """
ServerRoot {run}
ServerName localhost
PidFile {run}/apache.pid
ErrorLog /dev/stderr
Mutex pthread
User nobody
Group nogroup
Listen {address}:{port}
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule dir_module /usr/lib/apache2/modules/mod_dir.so
StartServers 2
ServerLimit 2
ThreadsPerChild 16
MaxRequestWorkers 32
MinSpareThreads 1
MaxSpareThreads 32
MaxKeepAliveRequests 0
KeepAliveTimeout 30
DocumentRoot {run}
DirectoryIndex index.html
"""


def test_apache():
    """Apache httpd, event MPM: with and without keep-alive, a graceful restart under way, a graceful end"""
    config, folder = lab.RUN / "apache.conf", page("apache")
    config.write_text(APACHE.format(run=folder, address=lab.AWAY, port=8301))

    def load(service):
        heard = [answer(8301), ab(8301), ab(8301, "-k")]
        old = set(lab.children(service.process.pid))
        service.send(signal.SIGUSR1)
        heard.append(ab(8301))
        lab.wait_for("the old children to end", lambda: not old & set(lab.children(service.process.pid)))
        return [*heard, ab(8301), answer(8301)]
    heard, status, _ = server("apache", 8301, ["apache2", "-DFOREGROUND", "-f", config], load)
    assert heard[1][:2] == [str(COUNT), "0"] and len(heard[0]) > 1000 and not status, (heard[1:5], status)
    server("apache-graceful", 8301, ["apache2", "-DFOREGROUND", "-f", config], lambda _: ab(8301), signal.SIGWINCH)


def test_lighttpd():
    """lighttpd with two workers"""
    config, folder = lab.RUN / "lighttpd.conf", page("lighttpd")
    config.write_text(f"""server.document-root = "{folder}"
server.bind = "{lab.AWAY}"
server.port = 8302
server.max-worker = 2
server.username = "nobody"
server.groupname = "nogroup"
index-file.names = ("index.html")
""")
    heard, _, _ = server("lighttpd", 8302, ["lighttpd", "-D", "-f", config],
                         lambda _: [answer(8302), ab(8302), ab(8302, "-k"), ab(8302)])
    assert heard[1][:2] == [str(COUNT), "0"], heard[1:]


def redis(port, *words):
    return lab.run("redis-cli", "-h", lab.AWAY, "-p", str(port), *words, env=None).stdout.strip()


def test_redis():
    """redis: a benchmark with many clients, a snapshot by fork, a replica that connects to its master"""
    command = ["redis-server", "--bind", lab.AWAY, "--save", "", "--dir", lab.RUN, "--protected-mode", "no"]

    def load(service):
        way = service.name.split("-")[1]
        env = None if way == "stock" else lab.environment(f"replica-{way}")
        with Service(f"replica-{way}", [*map(str, command), "--port", "8304", "--replicaof", lab.AWAY, "8303"],
                     env) as replica:
            replica.up(lab.AWAY, 8304)
            redis(8303, "flushall")
            lab.run("redis-benchmark", "-h", lab.AWAY, "-p", "8303", "-q", "-n", "2000", "-c", str(COUNT), "-t",
                    "set,get,lpush", env=None)
            redis(8303, "set", "word", "kept")
            heard = [redis(8303, "bgsave"), redis(8303, "llen", "mylist")]
            lab.wait_for("the snapshot", lambda: "rdb_bgsave_in_progress:0" in redis(8303, "info", "persistence"))
            lab.wait_for("the replica", lambda: redis(8304, "get", "word") == "kept")
            heard += [redis(8304, "llen", "mylist"), redis(8303, "dbsize"), replica.stop(), alarms(replica.log)]
        return heard
    heard, status, _ = server("redis", 8303, [*command, "--port", "8303"], load)
    assert heard == ["Background saving started", "2000", "2000", heard[3], 0, []] and status == 0, heard


def test_memcached():
    """memcached with 4 threads, as another user, and many clients that stay"""
    def load(_):
        clients = [socket.create_connection((lab.AWAY, 8305), 10) for _ in range(COUNT)]
        for number, s in enumerate(clients):
            s.sendall(b"set key%d 0 0 5\r\nvalue\r\n" % number)
        heard = [s.recv(100) for s in clients]
        for number, s in enumerate(clients):
            s.sendall(b"get key%d\r\n" % ((number + 1) % COUNT))
        heard += [s.recv(100) for s in clients]
        clients[0].sendall(b"stats\r\n")
        text = b""
        while not text.endswith(b"END\r\n"):
            text += clients[0].recv(4096)
        for s in clients:
            s.close()
        return [heard, re.findall(rb"STAT (?:total_connections|curr_items|cmd_set|get_hits) \d+", text)]
    heard, status, _ = server("memcached", 8305, [
        "memcached", "-u", "nobody", "-l", lab.AWAY, "-p", "8305", "-U", "0", "-t", "4"], load)
    assert b"STAT get_hits %d" % COUNT in heard[1], heard[1]
    assert status == 0, status


def ends_by_request(port, *paths):
    def load(_):
        return [*[answer(port, path) for path in paths], ab(port), answer(port, "/end")]
    return load


def test_asyncio():
    """a Python asyncio server, which is its own client and starts programs"""
    command = [sys.executable, lab.HERE / "witness_asyncio.py", lab.AWAY, 8306]
    heard, status, _ = server("asyncio", 8306, command, ends_by_request(8306, "/", "/self", "/child"), end=None)
    assert heard[:3] == ["asyncio\n", 20 * "asyncio\n", "child\n"] and status == 7, (heard, status)


def test_java():
    """a Java server, which is its own client, at an address of both families"""
    quick = ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]
    # A Java runtime has the compiler without its command.
    lab.run(*quick, "-m", "jdk.compiler/com.sun.tools.javac.Main", "-d", lab.RUN, lab.HERE / "Witness.java")
    heard, status, _ = server("java", 8307, [*quick, "-cp", lab.RUN, "Witness", lab.AWAY, 8307],
                              ends_by_request(8307, "/", "/self"), end=None)
    assert heard[:2] == ["java\n", "java\n"] and status == 7, (heard, status)


def client(name, *command, counts=False):
    """Run a client in all WAYS, without a word of the library; `counts`: it counts as many connects as the kernel.

    Returns {way: (output, status, errors)}.
    """
    results = {}
    for way, settings in WAYS.items():
        env = lab.environment(f"{name}-{way}", **settings) if settings is not None else None
        before = opened("Active")
        out = lab.run(*command, env=env, check=False, stderr=subprocess.PIPE)
        assert "libfsocket: " not in out.stderr, out.stderr
        results[way] = out.stdout, out.returncode, out.stderr
        if settings is not None:
            stats = lab.Stats(f"{name}-{way}")
            sane(stats, 0)
            total = stats.total()
            got = total["connects_steered"] + total["connects_unsteered"]
            wanted = opened("Active") - before
            assert got == wanted or not counts, f"{way}: {got} of {wanted} connects counted"
    return results


def alike(results):
    assert all(result == results["stock"] for result in results.values()), results
    return results["stock"]


def test_curl():
    """curl: one request, many, a local port of its own, refused by IPv4 and IPv6, no such unix socket"""
    with Nginx("for-curl", 8308, lab.AWAY):
        url, words = f"http://{lab.AWAY}:8308/", ["curl", "-s", "--max-time", "3", "-o", "/dev/null"]
        said = ["-w", "%{http_code} %{exitcode} %{num_connects}\\n"]
        many = [word for _ in range(9) for word in ("--next", "-s", "-o", "/dev/null", *said, url)]
        assert alike(client("curl", *words, *said, url, counts=True))[0].startswith("200 0 1")
        alike(client("curl-many", *words, "--no-keepalive", *said, "-H", "Connection: close", url, *many))
        alike(client("curl-port", *words, *said, "--local-port", "20000-20100", url))
        alike(client("curl-refused", *words, *said, f"http://{lab.AWAY}:1/"))
        alike(client("curl-six", *words, *said, "http://[::1]:8308/"))
        alike(client("curl-unix", *words, *said, "--unix-socket", "/run/none", "http://none/"))


def test_ab():
    """ab: all requests complete, none failed"""
    with Nginx("for-ab", 8309, lab.AWAY):
        command = ["ab", "-q", "-n", str(COUNT), "-c", "8", "-s", "10", f"http://{lab.AWAY}:8309/"]
        results = client("ab", *command, counts=True)
        for way, (out, status, _) in results.items():
            assert not status and f"Complete requests:      {COUNT}" in out and "Failed requests:        0" in out, way


def test_wrk():
    """wrk with 2 threads: no socket error, and it ends as ever"""
    with Nginx("for-wrk", 8310, lab.AWAY):
        command = ["wrk", "-t", "2", "-c", "20", "-d", "1", f"http://{lab.AWAY}:8310/"]
        for way, (out, status, _) in client("wrk", *command, counts=True).items():
            assert not status and "Socket errors" not in out and "Non-2xx" not in out, f"{way}: {out}"
            assert int(re.search(r"(\d+) requests in", out)[1]) > 100, f"{way}: {out}"
