# SPDX-License-Identifier: GPL-3.0-or-later
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
"""Up, down and status of a whole lab."""
import contextlib
import dataclasses
import os
import subprocess
import time

from hostlab import machine, root, state
from hostlab.anyhost import AnyHost
from hostlab.errors import LabError
from hostlab.kinds import KINDS
from hostlab.spec import Host, Spec

BUSY = "lab {} is in use: process %d is bringing it up or down"
POWEROFF_PATIENCE = 8.0  # seconds a host gets for an orderly end


def up(spec: Spec, say) -> None:
    """Bring the lab up; one with its name is taken down first. A failure or a signal takes it down again."""
    with machine.lock("lab/" + spec.name, BUSY.format(spec.name)):
        machine.hierarchies()
        if _exists(spec.name):
            say("was up or half up: down first")
            _down(spec.name)
        place = root.ensure(say)
        for name, kind in KINDS.items():
            if chosen := [host for host in spec.host if host.kind == name]:
                kind.prepare(chosen, place, say)
        begin = time.monotonic()
        try:
            _up(spec, place, say, begin)
        except BaseException:
            say("not up: taking down what was started")
            _down(spec.name)
            raise


def _up(spec: Spec, place: str, say, begin: float) -> None:
    os.makedirs(state.folder(spec.name), mode=0o755)
    record = {"schema": 1, "name": spec.name, "status": "starting", "root": place, "spec": dataclasses.asdict(spec)}
    state.write(spec.name, record)
    machine.raise_flows()
    state.write_access(spec, place)
    _network(spec)
    hosts = _members(spec, place)
    for host in hosts:
        os.mkdir(host.place)
        host.start()
    say(f"network {spec.network} and {len(hosts)} hosts started after {time.monotonic() - begin:.1f} s")
    waiting, took = list(hosts), {}
    while waiting:
        for host in [host for host in waiting if host.ready()]:
            waiting.remove(host)
            took[host.host.name] = round(time.monotonic() - host.begin, 1)
            say(f"{host.host.name} ({host.host.profile}, {', '.join(host.host.address)})"
                f" answers after {took[host.host.name]} s")
        time.sleep(0.05)
    took["all"] = round(time.monotonic() - begin, 1)
    state.write(spec.name, record | {"status": "up", "seconds": took})
    say(f"up: {len(hosts)} hosts in {took['all']} s; inventory {state.folder(spec.name, 'inventory.ini')}")


def _network(spec: Spec) -> None:
    """The lab's network namespace with its bridge. A sleeping process holds it, in the lab's cgroup like all else."""
    script = ("ip link set lo up && ip link add br0 type bridge && ip link set br0 up"
              f" && ip address add {spec.controller}/{spec.prefix} dev br0 && echo ready && exec sleep infinity")
    group = (spec.name, "controller")
    machine.make_group(*group)
    with open(state.folder(spec.name, "network.log"), "wb") as log:
        holder = subprocess.Popen(machine.in_group(group, "unshare", "--net", "sh", "-c", script),
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True,
                                  start_new_session=True)
    with holder.stdout:
        if holder.stdout.readline() != "ready\n":
            with open(log.name, encoding="utf-8") as file:
                raise LabError(f"the lab's network could not be made: {file.read().strip()}")
    os.symlink(f"/proc/{holder.pid}/ns/net", state.folder(spec.name, "netns"))


def down(name: str, say) -> None:
    """Take the lab down; nothing of it is left, whatever state it was in. Not being up is no error."""
    with machine.lock("lab/" + name, BUSY.format(name)):
        if not _exists(name):
            return say("is not up")
        begin = time.monotonic()
        _down(name)
        say(f"down in {time.monotonic() - begin:.1f} s")


def _exists(name: str) -> bool:
    return name in state.names() or any(os.path.isdir(path) for path in machine.group_paths(name))


def _down(name: str) -> None:
    """An orderly end for hosts that were up, then SIGKILL for whatever is left in the lab's cgroup."""
    with contextlib.suppress(LabError):
        record = state.read(name)
        hosts = _members(spec_of(record), record["root"])
        if record["status"] == "up":
            for host in hosts:
                host.stop()
            limit = time.monotonic() + POWEROFF_PATIENCE
            while any(machine.members(*host.group) for host in hosts) and time.monotonic() < limit:
                time.sleep(0.05)
    machine.end_group(name)
    machine.drop_empty_groups()
    state.remove(name)
    machine.restore_flows()


def _members(spec: Spec, place: str) -> list[AnyHost]:
    return [KINDS[host.kind](spec, host, place) for host in spec.host]


def member(name: str, host: str) -> AnyHost:
    """A host of a lab that is up."""
    record = state.read(name)
    hosts = {one.host.name: one for one in _members(spec_of(record), record["root"])}
    if host not in hosts:
        raise LabError(f"lab {name} has no host {host}, it has {', '.join(hosts)}")
    return hosts[host]


def spec_of(record: dict) -> Spec:
    spec = Spec(**record["spec"])
    spec.host = [Host(**host) for host in record["spec"]["host"]]
    return spec


def status(name: str) -> dict:
    """What `status --json` prints. Status is up, starting (or its `up` was killed), or broken (a host has died)."""
    record = state.read(name)
    hosts = {}
    for one in _members(spec_of(record), record["root"]):
        pid, host = one.pid(), one.host
        hosts[host.name] = {"running": bool(pid), "pid": pid, "address": host.address, "profile": host.profile,
                            "queues": host.queues, "kind": host.kind}
    broken = record["status"] == "up" and not all(host["running"] for host in hosts.values())
    return {"name": name, "status": "broken" if broken else record["status"], "hosts": hosts, "root": record["root"],
            "folder": state.folder(name), "controller": spec_of(record).controller, "seconds": record.get("seconds")}
