#!/usr/bin/env python3
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""edge.py HABIT PORT: what few servers do, on the first CPUs; an AssertionError when libc would do otherwise."""
import contextlib
import ctypes
import errno
import os
import select
import signal
import socket
import struct
import sys
import threading
import time

CPUS = sorted(os.sched_getaffinity(0))[:2]
HABIT, PORT = sys.argv[1], int(sys.argv[2])
# linux/filter.h: BPF_RET | BPF_K; asm-generic/socket.h
RETURN, SO_ATTACH_REUSEPORT_CBPF = 0x06, 51
SO_BUF_LOCK = 72
CLONE_NEWNET = 0x40000000  # linux/sched.h


def pin(cpu):
    os.sched_setaffinity(0, [cpu])


def listening(shared=False, number=None):
    listener = socket.socket()
    if number is not None:
        os.dup2(listener.fileno(), number)
        listener = socket.socket(fileno=number)
    for option in (socket.SO_REUSEADDR, *([socket.SO_REUSEPORT] if shared else ())):
        listener.setsockopt(socket.SOL_SOCKET, option, 1)
    listener.bind(("127.0.0.1", PORT))
    listener.listen(100)
    listener.setblocking(False)
    return listener


def polled(*listeners):
    events = select.epoll()
    for listener in listeners:
        events.register(listener, select.EPOLLIN)
    return events


def clients(count):
    return [socket.create_connection(("127.0.0.1", PORT)) for _ in range(count)]


def accepted(listener):
    taken = []
    with contextlib.suppress(BlockingIOError):
        while True:
            taken.append(listener.accept()[0])
    return taken


def minus_one():
    """A number that is no descriptor, after the short way of a listener with the last place has ended."""
    pin(CPUS[0])
    listener = listening(number=15)
    events = polled(listener)
    for _ in range(3):
        waiting = clients(20)
        assert len(accepted(listener)) == len(waiting)
    assert not events.poll(0.6)
    waiting = clients(1)
    libc = ctypes.CDLL(None, use_errno=True)
    assert (libc.accept4(-1, None, None, 0), ctypes.get_errno()) == (-1, errno.EBADF)
    assert len(accepted(listener)) == len(waiting)


def own_program():
    """A program of its own while connections wait in a slot."""
    pin(CPUS[0])
    listener = listening(shared=True)
    events = polled(listener)
    waiting = clients(20)
    code = ctypes.create_string_buffer(struct.pack("HBBI", RETURN, 0, 0, 0))
    listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, struct.pack("HL", 1, ctypes.addressof(code)))
    assert events.poll(1) and len(accepted(listener)) == len(waiting)


def other_epoll():
    """The number of the epoll that had the listener is another one's, and the other thread does not come."""
    listener, ready, done = listening(), threading.Event(), threading.Event()

    def idle():
        pin(CPUS[1])
        with polled(listener):
            ready.set()
            done.wait()
    thread = threading.Thread(target=idle)
    thread.start()
    ready.wait()
    pin(CPUS[1])
    waiting = clients(4)
    pin(CPUS[0])
    events = polled(listener)
    number = events.fileno()
    events.close()
    events = select.epoll()
    assert events.fileno() == number
    found = events.poll(1.5)
    done.set()
    thread.join()
    assert not found and len(waiting) == 4, found


def thread_ends():
    """One of several listeners of an address, when the thread that polled it has gone."""
    listeners = [listening(shared=True) for _ in range(2)]

    def poll_it():
        pin(CPUS[0])
        polled(listeners[1])

    def preferred():
        return listeners[1].getsockopt(socket.SOL_SOCKET, socket.SO_INCOMING_CPU)
    before = preferred()
    thread = threading.Thread(target=poll_it)
    thread.start()
    thread.join()
    # Python does not wait for the end of the thread itself.
    deadline = time.monotonic() + 5
    while preferred() != before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert preferred() == before


def ticks():
    """A timer as long as the parts that a wait is cut into, and so little more that one interrupt ends both."""
    pin(CPUS[0])
    events, heard = polled(listening()), []
    signal.signal(signal.SIGALRM, lambda *_: heard.append(time.monotonic()))
    signal.setitimer(signal.ITIMER_REAL, 0.2502, 0.2502)
    begin = time.monotonic()
    while time.monotonic() < begin + 4:
        events.poll(begin + 4.1 - time.monotonic())
    # The first one may come as the unprotected part of the first wait ends.
    assert len(heard) >= 13, [round(at - begin, 2) for at in heard]


def two_on_one():
    """Two threads of one CPU, an epoll each: both may serve, one has the slot."""
    listener, served = listening(), []

    def serve():
        pin(CPUS[0])
        with polled(listener) as events:
            ready.wait()
            while len(served) < 100:
                events.poll(0.1)
                served.extend(accepted(listener))
    ready = threading.Barrier(3)
    threads = [threading.Thread(target=serve) for _ in range(2)]
    for thread in threads:
        thread.start()
    ready.wait()
    waiting = clients(100)
    for thread in threads:
        thread.join()
    assert len(served) == len(waiting)


def failed_dup2():
    """Over the listener, of what is no descriptor: it is as it was, and what waits in its slot is there."""
    pin(CPUS[0])
    listener = listening()
    events = polled(listener)
    libc = ctypes.CDLL(None, use_errno=True)
    for call in (lambda: libc.dup2(999, listener.fileno()), lambda: libc.dup3(999, listener.fileno(), 0)):
        waiting = clients(10)
        assert (call(), ctypes.get_errno()) == (-1, errno.EBADF)
        waiting += clients(10)
        assert events.poll(1) and len(accepted(listener)) == len(waiting)


def one_shot():
    """One event, whatever comes wherever, until it is armed again."""
    pin(CPUS[0])
    listener, events = listening(), select.epoll()
    waiting = clients(1)
    events.register(listener, select.EPOLLIN | select.EPOLLONESHOT)
    waiting += clients(1)
    assert [len(events.poll(timeout)) for timeout in (1, 0.3)] == [1, 0]
    assert len(accepted(listener)) == len(waiting)
    # Armed so only now: another thread would hear of the one while this one has the other.
    for arm in (select.EPOLLIN, select.EPOLLIN | select.EPOLLONESHOT):
        events.modify(listener, arm)
        waiting = clients(1)
        assert len(events.poll(1)) == 1 and len(accepted(listener)) == 1
    assert not events.poll(0.1) and clients(1) and not events.poll(0.3)


def shut_down():
    """A listener that is shut down refuses; one that listens anew serves."""
    pin(CPUS[0])
    listener = listening()
    events = polled(listener)
    for _ in range(2):
        waiting = clients(20)
        assert events.poll(1) and len(accepted(listener)) == len(waiting)
        listener.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(ConnectionRefusedError):
            assert not clients(1)
        try:
            assert not listener.accept()
        except OSError as fault:
            assert fault.errno == errno.EINVAL, fault
        listener.listen(100)
    events.unregister(listener)
    events.register(listener, select.EPOLLIN)
    waiting = clients(20)
    assert events.poll(1) and len(accepted(listener)) == len(waiting)


def elsewhere():
    """Listeners of another network namespace, as HAProxy's `bind ... namespace`: nobody here can reach them."""
    pin(CPUS[0])
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as home:
        assert not libc.unshare(CLONE_NEWNET), ctypes.get_errno()
        theirs = [socket.socket() for _ in range(2)]
        assert not libc.setns(home.fileno(), CLONE_NEWNET), ctypes.get_errno()
    for port, listener in enumerate(theirs, PORT):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, port - PORT)
        listener.bind(("", port))
        listener.listen(100)
        listener.setblocking(False)
    # One of ours beside the second of theirs: the same address, and another one.
    ours = socket.socket()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    ours.bind(("", PORT + 1))
    ours.listen(100)
    ours.setblocking(False)
    events = polled(ours, *theirs)
    with contextlib.suppress(ConnectionRefusedError):
        assert not clients(1)
    waiting = [socket.create_connection(("127.0.0.1", PORT + 1)) for _ in range(20)]
    assert events.poll(1) and len(accepted(ours)) == len(waiting)
    events.unregister(ours)
    ours.close()
    with contextlib.suppress(ConnectionRefusedError):
        assert not socket.create_connection(("127.0.0.1", PORT + 1))


def serve_until_told():
    """Answers the CPU, until a line comes; then it closes its listener."""
    pin(CPUS[0])
    listener = listening(shared=True)
    events = polled(listener)
    events.register(sys.stdin, select.EPOLLIN)
    while sys.stdin.fileno() not in dict(events.poll()):
        for client in accepted(listener):
            with client:
                client.recv(100)
                client.sendall(b"0\n")
    events.unregister(listener)
    listener.close()


def buffers(**sizes):
    """(SO_BUF_LOCK, growth of SO_SNDBUF) of accepted connections. Sizes of 0 are the kernel's at the start."""
    pin(CPUS[0])
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for name, size in sizes.items():
        option = getattr(socket, name)
        listener.setsockopt(socket.SOL_SOCKET, option, size or listener.getsockopt(socket.SOL_SOCKET, option) // 2)
    listener.bind(("127.0.0.1", PORT))
    yield listener
    listener.listen(100)
    listener.setblocking(False)
    events = polled(listener)
    client = clients(1)[0]
    assert events.poll(1)
    (connection,) = accepted(listener)
    locked = [s.getsockopt(socket.SOL_SOCKET, SO_BUF_LOCK) for s in (listener, connection)]
    before = connection.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    reader = threading.Thread(target=lambda: all(iter(lambda: client.recv(1 << 16), b"")), daemon=True)
    reader.start()
    connection.setblocking(True)
    connection.sendall(bytes(1 << (18 if sizes else 24)))
    yield locked, connection.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) > before


def autotuned():
    """tcp_wmem and tcp_rmem change after the listener was made: nobody has set its sizes, and they grow."""
    states = buffers()
    next(states)
    for name in "wmem", "rmem":
        with open(f"/proc/sys/net/ipv4/tcp_{name}", encoding="ascii") as f:
            least, default, most = map(int, f.read().split())
        with open(f"/proc/sys/net/ipv4/tcp_{name}", "w", encoding="ascii") as f:
            f.write(f"{least} {2 * default} {most}")
    assert next(states) == ([0, 0], True)


class Timespec(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]


def pwait2():
    """A worker that takes its listener out of its epoll and waits with epoll_pwait2(): another serves its CPU."""
    listener = listening()
    child = os.fork()
    if not child:
        pin(CPUS[0])
        events = polled(listener)
        events.unregister(listener)
        room = ctypes.create_string_buffer(64)
        begin = time.monotonic()
        for nanoseconds in 10_000_000, 900_000_000:
            wait = ctypes.byref(Timespec(0, nanoseconds))
            assert not ctypes.CDLL(None).epoll_pwait2(events.fileno(), room, 1, wait, None)
        assert time.monotonic() - begin >= 0.91
        ctypes.CDLL(None).epoll_pwait2(events.fileno(), room, 1, None, None)
    time.sleep(0.5)
    pin(CPUS[-1])
    events = polled(listener)
    pin(CPUS[0])
    waiting, count = clients(20), 0
    pin(CPUS[-1])
    while events.poll(1):
        count += len(accepted(listener))
    assert count == len(waiting), count
    time.sleep(1)
    assert os.waitpid(child, os.WNOHANG) == (0, 0)
    os.kill(child, signal.SIGKILL)


def sizes_set():
    """Sizes that the application has set, also to what they are: they stay."""
    states = buffers(SO_SNDBUF=30000, SO_RCVBUF=0)
    next(states)
    assert next(states) == ([3, 3], False)


globals()[HABIT]()
