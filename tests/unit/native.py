# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The real things that tests run: libfsocket built from this tree, a server it is preloaded into, fsctl installed."""

import atexit
import functools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from ansible_collections.fastsocket.fleet.plugins.module_utils import hostfile, install, paths, wrapping

ROOT = Path(__file__).parents[2]
CPUS = sorted(os.sched_getaffinity(0))[:2]


def _oldest():
    """The oldest Python a host may have, where this machine has it; pyenv's own `python3.6` may be an empty promise."""
    for path in (*Path.home().glob(".pyenv/versions/3.6.*/bin/python3.6"), shutil.which("python3.6")):
        if path and subprocess.run([path, "-V"], capture_output=True).returncode == 0:
            return str(path)
    return None


OLD = _oldest()
PYTHONS = [sys.executable] + ([OLD] if OLD else [])

# Pinned like a worker after it has listened; answers nothing, counts nothing: it accepts and closes.
SERVER = """
import os, select, socket, sys
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(("127.0.0.1", int(sys.argv[2])))
server.listen(16)
server.setblocking(False)
more = socket.create_server(("127.0.0.1", 0)) if sys.argv[3:] else None
os.sched_setaffinity(0, {int(sys.argv[1])})
epoll = select.epoll()
epoll.register(server, select.EPOLLIN)
print(server.getsockname()[1], flush=True)
while True:
    epoll.poll()
    try:
        server.accept()[0].close()
    except BlockingIOError:
        pass
"""


@functools.lru_cache(maxsize=None)
def _built():
    """Build once for all tests of a run, in a folder that goes with it."""
    folder = tempfile.mkdtemp(prefix="fastsocket-unit-")
    atexit.register(shutil.rmtree, folder)
    targets = [f"{folder}/libfsocket.so", f"{folder}/abi.json"]
    subprocess.run(["make", "-s", "-j2", "-C", str(ROOT / "libfsocket"), f"BUILD={folder}", *targets], check=True)
    return Path(folder)


def library():
    """Path of libfsocket.so."""
    return str(_built() / "libfsocket.so")


def abi():
    """The C compiler's view of fsocket_abi.h; libfsocket/tools/abi-dump.c says in which form."""
    return json.loads((_built() / "abi.json").read_text())


def shared_object(path, code):
    """Compile C into a shared library."""
    subprocess.run(["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(path)], input=code, text=True, check=True)
    return str(path)


def true(folder, name="web", **variables):
    """Run /bin/true with the library; return what it printed. FOLDER then holds NAME.stats and NAME.switch."""
    environment = dict(LD_PRELOAD=library(), FSOCKET_DIR=str(folder), FSOCKET_NAME=name, **variables)
    done = subprocess.run(["/bin/true"], env=environment, check=True, stderr=subprocess.STDOUT, stdout=subprocess.PIPE)
    return done.stdout.decode()


@contextmanager
def server(folder, cpu=CPUS[0], port=0, name="web", preload=None, more=False, **variables):
    """A preloaded server with one worker; yields (process, port). `more`: it listens on a second port as well."""
    environment = dict(os.environ, LD_PRELOAD=preload or library(), FSOCKET_DIR=str(folder), FSOCKET_NAME=name,
                       **variables)
    command = [sys.executable, "-c", SERVER, str(cpu), str(port)] + ["more"] * more
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


def connect(port, cpu, times=1):
    """Open connections one after another, from one CPU: over lo that is where their packets arrive."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        for _ in range(times):
            with socket.create_connection(("127.0.0.1", port), 5) as client:
                client.recv(1)  # until the server has accepted and closed
    finally:
        os.sched_setaffinity(0, allowed)


def wait_for(done, seconds=5):
    """Return the first true value of `done()`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = done()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError(f"nothing came within {seconds} s")


def installed(monkeypatch, root):
    """Install fsctl below ROOT so that the installed copy takes ROOT/etc, run and var for the host's; return ROOT."""
    monkeypatch.setattr(paths, "LIB", f"{root}/usr/lib/fastsocket")
    monkeypatch.setattr(paths, "FSCTL", f"{root}/usr/sbin/fsctl")
    monkeypatch.setattr(install, "FOLDER", paths.LIB + "/python/fastsocket_fleet")
    install.install("present", False)
    for path in Path(install.FOLDER).rglob("*.py"):
        path.write_text(re.sub(r'"/(etc|run|usr|var)/', rf'"{root}/\1/', path.read_text()))
    return root


def wrap(root, service):
    """Leave the traces on ROOT by which a service counts as wrapped; return the folder for its files."""
    hostfile.write(f"{root}{wrapping.dropin_path(service)}", "[Service]\n")
    hostfile.write_json(f"{root}{wrapping.desired_path(service)}", {"service": service})
    os.makedirs(f"{root}/run/fastsocket", exist_ok=True)
    return f"{root}/run/fastsocket"


def fsctl(root, *words, python=sys.executable, load=""):
    """Run the installed fsctl (`load`: Python code to run first); return (status, output, errors)."""
    code = (f"import sys; sys.path.insert(0, {root + '/usr/lib/fastsocket/python'!r})\n"
            f"from fastsocket_fleet import fsctl\n{load}\nsys.exit(fsctl.main({list(words)!r}))")
    done = subprocess.run([python, "-B", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return done.returncode, done.stdout, done.stderr
