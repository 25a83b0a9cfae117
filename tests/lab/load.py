#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
"""Open-loop HTTP load for the lab: a new connection for every request, no retry, every failure counted by kind.

One file, standard library, Python 3.11, so that it can be copied or piped into a host. Requests start by the clock,
never "after the last answer", so a slow server is not spared. The server closes first (`Connection: close`), so the
client keeps no TIME_WAIT and cannot run out of ports by itself.

Output, one JSON object a line:
  {"ready": true, ...}            once every target has answered one (uncounted) request
  {"t":, "target":, "started": ...}   each second, for each target
  {"final": true, ...}            totals, after SIGTERM, SIGINT or --duration
Plain requests: started = ok + failed + still in flight, and failed = sum of kinds. Probes are counted beside them.
"""
import argparse
import array
import collections
import errno
import gc
import ipaddress
import json
import os
import resource
import select
import signal
import socket
import sys
import time

KINDS = ("refused", "reset", "timeout", "short", "status", "other")
ERRNO_KIND = {errno.ECONNREFUSED: "refused", errno.ECONNRESET: "reset", errno.EPIPE: "reset",
              errno.ETIMEDOUT: "timeout", errno.EADDRNOTAVAIL: "no_port"}
ALLOWED = [ipaddress.ip_network(net) for net in ("127.0.0.0/8", "::1/128", "10.99.0.0/16")]
SLOW_CONNECT = 0.9      # s. A lost SYN is repeated after 1 s (RFC 6298, section 2.1): it shows as a slow connect.
LATE = 0.25             # s. Starts later than this are dropped and counted (`skipped`): a burst is another load.
READY = 30.0            # s that the targets have to answer for the first time
COUNTERS = ("started", "ok", "failed", "no_port", "skipped", "slow_connect", "probes", "probe_ok", "probe_failed")
EVENTS = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
ENDED = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


class Tally:
    """What one target did in one second. It adds up, and crosses from a worker to the parent as JSON."""

    def __init__(self):
        self.count = collections.Counter()  # COUNTERS, and failures as (probe?) + kind
        self.latency = array.array("d")     # s, answered plain requests
        self.connect_max = 0.0              # s, plain requests and probes
        self.behind = 0.0                   # s, how late the latest start was

    def fail(self, probe, kind):
        self.count["probe_failed" if probe else "failed"] += 1
        self.count[("probe " if probe else "") + kind] += 1

    def pack(self):
        return [self.count, list(self.latency), self.connect_max, self.behind]

    def add(self, packed):
        self.count.update(packed[0])
        self.latency.extend(packed[1])
        self.connect_max = max(self.connect_max, packed[2])
        self.behind = max(self.behind, packed[3])

    def report(self):
        times = sorted(self.latency)

        def pick(share):
            return round(times[min(len(times) - 1, int(len(times) * share))] * 1e3, 3) if times else None

        return {**{name: self.count[name] for name in COUNTERS},
                "kinds": {kind: self.count[kind] for kind in KINDS},
                "probe_kinds": {kind: self.count["probe " + kind] for kind in KINDS},
                "latency_ms": {"p50": pick(.5), "p99": pick(.99), "max": pick(1)},
                "connect_ms_max": round(self.connect_max * 1e3, 3), "behind_s": round(self.behind, 3)}


class Target:
    def __init__(self, name, host, port):
        self.name, self.address = name, (host, port)
        self.family = socket.AF_INET6 if ":" in host else socket.AF_INET
        head = "GET %%s HTTP/1.1\r\nHost: %s\r\nUser-Agent: fastsocket-lab\r\nConnection: close\r\n\r\n" % name
        self.plain, self.slow = (head % "/").encode(), (head % "/slow").encode()
        self.tally = Tally()


class Connection:
    __slots__ = ("sock", "fd", "target", "probe", "begun", "connected", "need", "got", "head", "done")

    def __init__(self, sock, target, probe, begun):
        self.sock, self.fd, self.target, self.probe, self.begun = sock, sock.fileno(), target, probe, begun
        self.connected = self.done = False
        self.need = None        # bytes of the whole response, once its head is known
        self.got = 0
        self.head = b""

    def take(self, data):
        """Count received bytes. Returns a failure kind when the head is no good answer."""
        self.got += len(data)
        if self.need is not None:
            return None
        self.head += data
        end = self.head.find(b"\r\n\r\n")
        if end < 0:
            return "other" if len(self.head) > 65536 else None
        if not self.head.startswith(b"HTTP/1.") or self.head[8:13] != b" 200 ":
            return "status"
        at = self.head.lower().find(b"\r\ncontent-length:", 0, end)
        length = self.head[at + 17:self.head.find(b"\r\n", at + 2)].strip()
        if at < 0 or not length.isdigit():
            return "other"
        self.need = end + 4 + int(length)
        self.head = b""
        return None

    def verdict(self):
        """At the end of the stream: None when the response was whole, else the failure kind."""
        if self.need is None or self.got < self.need:
            return "short"
        return None if self.got == self.need else "other"


class Worker:
    """One process of load: an edge-triggered epoll set, a schedule for each target, no thread."""

    def __init__(self, targets, args, share, emit):
        self.targets, self.args, self.emit = targets, args, emit
        self.gap = {False: share / args.rate if args.rate else None,
                    True: share / args.probe_rate if args.probe_rate else None}
        self.epoll = select.epoll()
        self.live = {}
        self.deadlines = {False: collections.deque(), True: collections.deque()}     # by probe; each in order of time
        self.silent = collections.deque()       # probes that have not sent yet
        self.stopping = False
        self.probing = False

    def start(self, target, probe, now):
        tally = target.tally
        try:
            # SocketType is the C class: without the wrapper of socket.socket a connection costs 8 us less
            sock = socket.SocketType(target.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            error = sock.connect_ex(target.address)
        except OSError as exc:      # no file descriptor left
            sock, error = None, exc.errno
        if error not in (0, errno.EINPROGRESS):
            if sock:
                sock.close()
            kind = ERRNO_KIND.get(error, "other")
            if kind == "no_port":   # the client's own shortage: nothing was asked of the server
                tally.count[kind] += 1
                return None
            tally.count["probes" if probe else "started"] += 1
            return tally.fail(probe, kind)
        tally.count["probes" if probe else "started"] += 1
        conn = Connection(sock, target, probe, now)
        self.live[conn.fd] = conn
        self.epoll.register(conn.fd, EVENTS)
        wait = self.args.probe_silence if probe else 0
        self.deadlines[probe].append((now + wait + self.args.timeout, conn))
        if probe:
            self.silent.append((now + wait, conn))

    def finish(self, conn, kind):
        if conn.done:
            return
        conn.done = True
        del self.live[conn.fd]
        conn.sock.close()
        tally = conn.target.tally
        if kind:
            tally.fail(conn.probe, kind)
        elif conn.probe:
            tally.count["probe_ok"] += 1
        else:
            tally.count["ok"] += 1
            tally.latency.append(time.monotonic() - conn.begun)

    def handle(self, conn, event):
        """One edge: note the connect, send the request, read all there is; at the end of the stream, judge."""
        try:
            if not conn.connected and event & select.EPOLLOUT and not event & select.EPOLLERR:
                conn.connected = True
                took = time.monotonic() - conn.begun
                tally = conn.target.tally
                tally.connect_max = max(tally.connect_max, took)
                if took > SLOW_CONNECT:
                    tally.count["slow_connect"] += 1
                if not conn.probe:
                    self.send(conn)
            if not event & (select.EPOLLIN | ENDED):
                return
            while True:
                data = conn.sock.recv(65536)
                if not data:
                    return self.finish(conn, conn.verdict())
                kind = conn.take(data)
                if kind:
                    return self.finish(conn, kind)
                if len(data) < 65536:   # drained: the next bytes, or the end, bring a new edge
                    return self.finish(conn, conn.verdict()) if event & select.EPOLLRDHUP else None
        except BlockingIOError:
            return
        except OSError as exc:
            self.finish(conn, ERRNO_KIND.get(exc.errno, "other"))

    @staticmethod
    def send(conn):
        """Raises OSError. The request is some 80 bytes into an empty buffer: it goes out whole."""
        conn.sock.send(conn.target.slow if conn.probe else conn.target.plain)

    def timers(self, now):
        """Send for probes whose silence is over; fail what is past its deadline. Returns the next time to come back."""
        while self.silent and (self.silent[0][0] <= now or self.silent[0][1].done):
            conn = self.silent.popleft()[1]
            if not conn.done and not conn.connected:
                self.silent.append((now + 0.05, conn))      # its SYN is lost: it speaks once it is connected
            elif not conn.done:
                try:
                    self.send(conn)
                except OSError as exc:
                    self.finish(conn, ERRNO_KIND.get(exc.errno, "other"))
        for queue in self.deadlines.values():
            while queue and (queue[0][1].done or queue[0][0] <= now):
                self.finish(queue.popleft()[1], "timeout")
        queues = [self.silent, *self.deadlines.values()]
        return min([queue[0][0] for queue in queues if queue] + [now + 0.2])

    def read_control(self):
        """Probes are on when there is a rate, and the control file, if one is named, says 1."""
        if not self.args.probe_control:
            return bool(self.gap[True])
        try:
            with open(self.args.probe_control) as control:
                return bool(self.gap[True]) and control.read().strip() == "1"
        except OSError:
            return False

    def run(self):
        gc.disable()            # no reference cycles are made; a collection is a pause
        begin = time.monotonic()
        end, tick, control, timer = begin + self.args.duration, begin + 1, begin, begin
        due = {(target, probe): begin for target in self.targets for probe in self.gap}     # together: fewer wake-ups
        while True:
            now = time.monotonic()
            if now >= control:
                control, was, self.probing = now + 0.2, self.probing, self.read_control()
                if self.probing and not was:
                    due.update({key: now for key in due if key[1]})
            self.stopping = self.stopping or now >= end
            wake = min(tick, control, timer)
            if not self.stopping:
                for (target, probe), at in due.items():
                    gap = self.gap[probe]
                    if not gap or (probe and not self.probing):
                        continue
                    if at <= now:
                        tally = target.tally
                        tally.behind = max(tally.behind, now - at)
                        missed = int((now - at - LATE) / gap) + 1 if now - at > LATE else 0
                        if missed:
                            tally.count["skipped"] += missed
                            at += missed * gap
                        while at <= now:
                            self.start(target, probe, now)
                            at += gap
                        due[target, probe] = at
                    wake = min(wake, at)
            if now >= tick:
                self.flush()
                tick += max(1, int(now - tick) + 1)
            if self.stopping and not self.live:
                return self.flush()
            for fd, event in self.epoll.poll(max(0.0, wake - time.monotonic())):
                conn = self.live.get(fd)
                if conn:
                    self.handle(conn, event)
            now = time.monotonic()
            if now >= timer or (self.silent and self.silent[0][0] <= now):
                timer = self.timers(now)

    def flush(self):
        """Hand over what each target did since the last time."""
        for target in self.targets:
            tally, target.tally = target.tally, Tally()
            self.emit(target.name, tally.pack())


class Report:
    """Adds the workers' seconds up, and writes one line for each second and target."""

    def __init__(self, out, names):
        self.out, self.begin = out, time.monotonic()
        self.total = {name: Tally() for name in names}

    def take(self, name, *parts):
        second = Tally()
        for part in parts:
            second.add(part)
        self.total[name].add(second.pack())
        self.write(t=round(time.time(), 3), target=name, **second.report())

    def write(self, **line):
        self.out.write(json.dumps(line) + "\n")
        self.out.flush()

    def final(self, cpu):
        whole = Tally()
        for tally in self.total.values():
            whole.add(tally.pack())
        requests = whole.count["started"] + whole.count["probes"]
        self.write(final=True, t=round(time.time(), 3), seconds=round(time.monotonic() - self.begin, 3),
                   cpu_us_per_request=round(cpu * 1e6 / requests, 1) if requests else None,
                   targets={name: tally.report() for name, tally in self.total.items()}, **whole.report())


def parse_target(text):
    """NAME=HOST:PORT -> Target. Only addresses of this machine and of the lab are load targets."""
    name, _, rest = text.partition("=")
    host, _, port = rest.rpartition(":")
    host = host.strip("[]")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if not name or address is None or not port.isdigit() or not 0 < int(port) < 65536:
        raise argparse.ArgumentTypeError("'%s' is no target: write NAME=ADDRESS:PORT, e.g. lb1=10.99.0.21:80" % text)
    if not any(address in net for net in ALLOWED):
        raise argparse.ArgumentTypeError("'%s' is not in the lab: targets are in 127.0.0.0/8, ::1, 10.99.0.0/16" % text)
    return Target(name, host, int(port))


def number(low, high, kind=float):
    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            raise argparse.ArgumentTypeError("'%s' is not a number from %g to %g" % (text, low, high))
        return value
    return parse


def parse_args(argv):
    parser = argparse.ArgumentParser(description="Open-loop HTTP load for the lab.")
    add = parser.add_argument
    add("--target", action="append", required=True, type=parse_target, metavar="NAME=ADDRESS:PORT", dest="targets")
    add("--rate", type=number(0, 20000), default=250, help="requests a second for each target (default 250)")
    add("--probe-rate", type=number(0, 1000), default=0, help="probe connections a second for each target (default 0)")
    add("--probe-silence", type=number(0, 30), default=0.25,
        help="seconds between connect and request of a probe (default 0.25)")
    add("--probe-control", metavar="FILE", help="probes run while this file holds 1; without it, always")
    add("--duration", type=number(0.1, 3600), default=900, help="seconds, at most 3600 (default 900)")
    add("--timeout", type=number(0.1, 60), default=5, help="seconds for connect and response together (default 5)")
    add("--procs", type=number(1, 64, int), default=1, help="processes that share the rate (default 1)")
    add("--out", default="-", metavar="FILE", help="where the lines go (default: standard output)")
    args = parser.parse_args(argv)
    names = [target.name for target in args.targets]
    if len(set(names)) < len(names):
        parser.error("two targets have the same name: %s" % ", ".join(names))
    return args


def wait_ready(targets, stopped):
    """One good answer from each target, tried for READY seconds. Returns the name of one that gave none, or None."""
    end = time.monotonic() + READY
    for target in targets:
        while not stopped():
            conn = None
            try:
                with socket.create_connection(target.address, 2) as sock:
                    conn = Connection(sock, target, False, 0)
                    sock.sendall(target.plain)
                    while True:
                        data = sock.recv(65536)
                        if not data or conn.take(data):
                            break
                if conn.need is not None and conn.verdict() is None:
                    break
            except OSError:
                pass
            if time.monotonic() > end:
                return target.name
            time.sleep(0.1)
    return None


def run_worker(targets, args, share, emit):
    worker = Worker(targets, args, share, emit)
    on_stop(lambda *_: setattr(worker, "stopping", True))
    worker.run()


def fork_workers(args, report):
    """--procs N: each worker sends its seconds through a pipe; signals are passed on. Returns when all have ended."""
    pipes, pids = [], []
    for _ in range(args.procs):
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:
            with open(writer, "w", encoding="ascii", buffering=1) as pipe:
                run_worker(args.targets, args, args.procs, lambda *second: pipe.write(json.dumps(second) + "\n"))
            os._exit(0)
        os.close(writer)
        pids.append(pid)
        pipes.append(open(reader, encoding="ascii"))
    on_stop(lambda *_: [os.kill(pid, signal.SIGTERM) for pid in pids])
    while True:     # all tick together and name the targets in the same order
        seconds = [json.loads(line) for line in [pipe.readline() for pipe in pipes] if line]
        if not seconds:
            break
        report.take(seconds[0][0], *[packed for _, packed in seconds])
    if any(os.waitpid(pid, 0)[1] for pid in pids):
        sys.exit("load.py: a worker process died, its counts are missing")


def on_stop(handler):
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, handler)


def cpu_seconds():
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main(argv=None):
    args = parse_args(argv)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    stop = []
    on_stop(lambda *_: stop.append(True))
    out = sys.stdout if args.out == "-" else open(args.out, "w", encoding="ascii")
    silent = wait_ready(args.targets, lambda: stop)
    if silent:
        sys.exit("load.py: target %s gave no good answer to GET / within %d s" % (silent, READY))
    names = [target.name for target in args.targets]
    report = Report(out, names)
    report.write(ready=True, t=round(time.time(), 3), targets=names)
    cpu = cpu_seconds()
    if args.procs > 1 and not stop:
        fork_workers(args, report)
    elif not stop:
        run_worker(args.targets, args, 1, report.take)
    report.final(cpu_seconds() - cpu)


if __name__ == "__main__":
    main()
