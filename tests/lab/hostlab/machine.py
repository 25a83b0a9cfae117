# SPDX-License-Identifier: GPL-3.0-or-later
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
"""The machine under the lab: what it must have, its cgroups, its locks, and the one value the lab changes in it."""
import contextlib
import fcntl
import os
import re
import shutil
import signal
import struct
import time
import zlib

from hostlab.errors import LabError

RUN = "/run/fastsocket-lab"
TOOLS = {  # command -> Debian package; those of one kind of host are in its class
    "ip": "iproute2", "ssh": "openssh-client", "ssh-keygen": "openssh-client",
    "unshare": "util-linux", "nsenter": "util-linux", "setpriv": "util-linux", "mount": "mount",
    "mmdebstrap": "mmdebstrap",
}
FLOWS = "/proc/sys/net/core/rps_sock_flow_entries"
FLOWS_WANTED = 32768
FLOWS_FORMER = os.path.join(RUN, "rps_sock_flow_entries")


def need_root() -> None:
    if os.geteuid() != 0:
        raise LabError("must run as root (mounts, namespaces, cgroups): use sudo")


def need_tools(more: dict[str, str]) -> None:
    """LabError names the packages of what is missing of TOOLS and MORE."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    missing = {package: tool for tool, package in (TOOLS | more).items() if not shutil.which(tool, path=path)}
    if missing:
        raise LabError(f"{', '.join(missing.values())} not found: apt-get install {' '.join(missing)}")
    os.environ["PATH"] = path


# -- cgroups: a process of the lab is a process in the lab's cgroup, so no process can be lost ------------------------

def hierarchies() -> list[str]:
    """Where nspawn makes cgroups: v2 (which it reads its own cgroup from), and v1 name=systemd where there is one."""
    found = {}
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        for line in file:
            left, right = line.split(" - ")
            point, kind, options = left.split()[4], right.split()[0], right.split()[2].split(",")
            if kind == "cgroup2":
                found.setdefault(0, point)
            elif kind == "cgroup" and "name=systemd" in options:
                found.setdefault(1, point)
    points = [found[key] for key in sorted(found) if os.access(found[key], os.W_OK)]
    if not points:
        raise LabError("no writable cgroup v2 (or v1 name=systemd) hierarchy below /sys/fs/cgroup: "
                       "the hosts' systemd needs one (mount -t cgroup2 none /sys/fs/cgroup)")
    return points


def group_paths(*parts: str) -> list[str]:
    return [os.path.join(point, "fastsocket-lab", *parts) for point in hierarchies()]


def make_group(*parts: str) -> None:
    for path in group_paths(*parts):
        try:
            os.makedirs(path, exist_ok=True)
        except OSError as err:
            raise LabError(f"cgroup {path}: {err.strerror}: the hosts' systemd needs a writable hierarchy") from err


def enter_group(*parts: str) -> None:
    """Move this process into a group of the lab."""
    for path in group_paths(*parts):
        with open(os.path.join(path, "cgroup.procs"), "w", encoding="ascii") as file:
            file.write("0")


def in_group(parts: tuple[str, ...], *argv: str) -> list[str]:
    """ARGV as a command that first enters the group, before it does anything that could be left behind."""
    script = 'until [ "$1" = -- ]; do echo 0 >"$1/cgroup.procs" || exit 1; shift; done; shift; exec "$@"'
    return ["sh", "-c", script, "sh", *group_paths(*parts), "--", *argv]


def members(*parts: str) -> set[int]:
    """Processes in the group and below it."""
    pids = set()
    for top in group_paths(*parts):
        for folder, _dirs, _files in os.walk(top):
            with contextlib.suppress(OSError), open(os.path.join(folder, "cgroup.procs"), encoding="ascii") as file:
                pids.update(int(line) for line in file)
    return pids - {0}


def leader(*parts: str) -> int:
    """The process of the group that is PID 1 of a namespace of its own; 0 when there is none (yet)."""
    for pid in members(*parts):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/status", encoding="utf-8") as file:
            space = re.search(r"^NSpid:\s+(.*)$", file.read(), re.MULTILINE)
            if space and len(space[1].split()) == 2 and space[1].split()[1] == "1":
                return pid
    return 0


def send(pid: int, number: int, *parts: str) -> None:
    """Signal PID if it still is a member of the group: the pidfd pins it while that is looked up."""
    with contextlib.suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        try:
            if pid in members(*parts):
                signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)


def _ancestors() -> set[int]:
    pids, pid = set(), os.getpid()
    while pid > 0:
        pids.add(pid)
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            pid = int(file.read().rpartition(")")[2].split()[1])
    return pids


def end_group(*parts: str, patience: float = 10.0) -> None:
    """SIGKILL every process of the group by pid, then remove it. The caller and its ancestors are moved out instead."""
    for pid in members(*parts) & _ancestors():
        for point in hierarchies():
            with open(os.path.join(point, "cgroup.procs"), "w", encoding="ascii") as file:
                file.write(str(pid))
    limit = time.monotonic() + patience
    while left := members(*parts):
        if time.monotonic() > limit:
            raise LabError(f"processes {sorted(left)} of {'/'.join(parts)} did not die in {patience:.0f} s")
        for pid in left:
            send(pid, signal.SIGKILL, *parts)
        time.sleep(0.02)
    for top in group_paths(*parts):
        for folder, _dirs, _files in os.walk(top, topdown=False):
            _rmdir(folder)


def _rmdir(folder: str) -> None:
    """A group stays busy for a moment after its last process has died."""
    for _try in range(100):
        try:
            return os.rmdir(folder)
        except FileNotFoundError:
            return None
        except OSError:
            time.sleep(0.02)
    return os.rmdir(folder)


def drop_empty_groups() -> None:
    for path in group_paths():
        with contextlib.suppress(OSError):
            os.rmdir(path)


# -- locks: record locks of one file; the kernel drops them with the process, children do not inherit them -----------

_LOCK_FILE = None


def _lock_file() -> int:
    global _LOCK_FILE  # pylint: disable=global-statement
    if _LOCK_FILE is None:  # one descriptor for ever: closing any would drop all record locks of the process
        os.makedirs(RUN, mode=0o755, exist_ok=True)
        _LOCK_FILE = os.open(os.path.join(RUN, ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    return _LOCK_FILE


@contextlib.contextmanager
def lock(key: str, busy: str = ""):
    """Hold the lock KEY. BUSY: do not wait but raise LabError with that text, "%d" being the holder's pid."""
    file, start = _lock_file(), zlib.crc32(key.encode())
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0), 1, start)
    except OSError as err:
        ask = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, start, 1, 0)
        raise LabError(busy % struct.unpack("hhqqi4x", fcntl.fcntl(file, fcntl.F_GETLK, ask))[4]) from err
    try:
        yield
    finally:
        fcntl.lockf(file, fcntl.LOCK_UN, 1, start)


# -- the RFS table: exists only in the machine's own network namespace (net/core/sysctl_net_core.c) -------------------

def raise_flows() -> None:
    """Give the machine an RFS table; its former size is kept until the last lab is down."""
    with lock("flows"):
        try:
            with open(FLOWS, encoding="ascii") as file:
                former = int(file.read())
        except OSError as err:
            raise LabError(f"{FLOWS}: {err.strerror}: start the lab in the machine's own network namespace") from err
        if former < FLOWS_WANTED:
            if not os.path.exists(FLOWS_FORMER):
                _write(FLOWS_FORMER, former)
            _write(FLOWS, FLOWS_WANTED)


def restore_flows() -> None:
    """Called with no lab left: put the former size back, unless someone has set another one since."""
    with lock("flows"), contextlib.suppress(FileNotFoundError):
        if any(entry.is_dir() for entry in os.scandir(RUN)):
            return
        with open(FLOWS_FORMER, encoding="ascii") as file, open(FLOWS, encoding="ascii") as now:
            former, current = int(file.read()), int(now.read())
        if current == FLOWS_WANTED:
            _write(FLOWS, former)
        os.unlink(FLOWS_FORMER)


def _write(path: str, value: int) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(f"{value}\n")
