# SPDX-License-Identifier: GPL-3.0-or-later
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
"""Two sockets of a virtual machine: QEMU's monitor (QMP) and the guest agent on the second serial port.

Both speak JSON, one object a line: https://www.qemu.org/docs/master/interop/ (qmp-spec, qemu-ga-ref).
"""
import base64
import json
import os
import socket
import time

from hostlab.errors import LabError

SILENCE = 10.0  # seconds until an agent that does not answer is greeted again: its guest may have been reset
OUTPUT = {"out-data": 1, "err-data": 2}  # field of an answer -> file descriptor


class Lines:
    """A socket that carries one JSON object a line. PATH is that of a socket in the file system."""

    def __init__(self, path: str, timeout: float):
        self.path, self.rest = path, b""
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(timeout)
        try:
            self.socket.connect(path)
        except OSError as err:
            self.socket.close()
            raise LabError(f"{path}: {err.strerror}") from err

    def __enter__(self):
        return self

    def __exit__(self, *dummy):
        self.socket.close()

    def send(self, name: str, arguments: dict, start: bytes = b"") -> None:
        self.socket.sendall(start + json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n")

    def receive(self) -> dict:
        """The next object; OSError when there is none in time, or the other end is gone."""
        while b"\n" not in self.rest:
            more = self.socket.recv(65536)
            if not more:
                raise ConnectionResetError(f"{self.path}: closed")
            self.rest += more
        line, _, self.rest = self.rest.partition(b"\n")
        return json.loads(line.rpartition(b"\xff")[2])

    def call(self, name: str, **arguments):
        """The answer to a command; events that come before it are passed over. LabError when it is an error."""
        self.send(name, {key.replace("_", "-"): value for key, value in arguments.items()})
        while True:
            answer = self.receive()
            if "error" in answer:
                raise LabError(f"{name}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]


def monitor(path: str, timeout: float = 30.0) -> Lines:
    """QEMU's monitor at PATH, ready for commands."""
    lines = Lines(path, timeout)
    lines.receive()
    lines.call("qmp_capabilities")
    return lines


def agent(path: str, patience: float) -> Lines:
    """The guest agent at PATH, greeted until it answers. LabError after PATIENCE seconds."""
    begin = time.monotonic()
    while time.monotonic() - begin < patience:
        try:
            lines = Lines(path, 3.0)
        except LabError:  # QEMU has not made it yet
            time.sleep(0.05)
            continue
        token = time.monotonic_ns() % 2**31
        try:
            lines.send("guest-sync-delimited", {"id": token}, start=b"\xff")
            while lines.receive().get("return") != token:
                pass
            lines.socket.settimeout(SILENCE)
            return lines
        except (OSError, ValueError):
            lines.socket.close()
    raise LabError(f"the guest agent at {path} does not answer for {patience:.0f} s")


def run(path: str, command: list[str], given: bytes = b"", patience: float = 30.0) -> tuple[int, dict[int, bytes]]:
    """Run COMMAND as root in the guest, with GIVEN as its input: exit status, and output by file descriptor."""
    environment = ["HOME=/root", "LANG=C.UTF-8", f"TERM={os.environ.get('TERM', 'dumb')}",
                   "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    lines = agent(path, patience)
    try:
        # Told once only, however long a busy guest takes to read it.
        lines.socket.settimeout(patience)
        pid = lines.call("guest-exec", path="/usr/bin/env", arg=["-i", *environment, *command], capture_output=True,
                         input_data=base64.b64encode(given).decode())["pid"]
        lines.socket.settimeout(SILENCE)
        pause = 0.05
        while True:
            try:
                state = lines.call("guest-exec-status", pid=pid)
            except OSError:  # no answer: the guest is slow, or has been reset and forgot the command
                lines.socket.close()
                lines = agent(path, patience)
                continue
            if state["exited"]:
                return (state.get("exitcode", 128 + state.get("signal", 0)),
                        {fd: base64.b64decode(state.get(field, "")) for field, fd in OUTPUT.items()})
            time.sleep(pause)
            pause = min(pause * 1.5, 1.0)
    finally:
        lines.socket.close()
