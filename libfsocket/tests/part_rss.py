# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""Source ports chosen by the hash of a NIC that DIR/rss describes; a made-up one, of which we know all."""
import ipaddress
import random

import lab
from portlab import MANY, PORT, SIX, SMALL, Program, block, counted, local_range, network, outside, told


def toeplitz(key, data):
    """The definition, bit by bit: nothing of the library's way."""
    value, bits, result = int.from_bytes(key, "big"), len(key) * 8, 0
    for bit in range(len(data) * 8):
        if data[bit // 8] >> 7 - bit % 8 & 1:
            result ^= value >> bits - 32 - bit & 0xFFFFFFFF
    return result


class Nic:
    """A made-up NIC: a key, 128 entries, four queues of which two CPUs that we have serve one each."""

    def __init__(self, seed, families="46", addresses=()):
        chance = random.Random(seed)
        self.key = chance.randbytes(40)
        self.cpus = [chance.choice([*lab.CPUS, 1000, None]) for _ in range(128)]
        self.line = " ".join([f"nic{seed}", families, self.key.hex(),
                              ",".join("-" if cpu is None else str(cpu) for cpu in self.cpus), *addresses])

    def cpu(self, remote, port, source, source_port):
        """Where a reply from REMOTE goes."""
        addresses = ipaddress.ip_address(remote).packed + ipaddress.ip_address(source).packed
        sum_ = toeplitz(self.key, addresses + port.to_bytes(2, "big") + source_port.to_bytes(2, "big"))
        return self.cpus[sum_ % 128]


def rss_file(*nics):
    lab.DIR.mkdir(exist_ok=True)
    fresh = lab.DIR / "rss.new"
    fresh.write_text("# made by part_rss\n" + "".join(nic.line + "\n" for nic in nics))
    fresh.rename(lab.DIR / "rss")


RSS = """
def ends(where, *how, **more):
    s = fresh(where, *how, **more)
    error = attempt(s, where, PORT)
    return [where, *s.getsockname()[:2]] if not error else error
"""


def came_home(nic, connections, cpu):
    """How many of the replies come to CPU."""
    return sum(nic.cpu(remote, PORT, source, port) == cpu for remote, source, port in connections)


def test_rss():
    """every port hashes to the CPU's queue, but the first with a source address new to the thread: IPv4, IPv6, bound"""
    network()
    nic = Nic(1)
    rss_file(nic)
    hosts = [str(host) for host in list(MANY.hosts())[:40]]
    code = RSS + f"""
tell([[ends({hosts[0]!r}), ends(SIX)], [ends(h) for h in {hosts!r} for _ in range(10)], [ends(SIX) for _ in range(100)],
      [ends(AWAY, "10.98.0.7", options=[NO_PORT]) for _ in range(100)]])
"""
    try:
        for cpu in lab.CPUS:
            name = f"rss{cpu}"
            _first, *groups = told(code, name, cpu=cpu)
            for group in groups:
                assert came_home(nic, group, cpu) == len(group) >= 100, (came_home(nic, group, cpu), len(group))
                assert not outside([port for _r, _s, port in group], block(name, cpu))
            assert counted(name) == (602, 0)
        plain = told(code, cpu=lab.CPUS[0])[1]
        assert came_home(nic, plain, lab.CPUS[0]) < len(plain) * 0.5, "the made-up NIC proves nothing"
    finally:
        (lab.DIR / "rss").unlink()


def test_rss_busy():
    """RSS and one busy destination: the ports that come home are taken first, of the block and beyond it, then all"""
    network()
    local_range(*SMALL)
    nic, cpu = Nic(2), lab.CPUS[0]
    rss_file(nic)
    try:
        made = told(RSS + "tell([ends(AWAY) for _ in range(257)])", "rssbusy")
    finally:
        (lab.DIR / "rss").unlink()
    assert [number for number, one in enumerate(made) if one == "EADDRNOTAVAIL"] == [256], made
    assert made.pop() and sorted(port for *_, port in made) == list(range(SMALL[0], SMALL[1] + 1))
    good = [port for port in range(SMALL[0], SMALL[1] + 1) if nic.cpu(lab.AWAY, PORT, lab.AWAY, port) == cpu]
    early = [port for *_, port in made[1:len(good) * 2 // 3]]
    assert not outside(early, good), (early, good)
    assert any(port not in block("rssbusy") for port in early)
    assert counted("rssbusy")[0] >= len(good) // 2


def test_rss_file_changes():
    """another DIR/rss is noticed while the program runs: other keys, another family, another address, none, wrong"""
    network()
    key, other = Nic(3), Nic(4)
    code = RSS + """
going = True
while going:
    pause()
    ends(AWAY)
    tell([ends(AWAY) for _ in range(60)])
    drop()
    going = hear()
"""
    files = [([key], key), ([other], other), ([Nic(5, "6")], None), ([Nic(6, addresses=["10.98.0.1"])], None),
             ([Nic(7, addresses=["10.98.0.1", SIX]), Nic(8), other], Nic(8)), ([], None), ([key], key), (None, None)]
    rss_file(*files[0][0])
    program = Program(code, "rsschanges")
    try:
        for number, (nics, expected) in enumerate(files):
            if nics is None:
                (lab.DIR / "rss").unlink()
            else:
                rss_file(*nics)
            if number:
                program.tell()
            made = program.hear()
            assert not outside([port for *_, port in made], block("rsschanges"))
            if expected:
                assert came_home(expected, made, lab.CPUS[0]) == 60, number
            else:
                assert came_home(key, made, lab.CPUS[0]) < 45, number
    finally:
        program.process.communicate(timeout=lab.PATIENCE_S)
        (lab.DIR / "rss").unlink(missing_ok=True)


def test_rss_file_wrong():
    """a wrong line of DIR/rss is said, with its number, and does no harm"""
    network()
    lab.DIR.mkdir(exist_ok=True)
    (lab.DIR / "rss").write_text(f"# one\n{Nic(9).line}\nnic 4 short 0,1\n")
    try:
        out = lab.run("true", env=lab.environment("rsswrong")).stdout.splitlines()
    finally:
        (lab.DIR / "rss").unlink()
    assert out == [f"libfsocket: {lab.DIR}/rss: line 3 is wrong and left out, see rss.h"], out
