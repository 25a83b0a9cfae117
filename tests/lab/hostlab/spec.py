# SPDX-License-Identifier: GPL-3.0-or-later
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
"""The description of a lab: a TOML or JSON file, checked completely before anything is built."""
import dataclasses
import ipaddress
import json
import os
import re
import tomllib

from hostlab.errors import LabError

LAB = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PROFILES = os.path.join(LAB, "profiles")
LAB_NAME = re.compile(r"[a-z][a-z0-9-]{0,23}")
# A host's name is also the name of its port on the bridge: IFNAMSIZ leaves 15 characters.
HOST_NAME = re.compile(r"[a-z][a-z0-9-]{0,14}")
RESERVED = ("br0", "lo", "controller", "all", "lab", "localhost")


@dataclasses.dataclass
class Host:
    """One host. ADDRESS: SSH uses the first. QUEUES: rx and tx queues of its NIC. BIND: "SRC:DST", read-only.

    CPUS and MEMORY (MiB) are those of a virtual machine. None: its kind says what is right.
    NIC: more properties of its virtio NIC, as QEMU's -device takes them.
    """
    name: str
    address: list[str]
    profile: str = "bare"
    queues: int | None = None
    bind: list[str] = dataclasses.field(default_factory=list)
    kind: str = "container"
    cpus: int | None = None
    memory: int | None = None
    nic: str = ""


@dataclasses.dataclass
class Spec:
    """A lab. NETWORK: its first address is the controller's."""
    name: str
    host: list[Host]
    network: str = "10.99.0.0/24"

    @property
    def prefix(self) -> int:
        return ipaddress.ip_network(self.network).prefixlen

    @property
    def controller(self) -> str:
        return str(next(ipaddress.ip_network(self.network).hosts()))


def load(path: str, kinds, name: str = "", bind: list[str] | None = None) -> Spec:
    """Read PATH. NAME replaces the lab's name, BIND ("[HOST=]SRC:DST") adds to hosts. LabError names the bad value."""
    try:
        with open(path, "rb") as file:
            raw = json.load(file) if path.endswith(".json") else tomllib.load(file)
    except OSError as err:
        raise LabError(f"spec {path}: {err.strerror}") from err
    except ValueError as err:
        raise LabError(f"spec {path}: {err}") from err
    if name:
        raw["name"] = name
    spec = _build(Spec, raw, f"spec {path}")
    spec.host = [_build(Host, host, f"spec {path}: host {number}") for number, host in enumerate(spec.host, 1)]
    for entry in bind or []:
        host_name, _, pair = entry.rpartition("=")
        chosen = [host for host in spec.host if host_name in ("", host.name)]
        if not chosen:
            raise LabError(f"--bind {entry}: no host {host_name}, the lab has {_names(spec)}")
        for host in chosen:
            host.bind.append(pair)
    _check(spec, f"spec {path}", kinds)
    return spec


def _names(spec: Spec) -> str:
    return ", ".join(host.name for host in spec.host)


def _build(cls, raw, where: str):
    """CLS from the dict RAW; the field's type is checked where JSON and TOML could differ from it."""
    if not isinstance(raw, dict):
        raise LabError(f"{where}: is {raw!r}, must be a table")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key, value in raw.items():
        if key not in fields:
            raise LabError(f"{where}: unknown key {key!r}, known are {', '.join(fields)}")
        wanted = {str: str, int | None: int}.get(fields[key].type, list)
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise LabError(f"{where}: {key} is {value!r}, must be {'a list' if wanted is list else wanted.__name__}")
    for key, field in fields.items():
        if key not in raw and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise LabError(f"{where}: {key} is missing")
    return cls(**raw)


def _check(spec: Spec, where: str, kinds) -> None:
    def refuse(text: str):
        raise LabError(f"{where}: {text}")

    if not LAB_NAME.fullmatch(spec.name):
        refuse(f"name {spec.name!r} must be 1 to 24 of a-z, 0-9 and -, a letter first")
    try:
        network = ipaddress.ip_network(spec.network)
    except ValueError as err:
        refuse(f"network: {err}")
    if network.version != 4 or network.prefixlen > 30:
        refuse(f"network {spec.network} must be IPv4 with room for hosts, /30 or larger")
    if not spec.host:
        refuse("a lab needs at least one host")
    names, taken = set(RESERVED), {spec.controller: "the controller"}
    profiles = sorted(os.listdir(PROFILES))
    for host in spec.host:
        if not HOST_NAME.fullmatch(host.name):
            refuse(f"host name {host.name!r} must be 1 to 15 of a-z, 0-9 and -, a letter first")
        if host.name in names or host.name in profiles:
            refuse(f"host name {host.name!r} is in use twice, reserved, or a profile's name")
        names.add(host.name)
        if host.kind not in kinds:
            refuse(f"host {host.name}: kind {host.kind!r} is unknown, known are {', '.join(kinds)}")
        if host.profile not in profiles:
            refuse(f"host {host.name}: profile {host.profile!r} is unknown, known are {', '.join(profiles)}")
        if wrong := kinds[host.kind].settle(host):
            refuse(f"host {host.name}: {wrong}")
        if not 1 <= host.queues <= 256:
            refuse(f"host {host.name}: queues is {host.queues}, must be 1 to 256")
        if not host.address:
            refuse(f"host {host.name}: address is empty, give at least one")
        for address in host.address:
            if not isinstance(address, str) or not _inside(address, network):
                refuse(f"host {host.name}: address {address!r} must be an address of {spec.network}")
            if address in taken:
                refuse(f"host {host.name}: address {address} belongs to {taken[address]} already")
            taken[address] = host.name
        for pair in host.bind:
            source, _, target = pair.partition(":") if isinstance(pair, str) else ("", "", "")
            if not (source.startswith("/") and target.startswith("/") and ":" not in target):
                refuse(f"host {host.name}: bind {pair!r} must be /SRC:/DST")
            if not os.path.exists(source):
                refuse(f"host {host.name}: bind {pair!r}: {source} does not exist")


def _inside(address: str, network) -> bool:
    try:
        number = ipaddress.ip_address(address)
    except ValueError:
        return False
    return number in network and number not in (network.network_address, network.broadcast_address)
