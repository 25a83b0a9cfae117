#!/usr/bin/env python3
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""member.py PORT CPU: a pinned server that shares its port with others of its kind; answers its CPU."""
import contextlib
import os
import select
import socket
import sys

port, cpu = map(int, sys.argv[1:])
os.sched_setaffinity(0, [cpu])
listener = socket.socket()
for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
    listener.setsockopt(socket.SOL_SOCKET, option, 1)
listener.bind(("127.0.0.1", port))
listener.listen(100)
listener.setblocking(False)
events = select.epoll()
events.register(listener, select.EPOLLIN)
while events.poll():
    with contextlib.suppress(BlockingIOError):
        while True:
            with listener.accept()[0] as client:
                client.recv(100)
                client.sendall(b"%d\n" % cpu)
