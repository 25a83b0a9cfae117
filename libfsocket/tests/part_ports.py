# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Source ports: the kernel is asked for those of the CPU, and what the application would have got it gets."""
import contextlib
import json
import os
import socket

import lab
from portlab import MANY, PORT, RESERVED, SMALL, Program, block, counted, local_range, network, outside, peers, told

NGINX = """daemon off; user nobody nogroup; worker_processes 2; worker_cpu_affinity {masks}; pid {run}/pid;
error_log stderr; events {{ }}
http {{ access_log off; {temp} server {{ listen 127.0.0.1:{port};
location / {{ proxy_pass http://{away}; proxy_bind 10.98.0.7; }} }} }}"""


def test_block():
    """each CPU's ports are of its block: IPv4, IPv6, IPv4 in IPv6; a thread on several CPUs has the whole range"""
    network()
    code = "tell([[connect(a, PORT) for _ in range(100)] for a in (AWAY, SIX, '::ffff:' + AWAY)])"
    for number, cpu in enumerate(lab.CPUS):
        name = f"block{number}"
        for ports in told(code, name, cpu=cpu):
            assert not outside(ports, block(name, cpu)), f"CPU {cpu}: {ports}"
        assert counted(name) == (300, 0)
    told(code, "unpinned", cpu="any")
    assert counted("unpinned") == (0, 300) or len(lab.CPUS) == 1


def test_same_host():
    """connections to this host are neither steered nor counted, in all their spellings"""
    network()
    code = "tell([connect(a, PORT) for a in ('127.0.0.1', '::1', '::ffff:127.0.0.9', '0.0.0.0', '::')])"
    assert all(isinstance(port, int) for port in told(code, "same"))
    assert counted("same") == (0, 0)


def test_many_destinations():
    """many destinations: the block serves each of them with all its ports"""
    network()
    local_range(*SMALL)
    hosts = [str(host) for host in list(MANY.hosts())[:200]]
    ports = told(f"tell([connect(h, PORT) for h in {hosts!r} for _ in range(5)])", "many")
    assert len(ports) == 1000 and not outside(ports, block("many")), ports
    assert not lab.Stats("many").errors()


def test_one_busy_destination():
    """a destination that has all ports of the block gets the others, then the plain errno; its neighbour still has the
    block"""
    network()
    local_range(*SMALL)
    code = "tell([connect(AWAY, PORT) for _ in range(257)] + [connect('10.98.0.9', PORT) for _ in range(20)])"
    ports, plain = told(code, "busy"), told(code)
    mine = block("busy")
    assert sorted(ports[:128]) == list(mine), ports
    assert sorted(ports[:256]) == list(range(SMALL[0], SMALL[1] + 1))
    assert ports[256] == plain[256] == "EADDRNOTAVAIL"
    assert not outside(ports[257:], mine), ports[257:]
    assert counted("busy") == (148, 128)
    # Only the search that found the block full: for a second after it nobody searched.
    assert 1 <= lab.Stats("busy").errors()["PORTS"] <= 5, lab.Stats("busy").errors()


def test_full_block_recovers():
    """a second after a block was full it is asked again"""
    network()
    local_range(*SMALL)
    ports = told("a = [connect(AWAY, PORT) for _ in range(140)]\ndrop()\npause()\n"
                 "tell([a, [connect(AWAY, PORT) for _ in range(50)]])", "recovers")
    assert len(outside(ports[0], block("recovers"))) == 12
    assert not outside(ports[1], block("recovers")), ports[1]


def test_reserved_ports():
    """ip_local_reserved_ports: not taken; a block that is all reserved is a full one"""
    network()
    local_range(*SMALL)
    try:
        for name, first, last in (("half", 33024, 33087), ("all", 33024, 33151)):
            for cpu in lab.CPUS:
                lab.sysctl(RESERVED, f"{first}-{last}")
                ports = told("tell([connect(AWAY, PORT) for _ in range(60)])", f"{name}{cpu}", cpu=cpu)
                mine = block(f"{name}{cpu}", cpu)
                free = [port for port in mine if not first <= port <= last]
                assert all(isinstance(port, int) and not first <= port <= last for port in ports), ports
                assert not free or not outside(ports, free), ports
                assert bool(free) != ("PORTS" in lab.Stats(f"{name}{cpu}").errors())
    finally:
        lab.sysctl(RESERVED, "\n")


def test_range_changes():
    """another ip_local_port_range is noticed while the program runs, and kept to from the first connection on"""
    network()
    program = Program("for _ in range(2):\n    tell([connect(AWAY, PORT) for _ in range(50)])\n    hear()\n"
                      "pause()\nconnect(AWAY, PORT)\ntell([connect(AWAY, PORT) for _ in range(50)])", "changes")
    assert not outside(program.hear(), block("changes"))
    local_range(20000, 29999)
    program.tell()
    assert not outside(program.hear(), range(20000, 30000))
    program.tell()
    ports, after = program.hear(), block("changes")
    program.end()
    assert after[0] >= 20000 and after[-1] <= 29999 and not outside(ports, after), (after, ports)


def test_bound():
    """bound to an address only (IP_BIND_ADDRESS_NO_PORT): steered, with that address; with a port: that port"""
    network()
    code = """
a = [fresh(AWAY, "10.98.0.7", options=[NO_PORT]) for _ in range(40)]
b = [fresh(AWAY, "10.98.0.7") for _ in range(40)]
c = [fresh(AWAY, "10.98.0.7", 20000 + i, [NO_PORT] * (i % 2)) for i in range(40)]
d = [fresh(SIX, SIX, options=[NO_PORT]) for _ in range(40)]
before = [local(s) for s in b]
done = [attempt(s, AWAY, PORT) for s in a + b + c] + [attempt(s, SIX, PORT) for s in d]
tell([done, [s.getsockname()[0] for s in a], [local(s) for s in a], before == [local(s) for s in b],
      [local(s) for s in c], [local(s) for s in d], [get_range(s) for s in b + c]])
"""
    done, sources, ports, kept, given, six, ranges = told(code, "bound")
    assert done == [""] * 160 and set(sources) == {"10.98.0.7"} and kept
    assert not outside(ports + six, block("bound")), (ports, six)
    assert given == [20000 + i for i in range(40)] and not any(ranges)
    assert counted("bound") == (80, 80)


def test_transparent():
    """a source address of another host (IP_TRANSPARENT) is as any bound one"""
    network()
    code = """
s = [fresh(SILENT, "10.77.0.9", options=[TRANSPARENT, NO_PORT], blocking=False) for _ in range(40)]
tell([[attempt(x, SILENT, PORT, 0) for x in s], [list(x.getsockname()) for x in s]])
"""
    done, names = told(code, "transparent")
    assert done == ["EINPROGRESS"] * 40 and {name[0] for name in names} == {"10.77.0.9"}
    assert not outside([name[1] for name in names], block("transparent")), names


def behind(service, port):
    """What a proxy in front of us connects from when it is asked 60 times; it gets no answer, that is not the point."""
    peers.clear()
    for number in range(60):
        os.sched_setaffinity(0, [lab.CPUS[number % len(lab.CPUS)]])
        with socket.create_connection(("127.0.0.1", port), 10) as s, contextlib.suppress(ConnectionResetError):
            s.sendall(b"GET / HTTP/1.0\r\n\r\n")
            while s.recv(4096):
                pass
    os.sched_setaffinity(0, lab.CPUS)
    lab.wait_for("connections of " + service, lambda: len(peers) >= 60)
    blocks = [*block(service, lab.CPUS[0]), *block(service, lab.CPUS[-1])]
    assert {address for address, _ in peers} == {"10.98.0.7"}, peers
    assert not outside([source for _, source in peers], blocks), peers
    steered, unsteered = counted(service)
    assert (steered, unsteered) == (len(peers), 0), f"{steered} and {unsteered} of {len(peers)}"


def test_source_of_haproxy():
    """HAProxy's `source`"""
    network()
    away = f"{lab.AWAY}:{PORT}"
    with lab.Haproxy("source", 8101, f"{away} source 10.98.0.7", lab.environment("source")) as haproxy:
        behind(haproxy.name, 8101)


def test_source_of_nginx():
    """nginx's proxy_bind"""
    network()
    run = lab.RUN / "bind.d"
    run.mkdir()
    temp = " ".join(f"{kind}_temp_path {run};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    masks = " ".join(f"{1 << cpu:b}" for cpu in (lab.CPUS[0], lab.CPUS[-1]))
    (run / "conf").write_text(NGINX.format(masks=masks, run=run, temp=temp, port=8102, away=f"{lab.AWAY}:{PORT}"))
    with lab.Service("bind", ["nginx", "-e", "stderr", "-c", run / "conf"], lab.environment("bind")) as nginx:
        nginx.up("127.0.0.1", 8102)
        behind(nginx.name, 8102)


def test_own_range():
    """a range that the application has set stays, also when it is full"""
    network()
    code = """
def one():
    s = fresh(AWAY)
    s.setsockopt(socket.IPPROTO_IP, RANGE, (50000 | 50003 << 16).to_bytes(4, sys.byteorder))
    return [attempt(s, AWAY, PORT), local(s), get_range(s)]
tell([one() for _ in range(5)])
"""
    mine, plain = told(code, "own"), told(code)
    assert sorted(mine) == sorted(plain) and mine[4][0] == "EADDRNOTAVAIL", (mine, plain)
    assert counted("own") == (0, 4)


# How connect() answers when it is not the first on its socket; printed by a program with the library and one without.
AGAIN = """
def steps():
    s = fresh(AWAY, blocking=False)
    yield attempt(s, SILENT, PORT, 0), attempt(s, SILENT, PORT, 0), attempt(s, AWAY, PORT, 0)
    yield disconnect(s), get_range(s), attempt(s, AWAY, PORT), attempt(s, AWAY, PORT), attempt(s, AWAY, PORT)
    yield disconnect(s), disconnect(s), get_range(s)
    s.setblocking(True)
    yield attempt(s, AWAY, PORT), attempt(s, AWAY, PORT)
    s = fresh(AWAY)
    yield [(attempt(s, AWAY, 1), get_range(s)) for _ in range(3)], attempt(s, AWAY, PORT)
    s = fresh(AWAY, blocking=False)
    yield [attempt(s, AWAY, 1) for _ in range(6)]
    s = fresh(AWAY, "10.98.0.7", options=[NO_PORT])
    yield attempt(s, AWAY, PORT), disconnect(s), s.getsockname()[0], attempt(s, AWAY, PORT), s.getsockname()[0]
    s = fresh(AWAY, "10.98.0.7", 21001)
    yield attempt(s, AWAY, PORT), disconnect(s), local(s), attempt(s, "10.98.0.9", PORT), local(s), get_range(s)
    s = fresh(SIX)
    yield attempt(s, SIX, 1), attempt(s, SIX, PORT), attempt(s, SIX, PORT), disconnect(s), get_range(s)
    s = fresh(AWAY)
    yield attempt(s, "203.0.113.1", PORT), attempt(s, "255.255.255.255", PORT), attempt(s, AWAY, 0), get_range(s)
    yield attempt(s, AWAY, PORT)
    s = fresh(SIX)
    yield attempt(s, "2001:db8::1", PORT), attempt(s, "ff02::1", PORT), get_range(s), attempt(s, SIX, PORT)
tell(list(steps()))
"""


def test_again():
    """connect() again: EALREADY, EISCONN, after a refusal, after AF_UNSPEC; no route: all as without the library"""
    network()
    mine, plain = told(AGAIN, "again"), told(AGAIN)
    for ours, theirs in zip(mine, plain, strict=True):
        assert ours == theirs, f"{ours}, without the library {theirs}"
    assert {"EINPROGRESS", "EALREADY", "EISCONN", "ECONNREFUSED"} <= set(json.dumps(mine).split('"')), mine


def test_again_in_a_full_block():
    """a socket that is connected anew is not held in its former block, nor with the switch off"""
    network()
    local_range(*SMALL)
    code = """
s = [fresh(AWAY, blocking=False) for _ in range(4)]
first = [attempt(x, AWAY, 1) for x in s]         # refused: with the range still on them
hold = [connect(AWAY, PORT) for _ in range(140)] # the block is full for PORT
tell(first)
hear()
tell([[attempt(x, AWAY, PORT) for _ in range(3)] for x in s])
"""
    for name, value in (("anew", "1"), ("anewoff", "0")):
        program = Program(code, name)
        assert program.hear() == ["EINPROGRESS"] * 4
        lab.Switch(name).set(value)
        program.tell()
        results = program.hear()
        program.end()
        # Of the refusal before, of this one's beginning, of its end.
        assert results == [["ECONNREFUSED", "EINPROGRESS", ""]] * 4
