# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests share: servers under the library, load, the statistics file.

All of it runs in namespaces of its own (tests/check), as root of them: /run is an empty tmpfs, the network has nothing
but a loopback device, and when the first process ends all others do.
"""
import contextlib
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
RUN = Path("/run")
DIR = RUN / "fs"
# An address of this host that is not 127/8: what the library takes for another host.
AWAY = "10.99.0.1"
CPUS = sorted(os.sched_getaffinity(0))[:2]
PATIENCE_S = 15

build = Path()
preload = ""  # LD_PRELOAD for programs under test
patience = 1  # a slow tool under the program: everything may take so many times longer
sanitizer_logs = RUN / "sanitizer"


def after_handshakes():
    """Where a program chooses, it is by hash for 2 s after the end of a slot (src/choose.c: HANDSHAKE_MS)."""
    if "oldkernel" in preload:
        time.sleep(2.5)


def setup(build_dir, variant):
    """Namespaces are there; fill them. `variant`: plain, asan or old (a kernel whose groups choose by hash)."""
    global build, preload
    build = Path(build_dir)
    run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(RUN))
    run("ip", "link", "set", "lo", "up")
    run("ip", "address", "add", f"{AWAY}/32", "dev", "lo")
    # A copy that everybody may read, whatever the rights above the tree are.
    library = build / ("asan" if variant == "asan" else ".") / "libfsocket.so"
    shutil.copy(library, RUN / "libfsocket.so")
    preload = str(RUN / "libfsocket.so")
    sanitizer_logs.mkdir()
    sanitizer_logs.chmod(0o1777)
    if variant == "old":
        preload += ":" + shutil.copy(build / "tests/oldkernel.so", RUN)
    if variant == "asan":
        runtimes = [run("gcc", f"-print-file-name=lib{name}.so").stdout.strip() for name in ("asan", "ubsan")]
        preload = ":".join([os.path.realpath(r) for r in runtimes] + [preload])
        # nginx and HAProxy leave their own memory to the end of the process.
        os.environ["ASAN_OPTIONS"] = f"detect_leaks=0:log_path={sanitizer_logs}/asan"
        os.environ["UBSAN_OPTIONS"] = f"print_stacktrace=1:log_path={sanitizer_logs}/ubsan"


def run(*command, **options):
    """Run to the end; its output is captured, a failure raises."""
    options = {"check": True, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "timeout": 120,
               **options}
    try:
        return subprocess.run(command, **options)
    except subprocess.CalledProcessError as e:
        raise AssertionError(f"{' '.join(map(str, command))}: status {e.returncode}\n{e.stdout}") from None


def wait_for(what, condition, seconds=PATIENCE_S):
    """Return the first true value of condition()."""
    deadline = time.monotonic() + seconds * patience
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"{what}: not within {seconds * patience} s")


def environment(name, **settings):
    """Environment of a program under the library; FSOCKET_x by its lower-case x."""
    mine = {"LD_PRELOAD": preload, "FSOCKET_DIR": str(DIR), "FSOCKET_NAME": name}
    mine.update({"FSOCKET_" + key.upper(): str(value) for key, value in settings.items()})
    return {**os.environ, **mine}


@contextlib.contextmanager
def pinned(cpu):
    """The block runs on this CPU only."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, [cpu])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def sysctl(name, value):
    Path("/proc/sys", *name.split(".")).write_text(str(value))


class Switch:
    """DIR/NAME.switch"""

    def __init__(self, name):
        self.path = DIR / f"{name}.switch"

    def set(self, value):
        """Write in place, as the contract says, and wait until all have seen it."""
        with open(self.path, "r+b") as f:
            f.write(value.encode())
        time.sleep(0.25)


class Stats:
    """DIR/NAME.stats, decoded by the layout that tools/abi-dump prints."""

    def __init__(self, name):
        self.path = DIR / f"{name}.stats"
        self.abi = json.loads((build / "abi.json").read_text())
        self.names = {}
        for prefix in ("ERR", "MODE", "SLOT"):
            self.names[prefix] = {value: key.split("_", 2)[2] for key, value in self.abi["constants"].items()
                                  if key.startswith(f"FSOCKET_{prefix}_") and not key.endswith("_COUNT")}

    def _row(self, kind, data, offset):
        row = {}
        for name, f in self.abi["structs"]["fsocket_" + kind]["fields"].items():
            at = offset + f["offset"]
            if f["kind"] == "text":
                row[name] = data[at:at + f["size"]].split(b"\0")[0].decode()
                continue
            code = {1: "b", 2: "h", 4: "i", 8: "q"}[f["size"]]
            code = code if f["kind"] == "int" else code.upper()
            values = struct.unpack_from(f"={f['count']}{code}", data, at)
            row[name] = values[0] if f["count"] == 1 else values
        return row

    def read(self):
        """Return {"header", "cpus", "listeners", "slots"}; free rows are left out."""
        data = self.path.read_bytes()
        h = self._row("header", data, 0)
        assert h["magic"] == self.abi["constants"]["FSOCKET_MAGIC"], h

        def rows(kind):
            return [self._row(kind, data, h[f"{kind}_offset"] + i * h[f"{kind}_size"])
                    for i in range(h[f"{kind}_count"])]

        h["errors"] = {self.names["ERR"][i]: n for i, n in enumerate(h["errors"])}
        listeners = [{**r, "mode": self.names["MODE"][r["mode"]]} for r in rows("listener") if r["cookie"]]
        slots = [{**r, "state": self.names["SLOT"][r["state"]]} for r in rows("slot") if r["state"]]
        return {"header": h, "cpus": rows("cpu"), "listeners": listeners, "slots": slots}

    def total(self):
        """Return {counter: sum over CPUs}."""
        cpus = self.read()["cpus"]
        return {name: sum(c[name] for c in cpus) for name in cpus[0] if name != "reserved"}

    def errors(self):
        return {kind: n for kind, n in self.read()["header"]["errors"].items() if n}

    def mode(self, port):
        """Modes of the listener rows of a port, newest last by cookie."""
        return [r["mode"] for r in sorted(self.read()["listeners"], key=lambda r: r["cookie"]) if r["port"] == port]


class Load:
    """Clients in the background (count 0) or until each made `count` requests."""

    def __init__(self, address, port, clients=2, count=0):
        command = [sys.executable, str(HERE / "load.py"), address, str(port), str(count)]
        self.clients = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(clients)]
        for c in self.clients:
            assert c.stdout.readline() == "up\n"

    def end(self):
        """Return (failed {kind: n}, answers [[cpu, word...]])."""
        failed, answers = {}, []
        for c in self.clients:
            c.terminate()
        for c in self.clients:
            result = json.loads(c.communicate(timeout=60)[0])
            answers += result["answers"]
            for kind, n in result["failed"].items():
                failed[kind] = failed.get(kind, 0) + n
        return failed, answers

    def result(self):
        """The same, of clients that end by themselves or have had time enough."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            for c in self.clients:
                c.wait(PATIENCE_S * patience)
        return self.end()


def ask(address, port, count=200):
    """One client, `count` requests; all must be answered. Returns the answers."""
    failed, answers = Load(address, port, clients=1, count=count).result()
    assert not failed and len(answers) == count, f"{len(answers)} of {count} answered, failed: {failed}"
    return answers


def answers_at(address, port):
    with socket.socket() as s:
        return s.connect_ex((address, port)) == 0


def listens(address, port):
    """How many sockets listen there? Asked without a connection, so that nothing is counted."""
    # Not /proc/net/tcp: it walks through every connection, and there are thousands.
    rows = run("ss", "-Hltn", "src", f"{address}:{port}").stdout.splitlines()
    return len(rows)


def children(pid):
    """Direct children, also after a thread has made them."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        # A thread may have ended since.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += map(int, path.read_text().split())
    return found


def cpu_of(pid, tid=None):
    """The CPU a thread is pinned to."""
    for line in Path(f"/proc/{pid}/task/{tid or pid}/status").read_text().splitlines():
        if line.startswith("Cpus_allowed_list:"):
            return int(line.split()[1])
    return None


class Service:
    """A server in the foreground of a process of ours. `env` None: without the library."""

    def __init__(self, name, command, env=None, wrapper=(), user=None):
        self.name, self.stats, self.switch = name, Stats(name), Switch(name)
        self.log = RUN / f"{name}.log"
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([*wrapper, *command], env=env, stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log, user=user, group=user and "nogroup", extra_groups=user and [])

    def up(self, address, port):
        def ready():
            assert self.process.poll() is None, f"{self.name} ended early\n{self.log.read_text()}"
            return listens(address, port)
        wait_for(f"{self.name} at {address}:{port}", ready)

    def send(self, number):
        os.kill(self.process.pid, number)

    def stop(self, number=signal.SIGTERM):
        self.send(number)
        return self.process.wait(PATIENCE_S * patience)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if self.process.poll() is None:
            self.stop()
        if kind:
            state = self.stats.read() if self.stats.path.exists() else {}
            rows = [f"{part}: {row}" for part in ("cpus", "listeners", "slots") for row in state.get(part, ())]
            lines = [f"-- {self.name}", *rows, *self.log.read_text().splitlines()[-12:]]
            print("".join(f"# {line}\n" for line in lines), end="")

    def served(self):
        """Does the library serve it? Its statistics say so."""
        return self.stats.path.exists() and bool(self.stats.read()["listeners"])

    def wait_for_slots(self, pids, each):
        """Wait until each of the processes serves `each` slots, and these listen."""
        def ready():
            slots = self.stats.read()["slots"]
            owners = [s["pid"] for s in slots]
            # Slots beside the application's listener, or (its own `reuseport`) each of its listeners one.
            listening = len({s[kind] for s in slots if s["pid"] in pids for kind in ("listener", "cookie")})
            return all(owners.count(pid) >= each for pid in pids) and listens(self.address, self.port) >= listening
        if self.served():
            wait_for(f"slots of {self.name}'s new workers", ready)


class Adopted:
    """A daemon's process: an orphan, so a child of the first process, which we are. As subprocess.Popen."""

    def __init__(self, pid):
        self.pid, self.status = pid, None

    def poll(self):
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if pid else None
        return self.status

    def wait(self, seconds):
        wait_for(f"the end of {self.pid}", lambda: self.poll() is not None, seconds)
        return self.status


class Nginx(Service):
    """Two pinned workers that answer "PID PEERS-PORT"."""

    CONFIG = """
{main} {user} worker_processes {workers}; worker_cpu_affinity {masks}; pid {run}/nginx.pid; error_log {log} info;
daemon {daemon};
events {{ worker_connections 4096; {events} }}
http {{ access_log off; {temp} server {{ {listen} return 200 "$pid $remote_port\\n"; }} }}
"""

    def __init__(self, name, port, address="127.0.0.1", env=None, workers=2, events="", run_user=None, wrapper=(),
                 wait=True, slots=1, main="", daemon=False):
        run_dir = RUN / f"{name}.d"
        run_dir.mkdir(exist_ok=True)
        if run_user:
            shutil.chown(run_dir, run_user)
        temp = " ".join(f"{kind}_temp_path {run_dir};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        masks = " ".join(f"{1 << cpu:b}" for cpu in CPUS[:workers])
        self.address, self.port, self.workers_wanted, self.slots = address, port, workers, slots
        config = RUN / f"{name}.conf"
        config.write_text(self.CONFIG.format(
            main=main, daemon="on" if daemon else "off", log=RUN / f"{name}.log" if daemon else "stderr",
            user="" if run_user else "user nobody nogroup;", workers=workers, masks=masks, run=run_dir, events=events,
            temp=temp, listen=f"listen {address}:{port};"))
        super().__init__(name, [shutil.which("nginx"), "-e", "stderr", "-c", str(config)], env, wrapper, run_user)
        if daemon:
            assert self.process.wait(PATIENCE_S) == 0, self.log.read_text()
            self.process = Adopted(int((run_dir / "nginx.pid").read_text()))
        if wait:
            self.up(address, port)
            self.settled()

    def workers(self):
        """Return {pid: CPU} of the running workers."""
        return {pid: cpu_of(pid) for pid in children(self.process.pid)}

    def settled(self, old=()):
        """Wait for a full set of pinned workers, none of them in `old` (those may still be finishing)."""
        def ready():
            try:
                new = {pid: cpu for pid, cpu in self.workers().items() if pid not in old}
            except (FileNotFoundError, ProcessLookupError, ValueError):
                return None
            return new if len(new) == self.workers_wanted else None
        new = wait_for("nginx workers", ready)
        self.wait_for_slots(new, self.slots)
        return new

    def reload(self):
        old = self.workers()
        self.send(signal.SIGHUP)
        return self.settled(old)


class Haproxy(Service):
    """Master and worker with two pinned threads, in front of one server."""

    CONFIG = """
global
  user haproxy
  group haproxy
  maxconn 2000
  nbthread 2
  cpu-map auto:1/1-2 {cpus}
  tune.listener.multi-queue off
  tune.idle-pool.shared off
  stats socket {run}/admin level admin
defaults
  mode http
  timeout client 5s
  timeout server 5s
  timeout connect 5s
  option http-server-close
frontend f
  bind 127.0.0.1:{port}
  default_backend b
backend b
  http-reuse never
  server s {server}
"""

    def __init__(self, name, port, server, env=None):
        run_dir = RUN / f"{name}.d"
        run_dir.mkdir(exist_ok=True)
        self.address, self.port, self.admin = "127.0.0.1", port, run_dir / "admin"
        config = RUN / f"{name}.cfg"
        config.write_text(self.CONFIG.format(cpus=f"{CPUS[0]}-{CPUS[-1]}", run=run_dir, port=port, server=server))
        super().__init__(name, ["haproxy", "-W", "-f", str(config)], env)
        self.up("127.0.0.1", port)
        self.settled()

    def worker(self):
        return children(self.process.pid)

    def settled(self, old=(), slots=2):
        """Wait for a worker that serves so many slots, and for the end of the `old` one."""
        pids = wait_for("a HAProxy worker", lambda: (now := self.worker()) and not set(now) & set(old) and now)
        self.wait_for_slots(pids, slots)

    def reload(self, slots=2):
        old = self.worker()
        self.send(signal.SIGUSR2)
        self.settled(old, slots)

    def command(self, text):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(5)
            s.connect(str(self.admin))
            s.sendall(text.encode() + b"\n")
            return s.recv(65536).decode()
