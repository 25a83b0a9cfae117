# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restart a service and lose no connection.

While systemd stops the old processes and starts the new ones, this process holds duplicates of their listening
sockets, so the kernel goes on completing handshakes and queues the connections. libfsocket in the new process asks for
the sockets at DIR/NAME.handover when it binds (libfsocket/include/fsocket_abi.h), and serves that queue.

The old processes get the signal that makes them finish what is open (nginx SIGQUIT, HAProxy SIGUSR1), through a drop-in
that lives in /run for the time of the restart: systemd stays in charge all along."""

import array
import contextlib
import os
import socket
import threading

from . import paths, services, sockets, systemd
from .errors import FleetError

RUNTIME_DROPIN = "/run/systemd/system/%s.d/fastsocket-handover.conf"
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
def graceful_stop(service, seconds):
    """For the time of a with block, systemd stops the service by its graceful signal and waits `seconds` for it."""
    path = RUNTIME_DROPIN % services.unit_of(service)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="ascii") as handle:
        handle.write("[Service]\nExecStop=\nKillMode=mixed\nKillSignal=%s\nTimeoutStopSec=%d\n"
                     % (services.known(service).stop, seconds))
    systemd.run("systemctl", "daemon-reload")
    try:
        yield
    finally:
        os.unlink(path)
        with contextlib.suppress(OSError):
            os.rmdir(os.path.dirname(path))
        systemd.run("systemctl", "daemon-reload")


def restart(service, drain_seconds, slots=(), folder=paths.RUN):
    """Restart a running service with its sockets held. Return the number of sockets that were held.

    Connections that are still open after `drain_seconds` end with the old process. FleetError when the service does
    not come up; it names what the journal says."""
    unit, name = services.unit_of(service), services.name_of(service)
    pids = sockets.service_pids(unit)
    held = held_sockets(pids, slots)
    for one in held:
        one.listen(HELD_BACKLOG)
    with offered(name, held, folder), graceful_stop(service, drain_seconds):
        status, output = systemd.attempt("systemctl", "restart", unit, timeout=drain_seconds + 120)
    if status:
        raise FleetError("%s did not start: %s | %s" % (unit, systemd.last_lines(output), systemd.journal(unit)))
    return len(held)
