# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Slots end while handshakes of another CPU come to them: Linux resets one now and then, so that many ends show it."""
import subprocess
import sys

import lab
from clients import Clients, told

ENDS = 3000
# Handshakes that may meet an end all the same: a virtual CPU that the host takes away in the midst of one.
STOPPED = 2
# A worker of CPU argv[1] that comes and goes argv[2] times; one without a CPU of its own serves it all.
COMES_AND_GOES = """
import os, select, socket, sys, time

cpu, ends = map(int, sys.argv[1:])
listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
listener.setblocking(False)
child = os.fork()
epoll = select.epoll()
if not child:
    epoll.register(listener, select.EPOLLIN)
while not child:
    epoll.poll()
    while True:
        try:
            connection = listener.accept()[0]
        except BlockingIOError:
            break
        connection.setblocking(True)
        connection.recv(1024)
        connection.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\n1")
        connection.close()
print(listener.getsockname()[1], flush=True)
sys.stdin.readline()
os.sched_setaffinity(0, [cpu])
for _ in range(ends):
    epoll.register(listener, select.EPOLLIN)
    time.sleep(0.001)
    epoll.unregister(listener)
    epoll.poll(0)
print("gone", flush=True)
sys.stdin.readline()
os.kill(child, 9)
"""


def ends(migrate):
    lab.sysctl("net.ipv4.tcp_migrate_req", migrate)
    name = f"ends{migrate}"
    command = [sys.executable, "-c", COMES_AND_GOES, str(lab.CPUS[1]), str(ENDS)]
    with subprocess.Popen(command, env=lab.environment(name), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True) as worker, Clients(int(worker.stdout.readline()), 0, lab.CPUS[:1], 8) as load:
        print("come", file=worker.stdin, flush=True)
        assert worker.stdout.readline() == "gone\n"
        tally = load.end()
        worker.communicate("go\n", lab.PATIENCE_S)
    # 6 to 19 without the moment before the end. It is no help where the machine itself is stopped in a handshake.
    assert tally.lost <= STOPPED, tally
    return str(tally)


@told
def test_ends():
    """3000 slots end under handshakes of another CPU, tcp_migrate_req 0"""
    return ends(0)


@told
def test_ends_migrate():
    """3000 slots end under handshakes of another CPU, tcp_migrate_req 1"""
    return ends(1)
