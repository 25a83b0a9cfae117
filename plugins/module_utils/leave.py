# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a running service goes on without libfsocket and without losing a connection."""

import os
import signal
import time

from . import hostfile, library, services, sockets, switch, systemd
from .errors import FleetError

# Handshakes that a slot has begun end within one retransmission of the SYN-ACK (RFC 6298: 1 s) on any network but a
# broken one.
SETTLE_S = 1.5
STEP_S = 0.05
NEW_S = 20


def names(pid, path):
    """Does the command line of a process name a file?"""
    words = (hostfile.read("/proc/%d/cmdline" % pid) or "").split("\0")
    return path in words


def way(service, properties):
    """Return how a running service goes on without the library, a key of WAYS; None when it cannot: it has no main
    process, or an nginx without a PID file (`daemon off`), whose upgrade systemd would not follow."""
    known = services.known(service).leave
    if not int(properties["MainPID"] or 0) or (known == "upgrade" and not properties["PIDFile"]):
        return None
    return known


def _wait(seconds, done):
    deadline = time.time() + seconds
    while not done():
        if time.time() > deadline:
            return False
        time.sleep(STEP_S)
    return True


def _fresh(unit, before):
    """Return the processes of a unit that came since and run without the library."""
    return [pid for pid in sockets.service_pids(unit) if pid not in before and not library.mapped_into(pid)]


def upgrade(service, drain_seconds):
    """nginx: the master executes a new one (SIGUSR2), which inherits the sockets and no LD_PRELOAD; then the old one
    ends gracefully (SIGQUIT). nginx.org/en/docs/control.html, "Upgrading Executable on the Fly".

    Return True when old workers still have connections open after `drain_seconds`."""
    unit = services.unit_of(service)
    properties = systemd.show(unit)
    old, pid_file = int(properties["MainPID"]), properties["PIDFile"]
    before = set(sockets.service_pids(unit))
    os.kill(old, signal.SIGUSR2)

    def taken_over():
        text = (hostfile.read(pid_file) or "").strip() if pid_file else ""
        fresh = _fresh(unit, before)
        # The new master and at least one worker of its own.
        return text.isdigit() and int(text) in fresh and len(fresh) > 1

    if not _wait(NEW_S, taken_over):
        raise FleetError("%s did not start a new master after SIGUSR2; it runs on, preloaded and off | %s"
                         % (unit, systemd.journal(unit)))
    os.kill(old, signal.SIGQUIT)
    return not _wait(drain_seconds, lambda: not os.path.exists("/proc/%d" % old))


def reload(service, drain_seconds):
    """HAProxy: its master executes itself. The switch on LEAVE makes libfsocket take itself out of the environment
    just before; old workers finish what they have. Return True when one still does after `drain_seconds`."""
    unit = services.unit_of(service)
    switch.write(services.name_of(service), switch.LEAVE)
    # The processes look at the switch every 100 ms.
    time.sleep(0.3)
    before = set(sockets.service_pids(unit))
    systemd.run("systemctl", "reload", unit)
    main = int(systemd.show(unit)["MainPID"])

    def taken_over():
        return not library.mapped_into(main) and len(_fresh(unit, before)) > 0

    if not _wait(NEW_S, taken_over):
        switch.write(services.name_of(service), switch.OFF)
        raise FleetError("%s did not come up without the library after its reload; it runs on, preloaded and off | %s"
                         % (unit, systemd.journal(unit)))
    return not _wait(drain_seconds, lambda: not [pid for pid in sockets.service_pids(unit)
                                                 if library.mapped_into(pid)])


WAYS = {"upgrade": upgrade, "reload": reload}
