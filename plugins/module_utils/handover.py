# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restart a service and lose no connection.

The new processes start beside the old ones and take their listening sockets over: this process holds duplicates and
offers them at DIR/NAME.handover (libfsocket/include/fsocket_abi.h), where libfsocket asks when the new process binds.
Then the old ones get the signal that makes them finish what is open (nginx SIGQUIT, HAProxy SIGUSR1).

systemd stays in charge all along: a drop-in in /run, there for the time of the restart only, makes its stop leave the
old processes alone. A service whose graceful signal we do not know is stopped in its own way before it starts; its
sockets are held meanwhile, so connections wait and none is refused."""

import array
import contextlib
import os
import signal
import socket
import threading
import time

from . import hostfile, paths, services, sockets, systemd
from .errors import FleetError

RUNTIME_DROPIN = "/run/systemd/system/%s.d/fastsocket-handover.conf"
STEP_S = 0.05
# The new program did not start and the old one must make room: so long, as the site is down then.
FAILED_S = 5
# While nobody accepts, the queue takes what comes: as much as net.core.somaxconn allows.
HELD_BACKLOG = 65535


def held_sockets(pids, slots=()):
    """Return duplicates of the listening TCP sockets of processes, without those whose cookie is in `slots`."""
    found = {}
    for pid in pids:
        for row in sockets.tcp_fds(pid):
            if row["listening"] and row["cookie"] not in found and row["cookie"] not in slots:
                handle = sockets.pidfd_getfd(pid, row["fd"])
                found[row["cookie"]] = socket.socket(row["domain"], socket.SOCK_STREAM, 0, fileno=handle)
    return list(found.values())


def probe(service):
    """FleetError when the sockets of a running service could not be held: a kernel before 5.6, a container that
    forbids it."""
    for one in held_sockets(sockets.service_pids(services.unit_of(service))):
        one.close()


def _serve(door, held):
    """Send every held socket to whoever asks, until the door is closed."""
    while True:
        try:
            peer, dummy = door.accept()
        except OSError:
            return
        with contextlib.closing(peer):
            try:
                for one in held:
                    rights = array.array("i", [one.fileno()])
                    peer.sendmsg([b"L"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
            except OSError:
                # A check of the configuration may ask and leave before it has all of them.
                continue


@contextlib.contextmanager
def offered(name, held, folder=paths.RUN):
    """Offer sockets at FOLDER/NAME.handover for the time of a with block."""
    path = os.path.join(folder, name + ".handover")
    os.makedirs(folder, mode=0o755, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    mask = os.umask(0o177)
    try:
        door.bind(path)
    finally:
        os.umask(mask)
    door.listen(16)
    server = threading.Thread(target=_serve, args=(door, held), daemon=True)
    server.start()
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        # Wakes the accept() above; close() alone would not.
        door.shutdown(socket.SHUT_RDWR)
        server.join(5)
        door.close()
        for one in held:
            one.close()


@contextlib.contextmanager
def beside(service):
    """For the time of a with block, a restart by systemd starts the new processes and leaves the old ones alone."""
    path = RUNTIME_DROPIN % services.unit_of(service)
    hostfile.write(path, "[Service]\nExecStop=\nKillMode=none\n")
    systemd.run("systemctl", "daemon-reload")
    try:
        yield
    finally:
        hostfile.remove(path)
        systemd.run("systemctl", "daemon-reload")


def finish(unit, main, pids, stop, seconds):
    """Let old processes finish: `stop` to their main process, SIGKILL to what is left of them after `seconds`. Return
    True when something was."""
    pid_file = systemd.show(unit)["PIDFile"]
    text = hostfile.read(pid_file) if pid_file else None
    _kill(main, getattr(signal, stop))
    deadline = time.time() + seconds
    while _left(unit, pids) and time.time() < deadline:
        time.sleep(STEP_S)
    left = _left(unit, pids)
    for pid in left:
        _kill(pid, signal.SIGKILL)
    if text and hostfile.read(pid_file) is None:
        hostfile.write(pid_file, text)      # nginx's old master removed what the new one had written
    return bool(left)


def _left(unit, pids):
    """Of these processes, those that the unit still has."""
    try:
        return set(pids) & set(sockets.service_pids(unit))
    except FleetError:
        return set()    # it has none


def _kill(pid, number):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def restart(service, drain_seconds, slots=(), folder=paths.RUN):
    """Restart a running service with its sockets held. Return {"held": sockets, "cut": connections were still open
    after `drain_seconds` and ended with their process}.

    FleetError when the service does not come up; it names what the journal says, and no old process is left."""
    unit, name, stop = services.unit_of(service), services.name_of(service), services.known(service).stop
    pids, main = sockets.service_pids(unit), int(systemd.show(unit)["MainPID"])
    held = held_sockets(pids, slots)
    for one in held:
        one.listen(HELD_BACKLOG)
    with contextlib.ExitStack() as stack:
        stack.enter_context(offered(name, held, folder))
        if stop and main:
            stack.enter_context(beside(service))
        status, output = systemd.attempt("systemctl", "restart", unit, timeout=180)
    cut = finish(unit, main, pids, stop, FAILED_S if status else drain_seconds) if stop and main else False
    if status:
        raise FleetError("%s did not start: %s | %s" % (unit, systemd.last_lines(output), systemd.journal(unit)))
    return {"held": len(held), "cut": cut}
