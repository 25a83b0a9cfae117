# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A lab as the tests see it: commands on its hosts, Ansible from its controller, load, and snapshots of hosts."""
import contextlib
import json
import os
import re
import subprocess
import time
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
LAB = TOP / "tests/lab/lab"
SNAPSHOT = (Path(__file__).parent / "snapshot.sh").read_text()
RECAP = re.compile(r"^(\S+) +: ok=(\d+) +changed=(\d+) +unreachable=(\d+) +failed=(\d+)", re.MULTILINE)
# A task's failure as the default callback prints it: `failed` is one item of a loop.
FAILURE = re.compile(
    r"^(?:fatal|failed): \[(\S+?)(?: -> \S+)?\](?: \(item=.*?\))?:? (?:FAILED! |UNREACHABLE! )?=> ", re.MULTILINE)
QUIET = {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_LOCALHOST_WARNING": "0", "ANSIBLE_DEPRECATION_WARNINGS": "0"}
HOLD = """
import socket, sys
address, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
held = [socket.create_connection((address, port), 5) for _ in range(count)]
print("held", flush=True)
sys.stdin.read()
"""


def build(folder):
    """The collection's tarball, built from the checkout and installed, as a user has it. Returns the path to search."""
    quiet = {"check": True, "stdout": subprocess.DEVNULL}
    subprocess.run([TOP / "tools/build", folder], **quiet)
    tarball = next(Path(folder).glob("*.tar.gz"))
    subprocess.run(["ansible-galaxy", "collection", "install", "--offline", "-p", f"{folder}/collections", tarball],
                   stderr=subprocess.DEVNULL, **quiet)
    return f"{folder}/collections"


def old_python():
    """A Python 3.6 of this machine, to be shown to a host at the same path; None where there is none."""
    found = sorted(Path.home().glob(".pyenv/versions/3.6.*/bin/python3.6"))
    return str(found[-1]) if found else None


class Run:
    """An ended ansible-playbook: status, output, and for each host of the recap its counts."""

    def __init__(self, done):
        self.status, self.output = done.returncode, done.stdout
        self.recap = {row[0]: dict(zip(("ok", "changed", "unreachable", "failed"), map(int, row[1:]), strict=True))
                      for row in RECAP.findall(self.output)}
        self.failures = [(found[1], json.JSONDecoder().raw_decode(self.output, found.end())[0]["msg"])
                         for found in FAILURE.finditer(self.output)]

    def changed(self):
        return {host: counts["changed"] for host, counts in self.recap.items() if host != "localhost"}

    def one_failure(self, host, *words):
        """There is one failure, of this host, and its message holds these words."""
        assert self.status != 0, self.output
        assert [name for name, _ in self.failures] == [host], self.output
        for word in words:
            assert word in self.failures[0][1], self.failures[0][1]


class Lab:
    """A lab that is up. `inside`: this process is in its network already."""

    def __init__(self, name, inside=False, collections=None, home=None, venv=None):
        self.name, self.folder = name, Path("/run/fastsocket-lab") / name
        self.enter = [] if inside else [str(LAB), "run", "--name", name, "--"]
        self.env = {**os.environ, **QUIET}
        if collections:
            self.env.update(ANSIBLE_COLLECTIONS_PATH=collections, ANSIBLE_HOME=str(home))
        if venv:
            self.env["PATH"] = f"{venv}/bin:{self.env['PATH']}"

    def run(self, *words, stdin=None, cwd=None):
        """Run a command of the controller; stderr comes with stdout."""
        return subprocess.run([*self.enter, *map(str, words)], input=stdin or "", cwd=cwd, env=self.env, check=False,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)

    def sh(self, host, script, status=0, user="root", shell="sh -s"):
        """Run a shell script on a host; return what it prints, stderr included."""
        done = self.run("ssh", "-F", self.folder / "ssh_config", f"{user}@{host}", shell, stdin=script)
        assert status is None or done.returncode == status, f"{host}: {script}: {done.returncode}\n{done.stdout}"
        return done.stdout

    def snapshot(self, host, times=True):
        """Return {(kind, name): fact} of all on a host that the collection may touch; see snapshot.sh."""
        text = self.sh(host, SNAPSHOT, shell="sh -s " + ("times" if times else "-"))
        return facts(text)

    def playbook(self, book, *options, inventory=None, cwd=None):
        """Run a playbook, a path or a name in a collection."""
        return Run(self.run("ansible-playbook", "-i", self.folder / "inventory.ini",
                            *(["-i", inventory] if inventory else []), book, *options, cwd=cwd))

    def module(self, host, name, *options, **given):
        """Run one module on a host; return its result, with all that was printed (the warnings) as `output`."""
        name = name if "." in name else "fastsocket.fleet." + name
        given = ["-a", json.dumps(given)] if given else []
        done = self.run("ansible", "-i", self.folder / "inventory.ini", host, "-m", name, *given, *options)
        at = re.search(r"^%s \| (\w+)!? => (?=\{)" % re.escape(host), done.stdout, re.MULTILINE)
        assert at, done.stdout
        result = json.JSONDecoder().raw_decode(done.stdout, at.end())[0]
        assert (done.returncode == 0) == (at[1] in ("SUCCESS", "CHANGED")), done.stdout
        return dict(result, failed=done.returncode != 0, output=" ".join(done.stdout.split()))

    @contextlib.contextmanager
    def held(self, address, port=80, count=60):
        """Connections that are open and silent while the block runs: the reading from outside counts such accepts."""
        process = subprocess.Popen([*self.enter, "python3", "-c", HOLD, address, str(port), str(count)], text=True,
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=self.env)
        try:
            assert process.stdout.readline() == "held\n"
            yield
        finally:
            process.communicate("", timeout=30)

    @contextlib.contextmanager
    def load(self, *targets, rate=250):
        """Load on NAME=ADDRESS:PORT targets while the block runs. Yields a dict that holds the totals after it."""
        command = ["python3", "-B", TOP / "tests/lab/load.py", "--rate", rate, "--duration", 240]
        command += [word for target in targets for word in ("--target", target)]
        totals = {}
        process = subprocess.Popen([*self.enter, *map(str, command)], stdout=subprocess.PIPE, text=True, env=self.env)
        try:
            assert "ready" in json.loads(process.stdout.readline())
            yield totals
        finally:
            process.terminate()
            lines = process.communicate(timeout=30)[0].splitlines()
        totals.update(json.loads(lines[-1]))
        assert totals.get("final") and totals["ok"] > 0, totals

    def reboot(self, host, seconds=30):
        """Reboot a host and wait until its boot is over."""
        script = "cat /proc/sys/kernel/random/boot_id; systemctl is-system-running"
        before = self.sh(host, script).split()[0]
        self.sh(host, "systemctl reboot", status=None)
        wait(lambda: self.sh(host, script, status=None).split() not in ([before], [before, "running"])
             and self.sh(host, script, status=None).split()[1:] == ["running"], seconds)


def facts(text):
    """Return {(kind, name): fact} of a snapshot's text."""
    return {tuple(line.split("\t")[:2]): line.split("\t", 2)[2] for line in text.splitlines()}


def differences(before, after):
    """Return what two snapshots differ in as {name: (before, after)}: easy to read when a test fails."""
    return {" ".join(key): (before.get(key), after.get(key))
            for key in sorted({*before, *after}) if before.get(key) != after.get(key)}


def wait(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.2)
