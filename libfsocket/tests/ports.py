#!/usr/bin/env python3
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""What the programs that part_ports runs under the library begin with: connections, and what is seen of them."""
import atexit
import contextlib
import errno
import json
import select
import socket
import sys
import time

FREEBIND, TRANSPARENT, NO_PORT, RANGE = 15, 19, 24, 51  # IP_*
OPEN = []


def fresh(address, source=None, port=0, options=(), blocking=True):
    """A TCP socket of ADDRESS's family; bound when SOURCE is given."""
    s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    s.setblocking(blocking)
    for option in options:
        s.setsockopt(socket.IPPROTO_IP, option, 1)
    if source is not None:
        s.bind((source, port))
    OPEN.append(s)
    return s


def local(s):
    return s.getsockname()[1]


def get_range(s):
    return s.getsockopt(socket.IPPROTO_IP, RANGE)


def attempt(s, address, port, patience=10):
    """The name of connect()'s errno, "" when it had none. What is begun is waited for, so that the next attempt
    finds the answer however busy the machine is."""
    code = s.connect_ex((address, port))
    if code == errno.EINPROGRESS:
        select.select([], [s], [], patience)
    return errno.errorcode[code] if code else ""


def connect(address, port, *how, **more):
    """Connect and stay so; returns the source port, or the name of errno."""
    s = fresh(address, *how, **more)
    return attempt(s, address, port) or local(s)


def drop():
    """Close all, and without TIME_WAIT."""
    for s in OPEN:
        with contextlib.suppress(OSError):
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        s.close()
    OPEN.clear()


# The next program finds all ports free.
atexit.register(drop)


def disconnect(s):
    """connect() with AF_UNSPEC, which Python's sockets do not know."""
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    return libc.connect(s.fileno(), bytes(16), 16)


def tell(value):
    print(json.dumps(value), flush=True)


def hear():
    """Wait for the driver."""
    return sys.stdin.readline()


def pause():
    """Longer than what was full is left alone, and than the library takes to look at its files again."""
    time.sleep(1.2)
