# SPDX-License-Identifier: GPL-3.0-or-later
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
"""The lab as its tests call it, and what the machine shows of one."""
import contextlib
import os
import subprocess

LAB = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lab")
RUN = "/run/fastsocket-lab"


def lab(*args, check=True, **options):
    done = subprocess.run([LAB, *args], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          stdin=subprocess.DEVNULL, check=False, timeout=300, **options)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def processes(name):
    """pid -> net namespace of the lab's living processes, found by cgroup or by the lab's path in the command line."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            with open(f"/proc/{pid}/cgroup", encoding="utf-8") as groups, open(f"/proc/{pid}/cmdline", "rb") as command:
                text = groups.read() + command.read().decode(errors="replace")
            if f"fastsocket-lab/{name}/" in text + "/" and int(pid) != os.getpid():
                found[int(pid)] = os.readlink(f"/proc/{pid}/ns/net")
    return found


def traces(name):
    """What the machine shows of a lab: all of it must be gone afterwards."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        mounts = [line for line in file if "fastsocket-lab" in line or f"/{name}" in line]
    groups = subprocess.run(["find", "/sys/fs/cgroup", "-type", "d", "-path", f"*fastsocket-lab/{name}*"],
                            stdout=subprocess.PIPE, text=True, check=False).stdout.split()
    folders = [path for path in (f"{RUN}/{name}", f"/run/systemd/nspawn/propagate/{name}-web") if os.path.exists(path)]
    return {"mounts": mounts, "cgroups": groups, "links": sorted(os.listdir("/sys/class/net")), "folders": folders,
            "processes": processes(name)}


def namespaces():
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            found.add(os.readlink(f"/proc/{pid}/ns/net"))
    return found
