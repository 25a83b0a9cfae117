# SPDX-License-Identifier: GPL-3.0-or-later
# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
"""What is known of a lab: /run/fastsocket-lab/NAME/ with state.json, keys, logs and the files SSH and Ansible read."""
import json
import os
import shutil

from hostlab import machine
from hostlab.errors import LabError
from hostlab.spec import Spec


def folder(name: str, *parts: str) -> str:
    return os.path.join(machine.RUN, name, *parts)


def names() -> list[str]:
    """All labs that are up or left half up."""
    if not os.path.isdir(machine.RUN):
        return []
    return sorted(entry.name for entry in os.scandir(machine.RUN) if entry.is_dir())


def read(name: str) -> dict:
    try:
        with open(folder(name, "state.json"), encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError as err:
        raise LabError(f"no lab {name} is up; there are: {', '.join(names()) or 'none'}") from err


def write(name: str, content: dict) -> None:
    path = folder(name, "state.json")
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
    os.rename(path + ".new", path)


def remove(name: str) -> None:
    shutil.rmtree(folder(name), ignore_errors=True)
    if os.path.exists(folder(name)):
        raise LabError(f"{folder(name)} could not be removed")


def write_access(spec: Spec, root: str) -> None:
    """Keys, known_hosts, ssh_config and the Ansible inventory."""
    key, control = folder(spec.name, "id_ed25519"), folder(spec.name, "cm-%C")
    known, config = folder(spec.name, "known_hosts"), folder(spec.name, "ssh_config")
    shutil.copyfile(os.path.join(root, "id_ed25519"), key)
    os.chmod(key, 0o600)
    with open(os.path.join(root, "tree/etc/ssh/ssh_host_ed25519_key.pub"), encoding="utf-8") as file:
        host_key = " ".join(file.read().split()[:2])
    _text(known, f"* {host_key}\n")
    options = {"User": "root", "IdentityFile": key, "IdentitiesOnly": "yes", "UserKnownHostsFile": known,
               "GlobalKnownHostsFile": "/dev/null", "StrictHostKeyChecking": "yes", "CheckHostIP": "no",
               "GSSAPIAuthentication": "no", "LogLevel": "ERROR", "ConnectTimeout": "10",
               "ControlMaster": "auto", "ControlPersist": "300", "ControlPath": control}
    _text(config, "".join(f"Host {host.name}\n    HostName {host.address[0]}\n" for host in spec.host)
          + "Host *\n" + "".join(f"    {key} {value}\n" for key, value in options.items()))
    groups: dict[str, list[str]] = {}
    for host in spec.host:
        groups.setdefault(host.profile, []).append(host.name)
    control_args = f"-o ControlMaster=auto -o ControlPersist=300 -o ControlPath={control}"
    lines = ["[lab]", *(f"{host.name} ansible_host={host.address[0]}" for host in spec.host)]
    for group, hosts in groups.items():
        lines += ["", f"[{group}]", *hosts]
    lines += ["", "[all:vars]", "ansible_user=root", f"ansible_ssh_private_key_file={key}",
              f"ansible_ssh_args=-F {config} {control_args}", "ansible_pipelining=true",
              "ansible_python_interpreter=/usr/bin/python3"]
    _text(folder(spec.name, "inventory.ini"), "\n".join(lines) + "\n")


def _text(path: str, content: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(content)
